# SPDX-License-Identifier: Apache-2.0
"""Answers: how do events leave the engine's thread? One list per step, in order, and never by a callback."""

from __future__ import annotations

import queue

from ..seams import EngineEvent


class Outbox:
    """A one-way box between the engine's thread and the one that drains it."""

    def __init__(self) -> None:
        self._steps: queue.SimpleQueue[list[EngineEvent]] = queue.SimpleQueue()

    def put(self, step: list[EngineEvent]) -> None:
        """Hand over everything that one step did."""
        if step:
            self._steps.put(step)

    def get(self, timeout: float) -> list[EngineEvent]:
        """Wait up to `timeout` seconds for one step's events; an empty list says that none came."""
        try:
            return self._steps.get(timeout=max(timeout, 0.0))
        except queue.Empty:
            return []
