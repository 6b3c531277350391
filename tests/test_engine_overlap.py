# SPDX-License-Identifier: Apache-2.0
"""With GPUs, what was drawn is told while the next batch is computed: the same words, in order, and none lost."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from enclave.seams import EngineEvent, EventKind, FinishReason
from tests.memory_scan import Rig
from tests.small_model import small_model

TEXT = "Count to one hundred."


@pytest.fixture
def rig() -> Iterator[Rig]:
    made = Rig(str(small_model()))
    made.model.on_gpu = True
    yield made
    made.context.free()
    made.model.free()
    made.grammars.close()


def tokens(events: list[EngineEvent], job: int) -> list[int]:
    return [
        token for event in events if event.job_id == job and event.kind is EventKind.DELTA for token in event.tokens
    ]


def kinds(events: list[EngineEvent], job: int) -> list[str]:
    return [event.kind.value for event in events if event.job_id == job]


def on_processor(rig: Rig, job: int, text: str = TEXT, **more: Any) -> list[int]:
    """What a processor answers, which puts nothing off."""
    rig.model.on_gpu = False
    rig.put(job, text, **more)
    events = rig.finish(job)
    rig.model.on_gpu = True
    return tokens(events, job)


def counted(rig: Rig) -> list[int]:
    """Have the tokens of each batch counted from now on."""
    sizes: list[int] = []
    decode = rig.context.decode

    def count(batch: Any) -> int:
        sizes.append(int(batch.n_tokens))
        return decode(batch)

    rig.context.decode = count  # type: ignore[method-assign]
    return sizes


def test_a_token_is_told_between_the_start_of_the_next_batch_and_its_end(rig: Rig) -> None:
    calls: list[str] = []
    decode, wait = rig.context.decode, rig.context.wait

    def decoded(batch: Any) -> int:
        calls.append("decode")
        return decode(batch)

    def waited() -> None:
        calls.append(f"wait, {len(tokens(events, 1))} told")
        wait()

    rig.context.decode, rig.context.wait = decoded, waited  # type: ignore[method-assign]
    rig.put(1, TEXT, tokens=4)
    events: list[EngineEvent] = []
    for _ in range(4):
        rig.lane.prepare(events)
        rig.lane.step(events, lambda: calls.append("told"))
    assert calls == [
        "decode", "wait, 0 told",  # the prompt, whose token is told at once
        "decode", "wait, 1 told",
        "decode", "told", "wait, 2 told",
        "decode", "told", "wait, 3 told",  # after which the fourth and last is told at once
    ]  # fmt: skip
    assert len(tokens(events, 1)) == 4
    assert rig.lane.idle


@pytest.mark.parametrize("more", [{}, {"temperature": 0.9, "seed": 7}, {"presence_penalty": 1.5}], ids=str)
def test_the_words_are_those_of_a_processor(rig: Rig, more: dict[str, Any]) -> None:
    said = [on_processor(rig, job, tokens=10 + job, **more) for job in (1, 2, 3)]
    for job in (1, 2, 3):
        rig.put(10 + job, TEXT, tokens=10 + job, **more)
    events = rig.finish(13)
    assert [tokens(events, 10 + job) for job in (1, 2, 3)] == said
    for job in (11, 12, 13):
        found = kinds(events, job)
        assert found[0] == "started"
        assert found[-2:] == ["choice_end", "finished"]
        assert set(found[1:-2]) == {"delta"}


def test_a_token_that_ends_an_answer_is_not_put_off(rig: Rig) -> None:
    said = on_processor(rig, 1, "Say yes.", tokens=100)
    assert len(said) < 100, "it ends by itself"
    batches = counted(rig)
    rig.put(2, "Say yes.", tokens=100)
    assert tokens(rig.finish(2), 2) == said
    assert len(batches) == len(said), "none is computed for it after its end"
    assert rig.lane.idle


def test_an_end_that_could_be_a_word_is_none(rig: Rig, tmp_path: Path) -> None:
    said = on_processor(rig, 1, tokens=8)
    end = next(at for at, token in enumerate(said) if rig.model.plain[token] and token not in said[:at] and at > 2)
    key = b"tokenizer.ggml.eos_token_id" + struct.pack("<I", 4)  # whose value is a uint32
    before, found, after = small_model().read_bytes().partition(key)
    assert found
    path = tmp_path / "other-end.gguf"
    path.write_bytes(before + key + struct.pack("<I", said[end]) + after[4:])
    other = Rig(str(path))
    path.unlink()
    other.model.on_gpu = True
    batches = counted(other)
    other.put(1, TEXT, tokens=8)
    events = other.finish(1)
    text = b"".join(event.text for event in events if event.kind is EventKind.DELTA)
    assert text == b"".join(rig.model.piece(token) for token in said[:end])
    assert next(event.finish for event in events if event.kind is EventKind.CHOICE_END) == FinishReason.STOP
    assert len(batches) == end + 1
    other.context.free()
    other.model.free()
    other.grammars.close()


@pytest.mark.parametrize(
    "more",
    [{"stop": ["zzz"]}, {"logprobs": True}, {"response_format": {"type": "json_object"}}],
    ids="stops logprobs grammar".split(),
)
def test_nothing_is_put_off_where_more_than_length_and_end_is_looked_for(rig: Rig, more: dict[str, Any]) -> None:
    said = on_processor(rig, 1, tokens=9, **more)
    rig.put(2, TEXT, tokens=9, **more)
    events: list[EngineEvent] = []
    for _ in range(400):
        rig.lane.prepare(events)
        rig.lane.step(events, lambda: pytest.fail("something was put off"))
    assert tokens(events, 2) == said


def test_who_is_cancelled_has_been_told_every_token_that_is_counted(rig: Rig) -> None:
    rig.put(1, TEXT, tokens=50)
    events = rig.steps(4)
    assert len(tokens(events, 1)) == 3, "a fourth is drawn"
    rig.lane.cancel(1, events)
    assert kinds(events, 1) == ["started", "delta", "delta", "delta", "delta", "choice_end", "finished"]
    assert next(e for e in events if e.kind is EventKind.FINISHED).completion_tokens == 4
    rig.steps(2)
    assert rig.lane.idle


def test_who_is_late_hears_nothing_after_that_and_the_others_miss_nothing(rig: Rig) -> None:
    said = on_processor(rig, 1, tokens=20)
    rig.put(2, TEXT, tokens=50)
    rig.now += 500
    rig.put(3, TEXT, tokens=20)
    events = rig.steps(6)
    rig.now += 600
    events += rig.finish(3)
    assert kinds(events, 2)[-1] == "failed"
    assert tokens(events, 2) == said[:5]
    assert tokens(events, 3) == said


def test_after_a_failure_nothing_more_is_told(rig: Rig) -> None:
    rig.put(1, TEXT, tokens=50)
    events = rig.steps(4)
    rig.lane.fail_all("engine_failed", events)
    assert kinds(events, 1)[-1] == "failed"
    said = on_processor(rig, 2, tokens=20)
    rig.put(3, TEXT, tokens=20)
    after = rig.finish(3)
    assert kinds(after, 1) == []
    assert tokens(after, 3) == said


def test_an_aborted_batch_loses_no_token_and_repeats_none(rig: Rig) -> None:
    said = on_processor(rig, 1, tokens=20)
    rig.put(2, TEXT, tokens=20)
    events = rig.steps(4)
    decode = rig.context.decode
    rig.context.decode = lambda _: 2  # type: ignore[assignment,method-assign]
    events += rig.steps(1)
    rig.context.decode = decode  # type: ignore[method-assign]
    events += rig.finish(2)
    assert tokens(events, 2) == said


def test_who_comes_while_a_token_is_put_off_finds_everything_in_order(rig: Rig) -> None:
    said = on_processor(rig, 1, tokens=30)
    rig.put(2, TEXT, tokens=30)
    events = rig.steps(5)
    rig.put(3, TEXT, tokens=30)
    events += rig.finish(3)
    assert tokens(events, 2) == tokens(events, 3) == said


def test_a_kept_prefix_holds_what_was_put_off(rig: Rig) -> None:
    secret = b"s" * 32
    rig.put(1, TEXT, tokens=40, tenant=secret)
    rig.finish(1)
    rig.put(2, TEXT, tokens=40, tenant=secret)
    events = rig.finish(2)
    assert next(e for e in events if e.kind is EventKind.STARTED).cached_tokens == 32
    rig.lane.forget_prefixes()
    assert tokens(events, 2) == on_processor(rig, 3, tokens=40)
