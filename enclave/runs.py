# SPDX-License-Identifier: Apache-2.0
"""Has this run been run? The table of run ids, so that a retry never runs anything twice (docs/protocol.md, Retry)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

CAPACITY: Final = 1 << 18  # run ids of two epochs: about 60 MB when full


@dataclass(slots=True)
class _Entry:
    first_epoch: int
    receipt: bytes | None  # the receipt item, once done


class RunRefused(Exception):
    """The run may not start: a refusal code, and the receipt item of the run that was."""

    def __init__(self, code: str, *, receipt: bytes | None = None, field: str | None = None) -> None:
        super().__init__(code)
        self.code = code
        self.receipt = receipt
        self.field = field


class RunTable:
    """Run ids of this boot. An id leaves when its run was refused before start, or when its first epoch is too old."""

    def __init__(self, *, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._entries: dict[bytes, _Entry] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def enter(self, run_id: bytes, *, first_epoch: int, current_epoch: int) -> None:
        """Enter a run as running. Raises RunRefused.

        `run_expired` for a first attempt older than the previous epoch: its id may have been dropped. A table that is
        full says `busy`: dropping an id instead would let a run happen twice.
        """
        if first_epoch > current_epoch or first_epoch < 1:
            raise RunRefused("invalid_request", field="first_epoch")
        if first_epoch < current_epoch - 1:
            raise RunRefused("run_expired")
        entry = self._entries.get(run_id)
        if entry is not None:
            raise RunRefused("already_run", receipt=entry.receipt)
        if len(self._entries) >= self._capacity:
            raise RunRefused("busy")
        self._entries[run_id] = _Entry(first_epoch, None)

    def remove(self, run_id: bytes) -> None:
        """Take a run out that was refused before it started."""
        self._entries.pop(run_id, None)

    def done(self, run_id: bytes, receipt: bytes) -> None:
        """Keep the receipt item of a run that ended."""
        entry = self._entries.get(run_id)
        if entry is not None:
            entry.receipt = receipt

    def forget_before(self, epoch: int) -> None:
        """Drop the ids whose first attempt came before `epoch`."""
        self._entries = {run_id: entry for run_id, entry in self._entries.items() if entry.first_epoch >= epoch}
