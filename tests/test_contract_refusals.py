# SPDX-License-Identifier: Apache-2.0
"""What the registry contract refuses, each by its own exit code and without a change, in both machines."""

from __future__ import annotations

from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from attestation.batch import BatchTree, Leaf, Registration
from attestation.ton.boc import read_boc
from attestation.ton.cells import MERKLE_PROOF, Cell, make_cell
from attestation.ton.slices import Builder, Slice
from client import registry_messages as messages
from tests.contract_cases import (
    ADDRESS,
    BATCH,
    BOOT,
    FEE,
    FIRST,
    HOST,
    KEY,
    KEY_INT,
    NEXT,
    NOW,
    OTHER,
    OWNER,
    PUBLIC,
    RECEIPTS,
    STRANGER,
    TREE,
    anchor,
    anchored,
    inclusion,
    owner_bodies,
    refused,
    register,
    registered,
)
from tests.ton_tvm import Contract


@pytest.mark.parametrize(
    ("registration", "exit_code"),
    [
        (replace(FIRST, valid_until=NOW - 1), 709),
        (replace(FIRST, valid_until=NOW + 366 * 86_400 + 1), 712),
    ],
)
def test_register_refuses(contract: Contract, registration: Registration, exit_code: int) -> None:
    refused(contract, HOST, register(registration), exit_code)


def test_register_refuses_another_key_s_signature(contract: Contract) -> None:
    refused(contract, HOST, register(FIRST, key=OTHER), 704)
    refused(contract, HOST, messages.register(FIRST, KEY.sign(BATCH.hash)), 704)


def test_register_refuses_too_small_a_fee(contract: Contract) -> None:
    refused(contract, HOST, register(FIRST), 716, value=FEE - 1)


def test_a_message_that_pays_the_fee_but_not_the_gas_changes_nothing(contract: Contract) -> None:
    before, balance = contract.data.hash, contract.state.balance
    outcome = contract.send(HOST, register(FIRST), value=FEE)
    assert (outcome.exit, outcome.action, outcome.aborted) == (0, 37, True)
    assert contract.data.hash == before
    assert contract.state.balance >= balance
    registered(contract)
    refused(contract, HOST, anchor(BATCH), -14, value=1_000_000)  # out of gas


def raw_registration(
    *, tag: int = 0x53524333, version: int = 1, serial: int = 0, seqno: int = 0, head: int = 0, extra: int = 0
) -> Cell:
    builder = Builder().uint(tag, 32).uint(version, 8).octets(PUBLIC, 32).octets(BOOT, 32).uint(serial, 32)
    cell = builder.uint(FIRST.valid_until, 64).uint(seqno, 64).uint(head, 256).uint(0, 1).uint(0, extra).cell()
    head_of_body = Builder().uint(messages.OPERATIONS["register"], 32).uint(0, 64)
    return head_of_body.octets(KEY.sign(cell.hash), 64).ref(cell).cell()


def test_register_refuses_other_cells(contract: Contract) -> None:
    refused(contract, HOST, raw_registration(tag=0x53524332), 703)
    refused(contract, HOST, raw_registration(version=2), 702)
    refused(contract, HOST, raw_registration(extra=1), 9)
    refused(contract, HOST, raw_registration(seqno=1), 726)
    refused(contract, HOST, raw_registration(head=1), 726)
    refused(contract, HOST, raw_registration(serial=1), 726)
    assert contract.send(HOST, raw_registration()).exit == 0


def test_renewal_refusals(contract: Contract) -> None:
    anchored(contract)
    renewal = replace(FIRST, serial=1, valid_until=NOW + 90_000, head=FIRST.hash)
    refused(contract, HOST, register(FIRST), 711)
    refused(contract, HOST, register(replace(renewal, valid_until=FIRST.valid_until)), 711)
    refused(contract, HOST, register(replace(renewal, boot=b"\x08" * 32)), 713)
    refused(contract, HOST, register(replace(renewal, seqno=1, head=b"\x09" * 32)), 725)
    assert contract.send(HOST, register(renewal)).exit == 0
    refused(contract, HOST, register(replace(renewal, valid_until=NOW + 91_000)), 711)


def raw_anchor(
    *, tag: int = 0x53524332, version: int = 1, count: int = 1, extra: int = 0, key: Ed25519PrivateKey = KEY
) -> Cell:
    builder = Builder().uint(tag, 32).uint(version, 8).octets(BOOT, 32).uint(1, 64).octets(FIRST.hash, 32)
    cell = builder.uint(5, 256).uint(count, 32).uint(NOW, 64).uint(0, 1).uint(0, extra).cell()
    head = Builder().uint(messages.OPERATIONS["anchor"], 32).uint(0, 64).octets(PUBLIC, 32)
    return head.octets(key.sign(cell.hash), 64).ref(cell).cell()


def test_anchor_refusals(contract: Contract) -> None:
    refused(contract, HOST, anchor(BATCH), 707)
    registered(contract)
    refused(contract, HOST, anchor(BATCH, named=OTHER.public_key().public_bytes_raw()), 707)
    refused(contract, HOST, anchor(BATCH, key=OTHER), 705)
    refused(contract, HOST, anchor(replace(BATCH, boot=b"\x08" * 32)), 713)
    refused(contract, HOST, anchor(NEXT), 714)
    refused(contract, HOST, anchor(replace(BATCH, previous=b"\x08" * 32)), 715)
    refused(contract, HOST, raw_anchor(tag=0x53524333), 703)
    refused(contract, HOST, raw_anchor(tag=0x53524331), 703)
    refused(contract, HOST, raw_anchor(version=2), 702)
    refused(contract, HOST, raw_anchor(extra=1), 9)
    refused(contract, HOST, raw_anchor(count=0), 729)
    assert contract.send(HOST, anchor(BATCH)).exit == 0
    refused(contract, HOST, anchor(BATCH), 714)
    contract.now = FIRST.valid_until + 1
    refused(contract, HOST, anchor(NEXT), 709)


def test_a_revoked_key_does_nothing_more(contract: Contract) -> None:
    anchored(contract)
    assert contract.send(OWNER, messages.list_digest("revoke_key", PUBLIC)).exit == 0
    receipt = RECEIPTS[0]
    refused(contract, HOST, anchor(NEXT), 708)
    refused(contract, HOST, messages.check_receipt(PUBLIC, KEY.sign(receipt.hash), receipt), 708)
    refused(contract, HOST, inclusion(), 708)
    renewal = replace(FIRST, serial=1, valid_until=NOW + 90_000, head=FIRST.hash)
    refused(contract, HOST, register(renewal), 708)


def test_prune_refusals(contract: Contract) -> None:
    refused(contract, HOST, messages.prune(PUBLIC), 707)
    registered(contract)
    contract.now = FIRST.valid_until
    refused(contract, HOST, messages.prune(PUBLIC), 710)


def test_check_receipt_refusals(contract: Contract) -> None:
    receipt = RECEIPTS[0]
    refused(contract, HOST, messages.check_receipt(PUBLIC, KEY.sign(receipt.hash), receipt), 707)
    registered(contract)
    refused(contract, HOST, messages.check_receipt(PUBLIC, KEY.sign(RECEIPTS[1].hash), receipt), 706)
    refused(contract, HOST, messages.check_receipt(PUBLIC, OTHER.sign(receipt.hash), receipt), 706)
    contract.now = FIRST.valid_until + 1
    refused(contract, HOST, messages.check_receipt(PUBLIC, KEY.sign(receipt.hash), receipt), 709)


def test_check_inclusion_refusals(contract: Contract) -> None:
    refused(contract, HOST, inclusion(), 707)
    registered(contract)
    refused(contract, HOST, inclusion(), 724)
    assert contract.send(HOST, anchor(BATCH)).exit == 0
    refused(contract, HOST, inclusion(key=OTHER), 705)
    refused(contract, HOST, inclusion(statement=replace(BATCH, boot=b"\x08" * 32)), 713)
    refused(contract, HOST, inclusion(statement=NEXT), 724)
    refused(contract, HOST, inclusion(statement=replace(BATCH, time=NOW + 1)), 725)
    refused(contract, HOST, inclusion(receipt=RECEIPTS[2].hash), 723)
    refused(contract, HOST, inclusion(index=5), 722)
    refused(contract, HOST, inclusion(index=2**32 - 1), 722)
    refused(contract, HOST, inclusion(index=2), 9)  # pruned
    assert contract.send(HOST, anchor(NEXT)).exit == 0
    refused(contract, HOST, inclusion(statement=NEXT), 721)


def test_check_inclusion_refuses_a_position_behind_the_count(contract: Contract) -> None:
    registered(contract)
    short = replace(BATCH, count=3)
    assert contract.send(HOST, anchor(short)).exit == 0
    refused(contract, HOST, inclusion(statement=short), 722)


def test_check_inclusion_refuses_what_is_no_proof(contract: Contract) -> None:
    anchored(contract)
    (proof,) = read_boc(TREE.prove(3), what="proof", limit=4096, max_cells=99)
    plain = Builder().uint(3, 8).octets(TREE.root, 32).uint(7, 16).ref(Builder().cell()).cell()
    library = make_cell(b"\x02" + TREE.root, 264, (), 2)
    assert proof.kind == MERKLE_PROOF
    refused(contract, HOST, inclusion(proof=plain), 720)
    refused(contract, HOST, inclusion(proof=library), 720)
    other = BatchTree([Leaf(cell.hash, cell.depth) for cell in RECEIPTS[:4]])
    (elsewhere,) = read_boc(other.prove(3), what="proof", limit=4096, max_cells=99)
    refused(contract, HOST, inclusion(proof=elsewhere), 721)


def test_strangers_change_nothing(contract: Contract) -> None:
    for body in owner_bodies():
        refused(contract, STRANGER, body, 701)
    refused(contract, OWNER, messages.accept_ownership(), 728)


def test_owner_refusals(contract: Contract) -> None:
    digest = b"\x44" * 32
    refused(contract, OWNER, messages.list_digest("drop_image", digest), 718)
    refused(contract, OWNER, messages.list_digest("drop_model", digest), 718)
    refused(contract, OWNER, messages.list_digest("allow_image", digest, not_after=NOW - 1), 709)
    refused(contract, OWNER, messages.list_digest("allow_model", digest, not_after=NOW - 1), 709)
    assert contract.send(OWNER, messages.list_digest("revoke_image", digest)).exit == 0
    refused(contract, OWNER, messages.list_digest("revoke_image", digest), 719)
    refused(contract, OWNER, messages.list_digest("allow_image", digest, not_after=NOW + 9), 717)
    assert contract.send(OWNER, messages.list_digest("revoke_key", digest)).exit == 0
    refused(contract, OWNER, messages.list_digest("revoke_key", digest), 719)


def test_unknown_operations(contract: Contract) -> None:
    refused(contract, OWNER, Builder().uint(0x53520099, 32).uint(0, 64).cell(), 0xFFFF)
    refused(contract, OWNER, Builder().uint(1, 1).cell(), 0xFFFF)
    refused(contract, OWNER, Builder().ref(Builder().cell()).cell(), 0xFFFF)


def test_a_bounced_message_is_ignored(contract: Contract) -> None:
    body = Builder().uint(0xFFFFFFFF, 32).uint(messages.OPERATIONS["set_fee"], 32).cell()
    before = contract.data.hash
    builder = Builder().uint(0b0101, 4).uint(0b100, 3).uint(0, 8).octets(OWNER, 32).uint(0b100, 3).uint(0, 8)
    builder.octets(ADDRESS, 32).coins(10**8).uint(0, 1).coins(0).coins(0).uint(5, 64).uint(0, 32).uint(1, 2).ref(body)
    assert contract.run(builder.cell()).exit == 0
    assert contract.data.hash == before


def test_get_methods_throw_the_codes_of_the_messages(contract: Contract) -> None:
    receipt, (proof,) = RECEIPTS[0], read_boc(TREE.prove(3), what="proof", limit=4096, max_cells=99)

    def signed(digest: bytes, key: Ed25519PrivateKey = KEY) -> Slice:
        return Slice(Builder().octets(key.sign(digest), 64).cell(), what="signature", code="MalformedCell")

    def checks(key: Ed25519PrivateKey = KEY, cell: Cell = proof, index: int = 3) -> tuple[int, int]:
        one = contract.get("get_receipt_checked", KEY_INT, signed(receipt.hash, key), receipt)[0]
        wanted = int.from_bytes(RECEIPTS[3].hash, "big")
        statement = signed(BATCH.hash, key)
        two = contract.get("get_inclusion_checked", KEY_INT, statement, BATCH.to_cell(), cell, index, wanted)[0]
        return one, two

    assert checks() == (707, 707)
    anchored(contract)
    assert checks() == (0, 0)
    assert checks(OTHER) == (706, 705)
    assert checks(cell=Builder().cell()) == (0, 720)
    assert checks(index=5) == (0, 722)
    contract.now = FIRST.valid_until + 1
    assert checks() == (709, 0)  # a batch that was anchored in time stays provable
    contract.now = NOW
    assert contract.send(OWNER, messages.list_digest("revoke_key", PUBLIC)).exit == 0
    assert checks() == (708, 708)
