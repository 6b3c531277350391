# SPDX-License-Identifier: Apache-2.0
"""Answers: what does one choice say to the outside? Tokens in; events with whole characters out."""

from __future__ import annotations

import json

from ..seams import EngineEvent, EventKind, FinishReason
from .native import NativeModel
from .plan import Plan
from .stops import TextOut


class ChoiceStream:
    """The output side of one choice."""

    def __init__(self, job_id: int, choice: int, plan: Plan, model: NativeModel) -> None:
        self._job_id = job_id
        self._choice = choice
        self._plan = plan
        self._model = model
        self._out = TextOut(plan.stops)
        self._text = plan.echo.decode("utf-8")
        self._fresh: list[int] = []
        self._logprobs: list[dict[str, object]] = []
        self.count = 0
        self.finish: FinishReason | None = None

    def push(self, token: int, logprobs: dict[str, object] | None = None) -> bool:
        """Take one sampled token; True when the choice is over."""
        self.count += 1
        self._fresh.append(token)
        if token in self._model.ends:
            return self.end(FinishReason.STOP)
        self._text += self._out.feed(self._model.piece(token))
        if logprobs is not None:
            self._logprobs.append(logprobs)
        if self._out.stopped:
            return self.end(FinishReason.STOP)
        if self.count >= self._plan.limit:
            return self.end(FinishReason.LENGTH)
        return False

    def end(self, finish: FinishReason) -> bool:
        """Close the choice; what was held back comes out now."""
        self._text += self._out.finish()
        self.finish = finish
        return True

    def take(self, events: list[EngineEvent]) -> None:
        """Append what is ready: a DELTA when there is something to say, and CHOICE_END when the choice is over."""
        if self._text or self._logprobs or (self.finish and self._fresh):
            events.append(
                EngineEvent(
                    job_id=self._job_id,
                    kind=EventKind.DELTA,
                    choice=self._choice,
                    text=self._text.encode("utf-8"),
                    tokens=tuple(self._fresh),
                    detail=self._detail() if self._logprobs else b"",
                )
            )
            self._text = ""
            self._fresh = []
            self._logprobs = []
        if self.finish:
            events.append(
                EngineEvent(
                    job_id=self._job_id,
                    kind=EventKind.CHOICE_END,
                    choice=self._choice,
                    finish=self.finish.value,
                )
            )

    def _detail(self) -> bytes:
        return json.dumps({"logprobs": {"content": self._logprobs}}, ensure_ascii=False).encode("utf-8")
