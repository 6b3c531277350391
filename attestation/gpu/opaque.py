# SPDX-License-Identifier: Apache-2.0
"""Decode a report's opaque data: type-length-value fields that the device signed about itself.

One number means different things on a GPU and on a switch, so fields are decoded per kind of device. A type that is
not known here is recorded and used for nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from ..errors import Malformed
from ..wire import Reader

DRIVER_VERSION: Final = 3
VBIOS_VERSION: Final = 6
NVDEC0_STATUS: Final = 11
CHIP_SKU: Final = 15
PROJECT: Final = 17
PROJECT_SKU: Final = 18
FWID: Final = 20
PROTECTED_PCIE_STATUS: Final = 21
SWITCH_PDI: Final = 22  # GPU: the switches its links lead to; switch: its own identifier
SWITCH_GPU_PDIS: Final = 26  # switch only
OPAQUE_DATA_VERSION: Final = 34
CHIP_INFO: Final = 35
FEATURE_FLAG: Final = 36

# Known, and used for nothing: GPU_INFO, MSRSCNT, CPRINFO, BOARD_ID, CHIP_SKU_MOD, PROJECT_SKU_MOD, ports, position,
# lock and SYS_ENABLE_STATUS among them.
_IGNORED: Final = frozenset({1, 2, 4, 5, 7, 8, 9, 10, 12, 13, 14, 16, 19, 23, 24, 25, 27, 32, 33})
_GPU_FIELDS: Final = frozenset({3, 6, 11, 15, 17, 18, 20, 21, 22, 34, 35, 36})
_SWITCH_FIELDS: Final = frozenset({6, 22, 26})

PDI_SIZE: Final = 8
_GPU_LINKS: Final = 18
_SWITCH_GPUS: Final = 8
_ENABLED: Final = 0xAA
_DISABLED: Final = 0x55
_MAX_FIELDS: Final = 64
_CODE: Final = "MalformedOpaqueData"
_LAYOUT: Final = "UnsupportedGpuReport"
_NO_PDI: Final = (bytes(PDI_SIZE), b"\xff" * PDI_SIZE)


class GpuMode(StrEnum):
    """How GPUs of one machine may work together under confidential computing."""

    SINGLE = "spt"  # single GPU passthrough
    MULTI = "mpt"  # multi-GPU passthrough
    PROTECTED_PCIE = "ppcie"  # eight GPUs and four switches


@dataclass(frozen=True, slots=True, kw_only=True)
class OpaqueData:
    """What the device says about itself. Strings are ASCII, identifiers 8 bytes in the byte order of certificates."""

    vbios_version: str
    driver_version: str = ""  # GPU only
    chip_sku: str = ""  # GPU only
    project: str = ""  # GPU only
    project_sku: str = ""  # GPU only
    chip_info: str = ""  # absent before Blackwell and in its first drivers
    fwid: bytes | None = None  # 48 bytes
    nvdec0_enabled: bool | None = None
    mode: GpuMode | None = None  # GPU only
    switch_pdis: frozenset[bytes] = frozenset()  # GPU only
    device_pdi: bytes | None = None  # switch only
    gpu_pdis: frozenset[bytes] = frozenset()  # switch only
    unknown: tuple[int, ...] = ()  # types that nobody has described


def decode_opaque(data: bytes, *, kind: str) -> OpaqueData:
    """Decode opaque data of a "gpu" or a "switch". Raises Malformed(MalformedOpaqueData | UnsupportedGpuReport)."""
    fields = _fields(data)
    if kind == "switch":
        return _switch(fields)
    return _gpu(fields)


def _fields(data: bytes) -> dict[int, bytes]:
    r = Reader(data, what="opaque", code=_CODE)
    fields: dict[int, bytes] = {}
    while r.left:
        number = r.u16le("type")
        value = r.take(r.u16le(f"field[{number}].size"), f"field[{number}]")
        if number in fields:
            raise Malformed(_CODE, f"opaque.field[{number}]", want="each type once", got="twice")
        if len(fields) == _MAX_FIELDS:
            raise Malformed(_CODE, "opaque", want=f"at most {_MAX_FIELDS} fields", got="more")
        fields[number] = value
    return fields


def _gpu(fields: Mapping[int, bytes]) -> OpaqueData:
    fwid = fields.get(FWID)
    if fwid is not None:
        _require_size(fwid, 48, FWID)
    switches = fields.get(SWITCH_PDI)
    nvdec0 = fields.get(NVDEC0_STATUS)
    return OpaqueData(
        driver_version=_text(fields, DRIVER_VERSION, re.compile(r"[0-9]{1,5}(\.[0-9]{1,5}){1,3}")),
        vbios_version=_gpu_vbios(_needed(fields, VBIOS_VERSION)),
        chip_sku=_text(fields, CHIP_SKU),
        project=_text(fields, PROJECT),
        project_sku=_text(fields, PROJECT_SKU),
        chip_info=_text(fields, CHIP_INFO) if CHIP_INFO in fields else "",
        fwid=fwid,
        nvdec0_enabled=None if nvdec0 is None else _status(nvdec0, NVDEC0_STATUS),
        mode=_mode(fields),
        # A GPU lists its switches' identifiers in reverse byte order; a disabled link is zero.
        switch_pdis=frozenset() if switches is None else _pdis(switches, SWITCH_PDI, _GPU_LINKS, step=-1),
        unknown=tuple(sorted(fields.keys() - _IGNORED - _GPU_FIELDS)),
    )


def _switch(fields: Mapping[int, bytes]) -> OpaqueData:
    pdi = _needed(fields, SWITCH_PDI)
    _require_size(pdi, PDI_SIZE, SWITCH_PDI)
    listed = fields.get(SWITCH_GPU_PDIS)
    if listed is not None and len(listed) < _SWITCH_GPUS * PDI_SIZE:
        raise Malformed(_CODE, f"opaque.field[{SWITCH_GPU_PDIS}]", want="at least 64 bytes", got=len(listed))
    gpus = b"" if listed is None else listed[: _SWITCH_GPUS * PDI_SIZE]  # what follows is the port map
    version = re.compile(r"[0-9A-F]{2}(\.[0-9A-F]{2}){4}")
    return OpaqueData(
        vbios_version=_text(fields, VBIOS_VERSION, version),
        device_pdi=pdi,
        gpu_pdis=frozenset() if listed is None else _pdis(gpus, SWITCH_GPU_PDIS, _SWITCH_GPUS, step=1),
        unknown=tuple(sorted(fields.keys() - _IGNORED - _SWITCH_FIELDS)),
    )


def _mode(fields: Mapping[int, bytes]) -> GpuMode:
    """Read the mode from the feature flag, or in legacy opaque data from the protected PCIe status."""
    status = fields.get(PROTECTED_PCIE_STATUS)
    protected = None if status is None else _status(status, PROTECTED_PCIE_STATUS)
    version = int.from_bytes(fields.get(OPAQUE_DATA_VERSION, b""), "little")
    if version > 1:
        raise Malformed(_LAYOUT, "opaque.opaque_data_version", want="0 or 1", got=version)
    flag = fields.get(FEATURE_FLAG)
    if (flag is not None) != (version == 1):
        got = f"version {version}, flag {'absent' if flag is None else 'present'}"
        raise Malformed(_LAYOUT, "opaque.feature_flag", want="present exactly in opaque data version 1", got=got)
    if flag is None:
        return GpuMode.PROTECTED_PCIE if protected else GpuMode.SINGLE
    _require_size(flag, 2, FEATURE_FLAG)
    number = int.from_bytes(flag, "little")
    modes = (GpuMode.SINGLE, GpuMode.MULTI, GpuMode.PROTECTED_PCIE)
    if number >= len(modes):
        raise Malformed(_LAYOUT, "opaque.feature_flag", want="0, 1 or 2", got=number)
    if protected is not None and protected != (modes[number] is GpuMode.PROTECTED_PCIE):
        raise Malformed(_CODE, "opaque.feature_flag", want="agreement with the protected PCIe status", got=number)
    return modes[number]


def _gpu_vbios(value: bytes) -> str:
    """Format 8 bytes as `96.00.9F.00.01`: from the most significant end bytes 4 to 7, then byte 3."""
    _require_size(value, 8, VBIOS_VERSION)
    big = value[::-1]
    if any(big[:3]):
        raise Malformed(_LAYOUT, "opaque.vbios_version", want="zero in its three upper bytes", got=value.hex())
    return ".".join(f"{byte:02X}" for byte in (*big[4:], big[3]))


def _pdis(value: bytes, number: int, count: int, *, step: int) -> frozenset[bytes]:
    _require_size(value, count * PDI_SIZE, number)
    r = Reader(value, what=f"opaque.field[{number}]", code=_CODE)
    found = {r.take(PDI_SIZE, f"pdi[{i}]")[::step] for i in range(count)}
    return frozenset(found.difference(_NO_PDI))


def _status(value: bytes, number: int) -> bool:
    _require_size(value, 1, number)
    if value[0] not in (_ENABLED, _DISABLED):
        raise Malformed(_LAYOUT, f"opaque.field[{number}]", want="0xaa or 0x55", got=value.hex())
    return value[0] == _ENABLED


def _text(fields: Mapping[int, bytes], number: int, shape: re.Pattern[str] | None = None) -> str:
    raw = _needed(fields, number).rstrip(b"\0")
    text = raw.decode("ascii", errors="replace")
    if not (shape or re.compile(r"[A-Za-z0-9_-]{1,32}")).fullmatch(text):
        raise Malformed(_CODE, f"opaque.field[{number}]", want="a short ASCII string", got=f"{len(raw)} other bytes")
    return text


def _needed(fields: Mapping[int, bytes], number: int) -> bytes:
    if number not in fields:
        raise Malformed(_CODE, f"opaque.field[{number}]", want="present", got="absent")
    return fields[number]


def _require_size(value: bytes, size: int, number: int) -> None:
    if len(value) != size:
        raise Malformed(_CODE, f"opaque.field[{number}]", want=f"{size} bytes", got=len(value))
