# SPDX-License-Identifier: Apache-2.0
"""What the registry contract costs: limits for gas, the same for every batch, the same in both machines."""

from __future__ import annotations

from dataclasses import replace

import pytest

from client import registry_messages as messages
from tests.contract_cases import (
    BATCH,
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
from tests.ton_tvm import Contract, Machine, have_sandbox, have_tonpy


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
