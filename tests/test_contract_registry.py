# SPDX-License-Identifier: Apache-2.0
"""The registry contract in TON's virtual machine: what it accepts and what it then knows and answers.

Each test runs in tonpy and in @ton/sandbox, fed by the same messages, built by our own code.
"""

from __future__ import annotations

from dataclasses import replace

from attestation.batch import Recovered
from attestation.ton.boc import read_boc
from attestation.ton.registry import Address, Listing, find_key, read_registry
from attestation.ton.slices import Builder, Slice
from client import registry_messages as messages
from tests.contract_cases import (
    BATCH,
    BOOT,
    FEE,
    FIRST,
    HOST,
    KEY,
    KEY_INT,
    NEXT,
    NOW,
    OWNER,
    PUBLIC,
    RECEIPTS,
    STRANGER,
    TREE,
    anchor,
    anchored,
    enclave,
    inclusion,
    refused,
    register,
    registered,
)
from tests.ton_tvm import Contract


def test_register_keeps_the_fee_and_returns_the_rest(contract: Contract) -> None:
    balance = contract.state.balance
    outcome = contract.send(HOST, register(FIRST))
    assert (outcome.exit, outcome.action) == (0, 0)
    assert contract.state.balance == balance + FEE
    assert 0 < outcome.values[0] < 100_000_000 - FEE
    assert outcome.bodies[0].hash == Builder().uint(messages.EXCESSES, 32).uint(0, 64).cell().hash
    head = int.from_bytes(FIRST.hash, "big")
    assert enclave(contract) == [-1, int.from_bytes(BOOT, "big"), 0, FIRST.valid_until, 0, head, 0]


def test_anchor_moves_the_head(contract: Contract) -> None:
    registered(contract)
    contract.now += 60
    assert contract.send(STRANGER, anchor(BATCH)).exit == 0
    assert enclave(contract)[4:] == [1, int.from_bytes(BATCH.hash, "big"), NOW + 60]
    assert contract.send(STRANGER, anchor(NEXT)).exit == 0
    assert enclave(contract)[4:] == [2, int.from_bytes(NEXT.hash, "big"), NOW + 60]


def test_anchor_of_recovered_receipts_only(contract: Contract) -> None:
    registered(contract)
    alone = replace(BATCH, count=0, root=bytes(32), recovered=Recovered(count=3, root=b"\x05" * 32))
    assert contract.send(HOST, anchor(alone)).exit == 0


def test_renewal_keeps_the_chain(contract: Contract) -> None:
    anchored(contract)
    renewal = replace(FIRST, serial=1, valid_until=NOW + 90_000, head=FIRST.hash)
    assert contract.send(HOST, register(renewal)).exit == 0
    assert enclave(contract)[2:6] == [1, NOW + 90_000, 1, int.from_bytes(BATCH.hash, "big")]
    assert contract.send(HOST, anchor(NEXT)).exit == 0


def test_renewal_ahead_of_the_chain_moves_it(contract: Contract) -> None:
    anchored(contract)
    renewal = replace(FIRST, serial=4, valid_until=NOW + 90_000, seqno=7, head=b"\x06" * 32)
    assert contract.send(HOST, register(renewal)).exit == 0
    assert enclave(contract)[4:6] == [7, int.from_bytes(b"\x06" * 32, "big")]


def test_a_renewal_may_be_the_first_that_the_registry_sees(contract: Contract) -> None:
    renewal = replace(FIRST, serial=4, seqno=1, head=BATCH.hash, extension=Builder().uint(1, 7).cell())
    assert contract.send(HOST, register(renewal)).exit == 0
    assert contract.send(HOST, anchor(NEXT)).exit == 0


def test_prune_after_expiry(contract: Contract) -> None:
    registered(contract)
    contract.now = FIRST.valid_until + 1
    assert contract.send(STRANGER, messages.prune(PUBLIC)).exit == 0
    assert enclave(contract)[0] == 0


def test_check_receipt_answers_the_sender(contract: Contract) -> None:
    registered(contract)
    receipt = RECEIPTS[0]
    outcome = contract.send(STRANGER, messages.check_receipt(PUBLIC, KEY.sign(receipt.hash), receipt, query_id=77))
    assert outcome.exit == 0
    expected = Builder().uint(messages.CHECKED, 32).uint(77, 64).octets(PUBLIC, 32).octets(receipt.hash, 32)
    assert outcome.bodies[0].hash == expected.cell().hash


def test_get_receipt_checked(contract: Contract) -> None:
    registered(contract)
    receipt = RECEIPTS[0]
    signature = Slice(Builder().octets(KEY.sign(receipt.hash), 64).cell(), what="signature", code="MalformedCell")
    assert contract.get("get_receipt_checked", KEY_INT, signature, receipt) == (
        0,
        [int.from_bytes(receipt.hash, "big")],
    )


def test_check_inclusion_in_the_head_and_in_an_older_batch(contract: Contract) -> None:
    anchored(contract)
    assert contract.send(STRANGER, inclusion()).exit == 0
    assert contract.send(HOST, anchor(NEXT)).exit == 0
    outcome = contract.send(STRANGER, inclusion())
    assert outcome.exit == 0
    expected = Builder().uint(messages.CHECKED, 32).uint(0, 64).octets(PUBLIC, 32).octets(RECEIPTS[3].hash, 32)
    assert outcome.bodies[0].hash == expected.cell().hash


def test_get_inclusion_checked(contract: Contract) -> None:
    anchored(contract)
    (proof,) = read_boc(TREE.prove(3), what="proof", limit=4096, max_cells=99)
    signature = Slice(Builder().octets(KEY.sign(BATCH.hash), 64).cell(), what="signature", code="MalformedCell")
    receipt = int.from_bytes(RECEIPTS[3].hash, "big")
    asked = (KEY_INT, signature, BATCH.to_cell(), proof)
    assert contract.get("get_inclusion_checked", *asked, 3, receipt) == (0, [-1])
    assert contract.get("get_inclusion_checked", *asked, 3, receipt ^ 1)[0] == 723


def test_owner_lists(contract: Contract) -> None:
    image, model = b"\x44" * 32, b"\x55" * 32
    image_int, model_int = int.from_bytes(image, "big"), int.from_bytes(model, "big")
    assert contract.send(OWNER, messages.list_digest("allow_image", image, not_after=NOW + 9)).exit == 0
    assert contract.send(OWNER, messages.list_digest("allow_model", model, not_after=NOW + 8)).exit == 0
    assert contract.get("get_image", image_int) == (0, [-1, NOW, NOW + 9])
    assert contract.get("get_model", model_int) == (0, [-1, NOW, NOW + 8])
    assert contract.get("get_image_revoked", image_int) == (0, [0])
    assert contract.send(OWNER, messages.list_digest("drop_model", model)).exit == 0
    assert contract.get("get_model", model_int) == (0, [0, 0, 0])
    assert contract.send(OWNER, messages.list_digest("revoke_image", image)).exit == 0
    assert contract.get("get_image", image_int) == (0, [0, 0, 0])
    assert contract.get("get_image_revoked", image_int) == (0, [NOW])
    assert contract.send(OWNER, messages.list_digest("revoke_key", PUBLIC)).exit == 0
    assert contract.get("get_key_revoked", KEY_INT) == (0, [NOW])


def test_ownership_changes_hands_in_two_steps(contract: Contract) -> None:
    assert contract.send(OWNER, messages.offer_ownership(0, STRANGER)).exit == 0
    refused(contract, STRANGER, messages.set_fee(1), 701)
    assert contract.send(STRANGER, messages.accept_ownership()).exit == 0
    refused(contract, OWNER, messages.set_fee(1), 701)
    assert contract.send(STRANGER, messages.set_fee(1)).exit == 0
    assert contract.get("get_fee") == (0, [1])
    refused(contract, STRANGER, messages.accept_ownership(), 728)


def test_withdraw_leaves_the_reserve(contract: Contract) -> None:
    outcome = contract.send(OWNER, messages.withdraw(1_000_000_000))
    assert (outcome.exit, outcome.action) == (0, 0)
    assert outcome.values[0] > 1_000_000_000
    assert contract.state.balance == 1_000_000_000
    refused(contract, OWNER, messages.withdraw(500_000_001), 727)
    assert contract.send(OWNER, messages.withdraw(500_000_000)).exit == 0


def test_an_empty_message_is_a_top_up(contract: Contract) -> None:
    before = contract.state.balance
    assert contract.send(STRANGER, Builder().cell(), value=10**9).exit == 0
    assert contract.state.balance > before + 9 * 10**8


def test_get_methods_and_the_proved_state_say_the_same(contract: Contract) -> None:
    anchored(contract)
    image, model = b"\x44" * 32, b"\x55" * 32
    assert contract.send(OWNER, messages.list_digest("allow_image", image, not_after=NOW + 9)).exit == 0
    assert contract.send(OWNER, messages.list_digest("allow_model", model, not_after=NOW + 8)).exit == 0
    assert contract.send(OWNER, messages.list_digest("revoke_image", model)).exit == 0
    assert contract.send(OWNER, messages.list_digest("revoke_key", image)).exit == 0
    assert contract.send(OWNER, messages.offer_ownership(-1, STRANGER)).exit == 0
    state = read_registry(contract.data)
    assert contract.get("get_version") == (0, [1])
    assert contract.get("get_owner") == (0, ["cell", "cell"])
    assert (state.owner, state.offered) == (
        Address(workchain=0, account=OWNER),
        Address(workchain=-1, account=STRANGER),
    )
    assert contract.get("get_fee") == (0, [state.fee])
    assert state.images == {image: Listing(since=NOW, not_after=NOW + 9)}
    assert state.models == {model: Listing(since=NOW, not_after=NOW + 8)}
    assert (state.revoked_images, state.revoked_keys) == ({model: NOW}, {image: NOW})
    found = state.enclaves[PUBLIC]
    boot, head = int.from_bytes(found.boot, "big"), int.from_bytes(found.head, "big")
    assert enclave(contract) == [-1, boot, found.serial, found.valid_until, found.seqno, head, found.anchored_at]
    assert find_key(contract.data, PUBLIC).enclave == found
    assert find_key(contract.data, image).revoked_at == NOW


def test_an_extension_is_kept_as_it_came(contract: Contract) -> None:
    extension = Builder().uint(5, 9).ref(Builder().cell()).cell()
    assert contract.send(HOST, register(replace(FIRST, extension=extension))).exit == 0
    kept = read_registry(contract.data).enclaves[PUBLIC].extension
    assert kept is not None
    assert kept.hash == extension.hash


def test_what_follows_a_message_changes_nothing(contract: Contract) -> None:
    body = register(FIRST)
    longer = Builder().uint(int.from_bytes(body.data, "big"), body.bits).uint(5, 7).ref(body.refs[0]).cell()
    assert contract.send(HOST, longer).exit == 0
    assert read_registry(contract.data).enclaves[PUBLIC].head == FIRST.hash
