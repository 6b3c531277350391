# SPDX-License-Identifier: Apache-2.0
"""Strict JSON: UTF-8, no duplicate keys, no NaN, bounded size, depth and integers."""

from __future__ import annotations

import json
import re
from typing import Final, NoReturn

from .errors import Malformed

MAX_DEPTH: Final = 32
MAX_DIGITS: Final = 20  # 64-bit integers
_STRING: Final = re.compile(rb'"(?:[^"\\]|\\.)*"')
_BRACKET: Final = re.compile(rb"[\[\]{}]")


class _DuplicateKeyError(Exception):
    """A key stands twice in one object."""


def loads(data: bytes, *, limit: int, what: str) -> object:
    """Decode one JSON document of at most `limit` bytes. Raises Malformed(JsonInvalid or JsonDuplicateKey)."""
    if len(data) > limit:
        raise Malformed("JsonInvalid", what, want=f"at most {limit} bytes", got=len(data))
    _require_shallow(data, what)
    try:
        text = data.decode("utf-8", "strict")
        return json.loads(text, object_pairs_hook=_pairs, parse_constant=_no_constant, parse_int=_integer)
    except _DuplicateKeyError:
        raise Malformed("JsonDuplicateKey", what, want="each key once", got="a key twice") from None
    except (ValueError, RecursionError) as e:
        raise Malformed("JsonInvalid", what, want="JSON", got=type(e).__name__) from None


def _require_shallow(data: bytes, what: str) -> None:
    """Bound the nesting before the decoder recurses; brackets inside strings do not count."""
    depth = 0
    for bracket in _BRACKET.findall(_STRING.sub(b"", data)):
        depth += 1 if bracket in b"[{" else -1
        if depth > MAX_DEPTH:
            raise Malformed("JsonInvalid", what, want=f"nesting up to {MAX_DEPTH}", got="more")


def _pairs(pairs: list[tuple[str, object]]) -> dict[str, object]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise _DuplicateKeyError
    return value


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)


def _integer(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError("integer too long")
    return int(digits)
