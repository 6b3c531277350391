# SPDX-License-Identifier: Apache-2.0
"""The TD HOB: the list of memory that QEMU hands to the firmware, which measures it as its first event.

Sources: UEFI PI 1.8, volume 3, 4.5 and 5.3 (HOB layouts); QEMU hw/i386/tdvf-hob.c. It depends on the metadata of the
firmware and on how much memory the guest has, and on nothing else.
"""

from __future__ import annotations

from hashlib import sha384
from typing import Final

from ..errors import Malformed
from .measure_firmware import FOUR_GIB, Firmware, SectionType

LOW_MEMORY_LIMIT: Final = 0xB0000000  # q35: with less than this all memory lies below the PCI hole
LOW_MEMORY_SPLIT: Final = 0x80000000  # with more, 2 GiB do and the rest lies from 4 GiB on
_HANDOFF, _RESOURCE, _END = 1, 3, 8
_HOB_VERSION: Final = 9
_SYSTEM_MEMORY, _UNACCEPTED = 0, 7
_ATTRIBUTES: Final = 7  # present, initialised, tested
_HANDOFF_SIZE, _RESOURCE_SIZE = 56, 48


def low_memory(memory: int) -> int:
    """Give how many bytes of `memory` QEMU's q35 places below 4 GiB."""
    return memory if memory < LOW_MEMORY_LIMIT else LOW_MEMORY_SPLIT


def td_hob(firmware: Firmware, memory: int) -> bytes:
    """Give the TD HOB for `memory` bytes, its END entry left out: what the firmware measures.

    Raises Malformed(MalformedFirmware) for metadata whose memory the guest does not have.
    """
    place = firmware.section(SectionType.TD_HOB)
    resources = b"".join(_resource(*entry) for entry in _ranges(firmware, memory))
    end = (place.address if place is not None else 0) + _HANDOFF_SIZE + len(resources) + _END
    handoff = (
        _header(_HANDOFF, _HANDOFF_SIZE) + _HOB_VERSION.to_bytes(4, "little") + bytes(4 + 4 * 8)
        + end.to_bytes(8, "little")
    )  # fmt: skip
    return handoff + resources


def td_hob_digest(firmware: Firmware, memory: int) -> bytes:
    """Give SHA-384 of the TD HOB: 48 bytes."""
    return sha384(td_hob(firmware, memory)).digest()


def _ranges(firmware: Firmware, memory: int) -> list[tuple[int, int, int]]:
    """List (type, start, length) ascending: what the firmware already uses, and the memory between."""
    used = sorted(
        (section.address, section.memory)
        for section in firmware.sections
        if section.type in {SectionType.TD_HOB, SectionType.TEMP_MEM}
    )
    low, found, at = low_memory(memory), [], 0
    for start, size in used:
        if start + size > low:
            where = "firmware.metadata"
            raise Malformed("MalformedFirmware", where, want=f"memory below {low:#x}", got=f"{size:#x} at {start:#x}")
        if start > at:
            found.append((_UNACCEPTED, at, start - at))
        found.append((_SYSTEM_MEMORY, start, size))
        at = start + size
    if low > at:
        found.append((_UNACCEPTED, at, low - at))
    if memory > low:
        found.append((_UNACCEPTED, FOUR_GIB, memory - low))
    return found


def _resource(kind: int, start: int, length: int) -> bytes:
    fields = kind.to_bytes(4, "little") + _ATTRIBUTES.to_bytes(4, "little")
    return (
        _header(_RESOURCE, _RESOURCE_SIZE) + bytes(16) + fields
        + start.to_bytes(8, "little") + length.to_bytes(8, "little")
    )  # fmt: skip


def _header(kind: int, size: int) -> bytes:
    return kind.to_bytes(2, "little") + size.to_bytes(2, "little") + bytes(4)
