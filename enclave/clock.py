# SPDX-License-Identifier: Apache-2.0
"""Time: the host's claim, and the count that it cannot set back. The only clock of this room."""

from __future__ import annotations

import time


class SystemClock:
    """The Clock seam over the kernel's clocks."""

    def wall(self) -> int:
        """Unix seconds, as the host claims."""
        return int(time.time())

    def boot(self) -> float:
        """Seconds of CLOCK_BOOTTIME, which counts suspended time too."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)
