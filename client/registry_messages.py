# SPDX-License-Identifier: Apache-2.0
"""Bodies of the messages that a registry contract takes (docs/ton.md, Messages)."""

from __future__ import annotations

from typing import Final

from attestation.batch import BatchStatement, Registration
from attestation.ton.cells import Cell
from attestation.ton.slices import Builder

OPERATIONS: Final = {
    "allow_image": 0x53520001,
    "drop_image": 0x53520002,
    "revoke_image": 0x53520003,
    "allow_model": 0x53520004,
    "drop_model": 0x53520005,
    "revoke_key": 0x53520006,
    "set_fee": 0x53520007,
    "offer_ownership": 0x53520008,
    "accept_ownership": 0x53520009,
    "withdraw": 0x5352000A,
    "register": 0x53520010,
    "anchor": 0x53520011,
    "prune": 0x53520012,
    "check_receipt": 0x53520020,
    "check_inclusion": 0x53520021,
}
CHECKED: Final = 0x53520040
EXCESSES: Final = 0xD53276DB


def _begin(operation: str, query_id: int) -> Builder:
    return Builder().uint(OPERATIONS[operation], 32).uint(query_id, 64)


def register(registration: Registration, signature: bytes, *, query_id: int = 0) -> Cell:
    """Present a receipt key with its possession signature."""
    return _begin("register", query_id).octets(signature, 64).ref(registration.to_cell()).cell()


def anchor(key: bytes, statement: BatchStatement, signature: bytes, *, query_id: int = 0) -> Cell:
    """Move the head of `key`'s chain to `statement`."""
    return _begin("anchor", query_id).octets(key, 32).octets(signature, 64).ref(statement.to_cell()).cell()


def prune(key: bytes, *, query_id: int = 0) -> Cell:
    """Remove an expired key."""
    return _begin("prune", query_id).octets(key, 32).cell()


def check_receipt(key: bytes, signature: bytes, receipt: Cell, *, query_id: int = 0) -> Cell:
    """Ask the contract to check a receipt's signature and answer the sender."""
    return _begin("check_receipt", query_id).octets(key, 32).octets(signature, 64).ref(receipt).cell()


def check_inclusion(
    key: bytes,
    *,
    index: int,
    receipt_hash: bytes,
    statement: BatchStatement,
    signature: bytes,
    proof: Cell,
    query_id: int = 0,
) -> Cell:
    """Ask the contract to check that a receipt is in a batch, and answer the sender."""
    signed = Builder().octets(signature, 64).ref(statement.to_cell()).cell()
    head = _begin("check_inclusion", query_id).octets(key, 32).uint(index, 32).octets(receipt_hash, 32)
    return head.ref(signed).ref(proof).cell()


def list_digest(operation: str, digest: bytes, *, not_after: int | None = None, query_id: int = 0) -> Cell:
    """Allow, drop or revoke an image, a model or a key: `operation` is a key of OPERATIONS; owner only."""
    builder = _begin(operation, query_id).octets(digest, 32)
    return (builder if not_after is None else builder.uint(not_after, 64)).cell()


def set_fee(fee: int, *, query_id: int = 0) -> Cell:
    """Set the fee of a registration, in nanograms; owner only."""
    return _begin("set_fee", query_id).coins(fee).cell()


def offer_ownership(workchain: int, account: bytes, *, query_id: int = 0) -> Cell:
    """Offer the registry to another account; owner only."""
    return _begin("offer_ownership", query_id).uint(0b100, 3).uint(workchain & 255, 8).octets(account, 32).cell()


def accept_ownership(*, query_id: int = 0) -> Cell:
    """Accept an offered registry."""
    return _begin("accept_ownership", query_id).cell()


def withdraw(amount: int, *, query_id: int = 0) -> Cell:
    """Withdraw collected fees, in nanograms; owner only."""
    return _begin("withdraw", query_id).coins(amount).cell()


def initial_data(*, owner: bytes, fee: int, workchain: int = 0) -> Cell:
    """Give the storage of a new registry owned by `owner` (32 bytes)."""
    lists = Builder().uint(0, 4).uint(0, 2).cell()
    head = Builder().uint(1, 8).uint(0b100, 3).uint(workchain & 255, 8).octets(owner, 32).coins(fee).uint(0, 1)
    return head.ref(lists).cell()
