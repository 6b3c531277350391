# SPDX-License-Identifier: Apache-2.0
"""Make a Merkle proof: of a tree, show the cells that matter and prune the rest."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from .cells import MERKLE_PROOF, ORDINARY, PRUNED_BRANCH, Cell, make_cell

_MASK: Final = 1


def merkle_proof(root: Cell, shown: Collection[Cell]) -> Cell:
    """Give the Merkle-proof cell over `root` that shows the cells of `shown` on the way down and no others.

    `root` is an ordinary tree of level 0 without exotic cells among those shown. Raises ValueError otherwise.
    """
    keep = {cell.hash for cell in shown} | {root.hash}
    child = _pruned(root, keep)
    data = bytes((MERKLE_PROOF,)) + root.hash + root.depth.to_bytes(2, "big")
    return make_cell(data, len(data) * 8, (child,), MERKLE_PROOF)


def _pruned(cell: Cell, keep: set[bytes]) -> Cell:
    if cell.hash not in keep:
        data = bytes((PRUNED_BRANCH, _MASK)) + cell.hash + cell.depth.to_bytes(2, "big")
        return make_cell(data, len(data) * 8, (), PRUNED_BRANCH)
    if cell.kind != ORDINARY or cell.mask:
        raise ValueError("only ordinary cells of level 0 can be shown")
    if not cell.refs:
        return cell
    return make_cell(cell.data, cell.bits, tuple(_pruned(ref, keep) for ref in cell.refs))
