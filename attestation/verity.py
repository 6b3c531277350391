# SPDX-License-Identifier: Apache-2.0
"""Is this the file system whose root hash was measured? The dm-verity tree over it, as an auditor computes it.

Format 1, SHA-256, data and hash blocks of 4096 bytes, the salt in front, no superblock (docs/image.md).
"""

from __future__ import annotations

from hashlib import sha256
from typing import Final

BLOCK: Final = 4096
_DIGEST: Final = 32


class Tree:
    """Takes the blocks of a file in order and gives root hash and hash area. Memory: 1/127 of the file."""

    def __init__(self, salt: bytes) -> None:
        self._salted = sha256(salt)
        self._leaves = bytearray()

    def add(self, blocks: bytes | memoryview) -> None:
        """Take whole blocks. Raises ValueError for a part of one."""
        if len(blocks) % BLOCK:
            raise ValueError("whole blocks only")
        self._leaves += self._digests(blocks)

    @property
    def blocks(self) -> int:
        """How many blocks were taken."""
        return len(self._leaves) // _DIGEST

    def finish(self) -> tuple[bytes, bytes]:
        """Give (root hash, 32 bytes; hash area, the top level first). Raises ValueError when no block was taken."""
        if not self._leaves:
            raise ValueError("no blocks, no root")
        level, area = bytes(self._leaves), b""
        while len(level) > _DIGEST:
            level += bytes(-len(level) % BLOCK)
            level, area = self._digests(level), level + area
        return level, area

    def _digests(self, blocks: bytes | memoryview) -> bytes:
        view, digests = memoryview(blocks), []
        for start in range(0, len(view), BLOCK):
            digest = self._salted.copy()
            digest.update(view[start : start + BLOCK])
            digests.append(digest.digest())
        return b"".join(digests)
