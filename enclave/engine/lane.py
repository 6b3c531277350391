# SPDX-License-Identifier: Apache-2.0
"""Answers: what does one model do in one step? Decode for everybody who is ready, or prefill whoever came first.

One llama_decode per step: one token of every decoding sequence, or the next piece of the oldest prompts still being
read, and the two take turns. llama.cpp computes equal lengths of neighbouring slots together, so that a batch of both
is two passes as well, of which the first reads one token of each prompt, and its new answers begin a pass later.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from operator import attrgetter

from ..seams import EngineEvent, EventKind, FinishReason
from .batch import Batch
from .fair_queue import FairQueue
from .logprobs import measure
from .native import Handle, NativeContext, NativeError, NativeModel
from .prefixes import Slots
from .reading import Reading
from .sampling import GrammarDeadEnd, Sampler
from .sequence import Run, Sequence
from .speed import Speed
from .stream import ChoiceStream

_by_slot = attrgetter("slot")


class Lane:
    """One model's slots and queue. Everything here runs on the engine's thread."""

    def __init__(
        self,
        model: NativeModel,
        context: NativeContext,
        *,
        slots: int,
        ubatch: int,
        chunk: int,
        queue: FairQueue[Run],
        speed: Speed,
        now: Callable[[], float],
    ) -> None:
        """Serve `slots` sequences; read prompts by `ubatch` tokens, or by `chunk` while others are answering."""
        self._model = model
        self._context = context
        self._ubatch, self._chunk = ubatch, chunk
        self._reading = Reading(model, ubatch=ubatch, chunk=chunk)
        self._now = now
        self._batch = Batch(max(ubatch, chunk) + slots, slots)
        self._slots = Slots(context, slots, reuse=not model.recurrent, now=now)
        self._active: list[Sequence] = []  # in the order of admission
        self._again: list[Sequence] = []  # all of them as the last batch had them, if the next may be the same
        self._plain = False  # whether nothing but the likeliest token is asked for by any of them
        self._later = False  # whether what is drawn for them may be told while the next batch is computed
        self._left = 0  # tokens until the first of them reaches its length, when they may be told later
        self._drawn: list[tuple[Sequence, int]] = []  # tokens that are yet to be told, none of which ends an answer
        self._runs: dict[int, Run] = {}
        self._halfway: Run | None = None  # a run with choices that have no slot yet
        self._dirty = False
        self._due = math.inf  # no run in the slots is late before this; a lower bound between two `_expire`
        self.queue = queue
        self.speed = speed
        self.reading: int | None = None  # the job whose prompt the running decode reads

    @property
    def idle(self) -> bool:
        """True when there is nothing to do."""
        return not self._active and not self.queue and self._halfway is None

    @property
    def busy(self) -> bool:
        """True while prompts are read and answers written."""
        return bool(self._active)

    @property
    def gathers(self) -> bool:
        """Whether a GPU rests, and the prompts that wait leave room for more: it reads several as fast as one."""
        if not self._model.on_gpu or self._active or not 0 < len(self.queue) < self._slots.free:
            return False
        return sum(len(run.plan.prompt) for run in self.queue) < self._chunk

    def cancel(self, job_id: int, events: list[EngineEvent]) -> None:
        """End a job: from the queue at once, from its slots now."""
        self._tell(events)
        queued = self.queue.remove(job_id)
        if queued is not None:
            self._finish(queued, events)
        run = self._runs.get(job_id)
        if run is not None:
            self._end_run(run, FinishReason.CANCELLED, events)

    def fail_all(self, code: str, events: list[EngineEvent]) -> None:
        """End every job with FAILED: the model did not compute."""
        self._drawn = []
        for sequence in list(self._active):
            self._release(sequence)
        runs = list(self._runs.values())
        while (run := self.queue.pop()) is not None:
            runs.append(run)
        self._runs.clear()
        self._halfway = None
        events.extend(EngineEvent(job_id=run.job_id, kind=EventKind.FAILED, code=code) for run in runs)
        # What the slots hold now is nobody's prefix: the batch that failed may have written half of it.
        self.forget_prefixes()

    def prepare(self, events: list[EngineEvent]) -> None:
        """Move between queue and slots: the only part of a step that touches the queue."""
        now = self._now()
        if now >= self._due or now >= self.queue.earliest or now >= self._slots.due:
            self._expire(now, events)
        if self.queue or self._halfway is not None:
            self._admit(events)

    def warm_up(self) -> None:
        """Compute once, so that the first request pays for nothing but itself."""
        size = min(self._ubatch, self._context.context - 1)
        for tokens in ([0] * size, [0]):
            self._batch.clear()
            self._batch.add_run(0, tokens, 0, output=True)
            if self._context.decode(self._batch.struct()) != 0:
                raise NativeError("the model does not compute")
            self._context.forget(0)
        self._batch.clear()
        self._context.wipe()

    def step(self, events: list[EngineEvent], told: Callable[[], None] = lambda: None) -> None:
        """Do one llama_decode, and everything that follows from it.

        A GPU still computes when llama_decode returns. What was drawn before is told meanwhile, and `told` called.
        """
        if not self._active:
            return
        self._slots.clean()
        began = time.perf_counter()
        if self._again:
            prompt, decoded, batch = 0, len(self._again), self._advance()
        else:
            self._tell(events)
            prompt, decoded = self._fill()
            batch = self._batch.struct()
        code = self._context.decode(batch)
        if self._drawn:
            self._tell(events)
            told()
        if code != 0:
            self._roll_back()
            return
        self._context.wait()
        if self._again and (self._plain or self._later):
            self._draw_all(events)
        else:
            for sequence in [sequence for sequence in self._active if sequence.index >= 0]:
                self._draw(sequence, events)
        self.speed.note(prompt, decoded, time.perf_counter() - began)

    def drain(self) -> None:
        """Wipe everything if nothing runs and no tenant's prefix is kept: called when the lane has become idle."""
        if self._dirty and self.idle:
            self._slots.expire()
            self._batch.wipe()
            if self._slots.next_expiry is None:
                self._context.wipe()
                self._slots.wiped()
                self._dirty = False

    @property
    def rest(self) -> float | None:
        """How many seconds an idle lane may sleep before it must wipe something; None for as long as it likes."""
        expiry = self._slots.next_expiry
        return None if expiry is None else max(0.0, expiry - self._now())

    def forget_prefixes(self) -> None:
        """Let go of every tenant's prefix now."""
        self._slots.expire(everything=True)
        self.drain()

    def _expire(self, now: float, events: list[EngineEvent]) -> None:
        self._tell(events)
        self._slots.expire()
        late = [run for run in self._runs.values() if run.deadline <= now]
        for run in late:
            self._drop(run)
        self._due = min((run.deadline for run in self._runs.values()), default=math.inf)
        late += self.queue.expired(now)
        events.extend(EngineEvent(job_id=run.job_id, kind=EventKind.FAILED, code="deadline") for run in late)

    def _admit(self, events: list[EngineEvent]) -> None:
        """Put choices into free slots."""
        while self._slots.free:
            run = self._halfway or self.queue.pop()
            if run is None:
                return
            slot, cached = self._slots.take(run.tenant, run.plan.prompt)
            self._dirty = True
            if not run.started:
                run.cached = cached
                self._start(run, events)
            choice = run.plan.choices - run.waiting
            run.waiting -= 1
            self._halfway = run if run.waiting else None
            try:
                self._active.append(self._begin(run, choice, slot, cached))
                self._again = []
                elder = next(other for other in self._active if other.run is run)
                if elder.next_token >= 0:
                    self._share(elder)
            except ValueError:  # a grammar that the child compiled and we cannot: this run's fault alone
                self._slots.give_back(slot, b"", ())
                self._drop(run)
                events.append(EngineEvent(job_id=run.job_id, kind=EventKind.FAILED, code="engine_failed"))

    def _begin(self, run: Run, choice: int, slot: int, cached: int) -> Sequence:
        """Give a sequence ready to read its prompt. Raises ValueError for a grammar that does not compile."""
        plan = run.plan
        sampler = Sampler(self._model, plan.sampling, choice=choice, grammar=plan.grammar)
        stream = ChoiceStream(run.job_id, choice, plan, self._model)
        return Sequence(run=run, slot=slot, stream=stream, sampler=sampler, past=cached)

    def _start(self, run: Run, events: list[EngineEvent]) -> None:
        run.started = True
        run.open = run.waiting = run.plan.choices
        self._runs[run.job_id] = run
        self._due = min(self._due, run.deadline)
        events.append(
            EngineEvent(
                job_id=run.job_id,
                kind=EventKind.STARTED,
                tokens=run.plan.prompt,
                prompt_tokens=len(run.plan.prompt),
                cached_tokens=run.cached,
                params=run.plan.params,
            )
        )

    def _fill(self) -> tuple[int, int]:
        """Compose the batch; give the number of prompt tokens and of decoded tokens in it."""
        batch = self._batch
        batch.clear()
        share, self.reading = self._reading.portions(self._active)
        decoding = 0 if share else sum(sequence.next_token >= 0 for sequence in self._active)
        ordered = sorted(self._active, key=_by_slot)
        self._again = ordered if decoding == len(ordered) else []
        self._plain = all(sequence.sampler.plain for sequence in self._again)
        self._later = self._model.on_gpu and all(sequence.free for sequence in self._again)
        self._left = min((sequence.stream.left for sequence in self._again), default=0)
        for sequence in ordered:
            sequence.mark = sequence.past
            sequence.index = -1
            if sequence.next_token >= 0 and not share:
                sequence.index = batch.add(sequence.slot, sequence.next_token, sequence.past)
                sequence.past += 1
            size = share.get(sequence.slot, 0)
            if not size:
                continue
            prompt = sequence.run.plan.prompt
            end = sequence.past + size
            last = end == len(prompt)
            index = batch.add_run(sequence.slot, prompt[sequence.past : end], sequence.past, output=last)
            sequence.index = index if last else -1
            sequence.past = end
        return sum(share.values()), decoding

    def _share(self, elder: Sequence) -> None:
        """Give the other choices of a run the prompt that `elder` has read, but for the token before the answer."""
        run = elder.run
        last = len(run.plan.prompt) - 1
        if run.plan.choices == 1 or self._model.recurrent or not self._context.holds(elder.slot, last):
            return  # a sliding window may have lost the beginning
        for sequence in self._active:
            if sequence.run is run and sequence.past < last:
                self._context.share(elder.slot, sequence.slot, last)
                sequence.past = last

    def _advance(self) -> Handle:
        """Give the batch of a step like the one before: everybody's next token, one position on."""
        tokens, positions = self._batch.tokens, self._batch.positions
        for at, sequence in enumerate(self._again):
            tokens[at] = sequence.next_token
            positions[at] = sequence.mark = sequence.past
            sequence.past += 1
        return self._batch.advance(len(self._again))

    def _roll_back(self) -> None:
        """After an abort or a full cache: forget what the batch may have written, and try again next step."""
        self._again = []
        for sequence in self._active:
            sequence.past = sequence.mark
            self._context.forget(sequence.slot, sequence.mark)

    def _draw_all(self, events: list[EngineEvent]) -> None:
        """Draw everybody's next token, and tell them now or, when no answer ends with them, with the next batch."""
        again = self._again
        if self._plain:
            tokens = self._context.likeliest(len(again))
        else:
            tokens = [sequence.sampler.sample(self._context, sequence.index) for sequence in again]
        drawn = list(zip(again, tokens, strict=True))
        self._left -= 1
        if self._later and self._left > 0 and self._model.ends.isdisjoint(tokens):
            for sequence, token in drawn:
                sequence.next_token = token
            self._drawn = drawn
            return
        for sequence, token in drawn:
            self._take(sequence, token, events)

    def _tell(self, events: list[EngineEvent]) -> None:
        drawn, self._drawn = self._drawn, []
        for sequence, token in drawn:
            self._take(sequence, token, events)

    def _draw(self, sequence: Sequence, events: list[EngineEvent]) -> None:
        if sequence.next_token < 0:
            self._share(sequence)
        try:
            token = sequence.sampler.sample(self._context, sequence.index)
        except GrammarDeadEnd:
            sequence.stream.end(FinishReason.LENGTH)
            sequence.stream.take(events)
            self._retire(sequence, events)
        else:
            self._take(sequence, token, events)

    def _take(self, sequence: Sequence, token: int, events: list[EngineEvent]) -> None:
        sequence.next_token = token
        if sequence.stream.say(token, events):
            return
        top = sequence.run.plan.logprobs
        logprobs = None if top is None else measure(self._context.logits(sequence.index), token, top)
        over = sequence.stream.push(token, logprobs)
        sequence.stream.take(events)
        if over:
            self._retire(sequence, events)

    def _retire(self, sequence: Sequence, events: list[EngineEvent]) -> None:
        run = sequence.run
        run.completion += sequence.stream.count
        run.reasoning += sequence.stream.reasoning
        run.open -= 1
        self._release(sequence)
        if not run.open:
            del self._runs[run.job_id]
            self._finish(run, events)

    def _release(self, sequence: Sequence) -> None:
        self._active.remove(sequence)
        self._again = []
        sequence.sampler.free()
        tokens = (*sequence.run.plan.prompt, *sequence.stream.ids)[: sequence.past]
        self._slots.give_back(sequence.slot, sequence.run.tenant, tokens)

    def _end_run(self, run: Run, finish: FinishReason, events: list[EngineEvent]) -> None:
        """End every choice of a run that is in the slots."""
        if self._halfway is run:
            self._halfway = None
            run.open -= run.waiting
            for choice in range(run.plan.choices - run.waiting, run.plan.choices):
                kind = EventKind.CHOICE_END
                events.append(EngineEvent(job_id=run.job_id, kind=kind, choice=choice, finish=finish.value))
        for sequence in [sequence for sequence in self._active if sequence.run is run]:
            sequence.stream.end(finish)
            sequence.stream.take(events)
            self._retire(sequence, events)
        if self._runs.pop(run.job_id, None) is not None:
            self._finish(run, events)

    def _drop(self, run: Run) -> None:
        """Take a run out of the slots without a word."""
        if self._halfway is run:
            self._halfway = None
        for sequence in [sequence for sequence in self._active if sequence.run is run]:
            self._release(sequence)
        self._runs.pop(run.job_id, None)

    def _finish(self, run: Run, events: list[EngineEvent]) -> None:
        events.append(
            EngineEvent(
                job_id=run.job_id,
                kind=EventKind.FINISHED,
                prompt_tokens=len(run.plan.prompt) if run.started else 0,
                cached_tokens=run.cached,
                completion_tokens=run.completion,
                reasoning_tokens=run.reasoning,
            )
        )
