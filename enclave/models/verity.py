# SPDX-License-Identifier: Apache-2.0
"""Answers: which root and which hash tree would dm-verity have over this file?

Hash format 1, SHA-256, blocks of 4096 bytes, the fixed salt 00 01 ... 1f; the last block filled with zeros. The salt is
public and fixed so that everybody computes the same root from the same file.
"""

from __future__ import annotations

from typing import Final

from attestation.verity import BLOCK, Tree

SALT: Final = bytes(range(32))


class VerityRoot:
    """Takes a file's bytes in any portions and gives the root."""

    def __init__(self) -> None:
        self._tree = Tree(SALT)
        self._rest = b""

    def update(self, data: bytes | memoryview) -> None:
        """Take the next bytes."""
        view = memoryview(self._rest + bytes(data)) if self._rest else memoryview(data)
        whole = len(view) - len(view) % BLOCK
        self._tree.add(view[:whole])
        self._rest = bytes(view[whole:])

    @property
    def blocks(self) -> int:
        """How many blocks were taken, a started one included."""
        return self._tree.blocks + bool(self._rest)

    def root(self) -> bytes:
        """Give the root, 32 bytes. Raises ValueError for an empty file, which has none."""
        return self.tree()[0]

    def tree(self) -> tuple[bytes, bytes]:
        """Give (root, 32 bytes; hash area, whole blocks: the top level first, as veritysetup without a superblock).

        Raises ValueError for an empty file, which has none.
        """
        if self._rest:
            self.update(bytes(BLOCK - len(self._rest)))
        return self._tree.finish()
