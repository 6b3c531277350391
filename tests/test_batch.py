# SPDX-License-Identifier: Apache-2.0
"""Batch dictionaries equal pytoniq-core's, and no wrong inclusion, statement or registration passes."""

from __future__ import annotations

from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from attestation.batch import (
    BatchStatement,
    Leaf,
    Orphan,
    Recovered,
    Registration,
    batch_root,
    check_inclusion,
    prove,
    verify_signature,
)
from attestation.batch_tree import MAX_LEAF_DEPTH, BatchTree
from attestation.errors import AttestationError, Malformed, Untrusted
from attestation.ton.boc import read_boc, write_boc
from attestation.ton.hashmap import path_to
from attestation.ton.pruning import merkle_proof
from attestation.ton.slices import Builder
from tests import ton_oracle
from tests.ton_cells import hashmap

SIZES = (1, 2, 3, 5, 8, 1000, 1337)
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC = KEY.public_key().public_bytes_raw()


@pytest.mark.parametrize("count", SIZES)
def test_root_equals_the_oracle(count: int) -> None:
    leaves, root, _ = ton_oracle.batch(count, count)
    assert batch_root(leaves) == root.hash


@pytest.mark.parametrize("count", SIZES)
def test_proof_equals_the_oracle(count: int) -> None:
    leaves, root, cells = ton_oracle.batch(count, count)
    tree = BatchTree(leaves)
    for index in sorted({0, 1, count // 2, count - 2, count - 1}):
        if not 0 <= index < count:
            continue
        keep = ton_oracle.path_to(root, cells[index].hash)
        assert keep is not None
        expected = ton_oracle.merkle_proof(root, keep)
        boc = tree.prove(index)
        assert ton_oracle.read(boc).hash == expected.hash
        check_inclusion(boc, root=root.hash, index=index, receipt_hash=cells[index].hash)
        check_inclusion(expected.to_boc(), root=root.hash, index=index, receipt_hash=cells[index].hash)


def test_a_receipt_left_in_the_proof_is_accepted_too() -> None:
    _, root, cells = ton_oracle.batch(5, 1)
    keep = ton_oracle.path_to(root, cells[3].hash)
    assert keep is not None
    boc = ton_oracle.merkle_proof(root, keep | {cells[3].hash, cells[3].refs[0].hash}).to_boc()
    check_inclusion(boc, root=root.hash, index=3, receipt_hash=cells[3].hash)


def refuse_inclusion(boc: bytes, **wrong: object) -> AttestationError:
    leaves, _, _ = ton_oracle.batch(5, 2)
    given: dict[str, object] = {"root": batch_root(leaves), "index": 2, "receipt_hash": leaves[2].hash, **wrong}
    with pytest.raises((Malformed, Untrusted)) as refusal:
        check_inclusion(boc, **given)  # type: ignore[arg-type]  # a test's keyword arguments
    return refusal.value


def test_wrong_root_index_or_receipt_is_refused() -> None:
    leaves, _, _ = ton_oracle.batch(5, 2)
    boc = prove(leaves, 2)
    assert refuse_inclusion(boc, root=bytes(32)).code == "BatchProofInvalid"
    assert refuse_inclusion(boc, receipt_hash=leaves[1].hash).where == "inclusion.receipt"
    assert refuse_inclusion(boc, index=3).code == "MalformedProof"  # that path is pruned
    assert refuse_inclusion(boc, index=7).code in {"MalformedProof", "BatchProofInvalid"}
    assert refuse_inclusion(boc, index=2**31).where == "inclusion.index"
    assert refuse_inclusion(boc, index=2**32 + 2).where == "inclusion.index"
    assert refuse_inclusion(boc, index=-1).where == "inclusion.index"
    assert refuse_inclusion(prove(leaves, 1)).code == "MalformedProof"


def test_a_position_holds_a_receipt_and_nothing_else() -> None:
    receipt = Builder().uint(7, 8).cell()
    for extra in (Builder().ref(receipt).uint(1, 1), Builder().ref(receipt).ref(Builder().cell()), Builder()):
        root = hashmap({2: extra.cell(), 3: Builder().ref(receipt).cell()}, 32)
        boc = write_boc(merkle_proof(root, path_to(root, 2, 32, what="batch", code="MalformedProof")))
        error = refuse_inclusion(boc, root=root.hash, receipt_hash=receipt.hash)
        assert error.code == "MalformedProof"


def test_a_receipt_has_a_greatest_depth() -> None:
    for depth, accepted in ((MAX_LEAF_DEPTH, True), (MAX_LEAF_DEPTH + 1, False)):
        receipt = Builder().cell()
        for _ in range(depth):
            receipt = Builder().ref(receipt).cell()
        root = hashmap({2: Builder().ref(receipt).cell()}, 32)
        boc = write_boc(merkle_proof(root, [root]))
        if accepted:
            check_inclusion(boc, root=root.hash, index=2, receipt_hash=receipt.hash)
            continue
        assert refuse_inclusion(boc, root=root.hash, receipt_hash=receipt.hash).where == "inclusion.receipt"


def test_every_flipped_bit_of_a_proof_is_refused() -> None:
    leaves, _, _ = ton_oracle.batch(5, 2)
    boc = prove(leaves, 2)
    for bit in range(len(boc) * 8):
        bent = bytearray(boc)
        bent[bit // 8] ^= 1 << bit % 8
        refuse_inclusion(bytes(bent))


def test_every_shorter_or_longer_proof_is_refused() -> None:
    leaves, _, _ = ton_oracle.batch(5, 2)
    boc = prove(leaves, 2)
    for size in range(len(boc)):
        refuse_inclusion(boc[:size])
    refuse_inclusion(boc + b"\x00")


def test_the_dictionary_itself_is_no_proof() -> None:
    _, root, _ = ton_oracle.batch(5, 2)
    assert refuse_inclusion(root.to_boc()).code == "MalformedProof"


def test_a_pruned_tree_is_no_proof() -> None:
    leaves, _, _ = ton_oracle.batch(5, 2)
    (proof,) = read_boc(prove(leaves, 2), what="proof", limit=4096, max_cells=64)
    assert refuse_inclusion(write_boc(proof.refs[0])).code == "MalformedProof"


def test_an_oversized_proof_is_refused_before_it_is_read() -> None:
    assert "at most" in refuse_inclusion(bytes(8193)).want


def test_a_tree_refuses_what_no_batch_has() -> None:
    with pytest.raises(ValueError, match="1 to"):
        BatchTree([])
    with pytest.raises(ValueError, match="32-byte"):
        BatchTree([Leaf(bytes(31), 0)])
    with pytest.raises(ValueError, match="depth"):
        BatchTree([Leaf(bytes(32), 300)])
    for index in (-1, 1, 2, 7):
        with pytest.raises(IndexError, match=str(index)):
            BatchTree([Leaf(bytes(32), 0)]).prove(index)


STATEMENT = BatchStatement(
    boot=b"\x01" * 32, seqno=7, previous=b"\x02" * 32, root=b"\x03" * 32, count=5, time=1_800_000_000
)
RECOVERED = Recovered(count=2, root=b"\x04" * 32)
BOOT_REGISTRATION = Registration(
    key=PUBLIC, boot=b"\x01" * 32, serial=0, valid_until=1_900_000_000, seqno=0, head=bytes(32)
)
RENEWAL = replace(BOOT_REGISTRATION, serial=1, seqno=7, head=b"\x05" * 32)


@pytest.mark.parametrize("statement", [STATEMENT, replace(STATEMENT, recovered=RECOVERED)])
def test_statement_round_trip(statement: BatchStatement) -> None:
    assert BatchStatement.from_boc(statement.to_boc()) == statement
    assert ton_oracle.read(statement.to_boc()).hash == statement.hash


def test_statement_of_recovered_receipts_only() -> None:
    alone = replace(STATEMENT, count=0, root=bytes(32), recovered=RECOVERED)
    assert BatchStatement.from_boc(alone.to_boc()) == alone


@pytest.mark.parametrize(
    "wrong",
    [
        {"seqno": 0},
        {"count": 0},
        {"root": bytes(32)},
        {"count": 0, "root": bytes(32)},
        {"count": 1 << 32},
        {"boot": bytes(31)},
        {"recovered": Recovered(count=0, root=bytes(32))},
        {"recovered": Recovered(count=4097, root=bytes(32))},
    ],
)
def test_statement_that_cannot_be_made(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"batch|fit|bytes|recovered"):
        replace(STATEMENT, **wrong).to_cell()  # type: ignore[arg-type]  # a test's keyword arguments


@pytest.mark.parametrize(
    ("tag", "version", "seqno", "count", "root", "extra", "code"),
    [
        (0x53524331, 1, 1, 1, 1, 0, "MalformedBatch"),
        (0x53524333, 1, 1, 1, 1, 0, "MalformedBatch"),
        (0x53524332, 2, 1, 1, 1, 0, "UnsupportedVersion"),
        (0x53524332, 1, 0, 1, 1, 0, "MalformedBatch"),
        (0x53524332, 1, 1, 0, 1, 0, "MalformedBatch"),
        (0x53524332, 1, 1, 1, 0, 0, "MalformedBatch"),
        (0x53524332, 1, 1, 1, 1, 1, "MalformedBatch"),
    ],
)
def test_malformed_statement(tag: int, version: int, seqno: int, count: int, root: int, extra: int, code: str) -> None:
    builder = Builder().uint(tag, 32).uint(version, 8).uint(1, 256).uint(seqno, 64).uint(1, 256).uint(root, 256)
    builder.uint(count, 32).uint(9, 64).uint(0, 1).uint(0, extra)
    with pytest.raises(Malformed) as refusal:
        BatchStatement.from_boc(write_boc(builder.cell()))
    assert refusal.value.code == code


@pytest.mark.parametrize(("count", "extra"), [(0, 0), (4097, 0), (1, 1)])
def test_malformed_recovered(count: int, extra: int) -> None:
    with pytest.raises(Malformed):
        Recovered.from_cell(Builder().uint(count, 32).uint(1, 256).uint(0, extra).cell())


def test_orphan_is_a_leaf_of_the_recovered_dictionary() -> None:
    orphans = [Orphan(key=PUBLIC, signature=bytes(64), receipt=Builder().uint(n, 8).cell()) for n in range(3)]
    leaves = [orphan.leaf() for orphan in orphans]
    check_inclusion(prove(leaves, 1), root=batch_root(leaves), index=1, receipt_hash=orphans[1].to_cell().hash)


@pytest.mark.parametrize(
    "registration", [BOOT_REGISTRATION, RENEWAL, replace(RENEWAL, extension=Builder().uint(5, 9).cell())]
)
def test_registration_round_trip(registration: Registration) -> None:
    again = Registration.from_boc(registration.to_boc())
    assert again.hash == registration.hash
    assert replace(again, extension=None) == replace(registration, extension=None)


@pytest.mark.parametrize(
    "wrong",
    [
        replace(BOOT_REGISTRATION, seqno=1),
        replace(BOOT_REGISTRATION, head=b"\x01" * 32),
        replace(RENEWAL, head=bytes(32)),
        replace(RENEWAL, key=bytes(31)),
        replace(RENEWAL, serial=1 << 32),
    ],
)
def test_registration_that_cannot_be_made(wrong: Registration) -> None:
    with pytest.raises(ValueError, match=r"serial|bytes|fit"):
        wrong.to_cell()


@pytest.mark.parametrize(
    ("tag", "version", "serial", "seqno", "head", "extra", "code"),
    [
        (0x53524332, 1, 0, 0, 0, 0, "MalformedRegistration"),
        (0x53524333, 0, 0, 0, 0, 0, "UnsupportedVersion"),
        (0x53524333, 1, 0, 1, 0, 0, "MalformedRegistration"),
        (0x53524333, 1, 0, 0, 1, 0, "MalformedRegistration"),
        (0x53524333, 1, 1, 0, 0, 0, "MalformedRegistration"),
        (0x53524333, 1, 1, 0, 1, 1, "MalformedRegistration"),
    ],
)
def test_malformed_registration(
    tag: int, version: int, serial: int, seqno: int, head: int, extra: int, code: str
) -> None:
    builder = Builder().uint(tag, 32).uint(version, 8).uint(1, 256).uint(1, 256).uint(serial, 32).uint(9, 64)
    builder.uint(seqno, 64).uint(head, 256).uint(0, 1).uint(0, extra)
    with pytest.raises(Malformed) as refusal:
        Registration.from_boc(write_boc(builder.cell()))
    assert refusal.value.code == code


def test_signatures() -> None:
    verify_signature(STATEMENT, signature=KEY.sign(STATEMENT.hash), key=PUBLIC)
    verify_signature(RENEWAL, signature=KEY.sign(RENEWAL.hash), key=PUBLIC)
    with pytest.raises(Untrusted) as refusal:
        verify_signature(STATEMENT, signature=KEY.sign(RENEWAL.hash), key=PUBLIC)
    assert refusal.value.code == "BatchSignatureInvalid"
    with pytest.raises(Untrusted) as refusal:
        verify_signature(RENEWAL, signature=KEY.sign(STATEMENT.hash), key=PUBLIC)
    assert refusal.value.code == "RegistrationSignatureInvalid"
    with pytest.raises(Untrusted):
        verify_signature(STATEMENT, signature=KEY.sign(STATEMENT.hash), key=bytes(31))
    with pytest.raises(Untrusted):
        verify_signature(STATEMENT, signature=KEY.sign(STATEMENT.hash)[:63], key=PUBLIC)
