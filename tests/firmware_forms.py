# SPDX-License-Identifier: Apache-2.0
"""A small TDX firmware built byte by byte, a second way to its MRTD, and Debian's files where they are at hand."""

from __future__ import annotations

import hashlib
import os
import struct
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

FOOTER = UUID("96b582de-1fb2-45f7-baea-a366c55a082d").bytes_le
TDX = UUID("e47a6535-984a-4798-865e-4685a7bf8ec2").bytes_le
OTHER = UUID("00f771de-1a7e-4fcb-890e-68c77e2fb44e").bytes_le
SIZE = 0x8000
CODE, VARIABLES = 0x6000, 0x2000
Row = tuple[int, int, int, int, int, int]  # offset, size, address, memory, type, attributes
ROWS: list[Row] = [
    (VARIABLES, CODE, 0x100000000 - CODE, CODE, 0, 1),
    (0, VARIABLES, 0x100000000 - SIZE, VARIABLES, 1, 0),
    (0, 0, 0x811000, 0xF000, 3, 0),
    (0, 0, 0x809000, 0x2000, 2, 0),
]


@dataclass
class Build:
    """What goes into the file, each part open to being wrong."""

    rows: list[Row] = field(default_factory=lambda: list(ROWS))
    size: int = SIZE
    signature: bytes = b"TDVF"
    version: int = 1
    count: int | None = None
    length: int | None = None
    distance: int = 0x400
    table_length: int | None = None
    entry_length: int = 22
    footer: bytes = FOOTER
    entry: bytes = TDX

    def data(self) -> bytes:
        """Give the file."""
        rng = hashlib.shake_128(b"firmware").digest(self.size)
        data = bytearray(rng)
        count = len(self.rows) if self.count is None else self.count
        length = 16 + 32 * count if self.length is None else self.length
        head = self.signature + struct.pack("<III", length & 0xFFFFFFFF, self.version, count)
        body = b"".join(struct.pack("<IIQQII", *row) for row in self.rows)
        at = self.size - self.distance
        if 0 <= at <= self.size - len(head + body):
            data[at : at + len(head + body)] = head + body
        entries = bytes(8) + struct.pack("<H", 26) + OTHER
        entries += struct.pack("<I", self.distance) + struct.pack("<H", self.entry_length) + self.entry
        table_length = len(entries) + 18 if self.table_length is None else self.table_length
        table = entries + struct.pack("<H", table_length) + self.footer
        data[self.size - 32 - len(table) : self.size - 32] = table
        return bytes(data)


def second_mr_td(data: bytes, rows: list[Row], *, single_pass: bool) -> bytes:
    """Compute MRTD a second way: the list of all SEAM calls first, then the hash."""
    calls: list[bytes] = []
    for offset, size, address, memory, _, attributes in rows:
        if attributes & 2:
            continue
        image = data[offset : offset + size] + b"\0" * (memory - size)
        adds = [struct.pack("<16sQ104x", b"MEM.PAGE.ADD", address + n) for n in range(0, memory, 4096)]
        extends = [
            b"".join(
                struct.pack("<16sQ104x", b"MR.EXTEND", address + n + m) + image[n + m : n + m + 256]
                for m in range(0, 4096, 256)
            )
            for n in range(0, memory, 4096)
        ]
        if not attributes & 1:
            calls += adds
        elif single_pass:
            calls += [add + extend for add, extend in zip(adds, extends, strict=True)]
        else:
            calls += adds + extends
    return hashlib.sha384(b"".join(calls)).digest()


def debian_firmware() -> list[Path]:
    """Give the firmware at hand: files of SERICIN_OVMF (colons between), a built image's, the distribution's."""
    named = [Path(name) for name in os.environ.get("SERICIN_OVMF", "").split(":") if name]
    built = Path(os.environ.get("SERICIN_IMAGE", ".")) / "OVMF.fd"
    return [path for path in [*named, built, Path("/usr/share/ovmf/OVMF.fd")] if path.is_file()]
