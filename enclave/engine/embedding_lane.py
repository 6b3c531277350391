# SPDX-License-Identifier: Apache-2.0
"""Answers: which vectors does a model with an embedding head give? One input after the other, one sequence each.

The same seam as `lane`: queue, prepare, step, drain. Nothing is kept between two inputs, and everything is wiped when
nothing runs. Vectors have length one.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable

import numpy as np

from ..seams import EngineEvent, EventKind, FinishReason
from .batch import Batch
from .fair_queue import FairQueue
from .native import NativeContext, NativeError, NativeModel
from .sequence import Run
from .speed import Speed


class EmbeddingLane:
    """One embedding model's queue. Everything here runs on the engine's thread."""

    def __init__(
        self,
        model: NativeModel,
        context: NativeContext,
        *,
        queue: FairQueue[Run],
        speed: Speed,
        now: Callable[[], float],
    ) -> None:
        """Serve one input per step in slot 0 of `context`."""
        self._model = model
        self._context = context
        self._now = now
        self._batch = Batch(context.batch, 1)
        self._run: Run | None = None
        self._vectors: list[list[float] | str] = []
        self._dirty = False
        self.queue = queue
        self.speed = speed
        self.reading: int | None = None
        self.rest: float | None = None
        self.busy = self.gathers = False  # between two steps: one input is computed at a time

    @property
    def idle(self) -> bool:
        """True when there is nothing to do."""
        return self._run is None and not self.queue

    def cancel(self, job_id: int, events: list[EngineEvent]) -> None:
        """End a job: from the queue at once, or between two inputs."""
        run = self.queue.remove(job_id)
        if run is None and self._run is not None and self._run.job_id == job_id:
            run, self._run = self._run, None
        if run is not None:
            self._end(run, FinishReason.CANCELLED, events)

    def fail_all(self, code: str, events: list[EngineEvent]) -> None:
        """End every job with FAILED: the model did not compute."""
        runs = [] if self._run is None else [self._run]
        while (run := self.queue.pop()) is not None:
            runs.append(run)
        self._run = None
        events.extend(EngineEvent(job_id=run.job_id, kind=EventKind.FAILED, code=code) for run in runs)

    def prepare(self, events: list[EngineEvent]) -> None:
        """Move between queue and slot: the only part of a step that touches the queue."""
        now = self._now()
        late = self.queue.expired(now)
        if self._run is not None and self._run.deadline <= now:
            late.append(self._run)
            self._run = None
        events.extend(EngineEvent(job_id=run.job_id, kind=EventKind.FAILED, code="deadline") for run in late)
        if self._run is None and (run := self.queue.pop()) is not None:
            self._run, self._vectors, run.started = run, [], True
            plan = run.plan
            kind = EventKind.STARTED
            events.append(
                EngineEvent(
                    job_id=run.job_id, kind=kind, tokens=plan.prompt, prompt_tokens=len(plan.prompt), params=plan.params
                )
            )

    def warm_up(self) -> None:
        """Compute once, so that the first request pays for nothing but itself."""
        self._vector((0,))
        self.drain()

    def step(self, events: list[EngineEvent], _: Callable[[], None] = lambda: None) -> None:
        """Compute one input's vector."""
        run = self._run
        if run is None:
            return
        began = time.perf_counter()
        ids = run.plan.inputs[len(self._vectors)]
        vector = self._vector(ids)
        if vector is None:
            return  # aborted: a cancel will be seen before the next step
        packed = np.asarray(vector, "<f4")
        base = run.plan.encoding == "base64"
        self._vectors.append(base64.b64encode(packed.tobytes()).decode("ascii") if base else packed.tolist())
        self.speed.note(len(ids), 0, time.perf_counter() - began)
        if len(self._vectors) == len(run.plan.inputs):
            self._run = None
            self._end(run, FinishReason.STOP, events)

    def _vector(self, ids: tuple[int, ...]) -> list[float] | None:
        """Give the vector of one input, of length one; None when the decode was aborted."""
        self._dirty = True
        self._batch.clear()
        self._batch.add_run(0, ids, 0, output=True)
        if self._context.decode(self._batch.struct()) != 0:
            self._context.wipe()
            return None
        raw = np.asarray(self._context.embedding(0), np.float64)
        self._context.forget(0)
        length = float(np.linalg.norm(raw))
        if not np.isfinite(length) or length == 0.0:
            raise NativeError("the model computes no numbers")
        vector: list[float] = (raw / length).tolist()
        return vector

    def _end(self, run: Run, finish: FinishReason, events: list[EngineEvent]) -> None:
        count = len(run.plan.prompt) if run.started else 0
        detail = b""
        if run.started:
            events.append(EngineEvent(job_id=run.job_id, kind=EventKind.CHOICE_END, finish=finish.value))
        if finish is FinishReason.STOP:
            data = [
                {"object": "embedding", "index": index, "embedding": vector}
                for index, vector in enumerate(self._vectors)
            ]
            usage = {"prompt_tokens": count, "total_tokens": count}
            detail = json.dumps({"object": "list", "data": data, "usage": usage}).encode("ascii")
        self._vectors = []
        events.append(EngineEvent(job_id=run.job_id, kind=EventKind.FINISHED, detail=detail, prompt_tokens=count))

    def drain(self) -> None:
        """Wipe everything if nothing runs."""
        if self._dirty and self.idle:
            self._context.wipe()
            self._batch.wipe()
            self._dirty = False

    def forget_prefixes(self) -> None:
        """Do nothing: no prefix is kept."""
        self.drain()
