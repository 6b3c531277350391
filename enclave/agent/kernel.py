# SPDX-License-Identifier: Apache-2.0
"""What the agent asks of the kernel: mounts, deafness, the end of the machine."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import Final

MS_RDONLY: Final = 1
MS_NOSUID: Final = 2
MS_NODEV: Final = 4
MS_NOEXEC: Final = 8
SYSRQ: Final = Path("/proc/sys/kernel/sysrq")  # absent from a kernel without magic SysRq
_POWER_OFF: Final = 0x4321FEDC  # LINUX_REBOOT_CMD_POWER_OFF
_LIBC: Final = ctypes.CDLL(None, use_errno=True)


def mount(kind: str, place: Path, *, source: str = "none", flags: int = MS_NOSUID | MS_NODEV, data: str = "") -> None:
    """Mount a file system, the folder made where it can be. Raises OSError."""
    place.mkdir(parents=True, exist_ok=True)
    words = (source.encode(), str(place).encode(), kind.encode())
    if _LIBC.mount(*words, ctypes.c_ulong(flags), data.encode() or None) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(place))


def ignore_console(switch: Path = SYSRQ) -> None:
    """Make the kernel deaf to its console, whose other end is the host's (Linux, admin-guide/sysrq). Raises OSError.

    Ctrl-O on a virtio console begins a command to the kernel: to restart, to remount, and where a distribution allows
    it to print what processes are doing.
    """
    if switch.exists():
        switch.write_text("0")


def power_off() -> None:
    """End the machine."""
    os.sync()
    _LIBC.reboot(ctypes.c_int(_POWER_OFF - (1 << 32) if _POWER_OFF > 0x7FFFFFFF else _POWER_OFF))
