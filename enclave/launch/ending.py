# SPDX-License-Identifier: Apache-2.0
"""Which way to end a machine is due? Each repeated request, and each deadline, goes one step further."""

from __future__ import annotations

from enum import Enum
from math import inf
from typing import Final

TERMINATE_SECONDS: Final = 5.0  # from SIGTERM to SIGKILL


class Step(Enum):
    """The ways, from the kindest on."""

    POWER = "press the power button: the guest signs its last batch and forgets its keys"
    TERMINATE = "SIGTERM to QEMU"
    KILL = "SIGKILL to QEMU"


class Ending:
    """Takes how often an end was asked for, and the time; gives the step that is due. A grace of 0 skips the button."""

    def __init__(self, grace: float) -> None:
        self._left = [(Step.POWER, grace)] if grace > 0 else []
        self._left += [(Step.TERMINATE, TERMINATE_SECONDS), (Step.KILL, inf)]
        self._heard = 0
        self._deadline = inf

    def due(self, *, asked: int, now: float) -> Step | None:
        """Give the next step, once; None while there is nothing to do but wait."""
        if not self._left or (asked <= self._heard and now < self._deadline):
            return None
        self._heard = asked
        step, patience = self._left.pop(0)
        self._deadline = now + patience
        return step
