# SPDX-License-Identifier: Apache-2.0
"""The name of a block: where it stands, and the hashes that fix its content (TL `tonNode.blockIdExt`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ..errors import Malformed
from ..wire import Reader

MASTERCHAIN: Final = -1
WHOLE: Final = 1 << 63  # the shard that is a whole workchain
SIZE: Final = 80


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockId:
    """A block. `shard` is unsigned; `root_hash` and `file_hash` are 32 bytes each."""

    workchain: int
    shard: int
    seqno: int
    root_hash: bytes
    file_hash: bytes

    def encode(self) -> bytes:
        """Give the 80 bytes of the TL form, integers little-endian."""
        return b"".join(
            (
                self.workchain.to_bytes(4, "little", signed=True),
                self.shard.to_bytes(8, "little"),
                self.seqno.to_bytes(4, "little"),
                self.root_hash,
                self.file_hash,
            )
        )

    @classmethod
    def take(cls, reader: Reader, field: str) -> BlockId:
        """Take 80 bytes off `reader`."""
        workchain = reader.u32le(field)
        return cls(
            workchain=workchain - (workchain >> 31 << 32),
            shard=reader.u64le(field),
            seqno=reader.u32le(field),
            root_hash=reader.take(32, field),
            file_hash=reader.take(32, field),
        )

    @classmethod
    def decode(cls, data: bytes, *, what: str, code: str = "MalformedBlock") -> BlockId:
        """Read the TL form, 80 bytes. Raises Malformed."""
        reader = Reader(data, what=what, code=code)
        block = cls.take(reader, "block")
        reader.end(code=code)
        return block

    def require_masterchain(self, where: str, *, code: str) -> None:
        """Require a block of the masterchain. Raises Malformed."""
        if self.workchain != MASTERCHAIN or self.shard != WHOLE:
            raise Malformed(code, where, want="a masterchain block", got=f"{self.workchain}:{self.shard:016x}")

    def __str__(self) -> str:
        """Give the form that explorers show, without the file hash."""
        return f"({self.workchain},{self.shard:016x},{self.seqno}) root {self.root_hash.hex()}"
