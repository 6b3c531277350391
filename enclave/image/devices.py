# SPDX-License-Identifier: Apache-2.0
"""What does an image expect of its launcher? Disks, ports and address, one list for both ends (docs/image.md).

Disks are virtio-blk devices known by their serial, the words of a shape's `holds`. Ports are virtio-serial ports.
"""

from __future__ import annotations

from typing import Final

CONFIG_DISK: Final = "config"
OPERATOR_DISK: Final = "operator"
MANIFEST_DISK: Final = "manifest"
LEDGER_DISK: Final = "ledger"
STATE_DISK: Final = "state"

HEALTH_PORT: Final = "sericin.health"  # JSON lines, out of the guest only: where there is no vsock
HEALTH_VSOCK: Final = 9400  # port of a vsock listener that says the same line to whoever connects, and closes

GUEST_ADDRESS: Final = "10.0.2.15"  # what QEMU's user-mode network gives its only guest
GUEST_NETMASK: Final = "255.255.255.0"


def model_disk(index: int) -> str:
    """Give the serial of the disk that holds the config's model number `index`, from 0."""
    return f"model{index}" if index else "model"
