# SPDX-License-Identifier: Apache-2.0
"""Which disks, ports and address does an image expect of its launcher? One list for both ends (docs/image.md, Devices).

Disks are virtio-blk devices known by their serial, ports are virtio-serial ports known by their name.
"""

from __future__ import annotations

from typing import Final

ROOT_DISK: Final = "root"  # the root file system and its hash tree, read-only
DOCUMENTS_DISK: Final = "documents"  # manifest, config and operator document, read-only (enclave.image.disks)
MODEL_DISK: Final = "model{}"  # model0, model1, ...: in the order of the config's models, read-only
STATE_DISK: Final = "state"  # a simulated machine's authorities, read-only; absent on a real machine

HEALTH_PORT: Final = "sericin.health"  # JSON lines, out of the guest only
LEDGER_PORT: Final = "sericin.ledger"  # ledger records, out of the guest only

GUEST_ADDRESS: Final = "10.0.2.15"  # what QEMU's user-mode network gives its only guest
GUEST_NETMASK: Final = "255.255.255.0"
HTTP_PORT: Final = 8480
RA_TLS_PORT: Final = 8443
