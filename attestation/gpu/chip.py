# SPDX-License-Identifier: Apache-2.0
"""Which chips are known, how their certificates are named, and under which id their reference values are published."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from ..errors import Untrusted
from .opaque import OpaqueData

COMPOSITE_DEVICE_ID: Final = "2.23.133.5.4.1"  # DICE, before DiceTcbInfo
DICE_TCB_INFO: Final = "2.23.133.5.4.1.1"
# Switch reports carry no board fields; every known board of the chip has these.
_SWITCH_BOARD: Final = "5612_0002_890"
_FWID_FROM_DRIVER: Final = 550  # from this branch on Hopper drivers report the firmware identity


@dataclass(frozen=True, slots=True, kw_only=True)
class Chip:
    """One chip family. `product` is what its reference values name."""

    product: str
    architecture: str
    kind: str  # "gpu" or "switch"
    roles: tuple[str, ...]  # patterns of the CN of each certificate, leaf first
    pdi_tag: int  # first byte of the serial number of the device's own CA; the other eight are its identifier
    fwid_oid: str


_ROOT: Final = "NVIDIA Device Identity CA"

CHIPS: Final = (
    Chip(
        product="GH100",
        architecture="HOPPER",
        kind="gpu",
        roles=(
            r"GH100 A[0-9]{2} GSP FMC LF",
            r"GH100 A[0-9]{2} GSP BROM",
            r"NVIDIA GH100 Provisioner ICA [0-9]{1,5}",
            "NVIDIA GH100 Identity",
            _ROOT,
        ),
        pdi_tag=0x41,
        fwid_oid=COMPOSITE_DEVICE_ID,
    ),
    Chip(
        product="GB100",
        architecture="BLACKWELL",
        kind="gpu",
        roles=(
            r"GB100 A[0-9]{2} GSP FMC LF",
            r"GB100 A[0-9]{2} GSP BROM",
            r"NVIDIA GB100 Provisioner ICA [0-9]{1,5}",
            "NVIDIA GB100 Identity",
            _ROOT,
        ),
        pdi_tag=0x41,
        fwid_oid=DICE_TCB_INFO,
    ),
    Chip(
        product="LS10",
        architecture="LS10",
        kind="switch",
        # The switch's provisioning CA is a child of the GPU family's identity CA.
        roles=(
            r"LS_10 A[0-9]{2} FSP FMC LF",
            r"LS_10 A[0-9]{2} FSP BROM",
            r"NVIDIA LS_10 Provisioner ICA [0-9]{1,5}",
            "NVIDIA GH100 Identity",
            _ROOT,
        ),
        pdi_tag=0x50,
        fwid_oid=COMPOSITE_DEVICE_ID,
    ),
)


def chip_of(names: tuple[str, ...], *, kind: str, where: str) -> Chip:
    """Give the chip whose certificate names these are, leaf first. Raises Untrusted(CertificateRoleMismatch)."""
    for chip in CHIPS:
        if chip.kind == kind and re.fullmatch(chip.roles[0], names[0]):
            break
    else:
        want = " or ".join(chip.roles[0] for chip in CHIPS if chip.kind == kind)
        raise Untrusted("CertificateRoleMismatch", f"{where}[0]", want=f"a {kind}: {want}", got=names[0])
    for i, (role, name) in enumerate(zip(chip.roles, names, strict=True)):
        if not re.fullmatch(role, name):
            raise Untrusted("CertificateRoleMismatch", f"{where}[{i}]", want=role, got=name)
    return chip


def driver_rim_id(chip: Chip, opaque: OpaqueData) -> str:
    """Give the id of the driver's reference values, or an empty string for a switch, which has none."""
    if chip.kind == "switch":
        return ""
    if chip.architecture == "HOPPER":
        return f"NV_GPU_DRIVER_{chip.product}_{opaque.driver_version}"
    return f"NV_GPU_CC_DRIVER_{opaque.chip_info or chip.product}_{opaque.driver_version}"


def firmware_rim_id(chip: Chip, opaque: OpaqueData) -> str:
    """Give the id of the VBIOS's or switch firmware's reference values."""
    version = opaque.vbios_version.replace(".", "").upper()
    if chip.kind == "switch":
        return f"NV_SWITCH_BIOS_{_SWITCH_BOARD}_{version}"
    return f"NV_GPU_VBIOS_{opaque.project}_{opaque.project_sku}_{opaque.chip_sku}_{version}".upper()


def reports_fwid(chip: Chip, opaque: OpaqueData) -> bool:
    """Tell whether a genuine report of this chip and driver carries the firmware identity."""
    if chip.kind == "switch":
        return False
    return chip.architecture != "HOPPER" or int(opaque.driver_version.split(".")[0]) >= _FWID_FROM_DRIVER
