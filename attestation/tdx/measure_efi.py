# SPDX-License-Identifier: Apache-2.0
"""What firmware and boot loader stub hash: EFI variables, boot options, separators, actions, the command line.

Sources: TCG PC Client Platform Firmware Profile 1.06, 3.3.4 and 10.4; UEFI 2.10, 3.1.3 and 10.3; Linux EFI stub.
"""

from __future__ import annotations

from hashlib import sha384
from typing import Final
from uuid import UUID

EV_SEPARATOR: Final = 0x4
EV_EVENT_TAG: Final = 0x6
EV_PLATFORM_CONFIG_FLAGS: Final = 0xA
EV_EFI_VARIABLE_DRIVER_CONFIG: Final = 0x80000001
EV_EFI_VARIABLE_BOOT: Final = 0x80000002
EV_EFI_BOOT_SERVICES_APPLICATION: Final = 0x80000003
EV_EFI_ACTION: Final = 0x80000007
EV_EFI_HANDOFF_TABLES: Final = 0x80000009
EV_EFI_PLATFORM_FIRMWARE_BLOB2: Final = 0x8000000A
EV_EFI_HANDOFF_TABLES2: Final = 0x8000000B

GLOBAL_VARIABLE: Final = UUID("8be4df61-93ca-11d2-aa0d-00e098032b8c")
IMAGE_SECURITY: Final = UUID("d719b2cb-3d3a-4596-a3bc-dad00e67656f")
SECURE_BOOT_VARIABLES: Final = (
    (GLOBAL_VARIABLE, "SecureBoot"),
    (GLOBAL_VARIABLE, "PK"),
    (GLOBAL_VARIABLE, "KEK"),
    (IMAGE_SECURITY, "db"),
    (IMAGE_SECURITY, "dbx"),
)
"""In the order that firmware measures them."""
SEPARATOR: Final = sha384(bytes(4)).digest()
CALLING_APPLICATION: Final = "Calling EFI Application from Boot Option"
EXIT_BOOT_SERVICES: Final = ("Exit Boot Services Invocation", "Exit Boot Services Returned with Success")
_ACTIVE_HIDDEN_APP: Final = 0x109  # LOAD_OPTION_ACTIVE, HIDDEN, CATEGORY_APP
_ACTIVE_APP: Final = 0x101
_END_OF_PATH: Final = bytes.fromhex("7fff0400")
_FIRMWARE_FILE, _FIRMWARE_VOLUME = bytes.fromhex("04061400"), bytes.fromhex("04071400")


def variable_digest(vendor: UUID, name: str, data: bytes) -> bytes:
    """Give the digest of a whole variable: UEFI_VARIABLE_DATA, 48 bytes."""
    text = name.encode("utf-16-le")
    lengths = len(name).to_bytes(8, "little") + len(data).to_bytes(8, "little")
    return sha384(vendor.bytes_le + lengths + text + data).digest()


def action_digest(text: str) -> bytes:
    """Give the digest of an EFI action: its ASCII text, 48 bytes."""
    return sha384(text.encode("ascii")).digest()


def boot_order(count: int) -> bytes:
    """Give the BootOrder variable of the first `count` options."""
    return b"".join(n.to_bytes(2, "little") for n in range(count))


def boot_option(name: str, volume: UUID, file: UUID, *, hidden: bool) -> bytes:
    """Give a Boot#### variable that starts a file of the firmware's own volume (EFI_LOAD_OPTION)."""
    path = _FIRMWARE_VOLUME + volume.bytes_le + _FIRMWARE_FILE + file.bytes_le + _END_OF_PATH
    head = (_ACTIVE_HIDDEN_APP if hidden else _ACTIVE_APP).to_bytes(4, "little") + len(path).to_bytes(2, "little")
    return head + (name + "\0").encode("utf-16-le") + path


def load_options(cmdline: str, *, initrd_first: bool) -> bytes:
    """Give the load options that firmware hands to a directly booted kernel, as the kernel's stub hashes them.

    The firmware adds the name of the initrd: behind the command line, or, in newer releases, in front of it.
    """
    text = f"initrd=initrd {cmdline}" if initrd_first else f"{cmdline} initrd=initrd"
    return (text + "\0").encode("utf-16-le")
