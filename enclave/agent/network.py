# SPDX-License-Identifier: Apache-2.0
"""The guest's one address, in a user-mode network of which it is the only guest, and which lets outlets out alone."""

from __future__ import annotations

import fcntl
import socket
import struct
from pathlib import Path
from typing import Final

from ..image.devices import GUEST_ADDRESS, GUEST_NETMASK

INTERFACES: Final = Path("/sys/class/net")
# Linux, include/uapi/linux/sockios.h and if.h.
_SET_FLAGS: Final = 0x8914
_SET_ADDRESS: Final = 0x8916
_SET_MASK: Final = 0x891C
_UP: Final = 0x1


def bring_up() -> list[str]:
    """Bring loopback up, and the first network card with the fixed address; give the names. Raises OSError."""
    names = ["lo", *sorted(path.name for path in INTERFACES.iterdir() if path.name != "lo")[:1]]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as handle:
        for name in names:
            if name != "lo":
                fcntl.ioctl(handle, _SET_ADDRESS, _request(name, _address(GUEST_ADDRESS)))
                fcntl.ioctl(handle, _SET_MASK, _request(name, _address(GUEST_NETMASK)))
            fcntl.ioctl(handle, _SET_FLAGS, _request(name, struct.pack("<h", _UP)))
    return names


def _address(text: str) -> bytes:
    """Give a struct sockaddr_in."""
    return struct.pack("<HH4s8x", socket.AF_INET, 0, socket.inet_aton(text))


def _request(name: str, value: bytes) -> bytes:
    """Give a struct ifreq."""
    return struct.pack("<16s24s", name.encode(), value)
