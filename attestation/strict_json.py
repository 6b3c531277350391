# SPDX-License-Identifier: Apache-2.0
"""Strict JSON: UTF-8, no duplicate keys, no NaN, bounded size, depth and integers."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Final, NoReturn

from .errors import Malformed

MAX_DEPTH: Final = 32
MAX_DIGITS: Final = 20  # 64-bit integers
MAX_OPENED: Final = 4096  # brackets that the decoder may meet before the nesting is judged: 1 MiB of its stack
_STRING: Final = re.compile(rb'"[^"]*"')
_TELLING: Final = b'[]{}"'  # what nesting can be read from, once escaped quotes are gone
_OTHERS: Final = bytes(set(range(256)) - set(_TELLING))
_ROUND: Final = bytes.maketrans(b"{}", b"[]")  # which kind closes which, the decoder judges
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
    # A document with escapes holds few, long strings, whose brackets are cheaper to tell from its own once it is read.
    later = b"\\" in data and data.count(b"[") + data.count(b"{") <= MAX_OPENED
    if not later:
        _require_shallow(data, what)
    try:
        value = _decoder(each, short=not later and _short_numbers(data)).decode(data.decode("utf-8", "strict"))
    except _DuplicateKeyError:
        raise Malformed("JsonDuplicateKey", what, want="each key once", got="a key twice") from None
    except (ValueError, RecursionError) as e:
        raise Malformed("JsonInvalid", what, want="JSON", got=type(e).__name__) from None
    if later:
        _require_shallow_value(value, what)
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


def _require_shallow(data: bytes, what: str) -> None:
    """Bound the nesting before the decoder recurses; brackets inside strings do not count.

    Brackets are cancelled from the inside: what is left after MAX_DEPTH rounds is nested deeper, or is no JSON.
    """
    if data.count(b"[") + data.count(b"{") <= MAX_DEPTH:
        return
    text = data.replace(b"\\\\", b"").replace(b'\\"', b"") if b"\\" in data else data
    # Every string shrinks to its two quotes and the brackets in it. Pairs of quotes may go first: a string that holds
    # a bracket keeps both its quotes, or shares the text between them with the next such string.
    left = _STRING.sub(b"", text.translate(_ROUND, _OTHERS).replace(b'""', b""))
    for _ in range(MAX_DEPTH):
        shorter = left.replace(b"[]", b"")
        if len(shorter) == len(left):
            break
        left = shorter
    if left:
        raise _too_deep(what)


def _require_shallow_value(value: object, what: str) -> None:
    """Bound the nesting of what was decoded: MAX_DEPTH times, go from all containers to those inside them."""
    found = _containers([value])
    for _ in range(MAX_DEPTH):
        found = [inner for outer in found for inner in _containers(outer)]
        if not found:
            return
    raise _too_deep(what)


def _containers(outer: Iterable[object]) -> list[Iterable[object]]:
    values = outer.values() if isinstance(outer, dict) else outer
    return [value for value in values if isinstance(value, (dict, list))]


def _too_deep(what: str) -> Malformed:
    return Malformed("JsonInvalid", what, want=f"nesting up to {MAX_DEPTH}", got="more, or brackets that do not match")


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)


def _integer(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError("integer too long")
    return int(digits)


def _short_numbers(data: bytes) -> bool:
    """Whether no integer can have more than MAX_DIGITS digits, so that none need be counted.

    Only the text of an object or list is looked at: there a number follows one of _BEFORE.
    """
    return data.startswith((b"{", b"[")) and _LONG not in data.translate(_SHAPES)


@lru_cache(maxsize=16)
def _decoder(each: Callable[[Pairs], object], *, short: bool) -> json.JSONDecoder:
    number = None if short else _integer
    return json.JSONDecoder(object_pairs_hook=each, parse_constant=_no_constant, parse_int=number)
