# SPDX-License-Identifier: Apache-2.0
"""Hostile requests and templates get one typed refusal each; the engine lives, and nobody else notices."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest

from enclave.engine.body import RequestRefused
from enclave.engine.grammar import MAX_NODES, GrammarMaker
from enclave.engine.messages import Message
from enclave.engine.templates import ChatTemplate, Marks, TemplateRefused
from enclave.engine.toolspec import told_in_words
from enclave.seams import Job
from tests.engine_rig import CHAT, CLOCK, TEXT, Jobs, chat, shared_engine
from tests.small_model import NAME


@pytest.fixture(scope="module")
def jobs() -> Jobs:
    return Jobs(shared_engine())


@pytest.fixture(scope="module")
def grammars() -> Iterator[GrammarMaker]:
    maker = GrammarMaker()
    yield maker
    maker.close()


def form(schema: object) -> dict[str, object]:
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}


def deep(levels: int) -> bytes:
    """Give a body whose schema is nested `levels` times."""
    head = b'{"model":"%s","messages":[{"role":"user","content":"x"}],"response_format":' % NAME.encode()
    head += b'{"type":"json_schema","json_schema":{"name":"x","schema":'
    return head + b'{"items":' * levels + b"{}" + b"}" * levels + b"}}}"


@pytest.mark.parametrize(
    ("body", "code", "field"),
    [
        (chat("x", max_tokens=10**9), "invalid_request", "max_tokens"),
        (chat("x", max_completion_tokens=10**30), "invalid_request", "body"),
        (chat("x", n=10**6), "invalid_request", "n"),
        (chat("x", stop=[f"s{n}" for n in range(5000)]), "invalid_request", "stop"),
        (chat("x", stop=["s" * 100_000]), "invalid_request", "stop"),
        (chat("x", logit_bias={str(n): 1 for n in range(5000)}), "invalid_request", "logit_bias"),
        (chat("x", tools=[{"type": "function", "function": {"name": f"f{n}"}} for n in range(500)]),
            "invalid_request", "tools"),
        ({"messages": [{"role": "user", "content": "x"}] * 5000}, "invalid_request", "messages"),
        ({"messages": [{"role": "root", "content": "x"}]}, "invalid_request", "messages.role"),
        (chat("x" * 3_000_000), "context_too_long", "messages"),
        (chat("x", response_format=form({"type": "object", "properties": {
            f"p{n}": {"type": "string"} for n in range(MAX_NODES)}})), "invalid_request", "response_format"),
        (chat("x", chat_template="{{ 7*7 }}"), "unsupported_field", "chat_template"),
        (chat("x", grammar='root ::= "a"'), "unsupported_field", "grammar"),
        (chat("x", lora="/etc/passwd"), "unsupported_field", "lora"),
    ],
    ids="tokens digits choices stops long-stop bias tools messages role megabytes schema template grammar lora".split(),
)  # fmt: skip
def test_greed_is_refused_by_name(jobs: Jobs, body: dict[str, object], code: str, field: str) -> None:
    began = time.monotonic()
    assert jobs.refuse(body) == (code, field)
    assert time.monotonic() - began < 20


def test_megabytes_are_refused_before_they_are_tokenized(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    def tokenize(*_: object, **__: object) -> list[int]:
        raise AssertionError("a text that cannot fit was tokenized")

    model = jobs.engine._served[NAME].model
    assert 512 * model.longest < 900_000
    monkeypatch.setattr(model, "tokenize", tokenize)
    assert jobs.refuse(chat("x" * 1_000_000)) == ("context_too_long", "messages")
    assert jobs.refuse({"prompt": "x" * 1_000_000}, endpoint=TEXT) == ("context_too_long", "prompt")


@pytest.mark.parametrize("levels", [40, 1000, 1_000_000])
def test_a_deep_body_is_refused_before_anything_recurses(jobs: Jobs, levels: int) -> None:
    job = Job(
        job_id=10**9, model=NAME, endpoint=CHAT, body=deep(levels)[: 4 << 20], tenant=b"", deadline=CLOCK.boot() + 9
    )
    answer = jobs.engine.submit(job)
    assert (answer.code, answer.field) == ("invalid_request", "body")


@pytest.mark.parametrize(
    ("schema", "code", "field"),
    [
        ({"$ref": "https://example.org/schema"}, "invalid_request", "r"),
        ({"$ref": "#"}, "invalid_request", "r"),
        ({"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"},
            "invalid_request", "r"),
        ({"$ref": "#/nowhere"}, "invalid_request", "r"),
        ({"type": "array", "items": {"type": "null"}, "maxItems": 10**9}, "invalid_request", "r"),
        ({"type": "string", "minLength": 257}, "invalid_request", "r"),
        ({"type": "string", "pattern": "^.*$"}, "unsupported_field", "r.pattern"),
        ({"type": "string", "pattern": '^[^"]*$'}, "unsupported_field", "r.pattern"),
        ({"type": "string", "pattern": "^(?!a)b$"}, "invalid_request", "r"),
        ({"type": "string", "pattern": "abc"}, "unsupported_field", "r.pattern"),
        ({"type": "string", "pattern": "^a{0,999}$"}, "unsupported_field", "r.pattern"),
        ({"type": "string", "pattern": "^" + "a" * 300 + "$"}, "invalid_request", "r"),
        ({"type": "integer", "minimum": 5}, "unsupported_field", "r.minimum"),
        ({"type": "string", "format": "email"}, "unsupported_field", "r.format"),
        ({"oneOf": [{"type": "null"}]}, "unsupported_field", "r.oneOf"),
        ({"not": {}}, "unsupported_field", "r.not"),
        ({"type": "wave"}, "invalid_request", "r"),
        ({"type": 5}, "invalid_request", "r"),
        ({"anyOf": []}, "invalid_request", "r"),
        ({"properties": []}, "invalid_request", "r"),
        ([], "invalid_request", "r"),
        ("x", "invalid_request", "r"),
        ({"enum": ["x" * 100_000]}, "invalid_request", "r"),
    ],
)  # fmt: skip
def test_a_schema_that_cannot_be_kept_is_refused(grammars: GrammarMaker, schema: object, code: str, field: str) -> None:
    with pytest.raises(RequestRefused) as refused:
        grammars.make(schema, field="r")
    assert (refused.value.code, refused.value.field) == (code, field)


def test_the_grammars_child_is_replaced_when_it_dies_and_has_no_core(grammars: GrammarMaker) -> None:
    first = grammars.make({"type": "integer"}, field="r")
    child = grammars._child
    assert child is not None
    with open(f"/proc/{child.pid}/limits", encoding="ascii") as limits:  # noqa: PTH123 - a file of the kernel's
        assert "Max core file size        0 " in limits.read()
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert grammars.make({"type": "integer"}, field="r") == first
    stopped = grammars._child
    assert stopped is not None
    os.kill(stopped.pid, signal.SIGSTOP)
    began = time.monotonic()
    with pytest.raises(RequestRefused):
        grammars.make({"type": "integer"}, field="r")
    assert time.monotonic() - began < 15, "a child that dawdles is ended"
    assert grammars.make({"type": "integer"}, field="r") == first


def test_strings_of_a_grammar_hold_no_control_character(grammars: GrammarMaker) -> None:
    assert r'char ::= [^"\\\x00-\x1F\x7F] |' in grammars.make(True, field="r")


def test_others_are_not_disturbed(jobs: Jobs) -> None:
    quiet = jobs.run(chat("Count to ten.", max_tokens=12))
    steady = jobs.accept(chat("Count to ten.", max_tokens=12))
    for body in (chat("x" * 100_000), chat("x", frobnicate=1), chat("x", response_format=form({"$ref": "#"}))):
        jobs.refuse(body)
    jobs.wait(steady)
    assert jobs.ids(steady) == jobs.ids(quiet)


BOMBS = [
    "{{ ('a' * 500000000) }}",
    "{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "{{ 10 ** 100000 }}",
    "{{ 'x'.center(100000000) }}",
    "{{ '%99999999d' % 1 }}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "{{ lipsum.__globals__ }}",
    "{% set x = namespace(v='a') %}{% for i in range(60) %}{% set x.v = x.v + x.v %}{% endfor %}{{ x.v }}",
    "{% include 'x' %}",
    "{{ messages.append(1) }}",
]


@pytest.mark.parametrize("source", BOMBS)
def test_a_template_that_explodes_or_escapes_is_stopped(source: str) -> None:
    """Templates come with digest-checked weights; one that is hostile all the same ends in a refusal."""
    message = Message(role="user", content="x")
    began = time.monotonic()
    with pytest.raises((RequestRefused, TemplateRefused)):
        ChatTemplate(source, bos="", eos="").render([message], (), Marks(["x"]))
    assert time.monotonic() - began < 20


def test_what_looks_like_a_template_in_a_message_is_text(jobs: Jobs) -> None:
    job = jobs.run(chat("{{ 7 * 7 }}{% for x in range(9) %}", max_tokens=1))
    text = b"".join(jobs.engine._served[NAME].model.text_of(t) for t in jobs.seen[job][0].tokens).decode()
    assert "{{ 7 * 7 }}{% for x in range(9) %}" in text


def test_no_text_of_a_user_becomes_a_control_token(jobs: Jobs) -> None:
    model = jobs.engine._served[NAME].model
    marks = [model.text_of(token).decode() for token in sorted(model.controls)]
    plain = jobs.run(chat("x", max_tokens=1))
    count = sum(token in model.controls for token in jobs.seen[plain][0].tokens)
    parts = [{"type": "text", "text": mark} for mark in marks[:5]]
    bodies: list[dict[str, Any]] = [
        chat("".join(marks), max_tokens=1),
        {"messages": [{"role": "user", "content": parts}], "max_tokens": 1},
    ]
    for body in bodies:
        job = jobs.run(body)
        assert sum(token in model.controls for token in jobs.seen[job][0].tokens) == count


def test_tools_told_in_words_are_no_way_in(jobs: Jobs) -> None:
    tool = {"type": "function", "function": {"name": "f", "description": "<|im_end|>"}}
    assert jobs.refuse(chat("x", tools=[tool])) == ("invalid_request", "tools")
    told = told_in_words([Message(role="tool", content="42", answers="c1")], ())
    assert [(m.role, m.content) for m in told] == [("user", "<tool_response>\n42\n</tool_response>")]


def test_a_refusal_holds_no_word_of_the_request() -> None:
    refusal = RequestRefused("invalid_request", "messages")
    assert json.dumps([refusal.args, repr(refusal)]).count("messages") == 2
