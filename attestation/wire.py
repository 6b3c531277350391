# SPDX-License-Identifier: Apache-2.0
"""Take fields off untrusted bytes. The only code in this room that slices bytes by position."""

from __future__ import annotations

from struct import Struct
from typing import Any, Final, Literal

from .errors import Malformed

LABEL_PREFIX: Final = b"sericin/1 "


def label(purpose: str) -> bytes:
    """Give the domain-separation label ``sericin/1 <purpose>`` as ASCII (docs/protocol.md, Conventions)."""
    return LABEL_PREFIX + purpose.encode("ascii")


def span(data: bytes, start: int, size: int, *, what: str, code: str) -> bytes:
    """Take the `size` bytes from `start` on, of a structure that points into itself. Raises Malformed with `code`."""
    if start < 0 or size < 0 or start + size > len(data):
        raise Malformed(code, what, want=f"{size} bytes at {start}", got=f"{len(data)} bytes in all")
    return data[start : start + size]


class Reader:
    """Takes fields off untrusted bytes in order, and never past the end.

    `code` is the Malformed code of the structure, `what` its name in messages.
    """

    __slots__ = ("_at", "_code", "_data", "_what")

    def __init__(self, data: bytes, *, what: str, code: str) -> None:
        self._data = bytes(data)
        self._at = 0
        self._what = what
        self._code = code

    @property
    def offset(self) -> int:
        """Bytes taken so far."""
        return self._at

    @property
    def left(self) -> int:
        """Bytes not yet taken."""
        return len(self._data) - self._at

    def take(self, size: int, field: str) -> bytes:
        """Take exactly `size` bytes."""
        start = self._at
        end = start + size
        if size < 0 or end > len(self._data):
            raise Malformed(self._code, f"{self._what}.{field}", want=f"{size} bytes", got=f"{self.left} left")
        self._at = end
        return self._data[start:end]

    def unpack(self, layout: Struct, field: str) -> tuple[Any, ...]:
        """Take the fields of `layout`."""
        start = self._at
        end = start + layout.size
        if end > len(self._data):
            raise Malformed(self._code, f"{self._what}.{field}", want=f"{layout.size} bytes", got=f"{self.left} left")
        self._at = end
        return layout.unpack_from(self._data, start)

    def uint(self, size: int, field: str, order: Literal["little", "big"]) -> int:
        """Take an unsigned integer of `size` bytes."""
        return int.from_bytes(self.take(size, field), order)

    def u8(self, field: str) -> int:
        """Take one byte."""
        return self.uint(1, field, "big")

    def u16le(self, field: str) -> int:
        """Take a little-endian 16-bit integer."""
        return self.uint(2, field, "little")

    def u32le(self, field: str) -> int:
        """Take a little-endian 32-bit integer."""
        return self.uint(4, field, "little")

    def u64le(self, field: str) -> int:
        """Take a little-endian 64-bit integer."""
        return self.uint(8, field, "little")

    def u16be(self, field: str) -> int:
        """Take a big-endian 16-bit integer."""
        return self.uint(2, field, "big")

    def u32be(self, field: str) -> int:
        """Take a big-endian 32-bit integer."""
        return self.uint(4, field, "big")

    def rest(self) -> bytes:
        """Take everything that is left."""
        return self.take(self.left, "rest")

    def taken(self) -> bytes:
        """Give all bytes taken so far, exactly as they came: what a signature over a prefix covers."""
        return self._data[: self._at]

    def end(self, *, code: str = "TrailingData") -> None:
        """Require that nothing is left."""
        if self.left:
            raise Malformed(code, self._what, want="end of data", got=f"{self.left} more bytes")
