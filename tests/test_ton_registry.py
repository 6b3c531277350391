# SPDX-License-Identifier: Apache-2.0
"""Accounts and a registry's data: read as the contract writes them, whole or down to one key, and not otherwise."""

from __future__ import annotations

from typing import Any

import pytest

from attestation.ton.accounts import Account, read_account
from attestation.ton.boc import read_boc, write_boc
from attestation.ton.cells import PRUNED_BRANCH, Cell, make_cell
from attestation.ton.hashmap import path_to
from attestation.ton.pruning import merkle_proof
from attestation.ton.registry import (
    MAX_CODE,
    Address,
    Enclave,
    Listing,
    contract_code,
    find_key,
    prove_key,
    read_registry,
    registry_data,
)
from attestation.ton.slices import Builder
from tests.simulated_ton import CODE
from tests.ton_cells import account, address, append, hashmap
from tests.ton_refusals import refuse

EMPTY = Builder().cell()
OWNER = b"\x01" * 32
KEYS = [bytes([n]) * 32 for n in (2, 3, 0x82, 0xF0)]


def pruned(tree: Cell) -> Cell:
    data = b"\x01\x01" + tree.hash + tree.depth.to_bytes(2, "big")
    return make_cell(data, len(data) * 8, (), PRUNED_BRANCH)


def enclave(number: int, *, extra: int = 0) -> Cell:
    builder = Builder().octets(b"\x07" * 32, 32).uint(number, 32).uint(9, 64).uint(3, 64).octets(b"\x08" * 32, 32)
    return builder.uint(5, 64).maybe_ref(EMPTY if number == 1 else None).uint(0, extra).cell()


def listing(extra: int = 0) -> Cell:
    return Builder().uint(6, 64).uint(7, 64).uint(0, extra).cell()


def since(extra: int = 0) -> Cell:
    return Builder().uint(8, 64).uint(0, extra).cell()


def dictionary(entries: dict[bytes, Cell]) -> Cell | None:
    return hashmap({int.from_bytes(key, "big"): value for key, value in entries.items()}, 256) if entries else None


def data(
    *,
    version: int = 1,
    enclaves: dict[bytes, Cell] | None = None,
    images: dict[bytes, Cell] | None = None,
    models: dict[bytes, Cell] | None = None,
    revoked_images: dict[bytes, Cell] | None = None,
    revoked_keys: dict[bytes, Cell] | None = None,
    extra: int = 0,
    lists_extra: int = 0,
    owner: Cell | None = None,
) -> Cell:
    lists = Builder()
    for entries in (images, models, revoked_images, revoked_keys):
        lists.maybe_ref(dictionary(entries or {}))
    lists.uint(0, 2).uint(0, lists_extra)
    builder = Builder().uint(version, 8)
    append(builder, owner or address(Builder(), 0, OWNER).cell()).coins(1234)
    builder.maybe_ref(dictionary(enclaves or {})).ref(lists.cell())
    return builder.uint(0, extra).cell()


def full() -> Cell:
    return data(
        enclaves={key: enclave(index) for index, key in enumerate(KEYS)},
        images={KEYS[0]: listing()},
        models={KEYS[1]: listing(), KEYS[2]: listing()},
        revoked_images={KEYS[2]: since()},
        revoked_keys={KEYS[3]: since()},
    )


# ---- a registry


def test_a_registry_reads_whole() -> None:
    found = read_registry(full())
    assert found.owner == Address(workchain=0, account=OWNER)
    assert str(found.owner) == "0:" + OWNER.hex()
    assert (found.offered, found.fee) == (None, 1234)
    assert list(found.enclaves) == KEYS
    first = found.enclaves[KEYS[0]]
    assert (first.boot, first.serial, first.valid_until) == (b"\x07" * 32, 0, 9)
    assert (first.seqno, first.head, first.anchored_at, first.extension) == (3, b"\x08" * 32, 5, None)
    assert found.enclaves[KEYS[1]].extension is not None
    assert found.images == {KEYS[0]: Listing(since=6, not_after=7)}
    assert list(found.models) == KEYS[1:3]
    assert (found.revoked_images, found.revoked_keys) == ({KEYS[2]: 8}, {KEYS[3]: 8})
    empty = read_registry(data(owner=Builder().uint(0, 2).cell()))
    assert (empty.owner, empty.enclaves, empty.images) == (None, {}, {})


@pytest.mark.parametrize(
    ("cell", "where"),
    [
        (data(version=2), "registry.version"),
        (data(extra=1), "registry"),
        (data(lists_extra=1), "registry.lists"),
        (data(owner=Builder().uint(0b110, 3).cell()), "owner"),
        (data(owner=Builder().uint(0b11, 2).uint(0, 200).cell()), "owner"),
        (data(enclaves={KEYS[0]: enclave(0, extra=1)}), "enclave"),
        (data(enclaves={KEYS[0]: since()}), "enclave"),
        (data(images={KEYS[0]: listing(1)}), "image"),
        (data(models={KEYS[0]: since()}), "model"),
        (data(revoked_images={KEYS[0]: since(1)}), "revoked_image"),
        (data(revoked_keys={KEYS[0]: EMPTY}), "revoked_key"),
        (EMPTY, "registry"),
        (pruned(EMPTY), "registry"),
    ],
)
def test_other_data_is_refused(cell: Cell, where: str) -> None:
    refuse("MalformedAccount", where, read_registry, cell)


def test_a_registry_of_which_anything_is_pruned_is_not_whole() -> None:
    shown = merkle_proof(full(), [full().refs[1]]).refs[0]
    refuse("MalformedAccount", "enclave", read_registry, shown)


# ---- one key


def shows(key: bytes) -> Cell:
    """Give the registry's data as a proof of one key shows it."""
    whole = account(b"\x09" * 32, contract_code(CODE), full(), balance=5, now=1)
    proof = prove_key(whole, full(), key)
    (again,) = read_boc(write_boc(proof), what="proof", limit=8192, max_cells=99)
    assert again.refs[0].hashes[0] == whole.hash
    found = read_account(again.refs[0])
    assert found is not None
    assert found.data is not None
    assert found.code is not None
    assert found.code.kind == PRUNED_BRANCH
    return registry_data(found, code_hash=contract_code(CODE).hash)


@pytest.mark.parametrize("key", [*KEYS, bytes(32), b"\xff" * 32, b"\x83" * 32])
def test_a_proof_shows_one_key_and_whether_it_is_revoked(key: bytes) -> None:
    for cell in (full(), shows(key)):
        status = find_key(cell, key)
        assert (status.enclave is not None) == (key in KEYS)
        assert status.revoked_at == (8 if key == KEYS[3] else None)
        if status.enclave is not None:
            assert isinstance(status.enclave, Enclave)
            assert status.enclave.serial == KEYS.index(key)


def test_a_proof_of_one_key_hides_the_others() -> None:
    for asked, other in ((KEYS[0], KEYS[2]), (KEYS[3], KEYS[0])):
        refuse("MalformedAccount", "", find_key, shows(asked), other)


def test_a_proof_that_leaves_the_revocations_out_proves_no_key() -> None:
    whole = full()
    way = path_to(whole.refs[0], int.from_bytes(KEYS[0], "big"), 256, what="x", code="MalformedAccount")
    shown = merkle_proof(whole, way).refs[0]
    refuse("MalformedAccount", "registry.lists", find_key, shown, KEYS[0])
    shown = merkle_proof(whole, [*way, whole.refs[1]]).refs[0]
    refuse("MalformedAccount", "revoked_key", find_key, shown, KEYS[0])


def test_a_registry_without_enclaves_or_revocations_says_so() -> None:
    whole = account(b"\x09" * 32, contract_code(CODE), data(), balance=5, now=1)
    prove_key(whole, data(), KEYS[0])
    assert find_key(data(), KEYS[0]) == find_key(data(images={KEYS[0]: listing()}), KEYS[0])
    assert find_key(data(), KEYS[0]).enclave is None


# ---- the account around it


def test_only_the_registry_s_own_code_counts() -> None:
    code_hash = contract_code(CODE).hash
    found = read_account(account(b"\x09" * 32, contract_code(CODE), full(), balance=5, now=1))
    assert registry_data(found, code_hash=code_hash).hash == full().hash
    other = read_account(account(b"\x09" * 32, EMPTY, full(), balance=5, now=1))
    refuse("RegistryProofInvalid", "registry.code", registry_data, other, code_hash=code_hash)
    refuse("RegistryProofInvalid", "registry", registry_data, None, code_hash=code_hash)
    for state in ({"code": None}, {"data": None}):
        fields: dict[str, Any] = {
            "workchain": 0,
            "address": OWNER,
            "balance": 0,
            "last_lt": 0,
            "code": contract_code(CODE),
            "data": EMPTY,
        }
        bare = Account(**{**fields, **state})
        assert refuse("RegistryProofInvalid", "registry", registry_data, bare, code_hash=code_hash).where == "registry"


def test_the_code_of_a_release_is_one_small_bag() -> None:
    refuse("MalformedCell", "registry code", contract_code, CODE + bytes(MAX_CODE))
    refuse("MalformedCell", "registry code", contract_code, CODE[:-1])


def head(*, anycast: int = 0, extra: int = 0, used: bool = True, due: bool = False) -> Builder:
    builder = Builder().uint(1, 1).uint(0b10, 2).uint(anycast, 1).uint(0xFF, 8).octets(OWNER, 32)
    for width in (1, 2):
        builder.uint(width, 3).uint(1, 8 * width)
    builder.uint(extra, 3)
    if extra == 1:
        builder.octets(bytes(32), 32)
    builder.uint(9, 32).uint(due, 1)
    if due:
        builder.coins(5)
    return builder.uint(4, 64).coins(77).uint(0, 1) if used else builder


def test_accounts_in_every_state() -> None:
    assert read_account(Builder().uint(0, 1).cell()) is None
    fresh = read_account(head().uint(0, 2).cell())
    assert fresh is not None
    assert (fresh.workchain, fresh.address, fresh.balance, fresh.last_lt) == (-1, OWNER, 77, 4)
    assert (fresh.code, fresh.data) == (None, None)
    frozen = read_account(head(due=True, extra=1).uint(0b01, 2).octets(bytes(32), 32).cell())
    assert frozen is not None
    assert frozen.code is None
    active = head().uint(1, 1).uint(1, 1).uint(5, 5).uint(1, 1).uint(3, 2).uint(0b111, 3)
    active.ref(EMPTY).ref(Builder().uint(1, 1).cell()).ref(EMPTY)
    found = read_account(active.cell())
    assert found is not None
    assert found.code is not None
    assert found.data is not None
    assert found.data.bits == 1
    nothing = read_account(head().uint(1, 1).uint(0, 5).cell())
    assert nothing is not None
    assert (nothing.code, nothing.data) == (None, None)


@pytest.mark.parametrize(
    ("cell", "where"),
    [
        (Builder().uint(0, 2).cell(), "account"),
        (head(anycast=1).uint(0, 2).cell(), "address"),
        (head(extra=2).uint(0, 2).cell(), "storage_extra"),
        (head().uint(0, 3).cell(), "account"),
        (head().uint(0b01, 2).cell(), "state_hash"),
        (head().uint(1, 1).uint(0b00100, 5).cell(), "code"),
        (head().uint(1, 1).uint(0b00010, 5).cell(), "data"),
        (head().cell(), "active"),
        (head(used=False).cell(), "last_trans_lt"),
        (EMPTY, "exists"),
        (pruned(EMPTY), "account"),
    ],
)
def test_other_accounts_are_refused(cell: Cell, where: str) -> None:
    refuse("MalformedAccount", where, read_account, cell)
