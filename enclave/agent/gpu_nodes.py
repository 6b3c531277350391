# SPDX-License-Identifier: Apache-2.0
"""Device nodes of NVIDIA's driver: it makes none itself, and the set-uid program that would is not in an image."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final

from .refusal import BootRefused

PROC: Final = Path("/proc")
DEV: Final = Path("/dev")
MAX_GPUS: Final = 16  # as many as evidence carries
_FRONTEND: Final = 195  # the driver's registered major number (Linux, admin-guide/devices.txt)
_CONTROL_MINOR: Final = 255
_INFORMATION: Final = 64 * 1024
Mknod = Callable[[Path, int, int], None]


def make_gpu_nodes(*, proc: Path = PROC, dev: Path = DEV, mknod: Mknod = os.mknod) -> int:
    """Make the nodes of the driver and of each GPU that it found, none where there is no driver; give how many GPUs.

    Raises BootRefused where the driver says something else than it always does, OSError.
    """
    gpus = proc / "driver" / "nvidia" / "gpus"
    if not gpus.is_dir():
        return 0
    found = sorted(gpus.iterdir())
    minors = {_minor(gpu / "information") for gpu in found}
    if len(minors) != len(found) or len(found) > MAX_GPUS:
        raise BootRefused("machine", f"the GPU driver lists {len(found)} GPUs and {len(minors)} minor numbers")
    major = re.search(r"^ *(\d+) nvidia-uvm$", (proc / "devices").read_text(), re.MULTILINE)
    if major is None:
        raise BootRefused("machine", "the GPU driver's memory module, nvidia-uvm, is not loaded")
    nodes = {f"nvidia{minor}": (_FRONTEND, minor) for minor in minors}
    nodes["nvidiactl"] = (_FRONTEND, _CONTROL_MINOR)
    nodes["nvidia-uvm"] = (int(major[1]), 0)
    for name, (high, low) in sorted(nodes.items()):
        mknod(dev / name, stat.S_IFCHR | 0o600, os.makedev(high, low))
    return len(found)


def _minor(information: Path) -> int:
    with information.open(encoding="ascii", errors="replace") as file:
        found = re.search(r"^Device Minor:\s*(\d{1,3})\s*$", file.read(_INFORMATION), re.MULTILINE)
    if found is None or int(found[1]) >= _CONTROL_MINOR:
        raise BootRefused("machine", f"{information}: no device minor number")
    return int(found[1])
