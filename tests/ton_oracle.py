# SPDX-License-Identifier: Apache-2.0
"""pytoniq-core as the oracle for cells, dictionaries and Merkle proofs. Tests only."""

from __future__ import annotations

import random  # noqa: TID251 - seeded: the same bodies on every run
from collections.abc import Callable
from typing import Any, TypeAlias

import pytoniq_core

from attestation.batch_tree import Leaf

OracleCell: TypeAlias = Any  # the library ships without types of its own
_library: Any = pytoniq_core
begin: Callable[[], Any] = _library.begin_cell


def read(boc: bytes) -> OracleCell:
    """Read a bag of one root."""
    return _library.Cell.one_from_boc(boc)


def dictionary(cells: dict[int, OracleCell], bits: int = 32) -> OracleCell:
    """Make a dictionary of references."""
    made = _library.HashMap(bits, value_serializer=lambda src, dest: dest.store_ref(src))
    for key, cell in cells.items():
        made.set_int_key(key, cell)
    root = made.serialize()
    assert root is not None
    return root


def batch(count: int, seed: int) -> tuple[list[Leaf], OracleCell, list[OracleCell]]:
    """Make `count` two-cell receipts and their dictionary."""
    rng = random.Random(seed)
    cells: list[OracleCell] = []
    for _ in range(count):
        inner = begin().store_uint(rng.getrandbits(256), 256).end_cell()
        cells.append(begin().store_uint(rng.getrandbits(900), 900).store_ref(inner).end_cell())
    return [Leaf(c.hash, c.get_depth()) for c in cells], dictionary(dict(enumerate(cells))), cells


def merkle_proof(root: OracleCell, keep: set[bytes]) -> OracleCell:
    """Make a Merkle proof of `root` that shows the cells in `keep` and prunes every other."""
    bits = begin().store_uint(3, 8).store_bytes(root.hash).store_uint(root.get_depth(), 16).end_cell().bits
    return _library.Cell(bits, [_prune(root, keep)], 3)


def _prune(cell: OracleCell, keep: set[bytes]) -> OracleCell:
    if cell.hash not in keep:
        depth = cell.get_depth()
        bits = begin().store_uint(0x0101, 16).store_bytes(cell.hash).store_uint(depth, 16).end_cell().bits
        return _library.Cell(bits, [], 1)
    return _library.Cell(cell.bits, [_prune(ref, keep) for ref in cell.refs], cell.type_)


def path_to(cell: OracleCell, target: bytes) -> set[bytes] | None:
    """Find the cells from `cell` down to the parent of `target`."""
    if cell.hash == target:
        return set()
    for ref in cell.refs:
        below = path_to(ref, target)
        if below is not None:
            return below | {cell.hash}
    return None
