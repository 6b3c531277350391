# SPDX-License-Identifier: Apache-2.0
"""Where tests find the small real model: SERICIN_MODEL, or the cache that `sericin model pull` fills."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

NAME = "smollm2-135m-instruct"
SHA256 = bytes.fromhex("b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53")


def small_model() -> Path:
    """Give the model file, or skip the test and say how to get it."""
    cache = Path(os.environ.get("SERICIN_CACHE", Path.home() / ".cache" / "sericin"))
    named = os.environ.get("SERICIN_MODEL")
    path = Path(named) if named else cache / "models" / f"{NAME}.gguf"
    if not path.is_file():
        pytest.skip(f"no model at {path}: run `sericin model pull {NAME}`, or set SERICIN_MODEL")
    return path


class BootClock:
    """Real time: the engine's deadlines count CLOCK_BOOTTIME."""

    def wall(self) -> int:
        """Give unix seconds."""
        return int(time.time())

    def boot(self) -> float:
        """Give seconds since boot."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)
