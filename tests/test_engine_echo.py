# SPDX-License-Identifier: Apache-2.0
"""The echo engine keeps every promise of the Engine seam."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest

from enclave.engine.echo import EchoEngine
from enclave.seams import Engine, EngineEvent, EventKind, Job


class _Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def wall(self) -> int:
        return int(self.now)

    def boot(self) -> float:
        return self.now


@pytest.fixture
def clock() -> _Clock:
    return _Clock()


@pytest.fixture
def engine(clock: _Clock) -> Iterator[EchoEngine]:
    engine = EchoEngine(clock=clock)
    yield engine
    engine.close()


def _job(body: object, *, job_id: int = 1, model: str = "echo", deadline: float = 2000.0) -> Job:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    endpoint = "/v1/chat/completions"
    return Job(job_id=job_id, model=model, endpoint=endpoint, body=raw, tenant=b"", deadline=deadline)


def _chat(text: str, **more: object) -> dict[str, object]:
    return {"model": "echo", "messages": [{"role": "user", "content": text}], **more}


def _run(engine: Engine, *, jobs: int = 1) -> list[EngineEvent]:
    events: list[EngineEvent] = []
    ended = 0
    until = time.monotonic() + 10
    while ended < jobs and time.monotonic() < until:
        for event in engine.events(0.1):
            events.append(event)
            ended += event.kind in (EventKind.FINISHED, EventKind.FAILED)
    assert ended == jobs
    return events


def test_it_says_the_last_message_again(engine: EchoEngine) -> None:
    assert engine.submit(_job(_chat("one two  three\nfour"))).accepted
    events = _run(engine)
    assert [event.kind for event in events] == ["started", *["delta"] * 4, "choice_end", "finished"]
    assert b"".join(event.text for event in events) == b"one two  three\nfour"
    assert events[-1].prompt_tokens == 4
    assert events[-1].completion_tokens == 4
    assert events[-2].finish == "stop"


def test_it_is_deterministic(engine: EchoEngine) -> None:
    seen = []
    for job_id in (1, 2):
        engine.submit(_job(_chat("same words here"), job_id=job_id))
        seen.append([(event.kind, event.text, event.tokens) for event in _run(engine)])
    assert seen[0] == seen[1]


def test_it_stops_at_max_tokens_in_every_choice(engine: EchoEngine) -> None:
    engine.submit(_job(_chat("a b c d", max_tokens=2, n=3)))
    events = _run(engine)
    for choice in range(3):
        assert b"".join(e.text for e in events if e.kind == "delta" and e.choice == choice) == b"a b "
    assert [e.finish for e in events if e.kind == "choice_end"] == ["length"] * 3
    assert events[-1].completion_tokens == 6


def test_a_cancelled_job_finishes_with_what_was_said(clock: _Clock) -> None:
    engine = EchoEngine(clock=clock, delay=0.01)
    engine.submit(_job(_chat("word " * 500)))
    time.sleep(0.05)
    engine.cancel(1)
    events = _run(engine)
    assert events[-2].finish == "cancelled"
    assert 0 < events[-1].completion_tokens < 500
    engine.close()


def test_a_job_ends_at_its_deadline(engine: EchoEngine, clock: _Clock) -> None:
    clock.now = 3000.0
    engine.submit(_job(_chat("late")))
    assert [(e.kind, e.code) for e in _run(engine)] == [("started", ""), ("failed", "deadline")]


def test_it_is_busy_when_full(clock: _Clock) -> None:
    engine = EchoEngine(clock=clock, delay=0.05, queue_limit=1)
    assert engine.submit(_job(_chat("a b c d e f g"))).accepted
    answer = engine.submit(_job(_chat("a"), job_id=2))
    assert (answer.accepted, answer.code) == (False, "busy")
    assert answer.retry_after >= 1
    engine.close()
    assert engine.submit(_job(_chat("a"), job_id=3)).code == "busy"


@pytest.mark.parametrize(
    ("body", "code", "field"),
    [
        (b"", "invalid_request", "body"),
        (b"[]", "invalid_request", "body"),
        (b'{"model":"echo","model":"echo"}', "invalid_request", "body"),
        (b"[" * 100_000, "invalid_request", "body"),
        (b'{"n":NaN}', "invalid_request", "body"),
        (b'{"messages":[{"content":"\\ud800"}]}', "invalid_request", "body"),
        (_chat("x", n=0), "invalid_request", "n"),
        (_chat("x", n=True), "invalid_request", "n"),
        (_chat("x", max_tokens=-1), "invalid_request", "max_tokens"),
        (_chat("x", frobnicate=1), "unsupported_field", "frobnicate"),
        (_chat("w " * 5000), "context_too_long", "messages"),
        ({"messages": []}, "invalid_request", "messages"),
        ({"messages": [{"role": "user", "content": 5}]}, "invalid_request", "messages"),
    ],
)
def test_it_refuses_by_code_and_field(engine: EchoEngine, body: object, code: str, field: str) -> None:
    answer = engine.submit(_job(body))
    assert (answer.accepted, answer.code, answer.field) == (False, code, field)


def test_it_refuses_another_model(engine: EchoEngine) -> None:
    assert engine.submit(_job(_chat("x"), model="gpt")).code == "model_unknown"


def test_its_record_says_what_it_is(engine: EchoEngine) -> None:
    (record,) = engine.model_records()
    assert b"echo" in record
