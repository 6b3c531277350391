# SPDX-License-Identifier: Apache-2.0
"""A bag of cells: read strictly, written in one form.

Accepted is what every serialiser of TON writes for proofs: the generic form without index and stored hashes, every
cell used, none twice, nothing behind the end. Time and memory are linear in the size of the input.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from ..errors import Malformed
from ..wire import Reader
from .cells import MAX_REFS, ORDINARY, Cell, make_cell

_MAGIC: Final = bytes.fromhex("b5ee9c72")
_HAS_CRC: Final = 0x40
_REFUSED_FLAGS: Final = 0xB8  # index, cache bits, reserved


def _crc_table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return tuple(table)


_CRC_TABLE: Final = _crc_table()


def crc32c(data: bytes, *, start: int = 0) -> int:
    """Compute CRC-32C (Castagnoli) of `data`; `start` is the result for what went before."""
    crc = start ^ 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _CRC_TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def read_boc(
    data: bytes, *, what: str, roots: int = 1, limit: int, max_cells: int, code: str = "MalformedCell"
) -> tuple[Cell, ...]:
    """Read a bag of exactly `roots` roots, `limit` bytes and `max_cells` cells at most. Raises Malformed."""
    if len(data) > limit:
        raise Malformed(code, what, want=f"at most {limit} bytes", got=len(data))
    reader = Reader(data, what=what, code=code)
    if reader.take(4, "magic") != _MAGIC:
        raise Malformed(code, f"{what}.magic", want=_MAGIC.hex(), got=data[:4].hex())
    flags = reader.u8("flags")
    width, offset_width = flags & 7, reader.u8("offset width")
    if flags & _REFUSED_FLAGS or not 1 <= width <= 4 or not 1 <= offset_width <= 8:
        raise Malformed(
            code, f"{what}.flags", want="no index, reference width 1 to 4", got=f"{flags:#04x}, {offset_width}"
        )
    count, found, absent = (reader.uint(width, field, "big") for field in ("cells", "roots", "absent"))
    size = reader.uint(offset_width, "size", "big")
    if found != roots or absent or not roots <= count <= max_cells:
        raise Malformed(
            code, f"{what}.counts", want=f"{roots} roots, at most {max_cells} cells", got=f"{found}, {count}"
        )
    heads = [reader.uint(width, "root", "big") for _ in range(found)]
    body = reader.take(size, "body")
    if flags & _HAS_CRC and crc32c(reader.taken()) != reader.u32le("crc"):
        raise Malformed(code, f"{what}.crc", want="CRC-32C of the bag", got="another")
    reader.end(code=code)
    raw = _split(body, count, width, what, code)
    _require_all_used(raw, heads, what, code)
    cells = _build(raw, what, code)
    return tuple(cells[head] for head in heads)


_Raw = tuple[int, int, bytes, list[int]]


def _split(body: bytes, count: int, width: int, what: str, code: str) -> list[_Raw]:
    reader = Reader(body, what=what, code=code)
    raw: list[_Raw] = []
    for index in range(count):
        d1, d2 = reader.take(2, "d1 and d2")
        refs = d1 & 7
        if refs > MAX_REFS or d1 & 16:
            raise Malformed(code, f"{what}.cell[{index}]", want="at most 4 refs, no stored hashes", got=f"{d1:#04x}")
        data = reader.take((d2 + 1) // 2, "data")
        bits = len(data) * 8
        if d2 & 1:
            last = data[-1]
            if not last & 0x7F:
                raise Malformed(code, f"{what}.cell[{index}]", want="a completion tag", got=f"{last:#04x}")
            bits -= (last & -last).bit_length()
        links = [reader.uint(width, "ref", "big") for _ in range(refs)] if refs else []
        if links and not index < min(links) <= max(links) < count:
            raise Malformed(code, f"{what}.cell[{index}].refs", want="cells further on", got=links)
        raw.append((d1, bits, data, links))
    reader.end(code=code)
    return raw


def _build(raw: list[_Raw], what: str, code: str) -> list[Cell]:
    cells: dict[int, Cell] = {}
    seen: set[bytes] = set()
    for index in range(len(raw) - 1, -1, -1):
        d1, bits, data, links = raw[index]
        refs = tuple(cells[link] for link in links)
        kind = (data[0] if data else 0) if d1 & 8 else ORDINARY
        cell = make_cell(data, bits, refs, kind, code=code)
        if d1 >> 5 != cell.mask:
            raise Malformed(code, f"{what}.cell[{index}].level", want=cell.mask, got=d1 >> 5)
        if cell.hash in seen:
            raise Malformed(code, f"{what}.cell[{index}]", want="every cell once", got="a cell twice")
        seen.add(cell.hash)
        cells[index] = cell
    return [cells[index] for index in range(len(raw))]


def _require_all_used(raw: list[_Raw], heads: list[int], what: str, code: str) -> None:
    if len(set(heads)) != len(heads) or max(heads) >= len(raw):
        raise Malformed(code, f"{what}.roots", want="different cells of the bag", got=heads)
    used = set(heads)
    for _, _, _, links in raw:
        used.update(links)
    if len(used) != len(raw):
        raise Malformed(code, what, want="every cell used", got=f"{len(raw) - len(used)} unused")


def write_boc(*roots: Cell) -> bytes:
    """Write `roots` as one bag: parents before children, every cell once, no index, no checksum."""
    order: dict[bytes, Cell] = {}
    for root in roots:
        _visit(root, order)
    cells = list(reversed(order.values()))
    index = {cell.hash: at for at, cell in enumerate(cells)}
    width = max(1, (len(cells).bit_length() + 7) // 8)
    body = bytearray()
    for cell in cells:
        d1 = len(cell.refs) + 8 * (cell.kind != ORDINARY) + 32 * cell.mask
        body += bytes((d1, cell.bits // 8 + (cell.bits + 7) // 8)) + cell.data
        for ref in cell.refs:
            body += index[ref.hash].to_bytes(width, "big")
    return bag(len(cells), width, [index[root.hash] for root in roots], bytes(body))


def bag(count: int, width: int, heads: Sequence[int], body: bytes) -> bytes:
    """Put the header in front of `count` serialised cells whose references take `width` bytes."""
    offset_width = max(1, (len(body).bit_length() + 7) // 8)
    numbers = (count, len(heads), 0)
    return b"".join(
        (
            _MAGIC,
            bytes((width, offset_width)),
            *(number.to_bytes(width, "big") for number in numbers),
            len(body).to_bytes(offset_width, "big"),
            *(head.to_bytes(width, "big") for head in heads),
            body,
        )
    )


def _visit(root: Cell, order: dict[bytes, Cell]) -> None:
    """Add `root` and all below it to `order`, children first, without recursion."""
    stack: list[tuple[Cell, bool]] = [(root, False)]
    while stack:
        cell, below_done = stack.pop()
        if below_done:
            order.setdefault(cell.hash, cell)
        elif cell.hash not in order:
            stack.append((cell, True))
            stack.extend((ref, False) for ref in cell.refs)
