# SPDX-License-Identifier: Apache-2.0
"""Take fields off an untrusted cell, and put fields into a new one."""

from __future__ import annotations

from ..errors import Malformed
from .cells import MAX_BITS, MAX_REFS, ORDINARY, PRUNED_BRANCH, Cell, make_cell


class Slice:
    """Takes bits and references off one cell in order, and never past its end."""

    __slots__ = ("_at", "_code", "_next", "_value", "_what", "cell")

    def __init__(self, cell: Cell, *, what: str, code: str, kind: int = ORDINARY) -> None:
        if cell.kind != kind:
            got = "a pruned branch" if cell.kind == PRUNED_BRANCH else f"kind {cell.kind}"
            raise Malformed(code, what, want="an ordinary cell" if kind == ORDINARY else f"kind {kind}", got=got)
        self.cell = cell
        self._value = int.from_bytes(cell.data, "big") >> (-cell.bits % 8)
        self._at = 0
        self._next = 0
        self._what = what
        self._code = code

    @property
    def bits_left(self) -> int:
        """Bits not yet taken."""
        return self.cell.bits - self._at

    @property
    def refs_left(self) -> int:
        """References not yet taken."""
        return len(self.cell.refs) - self._next

    def uint(self, width: int, field: str) -> int:
        """Take an unsigned integer of `width` bits."""
        if not 0 <= width <= self.bits_left:
            raise Malformed(self._code, f"{self._what}.{field}", want=f"{width} bits", got=f"{self.bits_left} left")
        self._at += width
        return self._value >> (self.cell.bits - self._at) & ((1 << width) - 1)

    def signed(self, width: int, field: str) -> int:
        """Take a signed integer of `width` bits."""
        value = self.uint(width, field)
        return value - (value >> (width - 1) << width)

    def flag(self, field: str) -> bool:
        """Take one bit."""
        return bool(self.uint(1, field))

    def octets(self, size: int, field: str) -> bytes:
        """Take `size` whole bytes."""
        return self.uint(size * 8, field).to_bytes(size, "big")

    def tag(self, width: int, value: int, field: str = "tag") -> None:
        """Take a constructor tag and require `value`."""
        got = self.uint(width, field)
        if got != value:
            raise Malformed(self._code, f"{self._what}.{field}", want=hex(value), got=hex(got))

    def coins(self, field: str) -> int:
        """Take a VarUInteger 16, in nanograms."""
        return self.uint(8 * self.uint(4, field), field)

    def ref(self, field: str) -> Cell:
        """Take the next reference, whatever it is."""
        if not self.refs_left:
            raise Malformed(self._code, f"{self._what}.{field}", want="a reference", got="none left")
        self._next += 1
        return self.cell.refs[self._next - 1]

    def child(self, field: str) -> Slice:
        """Take the next reference, which must be an ordinary cell, and read on there."""
        return Slice(self.ref(field), what=f"{self._what}.{field}", code=self._code)

    def maybe_ref(self, field: str) -> Cell | None:
        """Take a Maybe ^Cell."""
        return self.ref(field) if self.flag(field) else None

    def malformed(self, field: str, *, want: object, got: object) -> Malformed:
        """Make the error for a field that is there but not what it must be."""
        return Malformed(self._code, f"{self._what}.{field}", want=want, got=got)

    def end(self) -> None:
        """Require that neither bits nor references are left."""
        if self.bits_left or self.refs_left:
            raise Malformed(
                self._code, self._what, want="end of cell", got=f"{self.bits_left} bits, {self.refs_left} refs"
            )


class Builder:
    """Puts fields together into an ordinary cell. A value that does not fit is the caller's bug: ValueError."""

    __slots__ = ("_bits", "_refs", "_value")

    def __init__(self) -> None:
        self._value = 0
        self._bits = 0
        self._refs: list[Cell] = []

    def uint(self, value: int, width: int) -> Builder:
        """Append an unsigned integer of `width` bits."""
        if not 0 <= value < 1 << width or self._bits + width > MAX_BITS:
            raise ValueError(f"does not fit {width} bits, or the cell is full")
        self._value = self._value << width | value
        self._bits += width
        return self

    def octets(self, value: bytes, size: int) -> Builder:
        """Append exactly `size` bytes."""
        if len(value) != size:
            raise ValueError(f"want {size} bytes, got {len(value)}")
        return self.uint(int.from_bytes(value, "big"), size * 8)

    def coins(self, value: int) -> Builder:
        """Append a VarUInteger 16."""
        size = (value.bit_length() + 7) // 8
        return self.uint(size, 4).uint(value, size * 8)

    def ref(self, cell: Cell) -> Builder:
        """Append a reference."""
        if len(self._refs) == MAX_REFS:
            raise ValueError("a cell has at most 4 references")
        self._refs.append(cell)
        return self

    def maybe_ref(self, cell: Cell | None) -> Builder:
        """Append a Maybe ^Cell."""
        return self.uint(0, 1) if cell is None else self.uint(1, 1).ref(cell)

    def cell(self) -> Cell:
        """Give the finished cell."""
        spare = -self._bits % 8
        value = self._value << spare | (1 << spare - 1 if spare else 0)
        return make_cell(value.to_bytes((self._bits + 7) // 8, "big"), self._bits, tuple(self._refs))
