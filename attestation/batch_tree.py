# SPDX-License-Identifier: Apache-2.0
"""The dictionary of a batch, by hashes alone: its root, and a Merkle proof of any position.

A batch is a TON `Hashmap 32 ^Receipt` whose keys are the positions 0 to n-1. Such a dictionary has one shape, so its
root and proofs follow from the receipts' hashes and depths without making a single cell (docs/ton.md, Batches).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from .ton.boc import bag
from .ton.hashmap import label_bits

KEY_BITS: Final = 32
MAX_LEAVES: Final = 1 << 20
MAX_LEAF_DEPTH: Final = 256  # of a receipt: it has 2, extensions may add some

_sha256 = hashlib.sha256
_EMPTY_LABEL: Final = b"\x20"  # hml_short, length 0, completion tag
_FORK: Final = b"\x02\x01" + _EMPTY_LABEL
_LEAF: Final = b"\x01\x01" + _EMPTY_LABEL
_PRUNED: Final = b"\x28\x48\x01\x01"  # exotic, level 1, 36 bytes; type 1, mask 1


@dataclass(frozen=True, slots=True)
class Leaf:
    """A receipt as the tree sees it: its representation hash (32 bytes) and its depth."""

    hash: bytes
    depth: int


@dataclass(frozen=True, slots=True)
class _Node:
    hash: bytes
    depth: int


class BatchTree:
    """All node hashes of one batch's dictionary: about 100 bytes a receipt, made once, read by every proof."""

    __slots__ = ("_leaves", "_levels", "_root")

    def __init__(self, leaves: Sequence[Leaf]) -> None:
        if not 1 <= len(leaves) <= MAX_LEAVES:
            raise ValueError(f"a batch has 1 to {MAX_LEAVES} receipts")
        if any(len(leaf.hash) != 32 or not 0 <= leaf.depth <= MAX_LEAF_DEPTH for leaf in leaves):
            raise ValueError("a leaf has a 32-byte hash and a small depth")
        self._leaves = tuple(leaves)
        self._levels = _full_levels(self._leaves)
        self._root = self._edge(0, KEY_BITS)

    def __len__(self) -> int:
        return len(self._leaves)

    @property
    def root(self) -> bytes:
        """The representation hash of the dictionary's root cell."""
        return self._root.hash

    def _keys(self, first: int, height: int) -> int:
        """Count the keys from `first` on below an edge of `height` bits."""
        return min(len(self._leaves) - first, 1 << height)

    def _edge(self, first: int, height: int) -> _Node:
        """Give the edge cell that holds keys `first` on, `height` key bits to go. Only the right spine is computed."""
        keys = self._keys(first, height)
        if keys == 1 << height:
            digest, depth = self._levels[height]
            return _Node(digest[first >> height], depth[first >> height])
        below = (keys - 1).bit_length()
        label = _label(height - below, height)
        if not below:
            leaf = self._leaves[first]
            return _Node(_sha256(b"\x01" + label + leaf.depth.to_bytes(2, "big") + leaf.hash).digest(), leaf.depth + 1)
        half = 1 << below - 1
        left, right = self._edge(first, below - 1), self._edge(first + half, below - 1)
        depths = left.depth.to_bytes(2, "big") + right.depth.to_bytes(2, "big")
        digest_one = _sha256(b"\x02" + label + depths + left.hash + right.hash).digest()
        return _Node(digest_one, max(left.depth, right.depth) + 1)

    def prove(self, index: int) -> bytes:
        """Give the Merkle proof cell of position `index` as a bag of cells: siblings and the receipt itself pruned."""
        if not 0 <= index < len(self._leaves):
            raise IndexError(index)
        path: list[bytes] = []  # descriptors and data of every cell on the way down
        siblings: list[_Node] = []
        sides: list[int] = []
        first, height = 0, KEY_BITS
        while True:
            below = (self._keys(first, height) - 1).bit_length()
            label = _label(height - below, height)
            path.append(label)
            if not below:
                break
            height = below - 1
            side = index - first >> height & 1
            siblings.append(self._edge(first if side else first + (1 << height), height))
            sides.append(side)
            first += side << height
        return self._bag(path, siblings, sides, self._leaves[index])

    def _bag(self, path: list[bytes], siblings: list[_Node], sides: list[int], leaf: Leaf) -> bytes:
        """Serialise: the proof cell, then each path cell followed by its pruned branches."""
        body = [b"\x09\x46\x03" + self._root.hash + self._root.depth.to_bytes(2, "big") + b"\x01"]
        at = 1
        for cell, sibling, side in zip(path, siblings, sides, strict=False):
            order = (at + 1, at + 2) if side else (at + 2, at + 1)
            body.append(b"\x22" + cell + bytes(order))
            body.append(_PRUNED + sibling.hash + sibling.depth.to_bytes(2, "big"))
            at += 2
        body.append(b"\x21" + path[-1] + bytes((at + 1,)))
        body.append(_PRUNED + leaf.hash + leaf.depth.to_bytes(2, "big"))
        return bag(at + 2, 1, [0], b"".join(body))


def _label(length: int, most: int) -> bytes:
    """Give d2 and data of a cell that holds a label of `length` zeros and nothing else."""
    value, width = label_bits(0, length, most)
    size = (width + 7) // 8
    if width % 8 == 0:
        return bytes((2 * size,)) + value.to_bytes(size, "big")
    spare = size * 8 - width
    return bytes((2 * size - 1,)) + (value << spare | 1 << spare - 1).to_bytes(size, "big")


def _full_levels(leaves: Sequence[Leaf]) -> list[tuple[list[bytes], list[int]]]:
    """Hash every complete subtree, from the leaves up: `levels[h][b]` holds keys b * 2**h to (b + 1) * 2**h - 1."""
    hashes = [_sha256(_LEAF + leaf.depth.to_bytes(2, "big") + leaf.hash).digest() for leaf in leaves]
    depths = [leaf.depth + 1 for leaf in leaves]
    levels = [(hashes, depths)]
    while len(hashes) > 1:
        pairs = len(hashes) // 2
        even, odd = hashes[0 : 2 * pairs : 2], hashes[1 : 2 * pairs : 2]
        even_depth, odd_depth = depths[0 : 2 * pairs : 2], depths[1 : 2 * pairs : 2]
        hashes = [
            _sha256(_FORK + bytes((a >> 8, a & 255, b >> 8, b & 255)) + left + right).digest()
            for left, right, a, b in zip(even, odd, even_depth, odd_depth, strict=True)
        ]
        depths = [max(a, b) + 1 for a, b in zip(even_depth, odd_depth, strict=True)]
        levels.append((hashes, depths))
    return levels
