# SPDX-License-Identifier: Apache-2.0
"""A second strict CBOR, byte by byte and with no library: what another would write from docs/protocol.md."""

from __future__ import annotations

from itertools import pairwise
from typing import Any


class Wrong(Exception):
    """Not deterministic CBOR of plain types."""


def need(holds: bool, what: str) -> None:
    """Refuse unless `holds`."""
    if not holds:
        raise Wrong(what)


def encode(v: Any) -> bytes:
    """Encode one value as deterministic CBOR."""
    if isinstance(v, bool) or v is None:
        return b"\xf6" if v is None else b"\xf5" if v else b"\xf4"
    major, n, tail = (0, v, b"") if isinstance(v, int) else (0, len(v), b"")
    if isinstance(v, bytes | str):
        major, tail = (2, v) if isinstance(v, bytes) else (3, v.encode())
        n = len(tail)
    elif isinstance(v, list | tuple):
        major, tail = 4, b"".join(encode(x) for x in v)
    elif isinstance(v, dict):
        major, tail = 5, b"".join(k + x for k, x in sorted((encode(k), encode(x)) for k, x in v.items()))
    for code, size in ((24, 1), (25, 2), (26, 4), (27, 8)):
        if n >= 24 and n < 1 << 8 * size:
            return bytes([major << 5 | code]) + n.to_bytes(size, "big") + tail
    return bytes([major << 5 | n]) + tail


def take(data: bytes, at: int, depth: int = 0) -> tuple[Any, int]:
    """Decode the strict CBOR item at `at`; give it and where it ends."""
    need(at < len(data) and depth <= 8, "CBOR: cut short or too deep")
    major, low, at = data[at] >> 5, data[at] & 31, at + 1
    if major == 7:
        need(low in (20, 21, 22), "CBOR: float, undefined or simple value")
        return {20: False, 21: True, 22: None}[low], at
    need(major < 6 and major != 1 and low < 28, "CBOR: tag, negative, indefinite or reserved")
    if low >= 24:
        size = 1 << low - 24
        n, at = int.from_bytes(data[at : at + size], "big"), at + size
        need(at <= len(data) and n >= (24 if size == 1 else 1 << 4 * size), "CBOR: cut short or not the shortest")
    else:
        n = low
    if major == 0:
        return n, at
    need(n <= len(data) - at, "CBOR: longer than the input")
    if major in (2, 3):
        raw = data[at : at + n]
        try:
            return (raw if major == 2 else raw.decode()), at + n
        except UnicodeDecodeError:
            raise Wrong("CBOR: not UTF-8") from None
    out: list[Any] = []
    for _ in range(n if major == 4 else 2 * n):
        item, at = take(data, at, depth + 1)
        out.append(item)
    if major == 4:
        return out, at
    keys = out[::2]
    need({type(k) for k in keys} in (set(), {int}, {str}), "CBOR: map keys of a wrong type")
    coded = [encode(k) for k in keys]
    need(all(a < b for a, b in pairwise(coded)), "CBOR: keys doubled or out of order")
    return dict(zip(keys, out[1::2], strict=True)), at


def decode(data: bytes) -> Any:
    """Decode exactly one item."""
    value, end = take(data, 0)
    need(end == len(data), "CBOR: trailing bytes")
    return value


def sequence(data: bytes) -> list[Any]:
    """Decode a CBOR sequence."""
    out, at = [], 0
    while at < len(data):
        item, at = take(data, at)
        out.append(item)
    return out
