# SPDX-License-Identifier: Apache-2.0
"""What does a kernel measure to? Its Authenticode hash, as shipped and as older QEMU releases serve it.

Sources: Microsoft, Windows Authenticode Portable Executable Signature Format, "Calculating the PE Image Hash"; the
Linux x86 boot protocol, 2.15; QEMU hw/i386/x86-common.c, x86_load_linux.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha384
from typing import Final

from ..errors import Malformed
from ..wire import span
from .measure_hob import low_memory

MAX_KERNEL: Final = 256 * 1024 * 1024
MAX_SECTIONS: Final = 96  # what loaders take
_CODE: Final = "MalformedImage"

_PE_OFFSET: Final = 0x3C
_AMD64, _PE32_PLUS = 0x8664, 0x20B
_COFF_SIZE, _SECTION_SIZE = 24, 40
_CHECKSUM: Final = 64  # into the optional header
_DIRECTORIES: Final = 108  # count of data directories; the directories follow
_SECURITY: Final = 4  # index of the certificate directory

_BOOT_MAGIC: Final = b"HdrS"
_LOADER_QEMU: Final = 0xB0
_CAN_USE_HEAP: Final = 0x80
_ABOVE_4G: Final = 2  # XLF_CAN_BE_LOADED_ABOVE_4G
_SETUP_ADDRESS, _CMDLINE_ADDRESS = 0x10000, 0x20000
_ACPI_DATA: Final = 0x28000  # kept free below the end of low memory
_PAGE: Final = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layout:
    """The parts of a PE image that the hash leaves out."""

    checksum: int  # 4 bytes from here
    directory: int  # 8 bytes from here: the certificate directory's entry
    certificates: int  # from here to the end of the file


def authenticode(image: bytes) -> bytes:
    """Give the Authenticode SHA-384 (48 bytes) of a 64-bit PE image.

    Raises Malformed(MalformedImage) for what is none, and for images whose hash readers could disagree about: gaps or
    overlaps between sections, sections past the file, certificates that are not its end.
    """
    layout = _layout(image)
    digest = sha384(_cut(image, 0, layout.checksum))
    digest.update(_cut(image, layout.checksum + 4, layout.directory))
    # Headers, sections and what lies behind them follow each other without a gap, so their hash is the rest's.
    digest.update(_cut(image, layout.directory + 8, layout.certificates))
    return digest.digest()


def _cut(image: bytes, start: int, end: int) -> bytes:
    return span(image, start, end - start, what="kernel", code=_CODE)


def _number(image: bytes, at: int, size: int, where: str) -> int:
    return int.from_bytes(span(image, at, size, what=where, code=_CODE), "little")


def _layout(image: bytes) -> _Layout:
    if len(image) > MAX_KERNEL:
        raise Malformed(_CODE, "kernel", want=f"at most {MAX_KERNEL} bytes", got=len(image))
    pe = _number(image, _PE_OFFSET, 4, "kernel.pe")
    if span(image, 0, 2, what="kernel", code=_CODE) != b"MZ" or _cut(image, pe, pe + 4) != b"PE\0\0":
        raise Malformed(_CODE, "kernel", want="a PE image (a kernel with an EFI stub)", got="another file")
    optional = pe + _COFF_SIZE
    machine, magic = _number(image, pe + 4, 2, "kernel.machine"), _number(image, optional, 2, "kernel.magic")
    if (machine, magic) != (_AMD64, _PE32_PLUS):
        raise Malformed(_CODE, "kernel", want="PE32+ for x86-64", got=f"{machine:#x}, {magic:#x}")
    count = _number(image, pe + 6, 2, "kernel.sections")
    if not 1 <= count <= MAX_SECTIONS:
        raise Malformed(_CODE, "kernel.sections", want=f"1 to {MAX_SECTIONS}", got=count)
    table = optional + _number(image, pe + 20, 2, "kernel.optional_header")
    directories = _number(image, optional + _DIRECTORIES, 4, "kernel.directories")
    directory = optional + _DIRECTORIES + 4 + 8 * _SECURITY
    if directories <= _SECURITY or directory + 8 > table:
        raise Malformed(_CODE, "kernel.directories", want="a certificate directory", got=directories)
    headers = _number(image, optional + 60, 4, "kernel.headers")
    if not table + count * _SECTION_SIZE <= headers <= len(image):
        raise Malformed(_CODE, "kernel.headers", want="room for the section table, within the file", got=headers)
    certificates = len(image) - _certificates(image, directory)
    _require_contiguous(image, table, count, headers, certificates)
    return _Layout(checksum=optional + _CHECKSUM, directory=directory, certificates=certificates)


def _certificates(image: bytes, directory: int) -> int:
    """Give how many bytes at the end of the file are certificates."""
    offset, size = _number(image, directory, 4, "kernel.certificates"), _number(image, directory + 4, 4, "kernel")
    if (offset or size) and (offset + size != len(image) or not size):
        want, got = "certificates at the end of the file", f"{size} bytes at {offset}, of {len(image)}"
        raise Malformed(_CODE, "kernel.certificates", want=want, got=got)
    return size


def _require_contiguous(image: bytes, table: int, count: int, headers: int, end: int) -> None:
    """Require that the sections' contents follow the headers and each other without a gap, and end by `end`."""
    found = []
    for row in range(table, table + count * _SECTION_SIZE, _SECTION_SIZE):
        size, offset = _number(image, row + 16, 4, "kernel.section"), _number(image, row + 20, 4, "kernel.section")
        if size:
            found.append((offset, size))
    at = headers
    for offset, size in sorted(found):
        if offset != at or offset + size > end:
            raise Malformed(_CODE, "kernel.section", want=f"from {at} on, up to {end}", got=f"{size} at {offset}")
        at = offset + size


def patched(image: bytes, *, initrd_size: int, memory: int) -> bytes:
    """Give the kernel as QEMU before 10.0 serves it: eleven bytes of its setup header filled in for this launch.

    Raises Malformed(MalformedImage) for what is no Linux kernel of boot protocol 2.12 or newer.
    """
    where = "kernel.setup"
    if span(image, 0x202, 4, what=where, code=_CODE) != _BOOT_MAGIC:
        raise Malformed(_CODE, where, want="a Linux boot header", got="none")
    if (protocol := _number(image, 0x206, 2, where)) < 0x20C:
        raise Malformed(_CODE, where, want="boot protocol 2.12 or newer", got=f"{protocol:#x}")
    limit = 0xFFFFFFFF if _number(image, 0x236, 2, where) & _ABOVE_4G else _number(image, 0x22C, 4, where)
    top = min(limit, low_memory(memory) - _ACPI_DATA - 1)
    if not 0 < initrd_size < top:
        raise Malformed("MalformedImage", "initrd", want=f"1 to {top} bytes in this much memory", got=initrd_size)
    header = bytearray(image)
    header[0x210] = _LOADER_QEMU
    header[0x211] |= _CAN_USE_HEAP
    for at, size, value in (
        (0x218, 4, (top - initrd_size) & ~(_PAGE - 1)),
        (0x21C, 4, initrd_size),
        (0x224, 2, _CMDLINE_ADDRESS - _SETUP_ADDRESS - 0x200),
        (0x228, 4, _CMDLINE_ADDRESS),
    ):
        header[at : at + size] = value.to_bytes(size, "little")
    return bytes(header)
