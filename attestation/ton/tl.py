# SPDX-License-Identifier: Apache-2.0
"""Take the few TL types that block proofs are made of (core.telegram.org/mtproto/TL)."""

from __future__ import annotations

from typing import Final

from ..errors import Malformed
from ..wire import Reader

_TRUE: Final = 0x997275B5
_FALSE: Final = 0xBC799737


def take_bytes(reader: Reader, field: str, *, limit: int, code: str) -> bytes:
    """Take a TL `bytes` of at most `limit` bytes in its one encoding. Raises Malformed."""
    size = reader.u8(field)
    head = 1
    if size == 255:  # for more than 16 MiB
        raise Malformed(code, field, want=f"at most {limit} bytes", got="a longer form")
    if size == 254:
        size = reader.uint(3, field, "little")
        head = 4
        if size < 254:
            raise Malformed(code, field, want="the short form", got=size)
    if size > limit:
        raise Malformed(code, field, want=f"at most {limit} bytes", got=size)
    data = reader.take(size, field)
    if any(reader.take(-(head + size) % 4, field)):
        raise Malformed(code, field, want="zero padding", got="others")
    return data


def take_bool(reader: Reader, field: str, *, code: str) -> bool:
    """Take a TL `Bool`. Raises Malformed."""
    tag = reader.u32le(field)
    if tag not in {_TRUE, _FALSE}:
        raise Malformed(code, field, want="a Bool", got=f"{tag:08x}")
    return tag == _TRUE


def take_count(reader: Reader, field: str, *, limit: int, code: str) -> int:
    """Take the length of a TL vector, at most `limit`. Raises Malformed."""
    count = reader.u32le(field)
    if count > limit:
        raise Malformed(code, field, want=f"at most {limit}", got=count)
    return count


def put_bytes(data: bytes) -> bytes:
    """Give `data` as a TL `bytes`."""
    head = bytes((len(data),)) if len(data) < 254 else b"\xfe" + len(data).to_bytes(3, "little")
    return head + data + bytes(-(len(head) + len(data)) % 4)


def put_bool(*, value: bool) -> bytes:
    """Give a TL `Bool`."""
    return (_TRUE if value else _FALSE).to_bytes(4, "little")
