# SPDX-License-Identifier: Apache-2.0
"""Accounts of a simulated chain, present and absent: proved as they are, and not otherwise."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from attestation.errors import Malformed
from attestation.ton.boc import read_boc, write_boc
from attestation.ton.pruning import merkle_proof
from attestation.ton.reading import Reading, verify_reading
from attestation.ton.slices import Builder
from enclave.simulator.ton_chain import Bends, TonChain
from tests.simulated_ton import ACCOUNTS, HIGH, LOW, MASTER, NOBODY, NOW, SEED, account, grow, reading
from tests.ton_refusals import refuse


def split_chain(depth: int = 3) -> TonChain:
    return grow(TonChain(seed=SEED, now=NOW, accounts=ACCOUNTS, split=depth), upto=3)


def lying_chain(**bends: dict[str, int]) -> TonChain:
    """Give a chain whose newest block is hashed as it stands, but says something wrong."""
    made = grow(TonChain(seed=SEED, now=NOW, accounts=ACCOUNTS, split=1), upto=2)
    made.append(now=NOW + 15, bends=Bends(**bends))
    return made


# ---- what holds


def test_accounts_are_proved_as_they_are() -> None:
    for address, workchain, balance in ((LOW, 0, 11), (HIGH, 0, 12), (MASTER, -1, 13)):
        found = verify_reading(reading(address, workchain=workchain))
        assert found.account is not None
        assert (found.account.address, found.account.balance) == (address, balance)
        assert (found.global_id, found.gen_utime) == (-52_170, NOW + 50)


def test_absence_is_proved() -> None:
    for address, workchain in ((NOBODY, 0), (bytes(32), 0), (b"\xff" * 32, 0), (LOW, -1), (MASTER, 0)):
        assert verify_reading(reading(address, workchain=workchain)).account is None
    empty = grow(TonChain(seed=SEED, now=NOW), upto=2)
    assert verify_reading(reading(LOW, on=empty, at=2)).account is None
    assert verify_reading(reading(LOW, on=empty, at=2, workchain=-1)).account is None


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_accounts_of_split_shards(depth: int) -> None:
    made = split_chain(depth)
    for address in (LOW, HIGH):
        assert verify_reading(reading(address, on=made, at=3)).account is not None
    assert verify_reading(reading(b"\x80" + bytes(31), on=made, at=3)).account is None


def test_an_account_that_was_deleted_is_none() -> None:
    """TL-B `account_none` under an address that is still listed."""
    none = write_boc(Builder().uint(0, 1).cell())
    made = TonChain(seed=SEED, now=NOW, accounts={(0, LOW): none})
    assert verify_reading(reading(LOW, on=made, at=1)).account is None


def test_an_account_may_be_shown_as_a_proof() -> None:
    whole = reading(LOW)
    (cell,) = read_boc(whole.state, what="account", limit=9999, max_cells=99)
    pruned = merkle_proof(cell, [])
    found = verify_reading(replace(whole, state=write_boc(pruned))).account
    assert found is not None
    assert found.data is not None
    assert found.data.kind == 1  # pruned: its hash is known, its content is not


# ---- lies of a lite server


def hides_or_swaps() -> list[tuple[str, Reading, str, str]]:
    good, absent, master, earlier = reading(LOW), reading(NOBODY), reading(MASTER, workchain=-1), reading(LOW, at=9)
    zero = bytes(32)
    return [
        ("hidden", replace(good, state=b""), "AccountProofInvalid", "account"),
        ("hidden in the masterchain", replace(master, state=b""), "AccountProofInvalid", "account"),
        ("invented", replace(absent, state=good.state), "AccountProofInvalid", "account"),
        ("another account", replace(good, state=reading(HIGH).state), "AccountProofInvalid", "account"),
        ("poisoned", replace(good, state=account(LOW, balance=99)), "AccountProofInvalid", "account"),
        ("another address", replace(good, address=HIGH), "MalformedBlock", "accounts"),
        ("the absence of another", replace(absent, address=HIGH), "MalformedBlock", "accounts"),
        ("an old state", replace(good, proof=earlier.proof), "ShardProofInvalid", "shard.root_hash"),
        ("an old shard", replace(good, shard_proof=earlier.shard_proof), "BlockProofInvalid", "masterchain.root_hash"),
        ("an old block", replace(good, block=earlier.block), "BlockProofInvalid", "masterchain.root_hash"),
        ("a wrong seqno", replace(good, block=replace(good.block, seqno=9)), "BlockProofInvalid", "masterchain.seqno"),
        (
            "a wrong hash",
            replace(good, block=replace(good.block, root_hash=zero)),
            "BlockProofInvalid",
            "masterchain.root_hash",
        ),
        ("no masterchain", replace(good, block=replace(good.block, workchain=0)), "MalformedBlock", "reading.block"),
        ("no whole shard", replace(good, block=replace(good.block, shard=1)), "MalformedBlock", "reading.block"),
        ("no such workchain", replace(good, workchain=1), "ShardProofInvalid", "shard_hashes"),
        ("the masterchain", replace(good, workchain=-1), "MalformedProof", "shard_proof"),
        ("a shard proof too many", replace(master, shard_proof=good.shard_proof), "MalformedProof", "shard_proof"),
        ("a shard proof too few", replace(good, shard_proof=b""), "MalformedProof", "shard_proof"),
        ("a masterchain proof", replace(good, proof=master.proof), "ShardProofInvalid", "shard.root_hash"),
        ("a shard's proof", replace(master, proof=good.proof), "BlockProofInvalid", "masterchain.root_hash"),
        ("swapped proofs", replace(good, proof=good.shard_proof), "ShardProofInvalid", "shard.root_hash"),
    ]


@pytest.mark.parametrize(("bent", "code", "where"), [row[1:] for row in hides_or_swaps()], ids=lambda v: str(v)[:30])
def test_a_lying_server_is_refused(bent: Reading, code: str, where: str) -> None:
    refuse(code, where, verify_reading, bent)


def test_proofs_are_two_roots_that_are_proofs() -> None:
    good = reading(LOW)
    block, state = read_boc(good.proof, what="proof", roots=2, limit=9999, max_cells=999)
    assert verify_reading(replace(good, proof=write_boc(block, state))).account is not None
    refuse("ShardProofInvalid", "shard.root_hash", verify_reading, replace(good, proof=write_boc(state, block)))
    for boc in (write_boc(block), write_boc(block.refs[0], state), write_boc(block, state.refs[0])):
        refuse("MalformedProof", "", verify_reading, replace(good, proof=boc))
    other_state = read_boc(reading(LOW, at=9).proof, what="proof", roots=2, limit=9999, max_cells=999)[1]
    refuse("ShardProofInvalid", "shard.state", verify_reading, replace(good, proof=write_boc(block, other_state)))
    top, top_state = read_boc(good.shard_proof, what="proof", roots=2, limit=9999, max_cells=999)
    old_state = read_boc(reading(LOW, at=9).shard_proof, what="proof", roots=2, limit=9999, max_cells=999)[1]
    assert verify_reading(replace(good, shard_proof=write_boc(top, top_state))).account is not None
    bent = replace(good, shard_proof=write_boc(top, old_state))
    refuse("BlockProofInvalid", "masterchain.state", verify_reading, bent)


@pytest.mark.parametrize("part", ["shard_proof", "proof", "state"])
def test_every_shorter_part_is_refused(part: str) -> None:
    good = reading(LOW)
    data = getattr(good, part)
    for cut in [data[:size] for size in range(1, len(data))] + [data + b"\0"]:
        bent: dict[str, Any] = {part: cut}
        with pytest.raises(Malformed):
            verify_reading(replace(good, **bent))


# ---- blocks and states that contradict each other


@pytest.mark.parametrize(
    ("where_bent", "field", "value", "code", "where"),
    [
        ("header", "workchain", 0, "BlockProofInvalid", "masterchain.workchain"),
        ("header", "shard", 1 << 62, "BlockProofInvalid", "masterchain.shard"),
        ("header", "seqno", 4, "BlockProofInvalid", "masterchain.seqno"),
        ("header", "global_id", 1, "BlockProofInvalid", "masterchain.state.global_id"),
        ("header", "gen_utime", 1, "BlockProofInvalid", "masterchain.state.gen_utime"),
        ("state", "workchain", 0, "BlockProofInvalid", "masterchain.state.workchain"),
        ("state", "shard", 1 << 62, "BlockProofInvalid", "masterchain.state.shard"),
        ("state", "seqno", 4, "BlockProofInvalid", "masterchain.state.seqno"),
        ("state", "global_id", 1, "BlockProofInvalid", "masterchain.state.global_id"),
        ("state", "gen_utime", 1, "BlockProofInvalid", "masterchain.state.gen_utime"),
        ("shard_header", "workchain", 1, "ShardProofInvalid", "shard.workchain"),
        ("shard_header", "shard", 1 << 63, "ShardProofInvalid", "shard.shard"),
        ("shard_header", "seqno", 4, "ShardProofInvalid", "shard.seqno"),
        ("shard_header", "global_id", 1, "ShardProofInvalid", "shard.global_id"),
        ("shard_state", "workchain", 1, "ShardProofInvalid", "shard.state.workchain"),
        ("shard_state", "shard", 1 << 63, "ShardProofInvalid", "shard.state.shard"),
        ("shard_state", "seqno", 4, "ShardProofInvalid", "shard.state.seqno"),
        ("shard_state", "global_id", 1, "ShardProofInvalid", "shard.state.global_id"),
    ],
)
def test_headers_and_states_agree(where_bent: str, field: str, value: int, code: str, where: str) -> None:
    made = lying_chain(**{where_bent: {field: value}})
    error = refuse(code, where, verify_reading, reading(LOW, on=made, at=3))
    assert error.where.endswith(where)


def test_an_account_is_the_one_at_its_address() -> None:
    for stored, workchain in ((account(HIGH), 0), (account(LOW, workchain=-1), 0), (account(MASTER), -1)):
        address = MASTER if workchain == -1 else LOW
        made = TonChain(seed=SEED, now=NOW, accounts={(workchain, address): stored})
        bent = reading(address, workchain=workchain, on=made, at=1)
        refuse("AccountProofInvalid", "account.address", verify_reading, bent)


def test_an_address_has_32_bytes() -> None:
    with pytest.raises(ValueError, match="32"):
        verify_reading(replace(reading(LOW), address=LOW[:31]))
