# SPDX-License-Identifier: Apache-2.0
"""Cells, bags of cells and dictionaries: equal to pytoniq-core's, and nothing else is read."""

from __future__ import annotations

import random  # noqa: TID251 - seeded: the same trees on every run
from collections.abc import Callable
from typing import Any

import pytest

from attestation.errors import Malformed
from attestation.ton.boc import bag, crc32c, read_boc, write_boc
from attestation.ton.cells import (
    LIBRARY_REFERENCE,
    MAX_DEPTH,
    MERKLE_PROOF,
    MERKLE_UPDATE,
    ORDINARY,
    PRUNED_BRANCH,
    Cell,
    make_cell,
)
from attestation.ton.hashmap import items, lookup, path_to, take_label
from attestation.ton.pruning import merkle_proof
from attestation.ton.slices import Builder, Slice
from tests import ton_oracle
from tests.ton_cells import hashmap
from tests.ton_refusals import refuse

EMPTY = Builder().cell()


def tree(rng: random.Random, depth: int) -> Cell:
    builder = Builder()
    bits = rng.randrange(1024)
    builder.uint(rng.getrandbits(bits) if bits else 0, bits)
    for _ in range(rng.randrange(5) if depth else 0):
        builder.ref(tree(rng, depth - 1))
    return builder.cell()


def read(data: bytes, **how: Any) -> Cell:
    (cell,) = read_boc(data, **{"what": "bag", "limit": 1 << 20, "max_cells": 1 << 12, **how})
    return cell


def all_cells(root: Cell) -> list[Cell]:
    return [root, *(cell for ref in root.refs for cell in all_cells(ref))]


# ---- equal to the oracle


def test_random_trees_and_their_proofs_equal_the_oracle() -> None:
    rng = random.Random(1)
    for _ in range(40):
        root = tree(rng, 4)
        data = write_boc(root)
        theirs = ton_oracle.read(data)
        assert theirs.hash == root.hash
        assert theirs.get_depth() == root.depth
        assert read(data).hash == root.hash
        assert read(theirs.to_boc()).hash == root.hash
        assert read(theirs.to_boc(hash_crc32=True)).hash == root.hash
        shown = rng.sample(all_cells(root), k=min(3, len(all_cells(root))))
        proof = merkle_proof(root, shown)
        again = ton_oracle.read(write_boc(proof))
        assert again.hash == proof.hash
        assert proof.refs[0].hashes[0] == root.hash
        assert (
            ton_oracle.merkle_proof(ton_oracle.read(data), {cell.hash for cell in shown} | {root.hash}).hash
            == proof.hash
        )


def test_levels_of_proofs_in_proofs_equal_the_oracle() -> None:
    """A tree of level 1 inside a proof inside an update: every hash of every level."""
    inner = merkle_proof(Builder().uint(7, 9).ref(EMPTY).cell(), [])
    level_one = inner.refs[0]
    assert (level_one.mask, inner.mask) == (1, 0)
    deep = bytes((PRUNED_BRANCH, 3)) + b"\x01" * 32 + b"\x02" * 32 + b"\0\x05\0\x06"
    level_two = make_cell(deep, len(deep) * 8, (), PRUNED_BRANCH)
    mixed = Builder().ref(level_one).ref(level_two).cell()
    data = b"\x03" + mixed.hashes[0] + mixed.depths[0].to_bytes(2, "big")
    high = make_cell(data, len(data) * 8, (mixed,), MERKLE_PROOF)
    data = (
        b"\x04"
        + high.hashes[0]
        + mixed.hashes[0]
        + high.depths[0].to_bytes(2, "big")
        + mixed.depths[0].to_bytes(2, "big")
    )
    top = make_cell(data, len(data) * 8, (high, mixed), MERKLE_UPDATE)
    for cell in (mixed, high, top):
        theirs = ton_oracle.read(write_boc(cell))
        for level in range(4):
            assert theirs.get_hash(level) == cell.hashes[level]
            assert theirs.get_depth(level) == cell.depths[level]
        assert theirs.hash == cell.hash


def test_random_dictionaries_equal_the_oracle() -> None:
    rng = random.Random(2)
    for bits in (8, 16, 32, 256):
        for count in (1, 2, 3, 17):
            keys = rng.sample(range(1 << min(bits, 20)), count)
            entries = {
                key << bits - min(bits, 20): Builder().ref(Builder().uint(key, 32).cell()).cell() for key in keys
            }
            root = hashmap(entries, bits)
            cells = {key: ton_oracle.read(write_boc(value.refs[0])) for key, value in entries.items()}
            assert ton_oracle.dictionary(cells, bits).hash == root.hash
            found = items(root, bits, most=count, what="d", code="MalformedCell")
            assert [key for key, _ in found] == sorted(entries)
            for key in entries:
                value = lookup(root, key, bits, what="d", code="MalformedCell")
                assert value is not None
                assert value.ref("value").hash == entries[key].refs[0].hash
                assert lookup(root, key ^ 1, bits, what="d", code="MalformedCell") is None or key ^ 1 in entries


def test_the_checksum_is_castagnoli() -> None:
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(b"6789", start=crc32c(b"12345")) == 0xE3069283


# ---- cells that cannot be


def pruned_data(mask: int, *, size: int | None = None) -> bytes:
    return bytes((PRUNED_BRANCH, mask)) + bytes(34 * mask.bit_count() if size is None else size)


@pytest.mark.parametrize(
    ("data", "bits", "refs", "kind", "where"),
    [
        (bytes(128), 1024, 0, ORDINARY, "cell"),
        (b"", -1, 0, ORDINARY, "cell"),
        (bytes(2), 8, 0, ORDINARY, "cell"),
        (b"", 0, 5, ORDINARY, "cell"),
        (b"\x05" + bytes(32), 264, 0, 5, "cell.exotic"),
        (b"\x02" + bytes(32), 264, 0, MERKLE_PROOF, "cell.kind"),
        (b"", 0, 0, MERKLE_PROOF, "cell.kind"),
        (b"\x02" + bytes(32), 264, 1, LIBRARY_REFERENCE, "cell.library"),
        (b"\x02" + bytes(31), 256, 0, LIBRARY_REFERENCE, "cell.library"),
        (pruned_data(0), 16, 0, PRUNED_BRANCH, "cell.pruned"),
        (pruned_data(8), 288, 0, PRUNED_BRANCH, "cell.pruned"),
        (pruned_data(1), 288, 1, PRUNED_BRANCH, "cell.pruned"),
        (pruned_data(1, size=33), 280, 0, PRUNED_BRANCH, "cell.pruned"),
        (pruned_data(3, size=34), 288, 0, PRUNED_BRANCH, "cell.pruned"),
        (b"\x01", 8, 0, PRUNED_BRANCH, "cell.pruned"),
        (b"\x03" + bytes(34), 280, 0, MERKLE_PROOF, "cell.exotic"),
        (b"\x03" + bytes(34), 280, 2, MERKLE_PROOF, "cell.exotic"),
        (b"\x03" + bytes(33), 272, 1, MERKLE_PROOF, "cell.exotic"),
        (b"\x03" + bytes(34), 280, 1, MERKLE_PROOF, "cell.merkle.hash"),
        (b"\x03" + EMPTY.hash + b"\0\1", 280, 1, MERKLE_PROOF, "cell.merkle.depth"),
        (b"\x04" + EMPTY.hash + EMPTY.hash + bytes(4), 552, 1, MERKLE_UPDATE, "cell.exotic"),
        (b"\x04" + EMPTY.hash + bytes(32) + bytes(4), 552, 2, MERKLE_UPDATE, "cell.merkle.hash"),
        (b"\x04" + EMPTY.hash + EMPTY.hash + b"\0\0\0\1", 552, 2, MERKLE_UPDATE, "cell.merkle.depth"),
    ],
)
def test_cells_that_break_a_rule_cannot_be_made(data: bytes, bits: int, refs: int, kind: int, where: str) -> None:
    error = refuse("MalformedCell", where, make_cell, data, bits, (EMPTY,) * refs, kind)
    assert error.where == where


def test_a_tree_has_a_greatest_depth() -> None:
    cell = EMPTY
    for _ in range(MAX_DEPTH):
        cell = Builder().ref(cell).cell()
    refuse("MalformedCell", "cell.depth", Builder().ref(cell).cell)
    far = bytes((PRUNED_BRANCH, 1)) + bytes(32) + MAX_DEPTH.to_bytes(2, "big")
    refuse("MalformedCell", "cell.depth", Builder().ref(make_cell(far, 288, (), PRUNED_BRANCH)).cell)


# ---- bags


GOOD = write_boc(Builder().uint(5, 3).ref(Builder().uint(9, 8).cell()).ref(EMPTY).cell())


def test_the_good_bag_is_what_the_bends_think_it_is() -> None:
    """Magic, width 1, offset width 1, 3 cells, 1 root, 0 absent, size, root 0; then the cells."""
    assert GOOD.hex() == "b5ee9c7201010301000a000201b001020002090000"


def bent(at: int, value: str, *, cut: int = 1) -> bytes:
    return GOOD[:at] + bytes.fromhex(value) + GOOD[at + cut :]


@pytest.mark.parametrize(
    ("data", "where"),
    [
        (b"", "magic"),
        (bent(0, "68ff65f3", cut=4), "magic"),  # the old form with an index
        (bent(4, "81"), "flags"),  # an index
        (bent(4, "21"), "flags"),  # cache bits
        (bent(4, "09"), "flags"),  # reserved
        (bent(4, "11"), "flags"),
        (bent(4, "00"), "flags"),
        (bent(4, "05"), "flags"),
        (bent(5, "00"), "flags"),
        (bent(5, "09"), "flags"),
        (bent(6, "00"), "counts"),
        (bent(6, "ff"), "d1"),
        (bent(6, "02"), "refs"),
        (bent(7, "00"), "counts"),
        (bent(7, "02"), "counts"),
        (bent(8, "01"), "counts"),
        (bent(9, "09"), "bag"),
        (bent(9, "0b"), "body"),
        (bent(10, "01"), ""),  # the second cell as the root: the first is unused
        (bent(10, "03"), "roots"),
        (bent(10, "ff"), "roots"),
        (bent(11, "05"), "cell[0]"),  # five refs
        (bent(11, "12"), "cell[0]"),  # stored hashes
        (bent(11, "22"), "level"),
        (bent(13, "00"), "cell[0]"),  # no completion tag
        (bent(13, "80"), "cell[0]"),
        (bent(14, "00"), "refs"),  # itself
        (bent(15, "03"), "refs"),
        (bent(15, "01"), ""),  # a cell unused
        (GOOD + b"\0", "bag"),
        (GOOD[:-1], "body"),
        (bag(1, 1, [0], bytes(3)), "bag"),  # a byte behind the last cell
        (bent(4, "41") + b"\0\0\0\0", "crc"),
        (bent(4, "41"), "crc"),
    ],
)
def test_other_bags_are_refused(data: bytes, where: str) -> None:
    refuse("MalformedCell", where, read, data)


def test_five_references_are_refused_before_they_are_read() -> None:
    assert refuse("MalformedCell", "cell[0]", read, bent(11, "05")).want == "at most 4 refs, no stored hashes"


def test_a_right_checksum_is_read() -> None:
    data = bent(4, "41")
    assert read(data + crc32c(data).to_bytes(4, "little")).hash == read(GOOD).hash


def test_a_cell_stands_once_and_every_cell_is_used() -> None:
    twice = bytes.fromhex("0200010200000000")
    refuse("MalformedCell", "cell[1]", read, bag(3, 1, [0], twice))
    unused = bytes.fromhex("0100010000000201")
    refuse("MalformedCell", "bag", read, bag(3, 1, [0], unused))


def test_bags_are_bounded() -> None:
    refuse("MalformedCell", "bag", read, GOOD, limit=len(GOOD) - 1)
    refuse("MalformedCell", "counts", read, GOOD, max_cells=2)
    assert read(GOOD, limit=len(GOOD), max_cells=3).bits == 3


def test_several_roots() -> None:
    two = write_boc(EMPTY, Builder().uint(1, 1).cell())
    found = read_boc(two, what="bag", roots=2, limit=99, max_cells=9)
    assert [cell.bits for cell in found] == [0, 1]
    refuse("MalformedCell", "counts", read, two)
    refuse("MalformedCell", "counts", read_boc, GOOD, what="bag", roots=2, limit=99, max_cells=9)
    same = bytearray(two)
    same[11] = same[10]
    refuse("MalformedCell", "roots", read_boc, bytes(same), what="bag", roots=2, limit=99, max_cells=9)


def test_wide_references_are_written_and_read() -> None:
    rng = random.Random(3)
    leaves = {n: Builder().uint(rng.getrandbits(64), 64).cell() for n in range(300)}
    root = hashmap(leaves, 16)
    data = write_boc(root)
    assert data[4] == 2
    assert read(data).hash == root.hash
    assert ton_oracle.read(data).hash == root.hash


def test_no_flipped_bit_of_a_bag_reads_as_the_same_cell() -> None:
    """Some bends make another well-formed cell; its hash is another."""
    for bit in range(len(GOOD) * 8):
        data = bytearray(GOOD)
        data[bit // 8] ^= 1 << bit % 8
        try:
            assert read(bytes(data)).hash != read(GOOD).hash
        except Malformed:
            continue


# ---- dictionaries


def node(value: str, *refs: Cell) -> Cell:
    builder = Builder().uint(int(value, 2) if value else 0, len(value))
    for ref in refs:
        builder.ref(ref)
    return builder.cell()


@pytest.mark.parametrize(
    ("label", "most", "length", "bits"),
    [
        ("00", 8, 0, 0),
        ("01110101", 8, 3, 0b101),
        ("100011101", 8, 3, 0b101),  # long, though short were shorter: read, as TON reads it
        ("1100011", 8, 3, 0),
        ("1110011", 8, 3, 0b111),
    ],
)
def test_labels_in_three_forms(label: str, most: int, length: int, bits: int) -> None:
    assert take_label(Slice(node(label), what="n", code="MalformedCell"), most) == (length, bits)


@pytest.mark.parametrize(
    "label", ["0" + "1" * 5 + "0" + "1" * 5, "10" + "101" + "1" * 5, "110101", "111101", "1", "01", "0111", "10010", ""]
)
def test_labels_longer_than_what_is_left_are_refused(label: str) -> None:
    refuse("MalformedCell", "n", take_label, Slice(node(label), what="n", code="MalformedCell"), 4)


def test_dictionaries_show_what_is_asked_or_refuse() -> None:
    where = {"what": "d", "code": "MalformedCell"}
    root = hashmap({key: Builder().uint(key, 8).cell() for key in (1, 2, 9)}, 4)
    assert lookup(root, 3, 4, **where) is None
    refuse("MalformedCell", "entries", items, root, 4, most=2, **where)
    way = path_to(root, 2, 4, **where)
    proof = merkle_proof(root, way).refs[0]
    found = lookup(proof, 2, 4, **where)
    assert found is not None
    assert found.uint(8, "value") == 2
    refuse("MalformedCell", "d", lookup, proof, 9, 4, **where)
    refuse("MalformedCell", "d", items, proof, 4, most=9, **where)
    refuse("MalformedCell", "left", lookup, node("00"), 1, 4, **where)
    refuse("MalformedCell", "right", lookup, node("00", EMPTY), 1, 4, **where)
    absent = merkle_proof(root, path_to(root, 3, 4, **where)).refs[0]
    assert lookup(absent, 3, 4, **where) is None


def test_only_plain_trees_are_pruned() -> None:
    inner = merkle_proof(EMPTY, [])
    root = Builder().ref(inner).cell()
    with pytest.raises(ValueError, match="ordinary"):
        merkle_proof(root, [inner])
    assert merkle_proof(root, []).refs[0].refs[0].kind == PRUNED_BRANCH
    with pytest.raises(ValueError, match="ordinary"):
        merkle_proof(merkle_proof(Builder().ref(root).cell(), []).refs[0], [])  # part of a proof already


# ---- slices and builders


def test_slices_never_pass_the_end() -> None:
    def at(cell: Cell) -> Slice:
        return Slice(cell, what="s", code="MalformedCell")

    one = Builder().uint(5, 3).ref(EMPTY).cell()
    refuse("MalformedCell", "s.field", at(one).uint, 4, "field")
    refuse("MalformedCell", "s.field", at(one).uint, -1, "field")
    refuse("MalformedCell", "s.field", at(EMPTY).ref, "field")
    refuse("MalformedCell", "s.field", at(one).tag, 3, 4, "field")
    refuse("MalformedCell", "s.field", at(Builder().uint(0xF, 4).cell()).coins, "field")
    refuse("MalformedCell", "s", at(one).end)
    taken = at(one)
    taken.uint(3, "field")
    refuse("MalformedCell", "s", taken.end)
    assert (taken.bits_left, taken.refs_left) == (0, 1)
    taken.ref("child")
    taken.end()
    for exotic in (merkle_proof(one, []), merkle_proof(one, []).refs[0].refs[0]):
        refuse("MalformedCell", "s", at, exotic)
    assert at(Builder().uint(0b100, 3).cell()).signed(3, "field") == -4
    assert at(Builder().coins(70_000).cell()).coins("field") == 70_000


def test_builders_refuse_what_does_not_fit() -> None:
    builds: list[Callable[[], Builder]] = [
        lambda: Builder().uint(8, 3),
        lambda: Builder().uint(-1, 3),
        lambda: Builder().uint(0, 1024),
        lambda: Builder().octets(bytes(3), 4),
        lambda: Builder().coins(1 << 120),
        lambda: Builder().ref(EMPTY).ref(EMPTY).ref(EMPTY).ref(EMPTY).ref(EMPTY),
    ]
    for build in builds:
        with pytest.raises(ValueError, match=r"fit|bytes|references"):
            build()
