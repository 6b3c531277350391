# SPDX-License-Identifier: Apache-2.0
"""Deterministic CBOR of plain types: one value, one encoding (RFC 8949 section 4.2.1, docs/protocol.md).

Allowed: unsigned integers below 2**64, byte strings, text strings, booleans, null, arrays, and maps whose keys are all
unsigned integers or all text. With keys so restricted the length-first order of the encoder and the bytewise order of
RFC 8949 coincide. Anything else, any other encoding of the same value, and any trailing byte is Malformed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, TypeAlias

import cbor2

from .errors import Malformed

Value: TypeAlias = "int | bytes | str | bool | None | list[Value] | dict[int, Value] | dict[str, Value]"

MAX_DEPTH: Final = 8  # deepest structure of the protocol is 5
MAX_UINT: Final = 2**64 - 1
EXTENSION_KEYS_FROM: Final = 64  # integer keys from here on are carried and hashed though unknown


def encode(value: object, /) -> bytes:
    """Encode `value` deterministically. Raises TypeError or ValueError for what the profile does not allow."""
    # Sorting is what a canonical encoder adds, and four fifths of its time: in order, the plain one writes the same.
    return cbor2.dumps(value, canonical=not _require_plain(value, 0))


def decode(data: bytes, *, limit: int, what: str, code: str = "MalformedCbor") -> Value:
    """Decode one deterministic item of at most `limit` bytes, or raise Malformed with `code`. Nothing else gets out."""
    if len(data) > limit:
        raise Malformed(code, what, want=f"at most {limit} bytes", got=len(data))
    try:
        value = cbor2.loads(data, max_depth=MAX_DEPTH + 1, allow_indefinite=False, allow_duplicate_keys=False)
        again = encode(value)
    except Exception as e:  # noqa: BLE001 - the decoder of hostile bytes has exactly one way out
        raise Malformed(code, what, want="deterministic CBOR of plain types", got=type(e).__name__) from None
    if again != data:
        raise Malformed(code, what, want="the one deterministic encoding", got="another encoding")
    return value  # type: ignore[no-any-return]  # encode has walked it


def decode_map(
    data: bytes,
    *,
    limit: int,
    what: str,
    code: str = "MalformedCbor",
    required: Iterable[int],
    optional: Iterable[int] = (),
) -> dict[int, Value]:
    """Decode a map with small integer keys: all `required` present, nothing unknown below 64."""
    value = decode(data, limit=limit, what=what, code=code)
    return int_map(value, what=what, code=code, required=required, optional=optional)


def int_map(
    value: Value, *, what: str, code: str, required: Iterable[int], optional: Iterable[int] = ()
) -> dict[int, Value]:
    """Require a decoded value to be a map with these integer keys; unknown ones from 64 on are kept."""
    if not isinstance(value, dict) or any(type(k) is not int for k in value):
        raise Malformed(code, what, want="a map with integer keys", got=type(value).__name__)
    need, may = frozenset(required), frozenset(optional)
    keys: dict[int, Value] = {k: v for k, v in value.items() if isinstance(k, int)}
    for key in sorted(need - keys.keys()):
        raise Malformed(code, f"{what}[{key}]", want="present", got="absent")
    for key in sorted(keys.keys() - need - may):
        if key < EXTENSION_KEYS_FROM:
            raise Malformed(code, f"{what}[{key}]", want="a known key", got="unknown")
    return keys


def as_bytes(value: Value, field: str, *, code: str, size: int | None = None, limit: int | None = None) -> bytes:
    """Require a byte string, of exactly `size` or at most `limit` bytes."""
    if not isinstance(value, bytes):
        raise Malformed(code, field, want="a byte string", got=type(value).__name__)
    if size is not None and len(value) != size:
        raise Malformed(code, field, want=f"{size} bytes", got=len(value))
    if limit is not None and len(value) > limit:
        raise Malformed(code, field, want=f"at most {limit} bytes", got=len(value))
    return value


def as_uint(value: Value, field: str, *, code: str, limit: int = MAX_UINT) -> int:
    """Require an unsigned integer of at most `limit`."""
    if type(value) is not int or value > limit:
        raise Malformed(code, field, want=f"an integer up to {limit}", got=type(value).__name__)
    return value


def as_text(value: Value, field: str, *, code: str, limit: int) -> str:
    """Require a text string of at most `limit` UTF-8 bytes."""
    if not isinstance(value, str) or len(value.encode()) > limit:
        raise Malformed(code, field, want=f"text of at most {limit} bytes", got=type(value).__name__)
    return value


def as_bool(value: Value, field: str, *, code: str) -> bool:
    """Require true or false."""
    if not isinstance(value, bool):
        raise Malformed(code, field, want="true or false", got=type(value).__name__)
    return value


def as_list(value: Value, field: str, *, code: str, limit: int, least: int = 0) -> list[Value]:
    """Require an array of `least` to `limit` items."""
    if not isinstance(value, list) or not least <= len(value) <= limit:
        got = len(value) if isinstance(value, list) else type(value).__name__
        raise Malformed(code, field, want=f"an array of {least} to {limit} items", got=got)
    return value


def _require_plain(value: object, depth: int) -> bool:
    """Require plain types; True when every map has integer keys that ascend, False when some map may need sorting."""
    kind = type(value)
    if depth >= MAX_DEPTH and kind in (list, dict):
        raise ValueError("nested too deep")
    if kind is int:
        if not 0 <= value <= MAX_UINT:  # type: ignore[operator]  # an int, by its exact type
            raise ValueError("integer out of range")
    elif kind is list:
        # A list, by its exact type; every item is looked at, also after one that is out of order.
        return all([_require_plain(item, depth + 1) for item in value])  # type: ignore[attr-defined]  # noqa: C419
    elif kind is dict:
        return _require_plain_map(value, depth)  # type: ignore[arg-type]  # a dict, by its exact type
    elif kind not in _LEAVES:
        raise TypeError(f"not a plain type: {kind.__name__}")
    return True


def _require_plain_map(value: Mapping[object, object], depth: int) -> bool:
    kinds = {type(key) for key in value}
    ordered = True
    if kinds == {int}:
        keys = sorted(value)  # type: ignore[type-var]  # ints, by their exact types
        if keys[0] < 0 or keys[-1] > MAX_UINT:  # type: ignore[operator]
            raise ValueError("integer out of range")
        ordered = keys == list(value)
    elif kinds:
        if kinds != {str}:
            raise TypeError("map keys must be all integers or all text")
        ordered = len(value) == 1
    for item in value.values():
        if type(item) not in _LEAVES:
            ordered = _require_plain(item, depth + 1) and ordered
    return ordered


_LEAVES: Final = frozenset({bytes, str, bool, type(None)})
_UINT_WIDTHS: Final = {24: 1, 25: 2, 26: 4, 27: 8}


class SequenceDecoder:
    """Cuts a CBOR sequence (RFC 8742) that arrives in pieces into deterministic items of at most `limit` bytes each.

    However small the pieces, every byte is looked at once before its item is decoded.
    """

    __slots__ = ("_at", "_buffer", "_code", "_limit", "_open", "_what")

    def __init__(self, *, limit: int, what: str, code: str) -> None:
        self._buffer = bytearray()
        self._at, self._open = 0, 1  # where the first item has been read to, and how many items are open there
        self._limit = limit
        self._what = what
        self._code = code

    def feed(self, data: bytes) -> list[Value]:
        """Take more bytes and give every item that is now whole."""
        self._buffer += data
        items: list[Value] = []
        while self._buffer and self._whole():
            size = self._at
            items.append(decode(bytes(self._buffer[:size]), limit=self._limit, what=self._what, code=self._code))
            del self._buffer[:size]
            self._at, self._open = 0, 1
        if len(self._buffer) > self._limit:
            raise Malformed(self._code, self._what, want=f"items of at most {self._limit} bytes", got="more")
        return items

    def end(self) -> None:
        """Require that no half item is left."""
        if self._buffer:
            raise Malformed(self._code, self._what, want="whole items", got=f"{len(self._buffer)} bytes of one")

    def _whole(self) -> bool:
        """Read on in the first item; True once it ends, at `_at`. Content is checked by `decode`."""
        while self._open:
            if self._at >= len(self._buffer):
                return False
            major, low = self._buffer[self._at] >> 5, self._buffer[self._at] & 31
            width = _UINT_WIDTHS.get(low, 0)
            if low > 27 or (major == 7 and low not in (20, 21, 22)) or major in (1, 6):
                raise Malformed(
                    self._code, self._what, want="plain deterministic CBOR", got=f"byte {self._buffer[self._at]:#04x}"
                )
            body = self._at + 1 + width
            if body > len(self._buffer):
                return False
            count = int.from_bytes(self._buffer[self._at + 1 : body], "big") if width else low
            self._at = body + (count if major in (2, 3) else 0)
            self._open += -1 + (count * (major - 3) if major in (4, 5) else 0)
            if self._at > self._limit or self._open > self._limit:
                raise Malformed(self._code, self._what, want=f"items of at most {self._limit} bytes", got="more")
        return self._at <= len(self._buffer)
