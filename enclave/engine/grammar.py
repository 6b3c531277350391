# SPDX-License-Identifier: Apache-2.0
"""Answers: which grammar holds the answer to this schema, and does it compile without taking the engine along?

Schemas are hostile: converting one can recurse, grow or never end, and llama.cpp ends its process for some grammars. So
bounds come first, here; conversion and a trial compilation happen in a child of bounded memory and time, which knows no
key and no model; only a text that came back from there is compiled in the engine.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import Final

from ..models.gguf_child import child_environment
from .body import RequestRefused, invalid
from .toolspec import ToolSpec

MAX_NODES: Final = 2000  # values in a schema, at any depth
MAX_SCHEMA: Final = 1 << 16  # bytes
MAX_COUNT: Final = 256  # of minItems, maxLength and the like: each becomes that many rules
MAX_PATTERN: Final = 256
MAX_GRAMMAR: Final = 1 << 20
SECONDS: Final = 5.0
_COUNTS: Final = frozenset({"minItems", "maxItems", "minLength", "maxLength"})
# What the conversion honours, and annotations that say nothing about the answer's form.
_KEYWORDS: Final = _COUNTS | {
    "type", "properties", "required", "additionalProperties", "items", "prefixItems", "enum", "const", "anyOf", "$ref",
    "$defs", "definitions", "pattern", "format", "title", "description", "default", "examples", "$schema", "$id",
    "$comment", "deprecated",
}  # fmt: skip
_OPEN: Final = frozenset({"enum", "const", "default", "examples", "required"})  # hold values, not schemas
_NAMED: Final = frozenset({"properties", "$defs", "definitions"})  # hold schemas by any name
# What the conversion turns into a rule that cannot leave its JSON string: no dot, no negated class, no quote, and of
# escapes only those of punctuation.
_PATTERN: Final = re.compile(
    r"\^(?:[A-Za-z0-9 _:/,@#=;!%&~<>'-]|\\[-.+*?()\[\]{}|/]|\[[A-Za-z0-9 _:/,@#.+*?()-]+\]"
    r"|[()|*+?]|\{\d{1,3}(?:,\d{0,3})?\})*\$"
)
_FORMATS: Final = ("date", "time", "date-time", "uuid")
_ANY_OBJECT: Final = {"type": "object"}


def call_schema(tools: Sequence[ToolSpec], name: str) -> dict[str, object]:
    """Give the schema of one demanded call: of the function `name`, or of any offered one."""
    wanted = [tool for tool in tools if not name or tool.name == name]
    forms = [
        {
            "type": "object",
            "properties": {"name": {"const": tool.name}, "arguments": tool.parameters or _ANY_OBJECT},
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }
        for tool in wanted
    ]
    return forms[0] if len(forms) == 1 else {"anyOf": forms}


def check_schema(schema: object, field: str) -> str:
    """Give the JSON text of a schema within bounds. Raises RequestRefused(`field`), by keyword where one is unknown."""
    text = json.dumps(schema, ensure_ascii=False)
    if len(text.encode("utf-8")) > MAX_SCHEMA:
        raise invalid(field)
    _Bounds(field).schema(schema)
    return text


class _Bounds:
    """Walks a schema once. Its depth was bounded when the body was parsed."""

    def __init__(self, field: str) -> None:
        self._field = field
        self._left = MAX_NODES

    def _count(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise invalid(self._field)

    def schema(self, value: object) -> None:
        self._count()
        if type(value) is bool:
            return
        if type(value) is not dict:
            raise invalid(self._field)
        for key, part in value.items():
            if key not in _KEYWORDS:
                raise RequestRefused("unsupported_field", f"{self._field}.{key}"[:64])
            self._keyword(key, part)

    def _keyword(self, key: str, part: object) -> None:
        self._scalar(key, part)
        if key in _OPEN:
            self._value(part)
        elif key in _NAMED:
            if type(part) is not dict:
                raise invalid(self._field)
            for inner in part.values():
                self.schema(inner)
        elif key in {"anyOf", "prefixItems"} or (key == "items" and type(part) is list):
            if type(part) is not list or not part:
                raise invalid(self._field)
            for inner in part:
                self.schema(inner)
        elif key in {"items", "additionalProperties"}:
            self.schema(part)
        elif key == "type":
            self._value(part)

    def _scalar(self, key: str, part: object) -> None:
        if key in _COUNTS and (type(part) is not int or not 0 <= part <= MAX_COUNT):
            raise invalid(self._field)
        if key == "$ref" and (type(part) is not str or not part.startswith("#/")):
            raise invalid(self._field)  # nothing is fetched
        if key == "pattern":
            self._pattern(part)
        if key == "format" and part not in _FORMATS:
            raise RequestRefused("unsupported_field", f"{self._field}.format")

    def _pattern(self, part: object) -> None:
        if type(part) is not str or len(part) > MAX_PATTERN:
            raise invalid(self._field)
        if not _PATTERN.fullmatch(part) or any(int(number) > MAX_COUNT for number in re.findall(r"\d{3,}", part)):
            raise RequestRefused("unsupported_field", f"{self._field}.pattern")

    def _value(self, value: object) -> None:
        self._count()
        parts: Sequence[object] = value if type(value) is list else ()
        if isinstance(value, Mapping):
            parts = list(value.values())
        for part in parts:
            self._value(part)


class GrammarMaker:
    """Asks the child for grammars, one at a time. Any thread may ask. A child that dies or dawdles is replaced."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None

    def make(self, schema: object, *, field: str) -> str:
        """Give the grammar (GBNF, root `root`) of a schema; True stands for any object. Raises RequestRefused."""
        text = check_schema(_ANY_OBJECT if schema is True else schema, field)
        with self._lock:
            answer = self._ask(text.encode("utf-8"))
        if not answer:
            raise invalid(field)
        return answer.decode("utf-8")

    def _ask(self, question: bytes) -> bytes:
        """Give the child's answer; empty when there is none."""
        child = self._running()
        timer = threading.Timer(SECONDS, child.kill)
        timer.start()
        try:
            if child.stdin is None or child.stdout is None:
                return b""
            child.stdin.write(len(question).to_bytes(4, "big") + question)
            child.stdin.flush()
            head = child.stdout.read(4)
            size = int.from_bytes(head, "big")
            answer = child.stdout.read(size) if size <= MAX_GRAMMAR else b""
        except OSError:
            head = answer = b""
            size = 0
        finally:
            timer.cancel()
        if len(head) == 4 and len(answer) == size:
            return answer
        self._stop()
        return b""

    def _running(self) -> subprocess.Popen[bytes]:
        if self._child is None or self._child.poll() is not None:
            self._stop()
            self._child = subprocess.Popen(
                [sys.executable, "-m", f"{__package__}.grammar_child"],
                env=child_environment(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
        return self._child

    def _stop(self) -> None:
        child, self._child = self._child, None
        if child is None:
            return
        child.kill()
        child.wait()
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except OSError:
                    continue  # it closes all the same; what was not written is of no use to anybody

    def close(self) -> None:
        """End the child."""
        with self._lock:
            self._stop()
