# SPDX-License-Identifier: Apache-2.0
"""Answers: what does one choice say to the outside? Tokens in; events with whole characters out."""

from __future__ import annotations

import json
from typing import Final

from ..seams import EngineEvent, EventKind, FinishReason
from .logprobs import TokenLogprobs, chat_document, text_document
from .native import NativeModel
from .plan import Plan
from .stops import TextOut
from .toolcalls import CallReader

_THINK, _END_THINK = b"<think>", b"</think>"
_TAIL: Final = 16
_DELTA: Final = EventKind.DELTA


class ChoiceStream:
    """The output side of one choice."""

    def __init__(self, job_id: int, choice: int, plan: Plan, model: NativeModel) -> None:
        self._job_id = job_id
        self._choice = choice
        self._plan = plan
        self._model = model
        self._ends = model.ends
        self._out = TextOut(plan.stops)
        self._text = plan.echo.decode("utf-8")
        self._offset = len(self._text)  # characters before the next token, for the logprobs of a completion
        self._calls = CallReader(plan.functions, parallel=plan.parallel) if plan.functions else None
        self._detail: dict[str, object] = {}
        self._fresh: list[int] = []
        self._logprobs: list[TokenLogprobs] = []
        self._tail = b""
        self._thinking = plan.thinking
        self.watched = bool(plan.stops or plan.functions or plan.reasons or plan.logprobs is not None)
        self._plain = model.plain
        self._last = plan.limit - 1
        self.ids: list[int] = []
        self.reasoning = 0
        self.finish: FinishReason | None = None

    @property
    def count(self) -> int:
        """How many tokens were sampled."""
        return len(self.ids)

    @property
    def left(self) -> int:
        """How many tokens may follow."""
        return self._plan.limit - len(self.ids)

    def say(self, token: int, events: list[EngineEvent]) -> bool:
        """Say one token the short way: whole characters, of a choice in which nothing is looked for, and not its last.

        False for every other, which `push` takes. Nearly all are said here, by few steps and touching little memory:
        after each decode the processor's caches are empty.
        """
        piece = self._plain[token]  # nothing for a token that ends the answer, or is no whole characters
        ids = self.ids
        if not piece or self.watched or self._fresh or self._text or len(ids) >= self._last:
            return False
        ids.append(token)
        events.append(EngineEvent(job_id=self._job_id, kind=_DELTA, choice=self._choice, text=piece, tokens=(token,)))
        return True

    def push(self, token: int, logprobs: TokenLogprobs | None = None) -> bool:
        """Take one sampled token; True when the choice is over."""
        self.ids.append(token)
        self._fresh.append(token)
        if token in self._ends:
            return self.end(FinishReason.STOP)
        piece = self._model.piece(token)
        if self._plan.reasons:
            self._think(piece)
        text = self._out.feed(piece)
        self._text += text if self._calls is None else self._calls.feed(text)
        if logprobs is not None:
            self._logprobs.append(logprobs)
        if self._out.stopped:
            return self.end(FinishReason.STOP)
        if len(self.ids) >= self._plan.limit:
            return self.end(FinishReason.LENGTH)
        return False

    def _think(self, piece: bytes) -> None:
        """Count tokens between the model's own tags, the tags included."""
        before = self._thinking
        self._tail = (self._tail + piece)[-_TAIL:]
        opened, closed = self._tail.rfind(_THINK), self._tail.rfind(_END_THINK)
        if opened >= 0 or closed >= 0:
            self._thinking = opened > closed
            self._tail = b""
        self.reasoning += before or self._thinking

    def end(self, finish: FinishReason) -> bool:
        """Close the choice; what was held back comes out now."""
        text = self._out.finish()
        if self._calls is None:
            self._text += text
        else:
            self._text += self._calls.feed(text)
            text, calls = self._calls.finish()
            self._text += text
            if calls and finish is FinishReason.STOP:
                self._detail["tool_calls"] = [call.document(index) for index, call in enumerate(calls)]
                finish = FinishReason.TOOL_CALLS
        self.finish = finish
        return True

    def take(self, events: list[EngineEvent]) -> None:
        """Append what is ready: a DELTA when there is something to say, and CHOICE_END when the choice is over."""
        if self._text or self._logprobs or self._detail or (self.finish and self._fresh):
            events.append(
                EngineEvent(
                    job_id=self._job_id,
                    kind=_DELTA,
                    choice=self._choice,
                    text=self._text.encode("utf-8"),
                    tokens=tuple(self._fresh),
                    detail=self._details() if self._logprobs or self._detail else b"",
                )
            )
            self._text = ""
            self._fresh = []
        if self.finish:
            events.append(
                EngineEvent(
                    job_id=self._job_id,
                    kind=EventKind.CHOICE_END,
                    choice=self._choice,
                    finish=self.finish.value,
                )
            )

    def _details(self) -> bytes:
        if self._logprobs:
            if self._plan.chat:
                self._detail["logprobs"] = chat_document(self._logprobs, self._model)
            else:
                document = text_document(self._logprobs, self._model, self._offset)
                self._offset += sum(
                    len(self._model.text_of(e.token).decode("utf-8", "replace")) for e in self._logprobs
                )
                self._detail["logprobs"] = document
            self._logprobs = []
        if not self._detail:
            return b""
        detail, self._detail = self._detail, {}
        return json.dumps(detail, ensure_ascii=False).encode("utf-8")
