# SPDX-License-Identifier: Apache-2.0
"""The registry contract in TON's virtual machine: what it accepts, every refusal by its exit code, and what it costs.

Each test runs in tonpy and in @ton/sandbox, fed by the same messages, built by our own code.
"""

from __future__ import annotations

import random  # noqa: TID251 - seeded: the same bodies on every run
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from attestation.batch import BatchStatement, BatchTree, Leaf, Recovered, Registration
from attestation.ton.boc import read_boc
from attestation.ton.cells import MERKLE_PROOF, Cell, make_cell
from attestation.ton.slices import Builder, Slice
from client import registry_messages as messages
from tests.ton_tvm import Contract, Machine, have_sandbox, have_tonpy

CODE = (Path(__file__).parent.parent / "attestation" / "ton" / "registry.boc").read_bytes()
NOW = 1_800_000_000
OWNER, HOST, STRANGER = b"\x01" * 32, b"\x02" * 32, b"\x03" * 32
ADDRESS = b"\x09" * 32
FEE = 50_000_000
BOOT = b"\x07" * 32
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OTHER = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))
PUBLIC = KEY.public_key().public_bytes_raw()
KEY_INT = int.from_bytes(PUBLIC, "big")
RECEIPTS = [Builder().uint(0x53524331, 32).uint(n, 64).ref(Builder().uint(n, 8).cell()).cell() for n in range(5)]
TREE = BatchTree([Leaf(cell.hash, cell.depth) for cell in RECEIPTS])
FIRST = Registration(key=PUBLIC, boot=BOOT, serial=0, valid_until=NOW + 86_400, seqno=0, head=bytes(32))
BATCH = BatchStatement(boot=BOOT, seqno=1, previous=FIRST.hash, root=TREE.root, count=len(TREE), time=NOW)
NEXT = BatchStatement(boot=BOOT, seqno=2, previous=BATCH.hash, root=b"\x08" * 32, count=9, time=NOW)


@pytest.fixture(scope="module", params=["tonpy", "sandbox"])
def machine(request: pytest.FixtureRequest) -> Iterator[Machine]:
    kind: str = request.param
    if kind == "tonpy" and not have_tonpy():
        pytest.skip("tonpy is not installed (requirements/tvm.txt)")
    if kind == "sandbox" and not have_sandbox():
        pytest.skip("Node or contracts/node_modules is missing (npm ci in contracts)")
    with Machine(kind) as started:
        yield started


@pytest.fixture
def contract(machine: Machine) -> Contract:
    return deploy(machine)


def code() -> Cell:
    (cell,) = read_boc(CODE, what="code", limit=8192, max_cells=512)
    return cell


def deploy(machine: Machine, *, balance: int = 2_000_000_000) -> Contract:
    data = messages.initial_data(owner=OWNER, fee=FEE)
    return Contract(machine, code(), data, ADDRESS, balance=balance, now=NOW)


def registered(contract: Contract) -> Contract:
    assert contract.send(HOST, register(FIRST)).exit == 0
    return contract


def anchored(contract: Contract) -> Contract:
    assert registered(contract).send(HOST, anchor(BATCH)).exit == 0
    return contract


def register(registration: Registration, *, key: Ed25519PrivateKey = KEY) -> Cell:
    return messages.register(registration, key.sign(registration.hash))


def anchor(statement: BatchStatement, *, key: Ed25519PrivateKey = KEY, named: bytes = PUBLIC) -> Cell:
    return messages.anchor(named, statement, key.sign(statement.hash))


def inclusion(
    *,
    index: int = 3,
    receipt: bytes = RECEIPTS[3].hash,
    statement: BatchStatement = BATCH,
    key: Ed25519PrivateKey = KEY,
    named: bytes = PUBLIC,
    proof: Cell | None = None,
) -> Cell:
    if proof is None:
        (proof,) = read_boc(TREE.prove(3), what="proof", limit=4096, max_cells=99)
    return messages.check_inclusion(
        named, index=index, receipt_hash=receipt, statement=statement, signature=key.sign(statement.hash), proof=proof
    )


def refused(contract: Contract, source: bytes, body: Cell, code: int, *, value: int = 100_000_000) -> None:
    before = contract.data.hash
    outcome = contract.send(source, body, value=value)
    assert outcome.exit == code
    assert outcome.aborted
    assert contract.data.hash == before


def enclave(contract: Contract) -> list[int | str]:
    exit_code, stack = contract.get("get_enclave", KEY_INT)
    assert exit_code == 0
    return stack


# ---- what it accepts


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
    if contract.machine.kind == "tonpy":
        pytest.skip("this machine cannot call the method by its id; the other one does")
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


# ---- refusals


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


def owner_bodies() -> list[Cell]:
    digest = b"\x44" * 32
    return [
        messages.list_digest("allow_image", digest, not_after=NOW + 9),
        messages.list_digest("drop_image", digest),
        messages.list_digest("revoke_image", digest),
        messages.list_digest("allow_model", digest, not_after=NOW + 9),
        messages.list_digest("drop_model", digest),
        messages.list_digest("revoke_key", digest),
        messages.set_fee(1),
        messages.offer_ownership(0, STRANGER),
        messages.withdraw(1),
    ]


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


# ---- hostile bodies


def test_bent_bodies_change_nothing(contract: Contract) -> None:
    """Flip bits of good bodies: nothing that is not exactly as signed or asked is accepted."""
    anchored(contract)
    rng = random.Random(6)
    before = contract.data.hash
    renewal = replace(FIRST, serial=1, valid_until=NOW + 90_000, head=FIRST.hash)
    for body in (anchor(NEXT), register(renewal), inclusion(), *owner_bodies()):
        for _ in range(8):
            if (bent := bend(body, rng)).hash == body.hash:
                continue
            contract.send(STRANGER, bent)
            assert contract.data.hash == before


def bend(cell: Cell, rng: random.Random) -> Cell:
    """Flip one bit behind the query id somewhere in an ordinary tree, or cut one. What follows a message is ignored."""
    if cell.refs and cell.refs[0].kind == -1 and rng.random() < 0.5:
        return make_cell(cell.data, cell.bits, (bend(cell.refs[0], rng), *cell.refs[1:]))
    value, bits = int.from_bytes(cell.data, "big") >> (-cell.bits % 8), cell.bits
    if bits > 97 and rng.randrange(6) == 0:
        value, bits = value >> 1, bits - 1
    elif bits > 96:
        value ^= 1 << rng.randrange(bits - 96)
    builder = Builder().uint(value, bits)
    for ref in cell.refs:
        builder.ref(ref)
    return builder.cell()


def test_random_bodies_change_nothing(contract: Contract) -> None:
    rng = random.Random(7)
    before = contract.data.hash
    for _ in range(60):
        bits = rng.randrange(1, 1000)
        builder = Builder()
        if rng.random() < 0.7 and bits > 32:
            builder.uint(rng.choice(list(messages.OPERATIONS.values())), 32)
            bits -= 32
        builder.uint(rng.getrandbits(bits), bits)
        for _ in range(rng.randrange(3)):
            builder.ref(Builder().uint(rng.getrandbits(90), 90).cell())
        outcome = contract.send(STRANGER, builder.cell())
        assert outcome.exit != 0
        assert contract.data.hash == before


# ---- what it costs


def test_gas_limits(contract: Contract) -> None:
    """Regression limits, a little above what was measured (docs/ton.md, Costs)."""
    image = messages.list_digest("allow_image", b"\x44" * 32, not_after=NOW + 9)
    receipt = RECEIPTS[0]
    assert contract.send(OWNER, image).gas <= 5_900
    assert contract.send(HOST, register(FIRST)).gas <= 7_500
    assert contract.send(HOST, anchor(BATCH)).gas <= 6_600
    assert contract.send(HOST, messages.check_receipt(PUBLIC, KEY.sign(receipt.hash), receipt)).gas <= 5_000
    assert contract.send(HOST, inclusion()).gas <= 7_600


def test_an_anchor_costs_the_same_for_the_thousandth_batch(machine: Machine) -> None:
    contract = registered(deploy(machine))
    previous = FIRST.hash
    gas = {}
    for seqno in range(1, 1001 if machine.kind == "tonpy" else 11):
        statement = replace(BATCH, seqno=seqno, previous=previous)
        outcome = contract.send(HOST, anchor(statement))
        assert outcome.exit == 0
        gas[seqno] = (outcome.gas, outcome.fees)
        previous = statement.hash
    assert len(set(gas.values())) == 1


def test_both_machines_agree() -> None:
    """Run one long story in both and compare exit codes, gas, fees, answers and state after every message."""
    if not have_tonpy() or not have_sandbox():
        pytest.skip("needs tonpy and contracts/node_modules")
    receipt = RECEIPTS[0]
    story = [
        (OWNER, messages.list_digest("allow_image", b"\x44" * 32, not_after=NOW + 9)),
        *[(STRANGER, body) for body in owner_bodies()],
        *[(OWNER, body) for body in owner_bodies()],
        (HOST, register(FIRST)),
        (HOST, register(FIRST)),
        (HOST, anchor(BATCH, key=OTHER)),
        (HOST, anchor(BATCH)),
        (HOST, anchor(BATCH)),
        (HOST, messages.check_receipt(PUBLIC, KEY.sign(receipt.hash), receipt)),
        (HOST, messages.check_receipt(PUBLIC, OTHER.sign(receipt.hash), receipt)),
        (HOST, inclusion()),
        (HOST, inclusion(index=2)),
        (HOST, inclusion(receipt=bytes(32))),
        (STRANGER, messages.accept_ownership()),
        (HOST, messages.prune(PUBLIC)),
    ]
    with Machine("tonpy") as one, Machine("sandbox") as two:
        first, second = deploy(one), deploy(two)
        for source, body in story:
            left, right = first.send(source, body), second.send(source, body)
            assert [replace(o, bodies=()) for o in (left,)] == [replace(o, bodies=()) for o in (right,)]
            assert [body.hash for body in left.bodies] == [body.hash for body in right.bodies]
            assert first.data.hash == second.data.hash
