# SPDX-License-Identifier: Apache-2.0
"""What does an image expect of its launcher? Disks, ports and address, one list for both ends (docs/image.md).

Disks are virtio-blk devices known by their serial, the words of a shape's `holds`. Ports are virtio-serial ports.
Outlets are what a guest's network lets out.
"""

from __future__ import annotations

from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlet:
    """A service that a guest with GPUs may reach, at an address of its own: the launcher connects it by name."""

    address: str
    name: str
    port: int


# Reference values, OCSP and CRLs of the GPUs' vendor (`enclave.gpu_vendor`). Nothing else leads out of a guest.
OUTLETS: Final = (
    Outlet(address="10.0.2.101", name="rim.attestation.nvidia.com", port=443),
    Outlet(address="10.0.2.102", name="ocsp.ndis.nvidia.com", port=443),
    Outlet(address="10.0.2.103", name="crl.ndis.nvidia.com", port=80),
    Outlet(address="10.0.2.103", name="crl.ndis.nvidia.com", port=443),
)


def model_disk(index: int) -> str:
    """Give the serial of the disk that holds the config's model number `index`, from 0."""
    return f"model{index}" if index else "model"
