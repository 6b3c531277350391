# SPDX-License-Identifier: Apache-2.0
"""Answers: is this body one plain JSON document of bounded size, with no key said twice?

A request body comes from whoever paid for a seal, so nothing is parsed before its size and its nesting are known.
"""

from __future__ import annotations

import json
import math
import re
from typing import NoReturn

MAX_BYTES = 4 << 20
MAX_DEPTH = 48
MAX_NODES = 200_000

_STRING = re.compile(rb'"(?:[^"\\]|\\.)*+"', re.DOTALL)
_BRACKET = re.compile(rb"[\[\]{}]")


class RequestRefused(Exception):
    """A request that the engine does not take. Holds a code and a field's name, never a value."""

    def __init__(self, code: str, field: str = "") -> None:
        super().__init__(code, field)
        self.code = code
        self.field = field


def _invalid(field: str = "body") -> RequestRefused:
    return RequestRefused("invalid_request", field)


def _check_depth(body: bytes) -> None:
    """Refuse nesting deeper than MAX_DEPTH before the recursive parser sees it."""
    depth = 0
    for match in _BRACKET.finditer(_STRING.sub(b"", body)):
        if match[0] in b"[{":
            depth += 1
            if depth > MAX_DEPTH:
                raise _invalid()
        else:
            depth -= 1


def _constant(_: str) -> NoReturn:
    raise _invalid()


def _float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise _invalid()
    return value


def _int(text: str) -> int:
    # No request field needs more than 64 bits, and a million digits are an attack on the parser.
    if len(text) > 20:
        raise _invalid()
    return int(text)


class _Pairs:
    """Builds objects from pairs, refusing duplicates and counting nodes."""

    def __init__(self) -> None:
        self.nodes = 0

    def __call__(self, pairs: list[tuple[str, object]]) -> dict[str, object]:
        self.nodes += len(pairs)
        value = dict(pairs)
        if len(value) != len(pairs) or self.nodes > MAX_NODES:
            raise _invalid()
        return value


def loads(body: bytes, *, max_bytes: int = MAX_BYTES) -> dict[str, object]:
    """Parse `body` as one JSON object. Raises RequestRefused, whatever the bytes are."""
    if len(body) > max_bytes or body.count(b",") > MAX_NODES:
        raise _invalid()
    _check_depth(body)
    try:
        text = body.decode("utf-8")
        value = json.loads(
            text, object_pairs_hook=_Pairs(), parse_constant=_constant, parse_float=_float, parse_int=_int
        )
        # A lone surrogate written as an escape survives the parser but is no text.
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except (ValueError, RecursionError) as error:
        raise _invalid() from error
    if type(value) is not dict:
        raise _invalid()
    return value
