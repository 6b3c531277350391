# SPDX-License-Identifier: Apache-2.0
"""Carries events from the engine's thread to the event loop's jobs. The only place where the two meet."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from .seams import Admission, Clock, Engine, EngineEvent, EventKind, Job

RUN_SECONDS: Final = 600.0  # the longest run
POLL_SECONDS: Final = 0.25
MAX_EVENTS: Final = 1 << 16  # of one job that wait for a slow reader: some 20 MB
MAX_BURST: Final = 64  # steps that are handed over together when the loop is behind
SUBMIT_LANES: Final = 8  # jobs that are read at the same time
_ENDS: Final = (EventKind.FINISHED, EventKind.FAILED)


class LiveJob:
    """One accepted job as the event loop sees it: its events, in order."""

    def __init__(self, job_id: int) -> None:
        self.job_id = job_id
        self._events: list[EngineEvent] = []
        self._arrived = asyncio.Event()
        self.overrun = False  # whether events were lost: the answer cannot go on

    def put(self, event: EngineEvent) -> None:
        """Take one event, or note that there are too many."""
        if len(self._events) < MAX_EVENTS:
            self._events.append(event)
        else:
            self.overrun = True
        self._arrived.set()

    async def events(self) -> list[EngineEvent]:
        """Wait for events and give all that are there."""
        await self._arrived.wait()
        return self.waiting()

    def waiting(self) -> list[EngineEvent]:
        """Give the events that are there, perhaps none."""
        self._arrived.clear()
        events, self._events = self._events, []
        return events


class _Lanes:
    """Threads in which jobs are read, each with a queue of its own, the first idle one first.

    A pool whose idle threads wait at one queue wakes a second one for nothing with every job.
    """

    def __init__(self) -> None:
        self._threads = [ThreadPoolExecutor(1, thread_name_prefix="engine-submit") for _ in range(SUBMIT_LANES)]
        self._waiting = [0] * SUBMIT_LANES

    def start(self) -> None:
        """Make every thread now, so that their number says nothing of how busy the enclave was."""
        for thread in self._threads:
            thread.submit(int)

    def submit(self, engine: Engine, job: Job) -> asyncio.Future[Admission]:
        lane = min(range(SUBMIT_LANES), key=self._waiting.__getitem__)
        self._waiting[lane] += 1
        done = asyncio.get_running_loop().run_in_executor(self._threads[lane], engine.submit, job)
        done.add_done_callback(lambda _: self._leave(lane))
        return done

    def _leave(self, lane: int) -> None:
        self._waiting[lane] -= 1

    def close(self) -> None:
        for thread in self._threads:
            thread.shutdown(wait=False)


class EnginePump:
    """Submits and cancels jobs, and hands every event to the job it belongs to."""

    def __init__(self, engine: Engine, *, clock: Clock) -> None:
        self._engine = engine
        self._clock = clock
        self._loop: asyncio.AbstractEventLoop | None = None
        self._jobs: dict[int, LiveJob | None] = {}  # None: nobody waits any more
        self._next = 0
        self._lanes = _Lanes()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._drain, name="engine-events", daemon=True)
        self.broken = False

    @property
    def live(self) -> int:
        """How many jobs the engine holds."""
        return len(self._jobs)

    def start(self) -> None:
        """Begin to drain events into the running loop."""
        self._loop = asyncio.get_running_loop()
        self._lanes.start()
        self._thread.start()

    def stop(self) -> None:
        """Stop draining."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5)
        self._lanes.close()

    async def submit(self, *, model: str, endpoint: str, body: bytes, tenant: bytes) -> tuple[Admission, LiveJob]:
        """Submit a job: the engine's answer, and where its events will arrive."""
        self._next += 1
        live = LiveJob(self._next)
        job = Job(
            job_id=self._next,
            model=model,
            endpoint=endpoint,
            body=body,
            tenant=tenant,
            deadline=self._clock.boot() + RUN_SECONDS,
        )
        self._jobs[job.job_id] = live
        # Rendering and tokenizing a long prompt takes a while: not in the loop's own thread.
        submitting = self._lanes.submit(self._engine, job)
        try:
            admission = await asyncio.shield(submitting)
        except asyncio.CancelledError:
            submitting.add_done_callback(lambda done: self._abandoned(job.job_id, done))
            raise
        except Exception:
            self._jobs.pop(job.job_id, None)
            raise
        if not admission.accepted:
            self._jobs.pop(job.job_id, None)
        return admission, live

    def _abandoned(self, job_id: int, done: asyncio.Future[Admission]) -> None:
        if done.cancelled() or done.exception() is not None or not done.result().accepted:
            self._jobs.pop(job_id, None)
        else:
            self.leave(job_id)

    def cancel(self, job_id: int) -> None:
        """End a job within one step; its last events still arrive."""
        self._engine.cancel(job_id)

    def leave(self, job_id: int) -> None:
        """End a job that nobody listens to any more. It counts as live until the engine says that it ended."""
        if job_id in self._jobs:
            self._jobs[job_id] = None
            self._engine.cancel(job_id)

    def _drain(self) -> None:
        loop = self._loop
        while loop is not None and not self._stopping.is_set():
            try:
                events = self._burst()
            except Exception:  # noqa: BLE001 - an engine that dies must not leave its jobs waiting for ever
                events = []
                self.broken = True
            try:
                if self.broken:
                    loop.call_soon_threadsafe(self._fail_all)
                    return
                if events:
                    loop.call_soon_threadsafe(self._deliver, events)
            except RuntimeError:
                return  # the loop is closed

    def _burst(self) -> list[EngineEvent]:
        """Wait for a step's events, and take the steps that are there already: one wake-up of the loop for them all."""
        events = self._engine.events(POLL_SECONDS)
        for _ in range(MAX_BURST if events else 0):
            more = self._engine.events(0.0)
            if not more:
                break
            events = events + more
        return events

    def _deliver(self, events: list[EngineEvent]) -> None:
        for event in events:
            live = self._jobs.get(event.job_id)
            if event.kind in _ENDS:
                self._jobs.pop(event.job_id, None)
            if live is not None:
                live.put(event)
                if live.overrun:
                    self.leave(event.job_id)

    def _fail_all(self) -> None:
        jobs, self._jobs = self._jobs, {}
        for job_id, live in jobs.items():
            if live is not None:
                live.put(EngineEvent(job_id=job_id, kind=EventKind.FAILED, code="engine_failed"))
