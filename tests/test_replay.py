# SPDX-License-Identifier: Apache-2.0
"""Re-execution: an honest answer holds, and the first token that no such run would have is named."""

from __future__ import annotations

import atexit
import base64
import json
import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attestation.boot import ModelRecord
from attestation.errors import Malformed, Untrusted
from client.errors import UsageFault
from client.replay import read_answer
from enclave.engine.replay import ClaimedChoice, Replayer, ReplayQuestion, ReplayResult
from enclave.engine.replay_question import read_question
from enclave.engine.rerun import TOLERANCE, beyond
from enclave.engine.sampling import Sampling
from enclave.engine.selftest import EXACT, UNKNOWN
from enclave.models.catalogue import catalogue
from enclave.models.refusal import ModelRefused
from tests.engine_rig import ALICE, CHAT, TEXT, Jobs, chat, shared_engine
from tests.small_model import NAME, small_model


@pytest.fixture(scope="module")
def jobs() -> Jobs:
    return Jobs(shared_engine())


def question(jobs: Jobs, body: dict[str, object], *, endpoint: str = CHAT, **more: object) -> ReplayQuestion:
    """Run `body` and ask for its re-execution."""
    job = jobs.run(body, endpoint=endpoint, **more)
    start, ends = jobs.seen[job][0], jobs.finish(job)
    (raw,) = shared_engine().model_records()
    return ReplayQuestion(
        record=ModelRecord.decode(raw),
        endpoint=endpoint,
        body=json.dumps({"model": NAME, **body}).encode(),
        most=1 << 20,
        prompt=start.tokens,
        params=dict(start.params),
        choices=tuple(
            ClaimedChoice(ids=tuple(jobs.ids(job, n)), text=jobs.text(job, n), finish=end) for n, end in enumerate(ends)
        ),
    )


@cache
def replayer() -> Replayer:
    (raw,) = shared_engine().model_records()
    found = Replayer(ModelRecord.decode(raw), small_model(), threads=1)
    atexit.register(found.__exit__)
    return found


@cache
def counter() -> Replayer:
    (raw,) = shared_engine().model_records()
    found = Replayer(ModelRecord.decode(raw), small_model(), threads=1, count=True)
    atexit.register(found.__exit__)
    return found


def recount(asked: ReplayQuestion) -> ReplayResult:
    return counter().replay(asked, progress=lambda _: None)


def again(asked: ReplayQuestion) -> ReplayResult:
    return replayer().replay(asked, progress=lambda _: None)


@pytest.fixture(scope="module")
def greedy(jobs: Jobs) -> ReplayQuestion:
    return of_class(question(jobs, GREEDY), UNKNOWN)


def failed(result: ReplayResult) -> dict[str, str]:
    return {check.rule: check.got for check in result.checks if not check.holds}


def with_ids(asked: ReplayQuestion, change: Callable[[list[int]], list[int]]) -> ReplayQuestion:
    choice = asked.choices[0]
    return replace(asked, choices=(replace(choice, ids=tuple(change(list(choice.ids)))), *asked.choices[1:]))


def of_class(asked: ReplayQuestion, name: str) -> ReplayQuestion:
    return replace(asked, record=replace(asked.record, determinism=name))


GREEDY = chat("Name three colours.", max_tokens=10)
DRAWN: dict[str, object] = {**chat("A line about rain.", max_tokens=10), "temperature": 0.9, "top_p": 0.9, "n": 2}
FORM = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object", "properties": {
    "a": {"type": "string", "maxLength": 8}}, "required": ["a"]}}}  # fmt: skip


@pytest.mark.parametrize(
    ("body", "endpoint"),
    [
        (GREEDY, CHAT),
        (DRAWN, CHAT),  # no seed in the request: the drawn one is in the parameters
        ({**chat("One word?", max_tokens=10), "temperature": 0.8, "seed": 5, "presence_penalty": 1.5}, CHAT),
        (chat("An object.", max_tokens=24, response_format=FORM), CHAT),
        (chat("Three colours.", max_tokens=10, stop=["red", "blue"], logit_bias={"260": -50}), CHAT),
        ({"prompt": "One, two,", "max_tokens": 6, "temperature": 0, "echo": True, "logprobs": 1}, TEXT),
    ],
    ids="greedy drawn penalties schema stops text".split(),
)
def test_an_honest_answer_holds(jobs: Jobs, body: dict[str, object], endpoint: str) -> None:
    asked = question(jobs, body, endpoint=endpoint)
    for determinism, mode in ((EXACT, "bit-exact"), (UNKNOWN, "teacher-forced")):
        result = again(of_class(asked, determinism))
        assert failed(result) == {}
        assert result.ok
        assert result.mode == mode
    counted = recount(asked)
    assert (counted.mode, counted.ok, failed(counted)) == ("recounted", True, {})


def test_an_answer_from_the_prefix_cache_holds_bit_by_bit(jobs: Jobs) -> None:
    text = "A rather long prompt, so that some blocks of it can be found again when the same tenant sends it. " * 2
    jobs.run(chat(text, max_tokens=4), tenant=ALICE)
    asked = question(jobs, chat(text, max_tokens=8), tenant=ALICE)
    result = again(of_class(asked, EXACT))
    assert (result.mode, failed(result)) == ("bit-exact", {})


@pytest.mark.parametrize("determinism", [EXACT, UNKNOWN])
def test_the_first_token_that_differs_is_named(jobs: Jobs, determinism: str) -> None:
    asked = of_class(question(jobs, GREEDY), determinism)
    honest = asked.choices[0].ids
    result = again(with_ids(asked, lambda ids: [*ids[:4], 4711, *ids[5:]]))
    assert failed(result)["replay.choice.0.tokens"].startswith(f"token 4: 4711 where the model has {honest[4]}")


def test_a_drawn_token_that_only_could_have_been_is_seen_by_the_exact_class_alone(jobs: Jobs) -> None:
    asked = question(jobs, {**DRAWN, "n": 1, "seed": 1})
    other = question(jobs, {**DRAWN, "n": 1, "seed": 2})
    swapped = replace(asked, choices=other.choices)
    assert "replay.choice.0.tokens" in failed(again(of_class(swapped, EXACT)))
    assert again(of_class(swapped, UNKNOWN)).ok


def test_a_drawn_answer_passed_off_as_greedy_is_seen(jobs: Jobs) -> None:
    drawn = question(jobs, {**chat("Tell me a story.", max_tokens=24), "temperature": 1.5, "seed": 3})
    asked = replace(question(jobs, chat("Tell me a story.", max_tokens=24)), choices=drawn.choices)
    assert "replay.choice.0.tokens" in failed(again(of_class(asked, UNKNOWN)))


@pytest.mark.parametrize(
    ("bend", "rule"),
    [
        (lambda q: replace(q, prompt=(*q.prompt, 5)), "replay.prompt"),
        (lambda q: replace(q, prompt=(q.prompt[0] + 1, *q.prompt[1:])), "replay.prompt"),
        (lambda q: replace(q, params={**q.params, "temperature": "0.7"}), "replay.params"),
        (lambda q: replace(q, params={**q.params, "more": 1}), "replay.params"),
        (lambda q: replace(q, body=q.body.replace(b"three", b"seven")), "replay.prompt"),
        (lambda q: replace(q, choices=()), "replay.choices"),
        (lambda q: replace(q, choices=(replace(q.choices[0], text="green"),)), "replay.choice.0.text"),
        (lambda q: replace(q, choices=(replace(q.choices[0], finish="stop"),)), "replay.choice.0.finish"),
        (lambda q: with_ids(q, lambda ids: [*ids, 5]), "replay.choice.0.tokens"),
        (lambda q: with_ids(q, lambda ids: ids[:-1]), "replay.choice.0.finish"),
        (lambda q: with_ids(q, lambda _: [1 << 31]), "replay.choice.0.tokens"),
        (lambda q: with_ids(q, lambda ids: ids * 100), "replay.choice.0.tokens"),
    ],
    ids="longer-prompt other-prompt temperature more-params other-request no-choice text finish longer shorter "
    "no-token too-long".split(),
)  # fmt: skip
def test_every_bend_is_seen(
    greedy: ReplayQuestion, bend: Callable[[ReplayQuestion], ReplayQuestion], rule: str
) -> None:
    assert rule in failed(again(bend(greedy)))
    assert rule in failed(recount(bend(greedy)))  # none of these needs the model to compute


@pytest.mark.parametrize("field", ["weights", "template", "tokenizer"])
def test_another_model_is_refused(greedy: ReplayQuestion, field: str) -> None:
    other = {field: b"o" * 32}
    with pytest.raises(ModelRefused) as refused:
        Replayer(replace(greedy.record, **other), small_model(), threads=1)  # type: ignore[arg-type]  # 32 bytes
    assert refused.value.code == "model_digest"


def test_other_bits_here_mean_tolerance(greedy: ReplayQuestion) -> None:
    asked = of_class(greedy, EXACT)
    result = again(replace(asked, record=replace(asked.record, selftest=b"s" * 32)))
    assert (result.mode, result.ok) == ("teacher-forced", True)
    assert "other bits" in result.why


@pytest.mark.parametrize(
    ("sampling", "token", "gap"),
    [
        (Sampling(temperature=0.0), 0, 0.0),
        (Sampling(temperature=0.0), 1, 1.0),
        (Sampling(top_k=1), 1, 1.0),
        (Sampling(top_k=2), 1, 0.0),
        (Sampling(top_k=2), 3, 2.0),
        (Sampling(top_k=0, min_p=math.exp(-1.5)), 1, 0.0),
        (Sampling(top_k=0, min_p=math.exp(-1.5)), 2, 0.5),
        (Sampling(top_k=0, top_p=0.5), 1, 1.0),
        (Sampling(top_k=0, top_p=0.9), 1, 0.0),
        (Sampling(top_k=0), 3, 0.0),
        (Sampling(top_k=0), 4, math.inf),
    ],
)
def test_what_the_filters_leave(sampling: Sampling, token: int, gap: float) -> None:
    row = np.array([4.0, 3.0, 2.0, 1.0, -math.inf], np.float32)
    assert beyond(row, token, sampling) == pytest.approx(gap)


def test_tolerance_and_catalogue_are_what_the_page_says() -> None:
    page = (Path(__file__).parent.parent / "docs" / "models.md").read_text()
    assert f"within {TOLERANCE} logits of the largest" in page
    for entry in catalogue().values():
        assert f"| `{entry.name}` | {entry.licence} | {entry.size} | `{entry.package}=={entry.version}` |" in page


def document(**changes: Any) -> bytes:
    record = ModelRecord.decode(shared_engine().model_records()[0])
    choice = {"ids": [1], "text": "x", "finish": "length"}
    whole = {
        "schema": "sericin-replay/1", "record": record.encode().hex(), "endpoint": CHAT,
        "body": base64.b64encode(b"{}").decode(), "most": 5, "prompt": [1, 2], "params": {"n": 1}, "choices": [choice],
    }  # fmt: skip
    return json.dumps(whole | changes).encode()


def test_a_question_is_read() -> None:
    assert read_question(document()).prompt == (1, 2)


@pytest.mark.parametrize(
    "change",
    [
        {"schema": "sericin-replay/2"}, {"more": 1}, {"record": "zz"}, {"record": ""}, {"body": "%"}, {"endpoint": 5},
        {"most": -1}, {"most": True}, {"prompt": [1 << 32]}, {"prompt": {}}, {"prompt": ["x"]}, {"params": {"a": 1.5}},
        {"params": []}, {"choices": []}, {"choices": [{}]}, {"choices": [{"ids": [], "text": 1, "finish": ""}]},
    ],
)  # fmt: skip
def test_a_bent_question_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(Malformed):
        read_question(document(**change))


def test_an_answer_of_the_other_process_is_never_taken_on_faith() -> None:
    for said in (b"", b"{}", b"[]", b'{"checks":[],"mode":"x","why":"","tokens":0}', b'{"checks":[{}]}'):
        with pytest.raises(UsageFault):
            read_answer(said, status=0)
    with pytest.raises(Untrusted) as other:
        read_answer(b'{"ok":false,"code":"model_digest","error":"x"}', status=4)
    assert other.value.code == "ReplayMismatch"
    check = {"rule": "replay.prompt", "holds": "yes", "want": "", "got": ""}
    found = read_answer(json.dumps({"checks": [check], "mode": "m", "why": "", "tokens": 1}).encode(), status=0)
    assert not found.links[0].holds, "only true is true"
    assert found.links[0].code == "TokenCountMismatch"
