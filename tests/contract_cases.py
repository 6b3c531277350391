# SPDX-License-Identifier: Apache-2.0
"""The registry contract as its tests use it: deployed, with one receipt key, one batch, and messages of every kind."""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from attestation.batch import BatchStatement, BatchTree, Leaf, Registration
from attestation.ton.boc import read_boc
from attestation.ton.cells import Cell
from attestation.ton.slices import Builder
from client import registry_messages as messages
from tests.ton_tvm import Contract, Machine

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
