# SPDX-License-Identifier: Apache-2.0
"""What does a firmware file measure to? Its TDX metadata, and MRTD in both page orders (docs/measure.md, Firmware).

Sources: Intel TDX Virtual Firmware Design Guide (344991), sections 11 and 12; Intel TDX Module ABI, TDH.MEM.PAGE.ADD
and TDH.MR.EXTEND. MRTD depends on the firmware file alone: what the machine's shape fills is added, not extended.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from hashlib import sha384
from itertools import pairwise
from typing import Final
from uuid import UUID

from ..errors import Malformed
from ..wire import Reader, span

MAX_FIRMWARE: Final = 16 * 1024 * 1024  # the 16 MiB below 4 GiB are all that a firmware can be mapped into
MAX_SECTIONS: Final = 64  # stock firmware has 6
MAX_TABLE_ENTRIES: Final = 64
MAX_ADDED_PAGES: Final = 16384  # 64 MiB of pages that are hashed one by one; stock firmware has 1049
PAGE: Final = 4096
CHUNK: Final = 256
FOUR_GIB: Final = 1 << 32
_ADDRESS_LIMIT: Final = 1 << 52

TABLE_FOOTER: Final = UUID("96b582de-1fb2-45f7-baea-a366c55a082d").bytes_le
TDX_ENTRY: Final = UUID("e47a6535-984a-4798-865e-4685a7bf8ec2").bytes_le
_AFTER_TABLE: Final = 32  # the reset vector stands behind the table
_ENTRY_TAIL: Final = 18  # u16 length, GUID
_EXTEND: Final = 1
_AUGMENT: Final = 2
_CODE: Final = "MalformedFirmware"


class SectionType(IntEnum):
    """What a section of the metadata is for. Payload sections belong to other firmware and are refused."""

    BFV = 0
    CFV = 1
    TD_HOB = 2
    TEMP_MEM = 3
    PERM_MEM = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A range of guest memory that the metadata asks for."""

    type: SectionType
    offset: int  # into the file
    size: int  # bytes of the file
    address: int  # guest physical, a multiple of 4096
    memory: int  # bytes of guest memory, a multiple of 4096
    extended: bool  # its contents enter MRTD
    augmented: bool  # its pages are not added at launch, and so not measured

    @property
    def pages(self) -> int:
        """Pages that are added, and hashed, at launch."""
        return 0 if self.augmented else self.memory // PAGE


@dataclass(frozen=True, slots=True, kw_only=True)
class Firmware:
    """A firmware file whose metadata holds together."""

    data: bytes
    sections: tuple[Section, ...]  # in metadata order

    @classmethod
    def parse(cls, data: bytes) -> Firmware:
        """Read a unified firmware file of at most 16 MiB. Raises Malformed(MalformedFirmware) in bounded time."""
        if not PAGE <= len(data) <= MAX_FIRMWARE or len(data) % PAGE:
            raise Malformed(_CODE, "firmware", want=f"whole pages, at most {MAX_FIRMWARE} bytes", got=len(data))
        sections = _sections(data, len(data) - _descriptor_distance(data))
        _require_sound(sections, len(data))
        return cls(data=data, sections=sections)

    def section(self, kind: SectionType) -> Section | None:
        """Give the first section of a kind."""
        return next((section for section in self.sections if section.type is kind), None)

    def contents(self, section: Section) -> bytes:
        """Give a section's bytes of the file."""
        return span(self.data, section.offset, section.size, what="firmware.section", code=_CODE)

    def cfv_digest(self) -> bytes:
        """Give SHA-384 of the variable store as shipped (48 bytes). Raises Malformed for a firmware without one."""
        section = self.section(SectionType.CFV)
        if section is None:
            raise Malformed(_CODE, "firmware.metadata", want="a variable store (CFV)", got="none")
        return sha384(self.contents(section)).digest()

    def mr_td(self, *, single_pass: bool) -> bytes:
        """Give MRTD (48 bytes) after all pages are added and extended.

        Single pass: every page is added, then extended, before the next (upstream KVM 6.16 and newer, QEMU 10.1 and
        newer). Two passes: all pages of a section are added, then all are extended (the earlier out-of-tree series).
        """
        stream = sha384()
        for section in self.sections:
            if section.augmented:
                continue
            contents = self.contents(section).ljust(section.memory, b"\0") if section.extended else b""
            pages = range(section.address, section.address + section.memory, PAGE)
            if single_pass:
                for page in pages:
                    stream.update(_add(page))
                    stream.update(_extend(section, contents, page))
            else:
                stream.update(b"".join(_add(page) for page in pages))
                for page in pages:
                    stream.update(_extend(section, contents, page))
        return stream.digest()


def _add(page: int) -> bytes:
    return _command(b"MEM.PAGE.ADD", page)


def _extend(section: Section, contents: bytes, page: int) -> bytes:
    """Give what the sixteen TDH.MR.EXTEND of one page feed to the hash; nothing where the section is not extended."""
    parts = []
    for at in range(page, page + PAGE, CHUNK) if section.extended else ():
        parts += [_command(b"MR.EXTEND", at), span(contents, at - section.address, CHUNK, what="chunk", code=_CODE)]
    return b"".join(parts)


def _command(name: bytes, address: int) -> bytes:
    """Give the 128 bytes that a SEAM call leads its data with: name, address at 16, zeros."""
    return (name.ljust(16, b"\0") + address.to_bytes(8, "little")).ljust(128, b"\0")


def _descriptor_distance(data: bytes) -> int:
    """Give how far from the file's end the metadata descriptor begins, by the GUIDed table at the end."""
    footer = span(data, len(data) - _AFTER_TABLE - _ENTRY_TAIL, _ENTRY_TAIL, what="firmware.table", code=_CODE)
    r = Reader(footer, what="firmware.table", code=_CODE)
    length, guid = r.u16le("length"), r.take(16, "guid")
    if guid != TABLE_FOOTER:
        raise Malformed(_CODE, "firmware.table", want="a GUIDed table before the reset vector", got="none")
    if length < _ENTRY_TAIL:
        raise Malformed(_CODE, "firmware.table.length", want=f"at least {_ENTRY_TAIL}", got=length)
    end = length - _ENTRY_TAIL
    table = span(data, len(data) - _AFTER_TABLE - length, end, what="firmware.table", code=_CODE)
    for _ in range(MAX_TABLE_ENTRIES):
        if end == 0:
            break
        tail = Reader(
            span(table, end - _ENTRY_TAIL, _ENTRY_TAIL, what="firmware.table", code=_CODE),
            what="firmware.table",
            code=_CODE,
        )
        size, guid = tail.u16le("entry.length"), tail.take(16, "entry.guid")
        if not _ENTRY_TAIL <= size <= end:
            raise Malformed(_CODE, "firmware.table.entry", want=f"{_ENTRY_TAIL} to {end} bytes", got=size)
        if guid == TDX_ENTRY:
            if size != _ENTRY_TAIL + 4:
                raise Malformed(_CODE, "firmware.table.tdx", want="a 32-bit offset", got=f"{size} bytes")
            return int.from_bytes(span(table, end - size, 4, what="firmware.table.tdx", code=_CODE), "little")
        end -= size
    raise Malformed(_CODE, "firmware.table", want="a TDX metadata entry", got="none: not a TDX firmware")


def _sections(data: bytes, at: int) -> tuple[Section, ...]:
    what = "firmware.metadata"
    r = Reader(span(data, at, 16, what=what, code=_CODE), what=what, code=_CODE)
    signature, length, version, count = r.take(4, "signature"), r.u32le("length"), r.u32le("version"), r.u32le("count")
    if signature != b"TDVF" or version != 1:
        raise Malformed(_CODE, what, want="TDVF version 1", got="another signature or version")
    if not 1 <= count <= MAX_SECTIONS or length != 16 + 32 * count:
        raise Malformed(_CODE, what, want=f"1 to {MAX_SECTIONS} sections, length to match", got=f"{count}, {length}")
    body = Reader(span(data, at + 16, 32 * count, what=what, code=_CODE), what=what, code=_CODE)
    return tuple(_section(body, f"{what}.section[{i}]") for i in range(count))


def _section(r: Reader, where: str) -> Section:
    offset, size = r.u32le("offset"), r.u32le("size")
    address, memory = r.u64le("address"), r.u64le("memory")
    kind, attributes = r.u32le("type"), r.u32le("attributes")
    if kind not in tuple(SectionType):
        raise Malformed(_CODE, f"{where}.type", want="BFV, CFV, TD_HOB, TempMem or PermMem", got=kind)
    if attributes & ~(_EXTEND | _AUGMENT) or attributes == _EXTEND | _AUGMENT:
        raise Malformed(_CODE, f"{where}.attributes", want="MR.EXTEND, PAGE.AUG or none", got=f"{attributes:#x}")
    if address % PAGE or memory % PAGE or not memory:
        raise Malformed(_CODE, where, want="whole pages", got=f"{memory:#x} bytes at {address:#x}")
    if address + memory > _ADDRESS_LIMIT:
        raise Malformed(_CODE, where, want=f"below {_ADDRESS_LIMIT:#x}", got=f"{memory:#x} bytes at {address:#x}")
    if size > memory:
        raise Malformed(_CODE, where, want="no more bytes of the file than memory", got=f"{size:#x} in {memory:#x}")
    filled = kind in {SectionType.BFV, SectionType.CFV}
    if filled != bool(size) or (not filled and (offset or attributes & _EXTEND)):
        raise Malformed(_CODE, where, want="bytes of the file for BFV and CFV alone", got=f"{size:#x} at {offset:#x}")
    return Section(
        type=SectionType(kind),
        offset=offset,
        size=size,
        address=address,
        memory=memory,
        extended=bool(attributes & _EXTEND),
        augmented=bool(attributes & _AUGMENT),
    )


def _require_sound(sections: tuple[Section, ...], file_size: int) -> None:
    """Require that the sections fit each other, the file and the address space. Raises Malformed."""
    where = "firmware.metadata"
    kinds = [section.type for section in sections]
    if kinds.count(SectionType.TD_HOB) != 1 or SectionType.BFV not in kinds:
        raise Malformed(_CODE, where, want="one TD_HOB and a BFV", got=f"{kinds.count(SectionType.TD_HOB)} TD_HOB")
    if (pages := sum(section.pages for section in sections)) > MAX_ADDED_PAGES:
        raise Malformed(_CODE, where, want=f"at most {MAX_ADDED_PAGES} pages", got=pages)
    _require_apart([(section.address, section.memory) for section in sections], "memory")
    filled = [(section.offset, section.size) for section in sections if section.size]
    _require_apart(filled, "the file")
    # A code-only file (OVMF_CODE) carries metadata too, whose offsets are for the file with the variables in front.
    if max(offset + size for offset, size in filled) > file_size or sum(size for _, size in filled) != file_size:
        got = f"{sum(size for _, size in filled)} of {file_size} bytes: a code-only file, or other metadata"
        raise Malformed(_CODE, where, want="BFV and CFV that make up the whole file", got=got)
    if not any(s.type is SectionType.BFV and s.address + s.memory == FOUR_GIB for s in sections):
        raise Malformed(_CODE, where, want="a BFV up to 4 GiB, where the reset vector is", got="none")
    if not any(section.extended for section in sections):
        raise Malformed(_CODE, where, want="a section that is measured", got="none")


def _require_apart(ranges: list[tuple[int, int]], what: str) -> None:
    ordered = sorted(ranges)
    for (start, size), (following, _) in pairwise(ordered):
        if start + size > following:
            raise Malformed(_CODE, f"firmware.metadata in {what}", want="no overlap", got=f"at {following:#x}")
