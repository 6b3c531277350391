# SPDX-License-Identifier: Apache-2.0
"""A small kernel: a PE image with a Linux setup header, built field by field, and a second way to its hash."""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass, field

HEADERS = 0x400
PE = 0x80
SECTIONS = [(0x400, 0x200), (0x600, 0xA00)]  # offset, size


@dataclass
class Kernel:
    """What goes into the file, each part open to being wrong."""

    sections: list[tuple[int, int]] = field(default_factory=lambda: list(SECTIONS))
    size: int = 0x1000
    certificates: bytes = b""
    certificate_offset: int | None = None
    certificate_size: int | None = None
    headers: int = HEADERS
    machine: int = 0x8664
    magic: int = 0x20B
    directories: int = 6
    count: int | None = None
    optional_size: int = 160
    pe: int = PE
    mark: bytes = b"PE\0\0"
    mz: bytes = b"MZ"
    version: bytes = b"6.16.3-test (x) #1"
    protocol: int = 0x20F
    flags: int = 3
    boot_magic: bytes = b"HdrS"
    initrd_limit: int = 0x7FFFFFFF

    def data(self) -> bytes:
        """Give the file."""
        data = bytearray(hashlib.shake_128(b"kernel").digest(self.size))
        data[: len(self.mz)] = self.mz
        data[0x3C:0x40] = struct.pack("<I", self.pe)
        count = len(self.sections) if self.count is None else self.count
        coff = self.mark + struct.pack("<HHIIIHH", self.machine, count, 0, 0, 0, self.optional_size, 0)
        optional = bytearray(self.optional_size)
        optional[0:2] = struct.pack("<H", self.magic)
        optional[60:64] = struct.pack("<I", self.headers)
        optional[64:68] = b"\xaa\xbb\xcc\xdd"
        optional[108:112] = struct.pack("<I", self.directories)
        offset = self.size if self.certificates and self.certificate_offset is None else self.certificate_offset or 0
        size = len(self.certificates) if self.certificate_size is None else self.certificate_size
        optional[144:152] = struct.pack("<II", offset, size)
        rows = b"".join(
            struct.pack("<8sIIIIIIHHI", b".s", size, 0, size, at, 0, 0, 0, 0, 0) for at, size in self.sections
        )
        head = coff + bytes(optional) + rows
        if PE + len(head) <= self.size:
            data[PE : PE + len(head)] = head
        self._setup(data)
        return bytes(data) + self.certificates

    def _setup(self, data: bytearray) -> None:
        if len(data) < 0x300:
            return
        data[0x202:0x208] = self.boot_magic + struct.pack("<H", self.protocol)
        data[0x20E:0x210] = struct.pack("<H", 0x80)
        data[0x210:0x212] = b"\0\1"
        data[0x22C:0x230] = struct.pack("<I", self.initrd_limit)
        data[0x236:0x238] = struct.pack("<H", self.flags)
        data[0x280 : 0x280 + len(self.version)] = self.version


def second_authenticode(data: bytes, certificates: int = 0) -> bytes:
    """Compute the hash a second way: a copy with the three exempt parts cut out, from the end on."""
    at = struct.unpack_from("<I", data, 0x3C)[0] + 24
    rest = bytearray(data[: len(data) - certificates])
    del rest[at + 144 : at + 152]
    del rest[at + 64 : at + 68]
    return hashlib.sha384(rest).digest()
