# SPDX-License-Identifier: Apache-2.0
"""Answers: who turns jobs into tokens? The engine: one thread that loads, warms up and decodes for life."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ..models.gguf_child import read_facts
from ..models.refusal import ModelRefused
from ..seams import Admission, Clock, EngineEvent, EventKind, Job
from .body import RequestRefused
from .embedding_lane import EmbeddingLane
from .fair_queue import FairQueue
from .grammar import GrammarMaker
from .lane import Lane
from .library import ModelConfig, Weights, make_record
from .native import NativeContext, NativeError, NativeModel, finds_gpu
from .outbox import Outbox
from .plan import Plan, make_embedding_plan, make_plan
from .prompt import PromptMaker
from .requests import read_request
from .selftest import NO_DIGEST, UNKNOWN, judge, known_answers, measure
from .sequence import Run
from .speed import Speed
from .templates import TemplateRefused

_GATHER_SECONDS: Final = 0.001  # without a submission; a GPU takes ten times as long for a short prompt
_GATHER_MOST: Final = 64


@dataclass(slots=True, kw_only=True)
class _Served:
    """A loaded model and what submit needs to know of it."""

    config: ModelConfig
    record: bytes
    model: NativeModel
    context: NativeContext
    maker: PromptMaker
    lane: Lane | EmbeddingLane
    accepted: int = 0  # runs in the engine, queued or in slots


class LlamaEngine:
    """Continuous batching on llama.cpp, behind the Engine seam."""

    def __init__(self, models: Sequence[ModelConfig], *, clock: Clock) -> None:
        """Use `load`, which waits until the models are warm."""
        if len({config.name for config in models}) != len(models) or not models:
            raise ValueError("at least one model, each with a name of its own")
        self._clock = clock
        self._configs = tuple(models)
        self._served: dict[str, _Served] = {}
        self._jobs: dict[int, str] = {}
        self._inbox: deque[tuple[str, Run]] = deque()
        self._cancels: deque[tuple[str, int]] = deque()
        self._wake = threading.Condition()
        self._closed = False
        self._broken = False
        self._readers = 0  # threads that read a vocabulary now: the models are freed after the last one
        self._loaded = threading.Event()
        self._error: BaseException | None = None
        self._outbox = Outbox()
        self._grammars = GrammarMaker()
        self._thread = threading.Thread(target=self._live, name="engine", daemon=True)

    @classmethod
    def load(cls, models: Sequence[ModelConfig], *, clock: Clock) -> LlamaEngine:
        """Check, load and warm up `models`. Raises ModelRefused."""
        engine = cls(models, clock=clock)
        engine._thread.start()
        engine._loaded.wait()
        if engine._error is not None:
            engine._thread.join()
            raise engine._error
        return engine

    def model_records(self) -> tuple[bytes, ...]:
        """Give the records in the order of the configuration."""
        return tuple(self._served[config.name].record for config in self._configs)

    def submit(self, job: Job) -> Admission:
        """Read, render and tokenize the request here, in the caller's thread, and queue it; or refuse it."""
        served = self._served.get(job.model)
        if served is None:
            return Admission(accepted=False, code="model_unknown", field="model")
        with self._wake:
            if self._closed:
                code = "engine_failed" if self._broken else "busy"
                return Admission(accepted=False, code=code, retry_after=0 if self._broken else 1)
            self._readers += 1
        try:
            return self._plan(job, served)
        finally:
            with self._wake:
                self._readers -= 1
                self._wake.notify_all()

    def _plan(self, job: Job, served: _Served) -> Admission:
        try:
            plan = self._make_plan(job, served)
        except RequestRefused as refusal:
            return Admission(accepted=False, code=refusal.code, field=refusal.field)
        except NativeError:
            return Admission(accepted=False, code="engine_failed")
        run = Run(job_id=job.job_id, tenant=job.tenant, deadline=job.deadline, plan=plan)
        with self._wake:
            if job.job_id in self._jobs:
                raise ValueError("job_id is in use")
            if self._closed or not served.lane.queue.put(job.tenant, job.deadline, job.job_id, run):
                waiting = len(served.lane.queue)
                seconds = served.lane.speed.retry_after(waiting, len(plan.prompt), plan.limit)
                return Admission(accepted=False, code="busy", retry_after=seconds)
            self._jobs[job.job_id] = job.model
            self._wake.notify_all()
        return Admission(accepted=True)

    def _make_plan(self, job: Job, served: _Served) -> Plan:
        request = read_request(job.endpoint, job.body, model=job.model)
        model, context = served.model, served.context
        if model.embeds:
            room = min(context.batch, context.context)
            return make_embedding_plan(request, served.maker, room=room, n_vocab=model.n_vocab, width=model.n_embd)
        return make_plan(
            request,
            served.maker,
            self._grammars,
            context=context.context,
            n_vocab=model.n_vocab,
            most=served.config.max_tokens,
        )

    def cancel(self, job_id: int) -> None:
        """End a job within one step; inside a long prompt, at once."""
        with self._wake:
            name = self._jobs.get(job_id)
            if name is None:
                return
            self._cancels.append((name, job_id))
            served = self._served[name]
            if served.lane.reading == job_id:
                served.context.ask_abort(True)
            self._wake.notify()

    def events(self, timeout: float) -> list[EngineEvent]:
        """Wait up to `timeout` seconds for one step's events. Raises NativeError once a broken engine's are told."""
        events = self._outbox.get(timeout)
        if self._broken and not events:
            raise NativeError("the engine has ended")
        return events

    def close(self) -> None:
        """Cancel what runs, wipe, and free the models."""
        with self._wake:
            self._closed = True
            self._cancels.extend((name, job_id) for job_id, name in self._jobs.items())
            for served in self._served.values():
                served.context.ask_abort(True)
            self._wake.notify()
        self._thread.join(timeout=60)
        self._grammars.close()

    # ---- the engine's thread ----

    def _live(self) -> None:
        try:
            for config in self._configs:
                try:
                    self._served[config.name] = self._load(config)
                except NativeError as error:
                    raise ModelRefused(
                        "model_load", f"{config.name}: {error} failed; is there memory for it?"
                    ) from error
        except (ModelRefused, OSError, ValueError) as error:
            self._error = error
            self._free()
            self._loaded.set()
            return
        self._loaded.set()
        try:
            busy = False
            while busy or self._wait():
                busy = False
                for served in self._served.values():
                    busy |= self._turn(served)
        except Exception:  # noqa: BLE001 - whatever ends the engine must not leave its jobs waiting for ever
            self._break()
        self._free()

    def _break(self) -> None:
        """Fail every job and take no more: something happened that this engine was not made for."""
        events: list[EngineEvent] = []
        with self._wake:
            self._closed = True
            for served in self._served.values():
                served.lane.fail_all("engine_failed", events)
            self._jobs.clear()
        self._outbox.put(events)
        self._broken = True  # only now: `events` tells what is in the box before it raises

    def _wait(self) -> bool:
        """Sleep until there is work; False when the engine is closed and empty."""
        with self._wake:
            while True:
                if self._cancels or any(not served.lane.idle for served in self._served.values()):
                    self._gather()
                    return True
                if self._closed:
                    return False
                rests = [rest for served in self._served.values() if (rest := served.lane.rest) is not None]
                if not self._wake.wait(min(rests, default=None)) and rests:
                    return True

    def _gather(self) -> None:
        """Wait, while only resting GPUs have work, until no other prompt follows: those that come are read together."""
        lanes = [served.lane for served in self._served.values()]
        for _ in range(_GATHER_MOST):
            ready = self._cancels or self._closed or not any(lane.gathers for lane in lanes)
            if ready or not all(lane.idle or lane.gathers for lane in lanes) or not self._wake.wait(_GATHER_SECONDS):
                return

    def _turn(self, served: _Served) -> bool:
        """Let one model do one step, and hand over what came of it; whether it goes on with the next at once."""
        events: list[EngineEvent] = []
        lane = served.lane
        with self._wake:
            served.context.ask_abort(False)
            if self._cancels:
                mine = [job_id for name, job_id in self._cancels if name == served.config.name]
                self._cancels = deque(item for item in self._cancels if item[0] != served.config.name)
                for job_id in mine:
                    lane.cancel(job_id, events)
            lane.prepare(events)
        try:
            lane.step(events, lambda: self._hand_over(events))
            lane.drain()
        except NativeError:
            with self._wake:
                lane.fail_all("engine_failed", events)
        self._hand_over(events)
        return lane.busy

    def _hand_over(self, events: list[EngineEvent]) -> None:
        """Put what happened into the outbox, and empty the list."""
        if not events:
            return
        ended = [event.job_id for event in events if event.kind in (EventKind.FINISHED, EventKind.FAILED)]
        if ended:
            with self._wake:
                for job_id in ended:
                    self._jobs.pop(job_id, None)
        self._outbox.put(events.copy())
        events.clear()

    def _load(self, config: ModelConfig) -> _Served:
        if config.on_gpu and not finds_gpu():
            raise ModelRefused("model_load", f"{config.name}: llama.cpp finds no GPU: no driver, or built without CUDA")
        weights = Weights(config.path, config.sha256)
        try:
            facts = read_facts(weights.fd)
            determinism, selftest = UNKNOWN, NO_DIGEST
            if config.self_test:
                measured = measure(weights.fd, config)
                determinism, selftest = judge(measured, config, known_answers()), measured.digest
            model = NativeModel(weights.path, on_gpu=config.on_gpu)
        finally:
            weights.close()
        template = model.meta("tokenizer.chat_template")
        try:
            maker = PromptMaker(model, template)
        except TemplateRefused as error:
            raise ModelRefused("model_template", str(error)) from error
        context = _context(model, config)
        record = make_record(
            config,
            tokenizer=facts.tokenizer,
            template=facts.template,
            determinism=determinism,
            selftest=selftest,
        )
        lane = self._lane(model, context, config)
        lane.warm_up()
        return _Served(config=config, record=record.encode(), model=model, context=context, maker=maker, lane=lane)

    def _lane(self, model: NativeModel, context: NativeContext, config: ModelConfig) -> Lane | EmbeddingLane:
        queue, speed, now = FairQueue[Run](config.queue_limit), Speed(), self._clock.boot
        if model.embeds:
            return EmbeddingLane(model, context, queue=queue, speed=speed, now=now)
        return Lane(
            model,
            context,
            slots=config.slots,
            ubatch=config.ubatch,
            chunk=config.resolved_chunk(),
            queue=queue,
            speed=speed,
            now=now,
        )

    def _free(self) -> None:
        with self._wake:
            self._closed = True
            while self._readers:
                self._wake.wait()
        for served in self._served.values():
            served.lane.forget_prefixes()
            served.context.free()
            served.model.free()


def _context(model: NativeModel, config: ModelConfig) -> NativeContext:
    """Make the context: of all slots, or of the one that an embedding model's inputs go through in turn."""
    slots = 1 if model.embeds else config.slots + 1  # one stays blank: its zeros overwrite the others
    whole = min(config.context, config.ubatch * config.slots)  # an input is pooled over one batch
    return NativeContext(
        model,
        context=config.context,
        slots=slots,
        batch=whole if model.embeds else max(config.ubatch, config.resolved_chunk()) + config.slots,
        ubatch=whole if model.embeds else config.ubatch,
        threads=config.resolved_threads(),
        flash=config.flash,
        type_k=config.type_k,
        type_v=config.type_v,
        embeddings=model.embeds,
    )
