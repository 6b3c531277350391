# SPDX-License-Identifier: Apache-2.0
"""Look a key up in a TON dictionary of which a proof shows only one path (TL-B `Hashmap`, `HashmapAug`)."""

from __future__ import annotations

from .cells import Cell
from .slices import Slice


def lookup(root: Cell, key: int, bits: int, *, what: str, code: str) -> Slice | None:
    """Find `key` of `bits` bits below `root`: the slice behind the leaf's label, or None when its absence is proved.

    In a `HashmapAug` the slice begins with the extra value. Raises Malformed with `code` when the path is not there.
    """
    at, left = root, bits
    while True:
        node = Slice(at, what=what, code=code)
        length, label = take_label(node, left)
        left -= length
        if key >> left & ((1 << length) - 1) != label:
            return None
        if not left:
            return node
        left -= 1
        zero, one = node.ref("left"), node.ref("right")
        at = one if key >> left & 1 else zero


def take_label(node: Slice, most: int) -> tuple[int, int]:
    """Take an `HmLabel ~n most`: its length and its bits as an integer."""
    if not node.flag("label"):
        length = 0
        while node.flag("label"):
            length += 1
        _within(node, length, most)
        return length, node.uint(length, "label")
    width = most.bit_length()
    if not node.flag("label"):
        length = node.uint(width, "label")
        _within(node, length, most)
        return length, node.uint(length, "label")
    repeated = node.flag("label")
    length = node.uint(width, "label")
    _within(node, length, most)
    return length, ((1 << length) - 1) * repeated


def _within(node: Slice, length: int, most: int) -> None:
    if length > most:
        raise node.malformed("label", want=f"at most {most} bits", got=length)


def label_bits(label: int, length: int, most: int) -> tuple[int, int]:
    """Give the one encoding of a label that TON's dictionaries use, as (value, width)."""
    width = most.bit_length()
    ones = (1 << length) - 1
    if label in (0, ones) and length > 1 and width < 2 * length - 1:
        return (6 + (label != 0)) << width | length, 3 + width
    if width < length:
        return (2 << width | length) << length | label, 2 + width + length
    return ((ones << 1) << length) | label, 2 + 2 * length


def items(root: Cell, bits: int, *, most: int, what: str, code: str) -> list[tuple[int, Slice]]:
    """List a whole dictionary in the order of its keys, at most `most` entries.

    Raises Malformed with `code`, also for a dictionary of which anything is pruned.
    """
    found: list[tuple[int, Slice]] = []
    stack = [(root, 0, bits)]
    while stack:
        at, prefix, left = stack.pop()
        node = Slice(at, what=what, code=code)
        length, label = take_label(node, left)
        left -= length
        key = prefix << length | label
        if left:
            zero, one = node.ref("left"), node.ref("right")
            stack += [(one, key << 1 | 1, left - 1), (zero, key << 1, left - 1)]
            continue
        if len(found) == most:
            raise node.malformed("entries", want=f"at most {most}", got="more")
        found.append((key, node))
    return found


def path_to(root: Cell, key: int, bits: int, *, what: str, code: str) -> list[Cell]:
    """List the cells of the path that shows `key`, or that it is absent. Raises Malformed with `code`."""
    at, left = root, bits
    path = []
    while True:
        path.append(at)
        node = Slice(at, what=what, code=code)
        length, label = take_label(node, left)
        left -= length
        if not left or key >> left & ((1 << length) - 1) != label:
            return path
        left -= 1
        at = at.refs[key >> left & 1]
