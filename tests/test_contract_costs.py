# SPDX-License-Identifier: Apache-2.0
"""What the registry contract costs: limits for gas, the same for every batch, the same in both machines."""

from __future__ import annotations

import re
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from attestation.batch import BatchStatement, BatchTree, Leaf
from attestation.ton.boc import read_boc
from client import registry_messages as messages
from tests.contract_cases import (
    ADDRESS,
    BATCH,
    FEE,
    FIRST,
    HOST,
    KEY,
    NOW,
    OTHER,
    OWNER,
    PUBLIC,
    RECEIPTS,
    STRANGER,
    anchor,
    deploy,
    inclusion,
    owner_bodies,
    register,
    registered,
)
from tests.ton_cells import internal_message
from tests.ton_tvm import Contract, Machine, Outcome, have_sandbox, have_tonpy

VALUE = 100_000_000  # what a test sends with a message
PAGE = (Path(__file__).parent.parent / "docs" / "ton.md").read_text()


def batch_of(count: int) -> tuple[BatchTree, BatchStatement]:
    """Give a batch of so many receipts as the chain's first."""
    tree = BatchTree([Leaf(sha256(n.to_bytes(4, "big")).digest(), 2) for n in range(count)])
    return tree, replace(BATCH, root=tree.root, count=count)


def inclusion_cost(contract: Contract, count: int) -> Outcome:
    tree, statement = batch_of(count)
    assert contract.send(HOST, anchor(statement)).exit == 0
    (proof,) = read_boc(tree.prove(count // 2), what="proof", limit=4096, max_cells=99)
    receipt = sha256((count // 2).to_bytes(4, "big")).digest()
    return contract.send(HOST, inclusion(index=count // 2, receipt=receipt, statement=statement, proof=proof))


def measured(machine: Machine) -> dict[str, Outcome]:
    """Send every message to a registry that holds nothing but what the message needs."""
    receipt, digest = RECEIPTS[0], b"\x44" * 32
    found: dict[str, Outcome] = {}
    contract = deploy(machine)
    found["register"] = contract.send(HOST, register(FIRST))
    found["anchor"] = contract.send(HOST, anchor(BATCH))
    found["check a receipt"] = contract.send(HOST, messages.check_receipt(PUBLIC, KEY.sign(receipt.hash), receipt))
    renewal = replace(FIRST, serial=1, valid_until=NOW + 90_000, head=FIRST.hash)
    found["renew"] = contract.send(HOST, register(renewal))
    contract = registered(deploy(machine))
    contract.now = FIRST.valid_until + 1
    found["prune"] = contract.send(STRANGER, messages.prune(PUBLIC))
    for count in (1, 1_000, 100_000):
        found[f"check inclusion in {count:,}"] = inclusion_cost(registered(deploy(machine)), count)
    for what in ("image", "model"):
        contract = deploy(machine)
        found[f"allow {what}"] = contract.send(OWNER, messages.list_digest(f"allow_{what}", digest, not_after=NOW + 9))
        found[f"drop {what}"] = contract.send(OWNER, messages.list_digest(f"drop_{what}", digest))
    for what in ("image", "key"):
        found[f"revoke {what}"] = deploy(machine).send(OWNER, messages.list_digest(f"revoke_{what}", digest))
    contract = deploy(machine)
    found["set fee"] = contract.send(OWNER, messages.set_fee(FEE))
    found["offer ownership"] = contract.send(OWNER, messages.offer_ownership(0, STRANGER))
    found["accept ownership"] = contract.send(STRANGER, messages.accept_ownership())
    found["withdraw"] = deploy(machine).send(OWNER, messages.withdraw(1))
    return found


def cost(name: str, outcome: Outcome) -> int:
    """Give what of the value sent did not come back: gas, and the answer's carriage, all of it."""
    kept = {"register": FEE, "renew": FEE, "withdraw": -1}.get(name, 0)
    return VALUE - kept - outcome.values[0]


def test_costs_are_what_the_page_says(machine: Machine) -> None:
    """To the unit, in both machines: a change of gas is a change of docs/ton.md."""
    found = measured(machine)
    assert all(outcome.exit == 0 and outcome.action == 0 for outcome in found.values())
    rows = dict(re.findall(r"^\| ([a-z0-9, ]+) \| ([\d,]+ \| [\d,]+) \|$", PAGE, re.MULTILINE))
    assert {name: f"{outcome.gas:,} | {cost(name, outcome):,}" for name, outcome in found.items()} == rows


def test_the_page_s_price_of_a_receipt_follows_from_the_costs() -> None:
    """Forward fee of a message: 400,000 and, for what is below its root, 400 a bit and 40,000 a cell."""
    message = internal_message(HOST, ADDRESS, 10**8, anchor(BATCH))
    below = [cell for ref in message.refs for cell in (ref, *ref.refs)]
    carried = 400_000 + sum(400 * cell.bits + 40_000 for cell in below)
    assert f"another {carried:,} for being carried ({len(below)} cells, {sum(c.bits for c in below):,} bits)" in PAGE
    (own,) = re.findall(r"^\| anchor \| [\d,]+ \| ([\d,]+) \|$", PAGE, re.MULTILINE)
    together = carried + int(own.replace(",", ""))
    assert f"The two together are {together:,} a batch" in PAGE
    for count in (1, 100, 10_000, 100_000):
        assert f"| {count:,} | {-(-together // count):,} |" in PAGE


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
