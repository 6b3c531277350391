# SPDX-License-Identifier: Apache-2.0
"""What a TON cell is and what it hashes to, exotic cells included (TVM white paper, section 3.1).

A cell whose rules do not hold (a Merkle proof that disagrees with its child, a pruned branch of a wrong size) cannot
be made: whoever holds a `Cell` may rely on them.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

from ..errors import Malformed

ORDINARY: Final = -1
PRUNED_BRANCH: Final = 1
LIBRARY_REFERENCE: Final = 2
MERKLE_PROOF: Final = 3
MERKLE_UPDATE: Final = 4

MAX_BITS: Final = 1023
MAX_REFS: Final = 4
MAX_DEPTH: Final = 1024  # as in TON; a masterchain state was 518 deep in 2026
LEVELS: Final = 4
_POINTER_BITS: Final = 256 + 16  # a hash and a depth


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Cell:
    """An immutable cell. `hashes[l]` and `depths[l]` are of level `l`: 0 is what a proof proves, 3 the cell's own."""

    kind: int
    data: bytes  # with the completion tag, zero-padded to whole bytes
    bits: int
    refs: tuple[Cell, ...]
    mask: int  # level mask
    hashes: tuple[bytes, bytes, bytes, bytes]
    depths: tuple[int, int, int, int]

    @property
    def hash(self) -> bytes:
        """The representation hash, 32 bytes. Inside a proof compare `hashes[0]` instead."""
        return self.hashes[3]

    @property
    def depth(self) -> int:
        """The depth that goes with `hash`."""
        return self.depths[3]

    def __repr__(self) -> str:
        """Show kind, size and hash."""
        return f"<Cell {self.kind} {self.bits} bits, {len(self.refs)} refs, {self.hash.hex()[:16]}>"


def make_cell(
    data: bytes, bits: int, refs: tuple[Cell, ...] = (), kind: int = ORDINARY, *, code: str = "MalformedCell"
) -> Cell:
    """Make a cell of `bits` bits; `data` has them with the completion tag. Raises Malformed when a rule is broken."""
    if not 0 <= bits <= MAX_BITS or len(refs) > MAX_REFS or len(data) != (bits + 7) // 8:
        raise Malformed(code, "cell", want="at most 1023 bits and 4 refs", got=f"{bits} bits, {len(refs)} refs")
    if kind == ORDINARY:
        mask = 0
        for ref in refs:
            mask |= ref.mask
        if not mask:
            return _plain(data, bits, refs, code)
        return _leveled(data, bits, refs, kind, mask, 0, code)
    if not bits >= 8 or data[0] != kind:
        raise Malformed(code, "cell.kind", want=kind, got=data[:1].hex())
    if kind == PRUNED_BRANCH:
        return _pruned(data, bits, refs, code)
    if kind == LIBRARY_REFERENCE:
        if refs or bits != 8 + 256:
            raise Malformed(code, "cell.library", want="264 bits and no refs", got=f"{bits} bits, {len(refs)} refs")
        return _leveled(data, bits, refs, kind, 0, 0, code)
    return _merkle(data, bits, refs, kind, code)


def _plain(data: bytes, bits: int, refs: tuple[Cell, ...], code: str) -> Cell:
    depth = 0
    body = bytes((len(refs), bits // 8 + (bits + 7) // 8)) + data
    for ref in refs:
        depth = max(depth, ref.depths[0] + 1)
        body += ref.depths[0].to_bytes(2, "big")
    for ref in refs:
        body += ref.hashes[0]
    if depth > MAX_DEPTH:
        raise Malformed(code, "cell.depth", want=f"at most {MAX_DEPTH}", got=depth)
    digest = hashlib.sha256(body).digest()
    return Cell(ORDINARY, data, bits, refs, 0, (digest,) * 4, (depth,) * 4)


def _leveled(data: bytes, bits: int, refs: tuple[Cell, ...], kind: int, mask: int, down: int, code: str) -> Cell:
    """Hash once per significant level; `down` is 1 for Merkle cells, whose children are one level deeper."""
    d2 = bits // 8 + (bits + 7) // 8
    hashes: list[bytes] = []
    depths: list[int] = []
    for level in range(LEVELS):
        if level and not mask >> (level - 1) & 1:
            hashes.append(hashes[-1])
            depths.append(depths[-1])
            continue
        below = min(level + down, LEVELS - 1)
        d1 = len(refs) + 8 * (kind != ORDINARY) + 32 * (mask & ((1 << level) - 1))
        body = bytes((d1, d2)) + (hashes[-1] if level else data)
        body += b"".join(ref.depths[below].to_bytes(2, "big") for ref in refs)
        body += b"".join(ref.hashes[below] for ref in refs)
        depth = max((ref.depths[below] + 1 for ref in refs), default=0)
        if depth > MAX_DEPTH:
            raise Malformed(code, "cell.depth", want=f"at most {MAX_DEPTH}", got=depth)
        hashes.append(hashlib.sha256(body).digest())
        depths.append(depth)
    h, d = hashes, depths
    return Cell(kind, data, bits, refs, mask, (h[0], h[1], h[2], h[3]), (d[0], d[1], d[2], d[3]))


def _pruned(data: bytes, bits: int, refs: tuple[Cell, ...], code: str) -> Cell:
    mask = data[1] if bits >= 16 else 0
    stored = mask.bit_count()
    if refs or not 1 <= mask <= 7 or bits != 16 + stored * _POINTER_BITS:
        raise Malformed(code, "cell.pruned", want="16 + 272 bits per level", got=f"{bits} bits, mask {mask}")
    own = hashlib.sha256(bytes((8 + 32 * mask, bits // 4)) + data).digest()
    hashes: list[bytes] = []
    depths: list[int] = []
    for level in range(LEVELS):
        at = (mask & ((1 << level) - 1)).bit_count()
        if at == stored:
            hashes.append(own)
            depths.append(0)
        else:
            hashes.append(data[2 + 32 * at : 34 + 32 * at])
            depth = 2 + 32 * stored + 2 * at
            depths.append(int.from_bytes(data[depth : depth + 2], "big"))
    h, d = hashes, depths
    return Cell(PRUNED_BRANCH, data, bits, refs, mask, (h[0], h[1], h[2], h[3]), (d[0], d[1], d[2], d[3]))


def _merkle(data: bytes, bits: int, refs: tuple[Cell, ...], kind: int, code: str) -> Cell:
    count = {MERKLE_PROOF: 1, MERKLE_UPDATE: 2}.get(kind)
    if count is None or len(refs) != count or bits != 8 + count * _POINTER_BITS:
        raise Malformed(
            code, "cell.exotic", want="a known exotic cell", got=f"kind {kind}, {bits} bits, {len(refs)} refs"
        )
    mask = 0
    for at, ref in enumerate(refs):
        depth = 1 + 32 * count + 2 * at
        if data[1 + 32 * at : 33 + 32 * at] != ref.hashes[0]:
            raise Malformed(code, "cell.merkle.hash", want="the child's hash", got="another")
        if int.from_bytes(data[depth : depth + 2], "big") != ref.depths[0]:
            raise Malformed(code, "cell.merkle.depth", want=ref.depths[0], got="another")
        mask |= ref.mask
    return _leveled(data, bits, refs, kind, mask >> 1, 1, code)
