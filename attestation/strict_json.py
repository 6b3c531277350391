# SPDX-License-Identifier: Apache-2.0
"""Strict JSON: UTF-8, no duplicate keys, no NaN, bounded size, depth and integers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Final, NoReturn

from .errors import Malformed

MAX_DEPTH: Final = 32
MAX_DIGITS: Final = 20  # 64-bit integers
_BEFORE: Final = b"[:, \t\r\n-"  # what a number may follow
_SHAPES: Final = bytes.maketrans(b"0123456789" + _BEFORE, b"0" * 10 + b"," * len(_BEFORE))
_LONG: Final = b"," + b"0" * MAX_DIGITS


class _DuplicateKeyError(Exception):
    """A key stands twice in one object."""


Pairs = list[tuple[str, object]]


def unique(pairs: Pairs) -> object:
    """Give one object of a document as a dict: each key once."""
    value = dict(pairs)
    if len(value) != len(pairs):
        raise _DuplicateKeyError
    return value


def loads(data: bytes, *, limit: int, what: str, each: Callable[[Pairs], object] = unique) -> object:
    """Decode one JSON document of at most `limit` bytes. Raises Malformed(JsonInvalid or JsonDuplicateKey).

    `each` makes the value of every object, the inner ones first, and gives those that it does not know to `unique`.
    """
    if len(data) > limit:
        raise Malformed("JsonInvalid", what, want=f"at most {limit} bytes", got=len(data))
    try:
        value = _decoder(each, short=_short_numbers(data)).decode(data.decode("utf-8", "strict"))
    except _DuplicateKeyError:
        raise Malformed("JsonDuplicateKey", what, want="each key once", got="a key twice") from None
    except (ValueError, RecursionError) as e:
        raise Malformed("JsonInvalid", what, want="JSON", got=type(e).__name__) from None
    _require_shallow(value, what)
    return value


def canonical(value: object) -> bytes:
    """Encode in the one form that is hashed: keys sorted, no white space, ASCII alone, no floats."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode()


def loads_canonical(data: bytes, *, limit: int, what: str) -> object:
    """Decode a document and require its canonical encoding. Raises Malformed(JsonInvalid or JsonDuplicateKey)."""
    value = loads(data, limit=limit, what=what)
    if canonical(value) != data:
        raise Malformed("JsonInvalid", what, want="canonical JSON: sorted keys, no white space", got="another encoding")
    return value


def _require_shallow(value: object, what: str) -> None:
    """Bound the nesting: go to the containers inside those before until there are none, MAX_DEPTH times and once more.

    The decoder has met any nesting by then, as deep as the interpreter's own limit, which keeps its stack.
    """
    found: list[Iterable[object]] = [[value]]
    for _ in range(MAX_DEPTH + 1):
        found = [inner for outer in found for inner in _containers(outer)]
        if not found:
            return
    raise Malformed("JsonInvalid", what, want=f"nesting up to {MAX_DEPTH}", got="more")


def _containers(values: Iterable[object]) -> list[Iterable[object]]:
    """Give what stands in each object and list among `values`."""
    return [v.values() if type(v) is dict else v for v in values if type(v) is dict or type(v) is list]


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)


def _integer(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError("integer too long")
    return int(digits)


def _short_numbers(data: bytes) -> bool:
    """Whether no integer can have more than MAX_DIGITS digits, so that none need be counted.

    Only the text of an object or list is looked at: there a number follows one of _BEFORE. A document with escapes
    holds long strings and few numbers, which are counted sooner than looked for.
    """
    return data.startswith((b"{", b"[")) and b"\\" not in data and _LONG not in data.translate(_SHAPES)


@lru_cache(maxsize=16)
def _decoder(each: Callable[[Pairs], object], *, short: bool) -> json.JSONDecoder:
    number = None if short else _integer
    return json.JSONDecoder(object_pairs_hook=each, parse_constant=_no_constant, parse_int=number)
