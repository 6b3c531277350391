# SPDX-License-Identifier: Apache-2.0
"""Just enough DER to read a firmware identity out of a certificate: definite, minimal lengths, low tag numbers."""

from __future__ import annotations

from typing import Final

from ..errors import Malformed
from ..wire import Reader

SEQUENCE: Final = 0x30
INTEGER: Final = 0x02
OCTET_STRING: Final = 0x04
OBJECT_IDENTIFIER: Final = 0x06

_CODE: Final = "MalformedCertificate"


def children(data: bytes, *, what: str, limit: int = 16) -> list[tuple[int, bytes, bytes]]:
    """Split DER into (tag, content, whole element). Raises Malformed(MalformedCertificate)."""
    found: list[tuple[int, bytes, bytes]] = []
    r = Reader(data, what=what, code=_CODE)
    while r.left:
        if len(found) == limit:
            raise Malformed(_CODE, what, want=f"at most {limit} elements", got="more")
        start = r.offset
        tag = r.u8("tag")
        if tag & 0x1F == 0x1F:
            raise Malformed(_CODE, f"{what}.tag", want="a low tag number", got=f"{tag:#04x}")
        content = r.take(_length(r, what), "content")
        found.append((tag, content, r.taken()[start:]))
    return found


def element(data: bytes, tag: int, *, what: str) -> bytes:
    """Give the content of the one element that `data` must be."""
    found = children(data, what=what, limit=1)
    if len(found) != 1 or found[0][0] != tag:
        raise Malformed(_CODE, what, want=f"one element of tag {tag:#04x}", got="others")
    return found[0][1]


def _length(r: Reader, what: str) -> int:
    first = r.u8("length")
    if first < 0x80:
        return first
    size = first & 0x7F
    if size not in (1, 2):
        raise Malformed(_CODE, f"{what}.length", want="a definite length below 65536", got=f"{first:#04x}")
    length = r.uint(size, "length", "big")
    if length < 0x80 or (size == 2 and length < 0x100):
        raise Malformed(_CODE, f"{what}.length", want="its shortest form", got="a longer form")
    return length
