# SPDX-License-Identifier: Apache-2.0
"""What the engine answers: JSON by schema, calls, logprobs, counts; all of it as the openai package's own types."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from attestation.answer import Answer
from attestation.exchange import ChoiceEnd, Delta, Item, Start, Usage
from client.openai_shapes import CHAT as CHAT_PATH
from client.openai_shapes import COMPLETIONS, Shaper
from enclave.engine.batch import Batch
from enclave.engine.plan import Plan
from enclave.engine.sampling import Sampling
from enclave.engine.stops import TextOut
from enclave.engine.stream import ChoiceStream
from enclave.engine.toolcalls import CallReader
from enclave.seams import EngineEvent
from tests.engine_rig import TEXT, Jobs, chat, shared_engine
from tests.small_model import NAME

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer"}},
    "required": ["name", "age"],
}
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 20}},
            "required": ["city"],
        },
    },
}


@pytest.fixture(scope="module")
def jobs() -> Jobs:
    return Jobs(shared_engine())


def items(events: list[EngineEvent]) -> list[Item]:
    """Give what the enclave seals for these events."""
    found: list[Item] = []
    for event in events:
        match event.kind:
            case "started":
                found.append(Start(created=1, prompt_ids=event.tokens, params=event.params, cached_tokens=0))
            case "delta":
                text = event.text.decode()
                found.append(Delta(choice=event.choice, text=text, ids=event.tokens, detail=event.detail))
            case "choice_end":
                found.append(ChoiceEnd(choice=event.choice, finish=event.finish))
            case "finished":
                counts = (event.prompt_tokens, event.cached_tokens, event.completion_tokens, event.reasoning_tokens)
                found.append(Usage(prompt=counts[0], cached=counts[1], completion=counts[2], reasoning=counts[3]))
    return found


def shapes(events: list[EngineEvent], endpoint: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Give the stream's chunks and the whole object."""
    shaper = Shaper(endpoint, model="m", answer_id="1", usage_wanted=True)
    answer, chunks = Answer(), []
    for item in items(events):
        answer.add(item)
        shaper.keep(item)
        chunk = shaper.chunk(item)
        if chunk is not None:
            chunks.append(chunk)
    return chunks, shaper.whole(answer)


def test_an_answer_by_schema_is_json_of_that_schema(jobs: Jobs) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON, "strict": True}}
    job = jobs.run(chat("Describe a person.", max_tokens=60, response_format=form))
    value = json.loads(jobs.text(job))
    assert jobs.finish(job) == ["stop"]
    assert set(value) == {"name", "age"}
    assert type(value["age"]) is int
    assert len(str(jobs.seen[job][0].params["grammar"])) == 64


def test_an_answer_by_pattern_and_with_draws(jobs: Jobs) -> None:
    schema = {"type": "object", "properties": {"code": {"type": "string", "pattern": "^[A-C]{3}-[0-9]{2}$"}}}
    schema |= {"required": ["code"]}
    form = {"type": "json_schema", "json_schema": {"name": "code", "schema": schema}}
    body = chat("Give a code.", max_tokens=40, response_format=form, seed=5)
    job = jobs.run({**body, "temperature": 1.2})
    code = json.loads(jobs.text(job))["code"]
    assert len(code) == 6
    assert set(code[:3]) <= set("ABC")


def test_a_demanded_call_is_a_call(jobs: Jobs) -> None:
    job = jobs.run(chat("The weather in Paris?", max_tokens=60, tools=[WEATHER], tool_choice="required"))
    assert jobs.finish(job) == ["tool_calls"]
    chunks, whole = shapes(jobs.seen[job], CHAT_PATH)
    answer = ChatCompletion.model_validate(whole)
    calls = answer.choices[0].message.tool_calls
    assert calls is not None
    (call,) = calls
    assert call.type == "function"
    assert call.function.name == "get_weather"
    assert set(json.loads(call.function.arguments)) == {"city"}
    assert answer.choices[0].message.content is None
    deltas = [ChatCompletionChunk.model_validate(chunk) for chunk in chunks]
    streamed = [call for d in deltas if d.choices for call in d.choices[0].delta.tool_calls or []]
    assert [call.index for call in streamed] == [0]


def test_a_named_function_is_the_one_that_is_called(jobs: Jobs) -> None:
    other = {"type": "function", "function": {"name": "get_time"}}
    chosen = {"type": "function", "function": {"name": "get_time"}}
    job = jobs.run(chat("The weather?", max_tokens=40, tools=[WEATHER, other], tool_choice=chosen))
    _, whole = shapes(jobs.seen[job], CHAT_PATH)
    names = [call["function"]["name"] for call in whole["choices"][0]["message"].get("tool_calls", [])]
    assert names == ["get_time"] or jobs.finish(job) == ["length"]


def test_tools_that_may_not_be_called_are_not_offered(jobs: Jobs) -> None:
    plain = jobs.run(chat("Hello", max_tokens=1))
    without = jobs.run(chat("Hello", max_tokens=1, tools=[WEATHER], tool_choice="none"))
    offered = jobs.run(chat("Hello", max_tokens=1, tools=[WEATHER]))
    assert jobs.seen[plain][0].tokens == jobs.seen[without][0].tokens
    assert len(jobs.seen[offered][0].tokens) > len(jobs.seen[plain][0].tokens) + 30


def test_logprobs_of_a_chat_are_those_of_the_model(jobs: Jobs) -> None:
    job = jobs.run(chat("Say hello.", max_tokens=4, logprobs=True, top_logprobs=3))
    chunks, whole = shapes(jobs.seen[job], CHAT_PATH)
    logprobs = ChatCompletion.model_validate(whole).choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert len(logprobs.content) == len(jobs.ids(job)) == 4
    for entry in logprobs.content:
        assert entry.logprob == entry.top_logprobs[0].logprob, "a greedy choice is the likeliest"
        assert len(entry.top_logprobs) == 3
        assert sum(math.exp(top.logprob) for top in entry.top_logprobs) <= 1.0
    assert "".join(entry.token for entry in logprobs.content) == jobs.text(job)
    for chunk in chunks:
        ChatCompletionChunk.model_validate(chunk)
    quiet = jobs.run(chat("Say hello.", max_tokens=4))
    assert jobs.ids(quiet) == jobs.ids(job), "watching changes nothing"


def test_logprobs_of_a_completion_have_offsets(jobs: Jobs) -> None:
    body: dict[str, object] = {"prompt": "One, two,", "max_tokens": 3, "temperature": 0, "logprobs": 2, "echo": True}
    job = jobs.run(body, endpoint=TEXT)
    _, whole = shapes(jobs.seen[job], COMPLETIONS)
    choice = Completion.model_validate(whole).choices[0]
    found = choice.logprobs
    assert found is not None
    assert found.tokens is not None
    assert found.text_offset == [9, 9 + len(found.tokens[0]), 9 + len(found.tokens[0]) + len(found.tokens[1])]
    assert choice.text.startswith("One, two,")


def test_every_shape_is_openais(jobs: Jobs) -> None:
    job = jobs.run(chat("Hi", max_tokens=5, n=2, stop=["zzz"], temperature=0.7, seed=3))
    chunks, whole = shapes(jobs.seen[job], CHAT_PATH)
    assert {choice.index for choice in ChatCompletion.model_validate(whole).choices} == {0, 1}
    usage = ChatCompletionChunk.model_validate(chunks[-1]).usage
    assert usage is not None
    assert usage.completion_tokens == sum(len(jobs.ids(job, choice)) for choice in (0, 1))
    assert usage.prompt_tokens == jobs.seen[job][0].prompt_tokens


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ('<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>', ["f"]),
        ('<tool_call>{"name":"f","arguments":{}}</tool_call>\n[TOOL_CALLS][{"name":"g","arguments":{}}]', ["f", "g"]),
        ('[TOOL_CALLS][{"name": "f", "arguments": {}}]', ["f"]),
        ('  {"name": "f", "parameters": {"a": {}}}', ["f"]),
        ('{"name": "h", "arguments": {}}', []),  # a function that nobody offered
        ('{"name": "f", "arguments": "x"}', []),
        ('{"name": "f"}', []),
        ("<tool_call>{broken</tool_call>", []),
        ('<tool_call>{"name": "f", "arguments": {}}</tool_call> and more', []),
        ("[" * 5000, []),
        ('{"a":' * 5000, []),
        ("plain prose with a < sign and <tool", []),
    ],
)  # fmt: skip
@pytest.mark.parametrize("portion", [1, 3, 1000])
def test_calls_are_read_whole_or_stay_text(text: str, names: list[str], portion: int) -> None:
    reader = CallReader(["f", "g"], parallel=True)
    said = "".join(reader.feed(text[at : at + portion]) for at in range(0, len(text), portion))
    rest, calls = reader.finish()
    assert [call.name for call in calls] == names
    assert said + rest == ("" if names else text), "nothing is lost"


def test_prose_before_a_call_leaves_at_once() -> None:
    reader = CallReader(["f"], parallel=False)
    assert reader.feed("Let me look. <to") == "Let me look. "
    assert reader.feed("ast>") == "<toast>"
    assert reader.feed('<tool_call>{"name": "f", "arguments": {}}</tool_call>' * 2) == ""
    text, calls = reader.finish()
    assert (text, [call.name for call in calls]) == ("", ["f"])


@pytest.mark.parametrize("portion", [1, 2, 7])
def test_text_is_whole_characters_and_stops_are_never_shown(portion: int) -> None:
    raw = "Grüße 🙂 und STOP danach".encode()
    out = TextOut([b"STOP"])
    parts = [out.feed(raw[at : at + portion]) for at in range(0, len(raw), portion)]
    assert "".join(parts) == "Grüße 🙂 und "
    assert out.stopped
    assert not any("\ufffd" in part for part in parts)


def test_plain_characters_wait_for_the_one_before_them() -> None:
    out = TextOut()
    assert [out.feed(piece) for piece in (b"a", b"\xc3", b"b", b"\xc3", b"\xbc", b"c")] == [
        "a", "", "\ufffdb", "", "ü", "c"
    ]  # fmt: skip
    assert out.feed(b"\xf0\x9f") == ""
    assert out.finish() == "\ufffd"


def test_a_batch_of_other_sequences_is_no_step_on() -> None:
    batch = Batch(4, 3)
    batch.add(0, 11, 7)
    batch.add(2, 12, 9)
    first = batch.struct()
    for at, (token, position) in enumerate([(21, 8), (22, 10)]):
        batch.tokens[at], batch.positions[at] = token, position
    again = batch.advance(2)
    assert [list(again.token[:2]), list(again.pos[:2]), again.n_tokens] == [[21, 22], [8, 10], 2]
    assert again is first
    assert [again.seq_id[at][0] for at in range(2)] == [0, 2]
    for other in (1, 3):
        with pytest.raises(ValueError, match="not the batch of before"):
            batch.advance(other)


@pytest.mark.parametrize("echo", [b"", b"Before: "])
@pytest.mark.parametrize("text", ["plain words only", "Grüße 🙂 und mehr 🙂", "🙂", "in the end <|im_end|>"])
def test_the_short_way_says_what_the_long_way_says(jobs: Jobs, text: str, echo: bytes) -> None:
    model = jobs.engine._served[NAME].model
    ids = model.tokenize(text.encode(), special=True)
    short: list[int] = []

    def said(watch: tuple[bytes, ...], limit: int) -> list[tuple[str, str, tuple[int, ...], str]]:
        plan = Plan(chat=False, prompt=(1,), choices=1, limit=limit, stops=watch, sampling=Sampling(), logprobs=None,
                    echo=echo, params={})  # fmt: skip
        stream, events = ChoiceStream(1, 0, plan, model), list[EngineEvent]()
        for token in ids:
            if stream.say(token, events):
                short.append(token)
            else:
                over = stream.push(token)
                stream.take(events)
                if over:
                    break
        return [(event.kind, event.text.decode(), event.tokens, event.finish) for event in events]

    for limit in (len(ids), len(ids) - 1 or 1, len(ids) + 5):
        assert said((), limit) == said((b"\0\0",), limit) == said((), limit)
    assert set(short) <= {token for token in ids if model.piece(token).isascii()} - model.ends
    assert bool(short) == (text != "🙂"), "the control: it is taken where it can be"


def test_what_could_become_a_stop_comes_out_at_the_end() -> None:
    out = TextOut([b"STOP"])
    assert out.feed(b"a STO") == "a "
    assert out.finish() == "STO"
