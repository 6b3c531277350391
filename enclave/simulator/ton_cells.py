# SPDX-License-Identifier: Apache-2.0
"""Cells, dictionaries and Merkle proofs of a simulated TON, on pytoniq-core: no code shared with what reads them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Final

from pytoniq_core.boc.builder import Builder
from pytoniq_core.boc.cell import Cell
from pytoniq_core.boc.hashmap.parse import deserialize_hml

_PRUNED: Final = 1
_MERKLE_PROOF: Final = 3
_MERKLE_UPDATE: Final = 4
_MAGIC: Final = bytes.fromhex("b5ee9c72")

Extra = Callable[[list[int]], Cell]


def dictionary(items: Mapping[int, Cell], bits: int, *, extra: Extra | None = None) -> Cell:
    """Write a `Hashmap bits X`; with `extra`, which gives an extra value of some keys, a `HashmapAug`."""
    keys = sorted(items)
    left = (keys[0] ^ keys[-1]).bit_length()
    builder = Builder().store_bits(_label(keys[0] >> left & (1 << bits - left) - 1, bits - left, bits))
    if left:
        for side in (0, 1):
            half = {key: items[key] for key in keys if key >> left - 1 & 1 == side}
            builder.store_ref(dictionary(half, left - 1, extra=extra))
    if extra is not None:
        builder.store_cell(extra(keys))
    if not left:
        builder.store_cell(items[keys[0]])
    return end(builder)


def maybe_dictionary(items: Mapping[int, Cell], bits: int, *, extra: Extra | None = None) -> Cell:
    """Write a `HashmapE` or `HashmapAugE` as the cell to append."""
    builder = Builder().store_maybe_ref(dictionary(items, bits, extra=extra) if items else None)
    return end(builder if extra is None else builder.store_cell(extra(sorted(items))))


def _label(label: int, length: int, most: int) -> str:
    """Give the shortest of the three forms of a label; the first of equals."""
    width = most.bit_length()
    text = f"{label:0{length}b}" if length else ""
    forms = ["0" + "1" * length + "0" + text, f"10{length:0{width}b}{text}"]
    if len(set(text)) == 1:
        forms.append(f"11{text[0]}{length:0{width}b}")
    return min(forms, key=len)


def way_down(root: Cell, key: int, bits: int) -> list[Cell]:
    """List the cells of a dictionary that show `key`, or where it would be."""
    way, at, left = [root], root, bits
    while True:
        length, label = deserialize_hml(at.begin_parse(), left)
        left -= length
        text = f"{key >> left & (1 << length) - 1:0{length}b}" if length else ""
        if not left or text != label.to01():
            return way
        left -= 1
        at = at.refs[key >> left & 1]
        way.append(at)


def everything(root: Cell) -> set[bytes]:
    """Give the hashes of `root` and all cells below it."""
    found, stack = set(), [root]
    while stack:
        cell = stack.pop()
        found.add(cell.hash)
        stack.extend(cell.refs)
    return found


def merkle_proof(root: Cell, shown: Iterable[Cell], *, whole: Collection[Cell] = ()) -> Cell:
    """Make the Merkle proof of `root` that shows `shown` and all below `whole`, and prunes every other cell."""
    keep = {root.hash} | {cell.hash for cell in shown}
    for cell in whole:
        keep |= everything(cell)
    data = Builder().store_uint(_MERKLE_PROOF, 8).store_bytes(root.hash).store_uint(root.get_depth(0), 16)
    return Cell(data.bits, [_prune(root, keep)], _MERKLE_PROOF)


def merkle_update(old: Cell, new: Cell) -> Cell:
    """Make the update from `old` to `new` that shows nothing of either."""
    data = Builder().store_uint(_MERKLE_UPDATE, 8).store_bytes(old.hash).store_bytes(new.hash)
    data.store_uint(old.get_depth(0), 16).store_uint(new.get_depth(0), 16)
    return Cell(data.bits, [_pruned(old), _pruned(new)], _MERKLE_UPDATE)


def _prune(cell: Cell, keep: set[bytes]) -> Cell:
    if cell.hash not in keep:
        return _pruned(cell)
    if cell.is_exotic or not cell.refs:
        return cell
    return Cell(cell.bits, [_prune(ref, keep) for ref in cell.refs])


def _pruned(cell: Cell) -> Cell:
    data = Builder().store_uint(_PRUNED, 8).store_uint(1, 8).store_bytes(cell.hash)
    return Cell(data.store_uint(cell.get_depth(0), 16).bits, [], _PRUNED)


def bag(*roots: Cell) -> bytes:
    """Serialise `roots` as one bag of cells: no index, no checksum, every cell once, parents first."""
    order: dict[bytes, Cell] = {}
    for root in roots:
        _visit(root, order)
    cells = list(reversed(order.values()))
    place = {cell.hash: index for index, cell in enumerate(cells)}
    width = (len(cells).bit_length() + 7) // 8
    body = b"".join(
        cell.get_descriptors(cell.level_mask)
        + cell.get_data_bytes()
        + b"".join(place[ref.hash].to_bytes(width, "big") for ref in cell.refs)
        for cell in cells
    )
    size = (len(body).bit_length() + 7) // 8
    counts = b"".join(number.to_bytes(width, "big") for number in (len(cells), len(roots), 0))
    heads = b"".join(place[root.hash].to_bytes(width, "big") for root in roots)
    return _MAGIC + bytes((width, size)) + counts + len(body).to_bytes(size, "big") + heads + body


def _visit(cell: Cell, order: dict[bytes, Cell]) -> None:
    if cell.hash in order:
        return
    for ref in cell.refs:
        _visit(ref, order)
    order[cell.hash] = cell


def end(builder: Builder) -> Cell:
    """Finish a cell."""
    cell: Cell = builder.end_cell()
    return cell
