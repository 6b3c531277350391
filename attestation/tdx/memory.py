# SPDX-License-Identifier: Apache-2.0
"""What was verified before and need not be again: bounded, by content, and never past the windows of what it holds."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from datetime import datetime
from typing import Any, Final, Protocol, TypeVar

from ..window import Window

CAPACITY: Final = 4096


class Windowed(Protocol):
    """Something that holds for a while."""

    @property
    def window(self) -> Window:
        """When it holds."""
        ...


T = TypeVar("T", bound=Windowed)


class Memory:
    """Results of signature checks by every byte they rest on. Not thread-safe.

    Only what succeeded is kept, so nothing can be poisoned: a key is all inputs themselves, root included. The
    clock is looked at on every use; a result outside its window is made anew, which then raises what is wrong.
    """

    def __init__(self, *, capacity: int = CAPACITY) -> None:
        if capacity < 1:
            raise ValueError("a memory holds at least one result")
        self._capacity = capacity
        self._kept: OrderedDict[tuple[Hashable, ...], Any] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def recall(self, kind: str, parts: tuple[Hashable, ...], *, now: datetime, make: Callable[[], T]) -> T:
        """Give what `make` gave for the same `kind` and `parts`, if it holds at `now`; else make it."""
        key: tuple[Hashable, ...] = (kind, *parts)
        kept: T | None = self._kept.get(key)
        if kept is not None and kept.window.holds(now):
            self._kept.move_to_end(key)
            return kept
        made = make()
        self._kept[key] = made
        self._kept.move_to_end(key)
        if len(self._kept) > self._capacity:
            self._kept.popitem(last=False)
        return made


class NoMemory(Memory):
    """Remembers nothing: every check is made."""

    def recall(self, kind: str, parts: tuple[Hashable, ...], *, now: datetime, make: Callable[[], T]) -> T:  # noqa: ARG002
        """Make it."""
        return make()
