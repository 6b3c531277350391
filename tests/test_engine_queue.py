# SPDX-License-Identifier: Apache-2.0
"""Who comes next: tenants in turn, deadlines within a tenant, answers before prompts, prompts one after the other."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from enclave.engine import reading
from enclave.engine.fair_queue import FairQueue
from enclave.engine.llama import LlamaEngine
from enclave.engine.native import NativeError
from enclave.engine.speed import Speed
from enclave.seams import EngineEvent, EventKind
from tests.engine_rig import ALICE, BOB, CLOCK, Jobs, chat, small_config
from tests.memory_scan import Rig
from tests.small_model import NAME, small_model

LONG = "Count to one hundred. " * 30


def drained(queue: FairQueue[str]) -> list[str]:
    found = []
    while (item := queue.pop()) is not None:
        found.append(item)
    return found


def filled(*entries: tuple[bytes, float, str], limit: int = 16) -> FairQueue[str]:
    queue: FairQueue[str] = FairQueue(limit)
    for key, (tenant, deadline, item) in enumerate(entries):
        assert queue.put(tenant, deadline, key, item)
    return queue


def test_tenants_take_turns_however_many_one_has_waiting() -> None:
    queue = filled((ALICE, 9, "a1"), (ALICE, 9, "a2"), (ALICE, 9, "a3"), (BOB, 9, "b1"), (b"", 9, "n1"))
    assert drained(queue) == ["a1", "b1", "n1", "a2", "a3"]
    assert len(queue) == 0


def test_a_tenant_that_was_served_goes_to_the_end_of_the_line() -> None:
    queue = filled((ALICE, 9, "a1"), (ALICE, 9, "a2"), (BOB, 9, "b1"), (BOB, 9, "b2"))
    assert queue.pop() == "a1"
    assert queue.put(b"", 9, 99, "n1")
    assert drained(queue) == ["b1", "a2", "n1", "b2"]


def test_within_a_tenant_the_earliest_deadline_goes_first_and_equal_ones_as_they_came() -> None:
    queue = filled((ALICE, 30, "late"), (ALICE, 10, "soon"), (ALICE, 20, "then"), (ALICE, 20, "and then"))
    assert drained(queue) == ["soon", "then", "and then", "late"]


def test_the_queue_is_bounded_and_no_tenant_gets_all_of_it() -> None:
    queue = filled(*[(ALICE, 9.0, str(n)) for n in range(6)], limit=8)
    assert not queue.put(ALICE, 9, 100, "a quarter is kept from it")
    assert queue.put(BOB, 9, 101, "b1")
    assert queue.put(b"", 9, 102, "n1")
    assert not queue.put(b"x" * 32, 9, 103, "full")
    assert queue.remove(2) == "2"
    assert queue.put(ALICE, 9, 104, "room again")


def test_what_is_too_late_or_taken_out_leaves_the_rest_in_order() -> None:
    queue = filled((ALICE, 5, "a1"), (ALICE, 9, "a2"), (BOB, 5, "b1"), (ALICE, 7, "a3"))
    assert sorted(queue) == ["a1", "a2", "a3", "b1"], "who waits, whoever is next"
    assert sorted(queue.expired(5)) == ["a1", "b1"]
    assert 3 in queue
    assert queue.remove(3) == "a3"
    assert queue.remove(3) is None
    assert drained(queue) == ["a2"]


def test_the_wait_is_computed_from_what_was_measured() -> None:
    speed = Speed()
    assert speed.retry_after(50, 1000, 256) == 1, "nothing is known, and nothing is claimed"
    speed.note(100, 0, 2.0)  # 20 ms per prompt token
    speed.note(0, 4, 0.4)  # 100 ms per step of four
    width = 1.0 + 0.1 * 3.0
    one = 100 * 0.02 + 64 * 0.4 / width
    assert speed.retry_after(4, 100, 64) == pytest.approx(4 * one / 2, abs=1)
    assert speed.retry_after(4, 100, 10**6) == speed.retry_after(4, 100, 256), "nobody is expected to take all of it"
    assert speed.retry_after(10**6, 10**6, 256) == 600


@pytest.fixture
def engine() -> Iterator[LlamaEngine]:
    engine = LlamaEngine.load([small_config(slots=1, queue_limit=4, self_test=False)], clock=CLOCK)
    yield engine
    engine.close()


def test_a_full_engine_says_when_to_come_again_and_keeps_room_for_others(engine: LlamaEngine) -> None:
    jobs = Jobs(engine)
    running = jobs.accept(chat("Count to a thousand.", max_tokens=400), tenant=ALICE)
    while not any(event.kind is EventKind.DELTA for event in jobs.seen.get(running, [])):
        for event in engine.events(1.0):
            jobs.seen.setdefault(event.job_id, []).append(event)
    waiting = [jobs.accept(chat("Hello", max_tokens=200), tenant=ALICE) for _ in range(3)]
    _, answer = jobs.submit(chat("Hello", max_tokens=200), tenant=ALICE)
    assert (answer.accepted, answer.code) == (False, "busy")
    assert answer.retry_after >= 1
    waiting.append(jobs.accept(chat("Hello", max_tokens=2), tenant=BOB))
    speed = engine._served[NAME].lane.speed
    for _ in range(40):
        speed.note(100, 0, 50.0)  # as if a prompt token took half a second
    _, slower = jobs.submit(chat("Hello", max_tokens=200), tenant=b"c" * 32)
    assert (slower.accepted, slower.code) == (False, "busy")
    assert slower.retry_after > answer.retry_after
    for job in (running, *waiting):
        engine.cancel(job)
    jobs.wait(running, *waiting)


# ---- what is in a batch


class Watched(Rig):
    """A lane that tells what was decoded: for each batch the slot and position of every token."""

    def __init__(self) -> None:
        super().__init__(str(small_model()))
        self.batches: list[list[tuple[int, int]]] = []
        self.prompts: dict[int, int] = {}
        decode = self.context.decode

        def watch(batch: Any) -> int:
            self.batches.append([(batch.seq_id[at][0], batch.pos[at]) for at in range(batch.n_tokens)])
            return decode(batch)

        self.context.decode = watch  # type: ignore[method-assign]

    def steps(self, count: int) -> list[EngineEvent]:
        events = super().steps(count)
        for event in events:
            if event.kind is EventKind.STARTED:
                self.prompts[event.job_id] = event.prompt_tokens
        return events

    def prompt_of(self, job_id: int) -> int:
        return self.prompts[job_id]

    def counts(self) -> list[dict[int, int]]:
        return [dict(Counter(slot for slot, _ in batch)) for batch in self.batches]


@pytest.fixture
def rig() -> Iterator[Watched]:
    made = Watched()
    yield made
    made.context.free()
    made.model.free()
    made.grammars.close()


def test_who_answers_goes_on_while_prompts_are_read_one_after_the_other(rig: Watched) -> None:
    rig.put(1, "Count to one hundred.", tokens=200)
    rig.steps(3)
    rig.batches.clear()
    rig.put(2, LONG, tokens=20)
    rig.put(3, LONG)
    rig.steps(8)
    counts = rig.counts()
    prompt = rig.prompt_of(2)
    assert 128 < prompt < 192
    reads = [{1: 64}, {1: 64}, {1: prompt - 128}, {2: 64}]
    assert counts[::2] == reads, "a portion of the oldest prompt, then the next one's, not cut to fill a batch"
    assert counts[1::2] == [{0: 1}, {0: 1}, {0: 1, 1: 1}, {0: 1, 1: 1}], "in turn with the answers, a new one at once"
    for batch in rig.batches:
        assert len(batch) <= 64
        assert batch == sorted(batch), "neighbouring slots side by side"


def test_short_prompts_are_read_together_as_far_as_whole_ones_fit(rig: Watched) -> None:
    rig.put(1, "Count to one hundred.", tokens=200)
    rig.steps(3)
    rig.batches.clear()
    rig.put(2, "Hello")
    rig.put(3, "Hello " * 16)
    rig.steps(4)
    short, long = rig.prompt_of(2), rig.prompt_of(3)
    assert long <= 64 < short + long
    assert rig.counts() == [{1: short}, {0: 1, 1: 1}, {2: long}, {0: 1, 1: 1, 2: 1}]


def test_a_prompt_alone_is_read_by_whole_micro_batches(rig: Watched) -> None:
    rig.put(1, LONG)
    rig.steps(2)
    assert [len(batch) for batch in rig.batches][:2] == [128, rig.prompt_of(1) - 128]


def test_where_nobody_answers_yet_the_first_prompt_is_read_alone(rig: Watched) -> None:
    rig.put(1, "Hello")
    rig.put(2, "Hello")
    rig.put(3, "Hello")
    events = rig.steps(3)
    prompt = rig.prompt_of(1)
    assert rig.counts()[:3] == [{0: prompt}, {0: 1}, {1: prompt, 2: prompt}]
    assert next(event for event in events if event.kind is EventKind.DELTA).job_id == 1


def test_the_likeliest_tokens_of_all_at_once_are_those_of_each_alone(rig: Watched) -> None:
    said: dict[int, list[tuple[int, ...]]] = {}
    for alone in (1, 2, 3):
        rig.put(alone, "Count to one hundred." if alone == 2 else "Hello", tokens=5 + alone)
        said[alone] = [event.tokens for event in rig.finish(alone) if event.kind is EventKind.DELTA]
    for job in (1, 2, 3):
        rig.put(10 + job, "Count to one hundred." if job == 2 else "Hello", tokens=5 + job)
    rig.put(14, "Hello", tokens=4, presence_penalty=1)  # whose tokens are drawn one by one, and with it everybody's
    events = rig.finish(13)
    for job in (1, 2, 3):
        together = [event.tokens for event in events if event.kind is EventKind.DELTA and event.job_id == 10 + job]
        assert together == said[job]


def test_with_gpus_prompts_are_read_together_at_once(rig: Watched) -> None:
    rig.model.on_gpu = True
    rig.put(2, "Hello", tokens=6)
    rig.put(3, "Hello", tokens=6)
    rig.steps(1)
    assert rig.counts() == [{0: rig.prompt_of(2), 1: rig.prompt_of(3)}]


def test_with_gpus_answers_that_have_only_begun_wait_for_the_prompts_that_came_with_theirs(rig: Watched) -> None:
    rig.model.on_gpu = True
    for job in (1, 2, 3):
        rig.put(job, "Hello " * 16)
    rig.steps(4)
    prompt = rig.prompt_of(1)
    assert prompt <= 64 < 2 * prompt
    assert rig.counts() == [{0: prompt}, {1: prompt}, {2: prompt}, {0: 1, 1: 1, 2: 1}]


def test_with_gpus_no_answer_that_has_begun_waits_for_more_than_a_row_of_batches(
    rig: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "ROW", 4)
    rig.model.on_gpu = True
    rig.put(1, "Hello")
    rig.put(2, LONG)
    rig.put(3, LONG)
    rig.steps(8)
    short, long = rig.prompt_of(1), rig.prompt_of(2)
    assert 128 < long < 192
    assert rig.counts()[:4] == [{0: short}, {1: 64}, {1: 64}, {1: long - 128}]
    assert rig.counts()[4:] == [{0: 1, 1: 1}, {2: 64}, {0: 1, 1: 1}, {2: 64}], "then in turn"


def test_with_gpus_who_is_in_the_midst_of_an_answer_has_every_second_turn(rig: Watched) -> None:
    rig.model.on_gpu = True
    rig.put(1, "Count to one hundred.", tokens=200)
    rig.steps(3)
    rig.batches.clear()
    rig.put(2, "Hello " * 16)
    rig.put(3, "Hello " * 16)
    rig.steps(4)
    prompt = rig.prompt_of(2)
    assert rig.counts() == [{1: prompt}, {0: 1, 1: 1}, {2: prompt}, {0: 1, 1: 1, 2: 1}]


def test_only_a_gpu_that_rests_and_has_room_for_one_more_waits_for_it(rig: Watched) -> None:
    def gathers() -> bool:
        return rig.lane.gathers

    rig.put(1, "Hello", tokens=20)
    assert not gathers(), "a processor"
    rig.model.on_gpu = True
    assert gathers()
    rig.put(2, "Hello")
    rig.put(3, "Hello")
    assert not gathers(), "every slot has its prompt"
    rig.finish(3)
    rig.put(4, "Hello")
    assert not gathers(), "another is answering"
    rig.finish(1)
    assert not gathers(), "nobody waits"


def test_a_gpu_that_rests_waits_no_longer_once_a_portion_is_there_to_read(rig: Watched) -> None:
    rig.model.on_gpu = True
    rig.put(1, "Hello " * 16)
    alone = rig.lane.gathers
    rig.put(2, "Hello " * 16)
    assert (alone, rig.lane.gathers) == (True, False), "although a slot is free"
    rig.steps(1)
    assert 2 * rig.prompt_of(1) > 64


def test_what_a_lane_wiped_as_a_whole_is_not_overwritten_slot_by_slot(
    rig: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    overwritten: list[int] = []
    monkeypatch.setattr(rig.context, "overwrite", lambda slot, _: overwritten.append(slot))
    for job in (1, 2):
        rig.put(job, "Hello", tokens=4)
        rig.finish(job)
    assert overwritten == []
    rig.put(3, "Count to one hundred.", tokens=20)
    rig.put(4, "Hello", tokens=2)
    rig.finish(4)
    rig.steps(1)
    assert overwritten == [1]


def test_only_the_thread_that_loaded_a_model_computes_with_it(rig: Watched) -> None:
    found: list[object] = []

    def call() -> None:
        for use in (lambda: rig.context.decode(None), rig.context.wipe, lambda: rig.context.forget(0)):
            try:
                use()
            except NativeError as error:
                found.append(str(error))

    thread = threading.Thread(target=call)
    rig.batches.clear()
    rig.context.decode = type(rig.context).decode.__get__(rig.context)  # type: ignore[method-assign]
    thread.start()
    thread.join()
    assert len(found) == 3
    assert all("another thread" in str(error) for error in found)


# ---- several choices of one prompt


@pytest.mark.parametrize("tokens", [1, 4], ids=["ended at once", "answering"])
def test_choices_share_what_one_of_them_has_read(rig: Watched, tokens: int) -> None:
    rig.put(1, LONG, tokens=tokens, n=3)
    rig.finish(1)
    prompt = rig.prompt_of(1)
    positions = [position for batch in rig.batches for _, position in batch if position < prompt]
    assert sorted(positions) == sorted([*range(prompt), prompt - 1, prompt - 1]), "each position once, the last thrice"


def test_each_choice_is_what_it_would_be_alone(rig: Watched) -> None:
    def said(job: int, **more: Any) -> dict[int, list[int]]:
        rig.put(job, "Write a line about rain, please.", tokens=12, temperature=0.9, **more)
        found: dict[int, list[int]] = {}
        for event in rig.finish(job):
            if event.kind is EventKind.DELTA:
                found.setdefault(event.choice, []).extend(event.tokens)
        return found

    together = said(1, n=5, seed=7)  # of which two wait for a slot
    assert len(together) == 5
    assert len({tuple(ids) for ids in together.values()}) > 2
    for number, ids in together.items():
        assert said(2 + number, seed=7 + number) == {0: ids}


def test_a_choice_goes_on_alone_when_the_one_that_reads_for_it_is_gone(rig: Watched) -> None:
    rig.put(1, LONG, tokens=3, n=2)
    rig.steps(1)
    first = rig.lane._active[0]
    rig.lane._release(first)
    first.run.open -= 1
    rig.batches.clear()
    rig.finish(1)
    prompt = len(first.run.plan.prompt)
    assert [len(batch) for batch in rig.batches][:2] == [128, prompt - 128]


def test_a_batch_that_is_taken_back_leaves_shared_choices_right(rig: Watched) -> None:
    rig.put(1, LONG, tokens=6, n=2)
    wanted = [event.tokens for event in rig.finish(1) if event.kind is EventKind.DELTA]
    decode, calls = rig.context.decode, iter(range(1000))
    rig.context.decode = lambda batch: decode(batch) * 0 + 2 if next(calls) in {1, 2, 3} else decode(batch)  # type: ignore[method-assign]
    rig.put(2, LONG, tokens=6, n=2)
    assert [event.tokens for event in rig.finish(2) if event.kind is EventKind.DELTA] == wanted
