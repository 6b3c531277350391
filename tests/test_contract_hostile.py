# SPDX-License-Identifier: Apache-2.0
"""Bent and random bodies sent to the registry contract, in both machines: none changes anything."""

from __future__ import annotations

import random  # noqa: TID251 - seeded: the same bodies on every run
from dataclasses import replace

from attestation.ton.cells import Cell, make_cell
from attestation.ton.slices import Builder
from client import registry_messages as messages
from tests.contract_cases import (
    FIRST,
    NEXT,
    NOW,
    STRANGER,
    anchor,
    anchored,
    inclusion,
    owner_bodies,
    register,
)
from tests.ton_tvm import Contract


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
