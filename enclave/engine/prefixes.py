# SPDX-License-Identifier: Apache-2.0
"""Answers: which slot does a sequence get, and what of its prompt is there already? Never across tenants.

A slot whose tenant gave a secret keeps its content for a while. It is found again by tags: HMAC-SHA256 under that
secret over each block of tokens, chained. Equal prompts of two tenants have no tag in common, so no lookup can meet
another tenant's slot, by construction and not by a comparison of names. The index holds tags alone, no token.
"""

from __future__ import annotations

import hashlib
import hmac
import math
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from .native import NativeContext

BLOCK: Final = 32  # tokens that are reused together
KEEP_SECONDS: Final = 120.0  # how long a prefix stays after its last use: a conversation's pause, not a memory
_TAG: Final = 16


def prefix_tags(secret: bytes, tokens: Sequence[int]) -> list[bytes]:
    """Give one tag of 16 bytes for every whole block of `tokens`; a tag stands for everything up to its end."""
    tags: list[bytes] = []
    tag = b"sericin/1 prefix"
    for start in range(0, len(tokens) - BLOCK + 1, BLOCK):
        block = struct.pack(f"<{BLOCK}I", *tokens[start : start + BLOCK])
        tag = hmac.digest(secret, tag + block, hashlib.sha256)[:_TAG]
        tags.append(tag)
    return tags


@dataclass(slots=True, kw_only=True, repr=False)
class _Kept:
    """A free slot that still holds a prefix."""

    tags: list[bytes]
    until: float


class Slots:
    """The slots of one context. Slot number `count` is never used: its zeros overwrite the others."""

    def __init__(self, context: NativeContext, count: int, *, reuse: bool, now: Callable[[], float]) -> None:
        """Manage slots 0 to `count` - 1; `reuse` false keeps nothing (a model whose state cannot be cut)."""
        self._context = context
        self._blank = count
        self._reuse = reuse
        self._now = now
        self._empty = list(range(count))
        self._soiled: list[int] = []  # empty ones that hold bytes yet
        self._kept: dict[int, _Kept] = {}  # the least recently used first
        self.due = math.inf  # nothing kept must go before this; a lower bound between two `expire`

    @property
    def free(self) -> int:
        """How many sequences could begin now."""
        return len(self._empty) + len(self._kept)

    @property
    def next_expiry(self) -> float | None:
        """When the next kept prefix must go, in seconds of the clock; None when nothing is kept."""
        return min((kept.until for kept in self._kept.values()), default=None)

    def take(self, secret: bytes, prompt: Sequence[int]) -> tuple[int, int]:
        """Give a slot for `prompt` and the number of its first tokens that the slot holds already."""
        slot, blocks = self._find(secret, prompt) if secret and self._reuse else (-1, 0)
        # One token must be left to compute, or there would be no logits.
        cached = min(blocks * BLOCK, (len(prompt) - 1) // BLOCK * BLOCK)
        if cached and self._context.holds(slot, cached):
            del self._kept[slot]
            self._context.forget(slot, cached)
            return slot, cached
        if self._empty:
            slot = min(self._empty)
            self._empty.remove(slot)
            if slot in self._soiled:
                self._soiled.remove(slot)
                self._context.overwrite(slot, self._blank)
        else:
            slot = next(iter(self._kept))
            del self._kept[slot]
            self._context.overwrite(slot, self._blank)
        return slot, 0

    def _find(self, secret: bytes, prompt: Sequence[int]) -> tuple[int, int]:
        """Give the kept slot with the longest common prefix, and its length in blocks."""
        wanted = prefix_tags(secret, prompt)
        best, most = -1, 0
        for slot, kept in self._kept.items():
            length = min(len(wanted), len(kept.tags))
            # Tags are chained: an equal one says that everything before it is equal too.
            while length > most and wanted[length - 1] != kept.tags[length - 1]:
                length -= 1
            if length > most:
                best, most = slot, length
        return best, most

    def give_back(self, slot: int, secret: bytes, tokens: Sequence[int]) -> None:
        """Take a slot back that holds `tokens`: keep it for its tenant, or have it overwritten."""
        tags = prefix_tags(secret, tokens) if secret and self._reuse else []
        if tags:
            until = self._now() + KEEP_SECONDS
            self._kept[slot] = _Kept(tags=tags, until=until)
            self.due = min(self.due, until)
            return
        self._leave(slot)

    def _leave(self, slot: int) -> None:
        self._context.forget(slot)
        self._soiled.append(slot)
        self._empty.append(slot)

    def clean(self) -> None:
        """Overwrite what was left since the last batch: called before each, or `wiped` where no batch follows."""
        while self._soiled:
            self._context.overwrite(self._soiled.pop(), self._blank)

    def wiped(self) -> None:
        """Take note that every byte of the context is zero."""
        self._soiled.clear()

    def expire(self, *, everything: bool = False) -> None:
        """Have overwritten what was kept for too long, or everything that is kept."""
        now = self._now()
        for slot in [slot for slot, kept in self._kept.items() if everything or kept.until <= now]:
            del self._kept[slot]
            self._leave(slot)
        self.due = min((kept.until for kept in self._kept.values()), default=math.inf)
