# SPDX-License-Identifier: Apache-2.0
"""The whole list of checks, in the order in which a person would mend them."""

from __future__ import annotations

from typing import Final

from . import devices, emulator, kernel, processor, quoting
from .check import Check

CHECKS: Final[tuple[Check, ...]] = (
    *kernel.CHECKS[:1],
    *processor.CHECKS,
    *kernel.CHECKS[1:],
    *emulator.CHECKS,
    *quoting.CHECKS,
    *devices.CHECKS,
)
