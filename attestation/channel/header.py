# SPDX-License-Identifier: Apache-2.0
"""The clear header of a sealed request: what routing may see (docs/protocol.md, Sealed request)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from hashlib import sha256
from typing import Final

from .. import cbor
from ..boot import KID_SIZE
from ..errors import Malformed

VERSION: Final = 1
SUITE: Final = [0x647A, 1, 2]  # X-Wing, HKDF-SHA256, AES-256-GCM: the only one
MAX_HEADER_BYTES: Final = 1024
REQUEST_ID_SIZE: Final = 16
_CODE: Final = "MalformedHeader"


class Padding(IntEnum):
    """How response frames are sized and timed."""

    OFF = 0
    CELL = 1
    GRID = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """Bound into every key and tag of the exchange."""

    kid: bytes  # 8
    keyset_digest: bytes  # 32
    request_id: bytes  # 16
    time: int  # unix seconds
    padding: Padding
    stream: bool
    model: str

    def encode(self) -> bytes:
        """Give the deterministic CBOR."""
        return cbor.encode(
            {
                1: VERSION,
                2: SUITE,
                3: self.kid,
                4: self.keyset_digest,
                5: self.request_id,
                6: self.time,
                7: int(self.padding),
                8: self.stream,
                9: self.model,
            }
        )

    @classmethod
    def decode(cls, data: bytes) -> Header:
        """Read a header. Raises Malformed(MalformedHeader)."""
        m = cbor.decode_map(data, limit=MAX_HEADER_BYTES, what="header", code=_CODE, required=range(1, 10))
        if m[1] != VERSION:
            raise Malformed(_CODE, "header.version", want=VERSION, got="another version")
        if m[2] != SUITE:
            raise Malformed(_CODE, "header.suite", want=SUITE, got="another suite")
        padding = cbor.as_uint(m[7], "header.padding", code=_CODE, limit=max(Padding))
        return cls(
            kid=cbor.as_bytes(m[3], "header.kid", code=_CODE, size=KID_SIZE),
            keyset_digest=cbor.as_bytes(m[4], "header.keyset_digest", code=_CODE, size=32),
            request_id=cbor.as_bytes(m[5], "header.request_id", code=_CODE, size=REQUEST_ID_SIZE),
            time=cbor.as_uint(m[6], "header.time", code=_CODE, limit=2**40),
            padding=Padding(padding),
            stream=cbor.as_bool(m[8], "header.stream", code=_CODE),
            model=cbor.as_text(m[9], "header.model", code=_CODE, limit=64),
        )


def header_hash(encoded: bytes) -> bytes:
    """Give h = SHA-256(header), over the bytes as they came."""
    return sha256(encoded).digest()
