# SPDX-License-Identifier: Apache-2.0
"""Answers: which token ids are the prompt? What a user wrote can never become a control token.

The prompt is rendered once, with users' texts fenced. Every occurrence of a control token's text that touches a fenced
region is tokenized with special tokens off; everything else in one piece with them on. So a prompt without such texts
has exactly the tokens that the whole rendering has, and one with them has no control token of the user's making.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Sequence

from .body import RequestRefused, invalid
from .messages import Message
from .native import NativeModel
from .templates import ChatTemplate, Marks, arguments_of
from .toolspec import ToolSpec, told_in_words

_OPEN_THINK = re.compile(r"<think>\s*\Z")


class PromptMaker:
    """Makes the token ids of a chat or of a text for one model. Any thread may use it, one at a time per call."""

    def __init__(self, model: NativeModel, template: str | None) -> None:
        """Compile the template. Raises TemplateRefused."""
        self._model = model
        self._lock = threading.Lock()
        texts = {model.text_of(token).decode("utf-8", "replace") for token in model.controls}
        self._controls = tuple(sorted(text for text in texts if text))
        self._any = re.compile("|".join(re.escape(text) for text in self._controls) or r"(?!)")
        bos = model.text_of(model.bos).decode("utf-8", "replace") if model.bos >= 0 else ""
        eos = model.text_of(model.eos).decode("utf-8", "replace") if model.eos >= 0 else ""
        self._bos = bos
        self._template = ChatTemplate(template, bos=bos, eos=eos) if template else None
        self.reasons = template is not None and "<think>" in template

    def chat(self, messages: Sequence[Message], tools: Sequence[ToolSpec], *, room: int) -> tuple[list[int], bool]:
        """Give the ids of a rendered chat, and whether it ends inside the model's reasoning.

        Raises RequestRefused, at once for a text that cannot be `room` tokens.
        """
        if self._template is None:
            raise invalid("messages")
        self._check_structure(messages, tools)
        if not self._template.knows_tools:
            messages, tools = told_in_words(messages, tools), ()
        marks = Marks([message.content for message in messages])
        with self._lock:
            rendered = self._template.render(messages, tools, marks)
        text, regions = _unfence(rendered, marks)
        self._require_room(text, room, "messages")
        # A template that prints the first token itself must not get a second one.
        bos = self._model.add_bos and not (self._bos and text.startswith(self._bos))
        ids: list[int] = []
        for piece, special in self._pieces(text, regions):
            ids += self._model.tokenize(piece.encode("utf-8"), special=special, bos=bos and not ids)
        return ids, self.reasons and _OPEN_THINK.search(text) is not None

    def _require_room(self, text: str, room: int, field: str) -> None:
        """Refuse before tokenizing what is too long whichever tokens it has."""
        if len(text) > room * self._model.longest:
            raise RequestRefused("context_too_long", field)

    def text(self, prompt: str, *, room: int, field: str = "prompt") -> list[int]:
        """Give the ids of a bare text: no template, no control tokens. Raises RequestRefused like `chat`."""
        self._require_room(prompt, room, field)
        return self._model.tokenize(prompt.encode("utf-8"), special=False, bos=self._model.add_bos)

    def piece(self, token: int) -> bytes:
        """Give the bytes of a token, as output."""
        return self._model.piece(token)

    def _check_structure(self, messages: Sequence[Message], tools: Sequence[ToolSpec]) -> None:
        """Refuse control texts where templates take structure apart: tools, and arguments of earlier calls."""
        if tools and self._any.search(json.dumps([tool.document() for tool in tools], ensure_ascii=False)):
            raise invalid("tools")
        for message in messages:
            texts = [json.dumps(arguments_of(call.arguments), ensure_ascii=False) for call in message.calls]
            if any(self._any.search(text) for text in texts):
                raise invalid("messages.tool_calls")

    def _pieces(self, text: str, regions: list[tuple[int, int]]) -> list[tuple[str, bool]]:
        """Cut `text` into pieces with special tokens on or off."""
        spans = sorted(self._plain_spans(text, regions))
        pieces: list[tuple[str, bool]] = []
        at = 0
        for start, end in spans:
            if start > at:
                pieces.append((text[at:start], True))
            if end > at:
                pieces.append((text[max(start, at) : end], False))
                at = end
        if at < len(text):
            pieces.append((text[at:], True))
        return pieces

    def _plain_spans(self, text: str, regions: list[tuple[int, int]]) -> set[tuple[int, int]]:
        """Find every occurrence of a control text that touches a fenced region, overlapping ones included."""
        spans: set[tuple[int, int]] = set()
        for control in self._controls:
            at = text.find(control)
            while at >= 0:
                end = at + len(control)
                if any(start < end and at < stop for start, stop in regions):
                    spans.add((at, end))
                at = text.find(control, at + 1)
        return spans


def _unfence(rendered: str, marks: Marks) -> tuple[str, list[tuple[int, int]]]:
    """Take the marks out; give the text and the regions that users wrote. Raises RequestRefused for broken fences."""
    parts: list[str] = []
    regions: list[tuple[int, int]] = []
    size, opened = 0, -1
    for piece in re.split(f"([{marks.start}{marks.end}])", rendered):
        if piece == marks.start:
            if opened >= 0:
                raise invalid("messages")
            opened = size
        elif piece == marks.end:
            if opened < 0:
                raise invalid("messages")
            regions.append((opened, size))
            opened = -1
        else:
            parts.append(piece)
            size += len(piece)
    if opened >= 0:
        raise invalid("messages")
    return "".join(parts), regions
