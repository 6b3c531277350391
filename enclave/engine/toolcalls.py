# SPDX-License-Identifier: Apache-2.0
"""Answers: did the model call a function? Prose leaves at once; what may be a call is held until it is whole.

Three ways of writing a call are read, and nothing is guessed: `<tool_call>{...}</tool_call>` (Hermes, Qwen, and the
instructions of ours for templates that know no tools), `[TOOL_CALLS][{...}]` (Mistral), and an answer that is one bare
JSON object (Llama, and every call that was demanded, which a grammar held to that form). An object is a call when it
names an offered function and gives its arguments as an object. Anything else stays the text that it is.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

_OPEN, _CLOSE, _MISTRAL = "<tool_call>", "</tool_call>", "[TOOL_CALLS]"
_MARKS: Final = (_OPEN, _MISTRAL)
MAX_CALLS: Final = 32  # of one choice: more is a loop, and stays text


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class FoundCall:
    """A function and the JSON text of its arguments. Has no repr: it is part of the answer."""

    name: str
    arguments: str

    def document(self, index: int) -> dict[str, object]:
        """Give it as a streamed delta shows it, with an id of its own."""
        function = {"name": self.name, "arguments": self.arguments}
        return {"index": index, "id": f"call_{os.urandom(12).hex()}", "type": "function", "function": function}


class CallReader:
    """Reads the text of one choice."""

    def __init__(self, names: Sequence[str], *, parallel: bool) -> None:
        """Look for calls of the functions `names`; only the first one counts unless `parallel`."""
        self._names = frozenset(names)
        self._most = MAX_CALLS if parallel else 1
        self._held = ""
        self._prose = False  # something that is no call was said
        self._captured = False

    def feed(self, text: str) -> str:
        """Take text; give what is certainly no call."""
        self._held += text
        if self._captured:
            return ""
        start = self._held.lstrip()
        if not self._prose and (not start or start[0] == "{"):
            self._captured = bool(start)
            return ""
        at = min((found for mark in _MARKS if (found := self._held.find(mark)) >= 0), default=-1)
        if at < 0:
            at = len(self._held) - _partial(self._held)
        else:
            self._captured = True
        out, self._held = self._held[:at], self._held[at:]
        self._prose = self._prose or bool(out.strip())
        return out

    def finish(self) -> tuple[str, list[FoundCall]]:
        """Give the text that is left and the calls; one of the two is empty."""
        held, self._held = self._held, ""
        calls = self._read(held) if self._captured else None
        return ("", calls[: self._most]) if calls else (held, [])

    def _read(self, text: str) -> list[FoundCall] | None:
        """Give the calls in `text`, or None when any part of it is none."""
        bodies = text.replace(_MISTRAL, " ").replace(_OPEN, " ").replace(_CLOSE, " ")
        decoder, calls, at = json.JSONDecoder(), list[FoundCall](), 0
        while bodies[at:].strip(" \t\r\n;,"):
            at += len(bodies[at:]) - len(bodies[at:].lstrip(" \t\r\n;,"))
            try:
                value, at = decoder.raw_decode(bodies, at)
            except (ValueError, RecursionError):
                return None
            for item in value if type(value) is list else [value]:
                call = self._call(item)
                if call is None or len(calls) >= MAX_CALLS:
                    return None
                calls.append(call)
        return calls

    def _call(self, value: object) -> FoundCall | None:
        if type(value) is not dict or value.get("name") not in self._names:
            return None
        arguments = value.get("arguments", value.get("parameters"))
        if type(arguments) is not dict:
            return None
        return FoundCall(name=value["name"], arguments=json.dumps(arguments, ensure_ascii=False))


def _partial(text: str) -> int:
    """Give the length of the longest end of `text` with which a mark could begin."""
    for size in range(min(len(text), len(_MISTRAL) - 1), 0, -1):
        if any(mark.startswith(text[-size:]) for mark in _MARKS):
            return size
    return 0
