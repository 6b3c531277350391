# SPDX-License-Identifier: Apache-2.0
"""Which events does a firmware write, in which order? Known firmware files alone, by SHA-256; never a guess.

Releases of one code base moved events and separators, so that a layout belongs to a file and not to a version. Each
entry was read from the log of that file's own boot; `tdx` says whether its order inside a TD is established too.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import Final
from uuid import UUID

from .measure_efi import boot_option

_VOLUME: Final = UUID("7cb8bdc9-f8eb-4f34-aaea-3ee4af6516a1")
_SETUP: Final = UUID("462caa21-7614-4503-836e-8ab6f4662331")
_MENU: Final = UUID("eec25bdc-67f2-4d95-b1d5-f81b2039d11d")
_UI_APP: Final = (boot_option("UiApp", _VOLUME, _SETUP, hidden=True),)
_MENU_AND_SETUP: Final = (
    boot_option("BootManagerMenuApp", _VOLUME, _MENU, hidden=True),
    boot_option("EFI Firmware Setup", _VOLUME, _SETUP, hidden=False),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """What one firmware file measures beside what the machine and the image give it."""

    name: str
    secure_boot: bytes  # data of the SecureBoot variable as it is measured
    acpi: bool  # the ACPI blobs are measured
    smbios: bool  # the SMBIOS tables are measured
    boot_options: tuple[bytes, ...]  # Boot0000, Boot0001, ...
    initrd_first: bool  # form of the load options (measure_efi.load_options)
    kernel_as_shipped: bool  # takes the kernel unpatched from a QEMU that offers it so (10.0 and newer)
    tdx: bool  # the order of its events inside a TD is established


_LAYOUTS: Final = {
    "7b456907dd0786d415999e801a1ac4637b8ed4d7cf5378cfc6edbe5e574dd773": Layout(
        name="debian-2022.11-6+deb12u2",
        secure_boot=b"\0",
        acpi=False,
        smbios=False,
        boot_options=_UI_APP,
        initrd_first=False,
        kernel_as_shipped=False,
        tdx=False,
    ),
    "14954040cc754ade0c625ac3470ea46d4c14318b5b1396de4ef77090203d76db": Layout(
        name="debian-2025.02-8+deb13u1",
        secure_boot=b"",
        acpi=True,
        smbios=False,
        boot_options=_UI_APP,
        initrd_first=False,
        kernel_as_shipped=True,
        tdx=True,
    ),
    "6a3e8f438ad7269f5dfd884647587b88391fb23965bb3aa7902b519438dba129": Layout(
        name="debian-2026.08+ds-2",
        secure_boot=b"",
        acpi=True,
        smbios=True,
        boot_options=_MENU_AND_SETUP,
        initrd_first=True,
        kernel_as_shipped=True,
        tdx=False,
    ),
}


def layout_of(firmware: bytes) -> Layout | None:
    """Give the layout of a firmware file, or None for one that is not known."""
    return _LAYOUTS.get(sha256(firmware).hexdigest())
