# SPDX-License-Identifier: Apache-2.0
"""Has this sealed seed been used before? One set for each epoch, kept until that epoch's private key is dropped.

Nothing is ever purged by time: turning a clock back, or forward, changes no answer.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Final

CAPACITY: Final = 1 << 18  # entries of one epoch: about 30 MB when full
EARLY: Final = 3 / 4  # the share at which the next epoch starts early


class ReplayFull(Exception):
    """The epoch takes no further request."""


class ReplaySet:
    """SHA-256(sealed_seed) of every request that one epoch's key has opened to its end."""

    def __init__(self, *, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._seen: set[bytes] = set()

    def __len__(self) -> int:
        return len(self._seen)

    @property
    def early(self) -> bool:
        """Whether it is time for a new epoch."""
        return len(self._seen) >= int(self._capacity * EARLY)

    @property
    def full(self) -> bool:
        """Whether no entry fits any more."""
        return len(self._seen) >= self._capacity

    def insert(self, sealed_seed: bytes) -> bool:
        """Enter a sealed seed; False when it is there already. Raises ReplayFull."""
        entry = sha256(sealed_seed).digest()
        if entry in self._seen:
            return False
        if self.full:
            raise ReplayFull
        self._seen.add(entry)
        return True
