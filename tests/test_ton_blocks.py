# SPDX-License-Identifier: Apache-2.0
"""Blocks, states and validators, cell by cell: what is not by the schema is refused where it stands."""

from __future__ import annotations

from typing import Any

import pytest

from attestation.ton.blocks import configuration, proved, read_header, state_hash
from attestation.ton.boc import read_boc
from attestation.ton.cells import MERKLE_PROOF, MERKLE_UPDATE, PRUNED_BRANCH, Cell, make_cell
from attestation.ton.pruning import merkle_proof
from attestation.ton.slices import Builder
from attestation.ton.states import find_account, find_old_block, find_shard, read_state
from attestation.ton.validators import (
    MAX_MAIN,
    Validator,
    masterchain_validators,
    require_signatures,
    validator_set_hash,
)
from tests.simulated_ton import chain
from tests.ton_cells import hashmap
from tests.ton_refusals import refuse

EMPTY = Builder().cell()


def pruned(tree: Cell) -> Cell:
    data = b"\x01\x01" + tree.hash + tree.depth.to_bytes(2, "big")
    return make_cell(data, len(data) * 8, (), PRUNED_BRANCH)


# ---- headers


def info(
    *,
    tag: int = 0x9BC7A987,
    not_master: int = 0,
    key_block: int = 1,
    flags: int = 0,
    workchain: int = -1,
    bits: int = 0,
    prefix: int = 0,
    constructor: int = 0,
) -> Cell:
    builder = Builder().uint(tag, 32).uint(0, 32).uint(not_master, 1).uint(0, 5).uint(key_block, 1).uint(0, 1)
    builder.uint(flags, 8).uint(7, 32).uint(0, 32).uint(constructor, 2).uint(bits, 6).uint(workchain & 0xFFFFFFFF, 32)
    return builder.uint(prefix, 64).uint(9, 32).uint(0, 128).uint(1, 32).uint(2, 32).uint(0, 32).uint(3, 32).cell()


def block(head: Cell, *, tag: int = 0x11EF55AA, update: Cell = EMPTY, extra: Cell = EMPTY) -> Cell:
    return Builder().uint(tag, 32).uint(5, 32).ref(head).ref(EMPTY).ref(update).ref(extra).cell()


def test_a_header_reads() -> None:
    found = read_header(block(info()), "block")
    assert (found.global_id, found.workchain, found.shard, found.seqno, found.gen_utime) == (5, -1, 1 << 63, 7, 9)
    assert (found.validator_list_hash_short, found.catchain_seqno, found.prev_key_block_seqno) == (1, 2, 3)
    found = read_header(block(info(not_master=1, workchain=0, bits=60, prefix=0xF << 60, flags=1)), "block")
    assert (found.workchain, found.shard) == (0, 0xF << 60 | 8)


@pytest.mark.parametrize(
    ("root", "where"),
    [
        (block(info(), tag=1), "block.tag"),
        (block(info(tag=1)), "info.tag"),
        (block(info(flags=2)), "flags"),
        (block(info(not_master=1)), "not_master"),
        (block(info(workchain=0)), "not_master"),
        (block(info(constructor=1)), "shard"),
        (block(info(bits=61)), "shard_prefix"),
        (block(info(bits=0, prefix=1 << 63)), "shard_prefix"),
        (block(info(bits=3, prefix=1 << 60)), "shard_prefix"),
        (block(EMPTY), "info"),
        (EMPTY, "block"),
        (Builder().uint(0x11EF55AA, 32).uint(0, 32).cell(), "block.info"),
        (block(info()).refs[0], "block.tag"),
    ],
)
def test_other_headers_are_refused(root: Cell, where: str) -> None:
    refuse("MalformedBlock", where, read_header, root, "block")


def test_a_pruned_header_is_not_there() -> None:
    good = block(info())
    refuse("MalformedBlock", "info", read_header, merkle_proof(good, []).refs[0], "block")
    refuse("MalformedBlock", "block", read_header, pruned(good), "block")


def update(kind: int = MERKLE_UPDATE) -> Cell:
    hashes = EMPTY.hash + EMPTY.hash
    if kind != MERKLE_UPDATE:
        return Builder().uint(4, 8).octets(hashes, 64).cell()
    return make_cell(b"\x04" + hashes + bytes(4), 8 + 2 * 272, (EMPTY, EMPTY), MERKLE_UPDATE)


def test_the_state_after_a_block_stands_in_its_update() -> None:
    assert state_hash(read_header(block(info(), update=update()), "block"), "block") == EMPTY.hash
    for other in (update(0), EMPTY, pruned(EMPTY)):
        head = read_header(block(info(), update=other), "block")
        refuse("MalformedBlock", "state_update", state_hash, head, "block")


def test_only_a_proof_of_the_right_tree_shows_anything() -> None:
    tree = block(info())
    proof = merkle_proof(tree, [tree.refs[0]])
    assert read_header(proved(proof, tree.hash, where="x", code="BlockProofInvalid"), "x").seqno == 7
    refuse("BlockProofInvalid", "x", proved, proof, bytes(32), where="x", code="BlockProofInvalid")
    for cell in (tree, proof.refs[0], pruned(tree), update()):
        refuse("MalformedProof", "x", proved, cell, tree.hash, where="x", code="BlockProofInvalid")
    inner = Builder().ref(proof).cell()
    assert not inner.mask
    deeper = make_cell(b"\x01\x03" + bytes(64) + bytes(4), 16 + 2 * 272, (), PRUNED_BRANCH)
    data = b"\x03" + deeper.hashes[0] + bytes(2)
    high = make_cell(data, len(data) * 8, (deeper,), MERKLE_PROOF)  # level 1: itself part of a proof
    refuse("MalformedProof", "x", proved, high, bytes(32), where="x", code="BlockProofInvalid")


# ---- configurations


def key_extra(*, tag: int = 0x4A33F6FD, custom: int = 1, inner: int = 0xCCA5, key: int = 1) -> Cell:
    zero = Builder().uint(inner, 16).uint(key, 1).uint(0, 2).uint(0, 5).uint(0, 5).ref(EMPTY)
    zero.octets(b"\x55" * 32, 32).ref(Builder().uint(77, 8).cell())
    builder = Builder().uint(tag, 32).ref(EMPTY).ref(EMPTY).ref(EMPTY).uint(0, 512).uint(custom, 1)
    return builder.ref(zero.cell()).cell()


def test_a_key_block_shows_its_configuration() -> None:
    found = configuration(read_header(block(info(), extra=key_extra()), "block"), "block")
    assert found.hash == Builder().uint(77, 8).cell().hash
    for extra, where in (
        (key_extra(tag=1), "extra.tag"),
        (key_extra(custom=0), "extra.custom"),
        (key_extra(inner=1), "custom.tag"),
        (key_extra(key=0), "key_block"),
        (EMPTY, "extra"),
        (pruned(EMPTY), "extra"),
    ):
        refuse("MalformedBlock", where, configuration, read_header(block(info(), extra=extra), "block"), "block")
    for head in (info(key_block=0), info(not_master=1, workchain=0)):
        refuse("MalformedBlock", "block", configuration, read_header(block(head, extra=key_extra()), "block"), "block")


def config(
    *, catchain: Cell | None = None, current: Cell | None = None, without: int | None = None, more: bool = False
) -> Cell:
    parameters = {
        28: catchain or Builder().uint(0xC2, 8).uint(0, 8).cell(),
        34: current or validators(),
    }
    if without:
        del parameters[without]
    parameters[1] = EMPTY
    return hashmap({key: Builder().ref(cell).uint(0, more).cell() for key, cell in parameters.items()}, 32)


def description(index: int, *, tag: int = 0x53, key_tag: int = 0x8E81278A, extra: int = 0) -> Cell:
    builder = Builder().uint(tag, 8).uint(key_tag, 32).octets(bytes([index]) * 32, 32).uint(index + 1, 64)
    return (builder.octets(b"\x0a" * 32, 32) if tag == 0x73 else builder).uint(0, extra).cell()


def validators(
    *,
    tag: int = 0x12,
    total: int = 3,
    main: int = 3,
    listed: int = 1,
    keys: tuple[int, ...] = (0, 1, 2),
    **how: Any,
) -> Cell:
    entries = {index: description(key, **how) for index, key in enumerate(keys)}
    builder = Builder().uint(tag, 8).uint(0, 64).uint(total, 16).uint(main, 16).uint(6, 64).uint(listed, 1)
    return (builder.ref(hashmap(entries, 16)) if listed else builder).cell()


def unlisted() -> Cell:
    """Give a validator set that says it has no list, with the list behind it."""
    head = Builder().uint(0x12, 8).uint(0, 64).uint(3, 16).uint(3, 16).uint(6, 64).uint(0, 1)
    return head.ref(validators().refs[0]).cell()


def test_the_masterchain_is_signed_by_the_first_of_the_list() -> None:
    found = masterchain_validators(config(), 1)
    assert [(one.key[0], one.weight, one.adnl) for one in found] == [(i, i + 1, bytes(32)) for i in range(3)]
    found = masterchain_validators(config(current=validators(main=2, tag=0x12)), 1)
    assert [one.key[0] for one in found] == [0, 1]
    found = masterchain_validators(config(current=validators(keys=(4,), total=1, main=1)), 1)
    assert len(found) == 1
    with_adnl = hashmap({0: description(9, tag=0x73)}, 16)
    head = Builder().uint(0x12, 8).uint(0, 64).uint(1, 16).uint(1, 16).uint(6, 64).uint(1, 1).ref(with_adnl)
    assert masterchain_validators(config(current=head.cell()), 1)[0].adnl == b"\x0a" * 32
    old_catchain = config(catchain=Builder().uint(0xC1, 8).uint(0xFF, 8).cell())
    assert [one.key[0] for one in masterchain_validators(old_catchain, 1)] == [0, 1, 2]


def test_the_order_is_shuffled_when_the_configuration_says_so() -> None:
    shuffled = config(catchain=Builder().uint(0xC2, 8).uint(1, 8).cell())
    orders = {tuple(one.key[0] for one in masterchain_validators(shuffled, seqno)) for seqno in range(40)}
    assert len(orders) == 6
    assert masterchain_validators(shuffled, 5) == masterchain_validators(shuffled, 5)


@pytest.mark.parametrize(
    ("given", "code", "where"),
    [
        (config(without=28), "BlockProofInvalid", "config[28]"),
        (config(without=34), "BlockProofInvalid", "config[34]"),
        (config(more=True), "MalformedBlock", "config[28]"),
        (config(current=validators(tag=0x11)), "MalformedBlock", "tag"),
        (config(current=validators(main=0)), "MalformedBlock", "main"),
        (config(current=validators(main=4)), "MalformedBlock", "main"),
        (config(current=validators(total=MAX_MAIN + 9, main=MAX_MAIN + 1)), "MalformedBlock", "main"),
        (config(current=validators(listed=0)), "MalformedBlock", "list"),
        (config(current=unlisted()), "MalformedBlock", "list"),
        (config(current=validators(total=4, main=4)), "BlockProofInvalid", "validator[3]"),
        (config(current=validators(keys=(0, 1, 0))), "MalformedBlock", "list"),
        (config(current=Builder().uint(0x12, 8).cell()), "MalformedBlock", "utime"),
    ],
)
def test_other_configurations_are_refused(given: Cell, code: str, where: str) -> None:
    refuse(code, where, masterchain_validators, given, 1)


@pytest.mark.parametrize(("how", "where"), [({"key_tag": 1}, "public_key"), ({"extra": 1}, "validator[0]")])
def test_other_validators_are_refused(how: dict[str, int], where: str) -> None:
    entries = hashmap({index: description(index, **how) for index in range(3)}, 16)
    head = Builder().uint(0x12, 8).uint(0, 64).uint(3, 16).uint(3, 16).uint(6, 64).uint(1, 1).ref(entries)
    refuse("MalformedBlock", where, masterchain_validators, config(current=head.cell()), 1)
    odd = hashmap({index: description(index, tag=0x52) for index in range(3)}, 16)
    head = Builder().uint(0x12, 8).uint(0, 64).uint(3, 16).uint(3, 16).uint(6, 64).uint(1, 1).ref(odd)
    refuse("MalformedBlock", "tag", masterchain_validators, config(current=head.cell()), 1)


def test_a_pruned_configuration_is_not_there() -> None:
    whole = config()
    refuse("MalformedBlock", "config[28]", masterchain_validators, merkle_proof(whole, []).refs[0], 1)


def test_nobody_is_no_majority_and_a_bad_key_signs_nothing() -> None:
    where = {"where": "x"}
    refuse("TrustPathInvalid", "x.weight", require_signatures, [], [], b"m", **where)
    weightless = Validator(key=bytes(32), weight=0, adnl=bytes(32))
    refuse("TrustPathInvalid", "x.weight", require_signatures, [weightless], [], b"m", **where)
    bad = Validator(key=b"\xff" * 32, weight=1, adnl=bytes(32))
    given = [(bad.node_id, bytes(64))]
    refuse("TrustPathInvalid", "x.signature", require_signatures, [bad], given, b"m", **where)


def test_a_validator_set_hash_covers_order_number_weight_and_address() -> None:
    one, two = (Validator(key=bytes([i]) * 32, weight=i, adnl=bytes(32)) for i in (1, 2))
    moved = Validator(key=one.key, weight=1, adnl=b"\x01" * 32)
    heavy = Validator(key=one.key, weight=2, adnl=bytes(32))
    sets = [([one, two], 1), ([two, one], 1), ([one, two], 2), ([moved, two], 1), ([heavy, two], 1), ([one], 1)]
    assert len({validator_set_hash(*given) for given in sets}) == len(sets)


# ---- states


def state(*, tag: int = 0x9023AFE2, custom: Cell | None = None, extra: int = 0, accounts: Cell | None = None) -> Cell:
    builder = Builder().uint(tag, 32).uint(5, 32).uint(0, 8).uint(0xFFFFFFFF, 32).uint(0, 64).uint(7, 32).uint(0, 32)
    builder.uint(9, 32).uint(0, 96).ref(EMPTY).uint(0, 1).ref(accounts or Builder().uint(0, 1).cell()).ref(EMPTY)
    return builder.maybe_ref(custom).uint(0, extra).cell()


def master(shards: dict[int, Cell], *, tag: int = 0xCC26, more: Cell = EMPTY) -> Cell:
    builder = Builder().uint(tag, 16).maybe_ref(hashmap(shards, 32) if shards else None).octets(b"\x55" * 32, 32)
    return state(custom=builder.ref(EMPTY).ref(more).cell())


def leaf(tag: int = 0xA) -> Cell:
    builder = Builder().uint(0, 1).uint(tag, 4).uint(3, 32).uint(0, 160)
    return builder.octets(b"\x01" * 32, 32).octets(b"\x02" * 32, 32).cell()


def fork(one: Cell, two: Cell, extra: int = 0) -> Cell:
    return Builder().uint(1, 1).ref(one).ref(two).uint(0, extra).cell()


def tops(tree: Cell) -> dict[int, Cell]:
    return {0: Builder().ref(tree).cell()}


def test_states_read_and_others_are_refused() -> None:
    found = read_state(state(), "state")
    assert (found.global_id, found.workchain, found.seqno, found.gen_utime) == (5, -1, 7, 9)
    for cell in (state(tag=1), state(extra=1), EMPTY, pruned(state())):
        refuse("MalformedBlock", "state", read_state, cell, "state")


def test_the_shard_of_an_account_is_found_by_its_bits() -> None:
    odd = Builder().uint(0, 1).uint(0xB, 4).uint(4, 32).uint(0, 160).uint(5, 512).cell()
    found = find_shard(read_state(master(tops(fork(leaf(), fork(leaf(), odd)))), "s"), 0, b"\xc0" + bytes(31), "s")
    assert (found.shard, found.seqno) == (0xE << 60, 4)
    found = find_shard(read_state(master(tops(leaf())), "s"), 0, b"\xc0" + bytes(31), "s")
    assert (found.shard, found.seqno, found.root_hash) == (1 << 63, 3, b"\x01" * 32)


def deep(levels: int) -> Cell:
    tree = leaf()
    for _ in range(levels):
        tree = fork(tree, EMPTY)
    return tree


@pytest.mark.parametrize(
    ("given", "code", "where"),
    [
        (state(), "BlockProofInvalid", "s"),
        (master({}), "ShardProofInvalid", "shard_hashes"),
        (master({1: Builder().ref(leaf()).cell()}), "ShardProofInvalid", "shard_hashes"),
        (master(tops(leaf()), tag=1), "MalformedBlock", "custom.tag"),
        (master(tops(leaf(tag=0xC))), "MalformedBlock", "tag"),
        (master(tops(fork(leaf(), leaf(), extra=1))), "MalformedBlock", "shard_hashes"),
        (master(tops(fork(pruned(leaf()), leaf()))), "MalformedBlock", "shard_hashes"),
        (master(tops(deep(61))), "MalformedBlock", "fork"),
        (master({0: EMPTY}), "MalformedBlock", "tree"),
    ],
)
def test_other_shard_hashes_are_refused(given: Cell, code: str, where: str) -> None:
    refuse(code, where, find_shard, read_state(given, "s"), 0, bytes(32), "s")


def test_sixty_levels_of_shards_are_read() -> None:
    assert find_shard(read_state(master(tops(deep(60))), "s"), 0, bytes(32), "s").shard == 8


def listed(extra: int = 0) -> Cell:
    balance = Builder().uint(0, 10)
    value = balance.ref(Builder().uint(0, 1).cell()).octets(b"\x03" * 32, 32).uint(4, 64).uint(0, extra)
    return Builder().uint(1, 1).ref(hashmap({6: value.cell()}, 256)).cell()


def test_accounts_are_listed_by_address() -> None:
    def find(accounts: Cell, key: int) -> Any:
        return find_account(read_state(state(accounts=accounts), "s"), key.to_bytes(32, "big"), "s")

    found = find(listed(), 6)
    assert found is not None
    assert found[1:] == (b"\x03" * 32, 4)
    assert find(listed(), 7) is None
    refuse("MalformedBlock", "accounts", find, listed(extra=1), 6)
    refuse("MalformedBlock", "accounts", find, pruned(EMPTY), 6)
    refuse("MalformedBlock", "accounts", find, Builder().uint(1, 1).ref(pruned(EMPTY)).cell(), 6)


def more(*, flags: int = 0, seqno: int = 6, extra: int = 0) -> Cell:
    link = (
        Builder().uint(0, 65).uint(1, 1).uint(0, 64).uint(seqno, 32).octets(b"\x01" * 32, 32).octets(b"\x02" * 32, 32)
    )
    return Builder().uint(flags, 16).uint(0, 65).maybe_ref(hashmap({6: link.uint(0, extra).cell()}, 32)).cell()


def test_older_blocks_are_named_by_seqno() -> None:
    def find(given: Cell) -> Any:
        return find_old_block(master({}, more=given), 6, "s")

    assert find(more()) == (True, b"\x01" * 32, b"\x02" * 32)
    assert find(Builder().uint(0, 16 + 65 + 1).cell()) is None
    for given, where in (
        (more(flags=2), "flags"),
        (more(seqno=7), "seq_no"),
        (more(extra=1), "prev_blocks"),
        (EMPTY, "more"),
        (pruned(EMPTY), "more"),
    ):
        refuse("MalformedBlock", where, find, given)


def test_whole_simulated_blocks_read() -> None:
    for seqno in range(1, 11):
        (root,) = read_boc(chain().block_boc(seqno), what="block", limit=1 << 16, max_cells=999)
        assert root.hash == chain().block(seqno).root_hash
        assert read_header(root, "block").seqno == seqno
        if seqno not in {1, 4, 8}:
            refuse("MalformedBlock", "block", configuration, read_header(root, "block"), "block")
