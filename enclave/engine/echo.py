# SPDX-License-Identifier: Apache-2.0
"""Answers: what does the whole house look like without a model? An engine that says the user's last words again.

It obeys the Engine seam to the letter (admission, deadlines, cancel, n, max_tokens, usage), so that everything above it
can be tested without a model. It is never confidential business: its model record says `echo`.
"""

from __future__ import annotations

import hashlib
import re
import threading
import time
import zlib
from dataclasses import dataclass

from attestation import cbor

from ..seams import Admission, Clock, EngineEvent, EventKind, FinishReason, Job
from .body import RequestRefused, loads
from .outbox import Outbox

_WORD = re.compile(r"\S+\s*|\s+")
_ENDPOINTS = {"/v1/chat/completions": "messages", "/v1/completions": "prompt"}
_FIELDS = {
    "model", "messages", "prompt", "stream", "stream_options", "n", "max_tokens", "max_completion_tokens",
    "temperature", "seed", "top_p", "user",
}  # fmt: skip
_MAX_CHOICES = 16


@dataclass(slots=True, kw_only=True)
class _Run:
    """One accepted job. Never printed: it holds the prompt's words."""

    job: Job
    prompt: tuple[int, ...]
    words: list[str]
    limit: int
    choices: int
    params: dict[str, int | str]
    said: int = 0
    started: bool = False

    def __repr__(self) -> str:
        return f"_Run({self.job.job_id})"


class EchoEngine:
    """Echoes the last user message, one word per step and choice."""

    def __init__(
        self,
        *,
        clock: Clock,
        name: str = "echo",
        context: int = 4096,
        queue_limit: int = 256,
        delay: float = 0.0,
        default_max_tokens: int = 1024,
    ) -> None:
        """Start the thread. `context` counts words; `delay` is seconds per step; `queue_limit` bounds running jobs."""
        self._clock = clock
        self._name = name
        self._context = context
        self._limit = queue_limit
        self._delay = delay
        self._default_max = default_max_tokens
        self._outbox = Outbox()
        self._runs: dict[int, _Run] = {}
        self._cancelled: set[int] = set()
        self._lock = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="echo-engine", daemon=True)
        self._thread.start()

    def model_records(self) -> tuple[bytes, ...]:
        """Give the one record of a model that is none."""
        zero = hashlib.sha256(b"sericin/1 echo").digest()
        settings = {1: self._context, 2: self._limit, 3: False, 4: 0, 5: "none", 6: "none", 7: 0, 8: 1}
        record = {1: self._name, 2: zero, 3: zero, 4: zero, 5: "echo/1", 6: settings, 7: "exact", 8: zero}
        return (cbor.encode(record),)

    def submit(self, job: Job) -> Admission:
        """Queue a job, or refuse it at once."""
        try:
            run = self._read(job)
        except RequestRefused as refusal:
            return Admission(accepted=False, code=refusal.code, field=refusal.field)
        with self._lock:
            if self._closed or len(self._runs) >= self._limit:
                return Admission(accepted=False, code="busy", retry_after=1)
            if job.job_id in self._runs:
                raise ValueError("job_id is in use")
            self._runs[job.job_id] = run
            self._lock.notify()
        return Admission(accepted=True)

    def cancel(self, job_id: int) -> None:
        """End a job within one step; an unknown or finished one is left alone."""
        with self._lock:
            if job_id in self._runs:
                self._cancelled.add(job_id)
                self._lock.notify()

    def events(self, timeout: float) -> list[EngineEvent]:
        """Wait up to `timeout` seconds for one step's events."""
        return self._outbox.get(timeout)

    def close(self) -> None:
        """Stop the thread; jobs still running are cancelled with their FINISHED event."""
        with self._lock:
            self._closed = True
            self._cancelled.update(self._runs)
            self._lock.notify()
        self._thread.join(timeout=10)

    def _read(self, job: Job) -> _Run:
        if job.model != self._name:
            raise RequestRefused("model_unknown", "model")
        source = _ENDPOINTS.get(job.endpoint)
        if source is None:
            raise RequestRefused("invalid_request", "endpoint")
        body = loads(job.body)
        for key in body:
            if key not in _FIELDS:
                raise RequestRefused("unsupported_field", key[:64])
        texts = _texts(body.get(source), source)
        words = _WORD.findall(texts[-1])
        prompt = tuple(token for text in texts for token in map(_token, _WORD.findall(text)))
        default = body.get("max_completion_tokens", self._default_max)
        limit = _count(body.get("max_tokens", default), "max_tokens", 1 << 31)
        choices = _count(body.get("n", 1), "n", _MAX_CHOICES)
        if len(prompt) >= self._context:
            raise RequestRefused("context_too_long", source)
        limit = min(limit, self._context - len(prompt))
        params: dict[str, int | str] = {"max_tokens": limit, "n": choices}
        return _Run(job=job, prompt=prompt, words=words, limit=limit, choices=choices, params=params)

    def _work(self) -> None:
        while True:
            with self._lock:
                while not self._runs and not self._closed:
                    self._lock.wait()
                if not self._runs:
                    return
                runs = list(self._runs.values())
                cancelled, self._cancelled = self._cancelled, set()
            step: list[EngineEvent] = []
            for run in runs:
                if self._advance(run, run.job.job_id in cancelled, step):
                    with self._lock:
                        del self._runs[run.job.job_id]
            self._outbox.put(step)
            if self._delay:
                time.sleep(self._delay)

    def _advance(self, run: _Run, cancelled: bool, step: list[EngineEvent]) -> bool:
        """Append what one step of `run` does; True when it is over."""
        job_id = run.job.job_id
        if not run.started:
            run.started = True
            step.append(
                EngineEvent(
                    job_id=job_id,
                    kind=EventKind.STARTED,
                    tokens=run.prompt,
                    prompt_tokens=len(run.prompt),
                    params=run.params,
                )
            )
        if self._clock.boot() >= run.job.deadline:
            step.append(EngineEvent(job_id=job_id, kind=EventKind.FAILED, code="deadline"))
            return True
        total = min(run.limit, len(run.words))
        if not cancelled and run.said < total:
            word = run.words[run.said]
            run.said += 1
            step.extend(
                EngineEvent(
                    job_id=job_id, kind=EventKind.DELTA, choice=choice, text=word.encode(), tokens=(_token(word),)
                )
                for choice in range(run.choices)
            )
        if not cancelled and run.said < total:
            return False
        finish = FinishReason.STOP if run.said == len(run.words) else FinishReason.LENGTH
        self._finish(run, FinishReason.CANCELLED if cancelled else finish, step)
        return True

    def _finish(self, run: _Run, finish: FinishReason, step: list[EngineEvent]) -> None:
        step.extend(
            EngineEvent(job_id=run.job.job_id, kind=EventKind.CHOICE_END, choice=choice, finish=finish.value)
            for choice in range(run.choices)
        )
        step.append(
            EngineEvent(
                job_id=run.job.job_id,
                kind=EventKind.FINISHED,
                prompt_tokens=len(run.prompt),
                completion_tokens=run.said * run.choices,
            )
        )


def _token(word: str) -> int:
    """Give a small number that stands for a word, the same on every machine."""
    return zlib.crc32(word.encode()) & 0xFFFF


def _count(value: object, field: str, most: int) -> int:
    if type(value) is not int or not 1 <= value <= most:
        raise RequestRefused("invalid_request", field)
    return value


def _texts(value: object, field: str) -> list[str]:
    """Give the texts of a prompt or of all messages; the last one is what is echoed."""
    if field == "prompt" and type(value) is str:
        return [value]
    if type(value) is list and value and field == "messages":
        texts = [message.get("content") if type(message) is dict else None for message in value]
        found = [text for text in texts if type(text) is str]
        if len(found) == len(texts):
            return found
    raise RequestRefused("invalid_request", field)
