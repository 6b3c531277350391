# SPDX-License-Identifier: Apache-2.0
"""From a receipt's hash to a registry's head at one block: every link of the anchoring proof holds, or is refused."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import cbor2
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from attestation.batch import BatchStatement, BatchTree, Leaf, Recovered, Registration
from attestation.ton.anchoring import FORMAT, MAX_ANCHORING, MAX_LATER, Anchoring, Later
from attestation.ton.boc import read_boc, write_boc
from attestation.ton.cells import Cell
from attestation.ton.registry import Enclave, contract_code, find_key, prove_key
from attestation.ton.slices import Builder
from enclave.simulator.ton_chain import TonChain, active_account
from tests.simulated_ton import CODE, LOW, NOW, SEED, read
from tests.test_ton_registry import data as registry
from tests.ton_refusals import refuse

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OTHER = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))
PUBLIC = KEY.public_key().public_bytes_raw()
BOOT = b"\x07" * 32
CODE_HASH = contract_code(CODE).hash
RECEIPTS = [Builder().uint(n, 64).cell() for n in range(5)]
TREE = BatchTree([Leaf(cell.hash, cell.depth) for cell in RECEIPTS])
FIRST = Registration(key=PUBLIC, boot=BOOT, serial=0, valid_until=NOW + 9, seqno=0, head=bytes(32))


@cache
def statements() -> tuple[BatchStatement, ...]:
    """Give four statements of one chain; the second has the receipts."""
    made: list[BatchStatement] = []
    for seqno in range(1, 5):
        root = TREE.root if seqno == 2 else bytes([seqno]) * 32
        previous = made[-1].hash if made else FIRST.hash
        made.append(BatchStatement(boot=BOOT, seqno=seqno, previous=previous, root=root, count=5, time=NOW))
    return tuple(made)


BATCHED = statements()[1]


def record(head: BatchStatement, boot: bytes = BOOT) -> Cell:
    builder = Builder().octets(boot, 32).uint(0, 32).uint(NOW + 9, 64).uint(head.seqno, 64).octets(head.hash, 32)
    return builder.uint(NOW, 64).uint(0, 1).cell()


def anchoring(
    *, head: int = 4, boot: bytes = BOOT, revoked: bool = False, code: bytes = CODE, whole: bool = False
) -> Anchoring:
    chain_of = statements()
    content = registry(
        enclaves={PUBLIC: record(chain_of[head - 1], boot), b"\x11" * 32: record(chain_of[0])},
        revoked_keys={PUBLIC: Builder().uint(NOW, 64).cell()}
        if revoked
        else {b"\x12" * 32: Builder().uint(1, 64).cell()},
    )
    account = active_account(LOW, code=code, data=write_boc(content), balance=9, now=NOW)
    reading = read(TonChain(seed=SEED, now=NOW, accounts={(0, LOW): account}).account_state(LOW, at=1), LOW)
    if not whole:
        (cell,) = read_boc(account, what="account", limit=1 << 16, max_cells=999)
        reading = replace(reading, state=write_boc(prove_key(cell, content, PUBLIC)))
    return Anchoring(
        index=3,
        inclusion=TREE.prove(3),
        statement=chain_of[1].to_boc(),
        signature=KEY.sign(chain_of[1].hash),
        later=tuple(Later.of(one) for one in chain_of[2:head]),
        reading=reading,
    )


def check(proof: Anchoring, *, receipt: bytes = RECEIPTS[3].hash, key: bytes = PUBLIC, boot: bytes = BOOT) -> Enclave:
    """Check every link, as `audit` does."""
    statement = proof.check_statement(receipt_hash=receipt, receipt_key=key, boot=boot)
    assert statement.seqno == 2
    enclave, proved = proof.check_registry(receipt_key=key, boot=boot, code_hash=CODE_HASH)
    assert proved.gen_utime == NOW
    proof.check_chain(enclave)
    return enclave


# ---- what holds


@pytest.mark.parametrize("head", [2, 3, 4])
@pytest.mark.parametrize("whole", [False, True])
def test_an_anchoring_proof_holds_and_is_one_map(head: int, *, whole: bool) -> None:
    proof = anchoring(head=head, whole=whole)
    assert check(proof).seqno == head
    assert Anchoring.decode(proof.encode()) == proof
    assert proof.registry.account == LOW
    assert len(proof.encode()) < 8192


# ---- what does not


def test_receipts_statements_and_signatures_that_do_not_belong() -> None:
    good = anchoring()
    one, two, three, four = statements()
    refuse("BatchProofInvalid", "inclusion.receipt", check, good, receipt=RECEIPTS[2].hash)
    refuse("BatchSignatureInvalid", "signature", check, good, key=OTHER.public_key().public_bytes_raw())
    refuse("BatchProofInvalid", "statement.boot", check, good, boot=b"\x08" * 32)
    refuse("BatchSignatureInvalid", "signature", check, replace(good, signature=OTHER.sign(two.hash)))
    refuse("BatchSignatureInvalid", "signature", check, replace(good, signature=KEY.sign(three.hash)))
    refuse("MalformedProof", "inclusion", check, replace(good, index=2))
    refuse("BatchProofInvalid", "statement.count", check, replace(good, index=5))
    other = replace(good, statement=three.to_boc(), signature=KEY.sign(three.hash))
    refuse("BatchProofInvalid", "inclusion.root", check, other)
    refuse("MalformedBatch", "", check, replace(good, statement=FIRST.to_boc()))
    assert (one.seqno, four.seqno) == (1, 4)


def test_a_position_behind_the_count_is_not_in_the_batch() -> None:
    short = replace(statements()[1], count=3)
    bent = replace(anchoring(), statement=short.to_boc(), signature=KEY.sign(short.hash))
    refuse("BatchProofInvalid", "statement.count", check, bent)


def test_statements_that_do_not_lead_to_the_head() -> None:
    three, four = (Later.of(one) for one in statements()[2:])
    for later in (
        (),
        (three,),
        (four,),
        (four, three),
        (three, three),
        (three, four, four),
        (three, replace(four, time=NOW + 1)),
        (three, replace(four, count=6)),
        (three, replace(four, root=bytes([3]) * 32)),
        (three, replace(four, recovered=Recovered(count=1, root=bytes(32)))),
        (replace(three, time=NOW + 1), four),
    ):
        refuse("NotAnchored", "registry.head", check, replace(anchoring(), later=later))


def test_a_later_statement_with_recovered_receipts_is_kept_whole() -> None:
    one = statements()[0]
    for count, root in ((0, bytes(32)), (2, b"\x05" * 32)):
        recovered = Recovered(count=3, root=b"\x06" * 32)
        next_one = replace(one, seqno=2, previous=one.hash, count=count, root=root, recovered=recovered)
        kept = replace(anchoring(), later=(Later.of(next_one),))
        assert Anchoring.decode(kept.encode()) == kept
        assert kept.later[0].after(one) == next_one


def test_a_number_at_its_end_is_not_counted_on() -> None:
    last = replace(statements()[1], seqno=2**64 - 1)
    refuse(
        "NotAnchored", "registry.head", replace(anchoring(), statement=last.to_boc()).check_chain, check(anchoring())
    )


def test_the_same_seqno_with_another_head_is_not_the_head() -> None:
    enclave = check(anchoring())
    for bent in (replace(enclave, head=bytes(32)), replace(enclave, seqno=5), replace(enclave, seqno=3)):
        refuse("NotAnchored", "registry.head", anchoring().check_chain, bent)


def test_registries_that_say_something_else() -> None:
    refuse("RegistryProofInvalid", "registry.key", check, anchoring(revoked=True))
    refuse("RegistryProofInvalid", "registry.boot", check, anchoring(boot=b"\x08" * 32))
    other_code = write_boc(Builder().uint(1, 8).cell())
    refuse("RegistryProofInvalid", "registry.code", check, anchoring(code=other_code))
    good, older = anchoring(), anchoring(head=3)
    refuse(
        "AccountProofInvalid", "account", check, replace(good, reading=replace(good.reading, state=older.reading.state))
    )
    absent = replace(good.reading, state=b"")
    refuse("AccountProofInvalid", "account", check, replace(good, reading=absent))


def test_a_key_that_the_registry_does_not_know() -> None:
    proof = anchoring(whole=True)
    unknown = OTHER.public_key().public_bytes_raw()
    refuse("NotAnchored", "registry.key", proof.check_registry, receipt_key=unknown, boot=BOOT, code_hash=CODE_HASH)
    refuse("MalformedAccount", "", anchoring().check_registry, receipt_key=b"\x11" * 32, boot=BOOT, code_hash=CODE_HASH)
    gone = read(TonChain(seed=SEED, now=NOW).account_state(LOW, at=1), LOW)
    bent = replace(proof, reading=gone)
    refuse("RegistryProofInvalid", "registry", bent.check_registry, receipt_key=PUBLIC, boot=BOOT, code_hash=CODE_HASH)


# ---- the map


def fields(**changes: Any) -> dict[int, Any]:
    good: dict[int, Any] = cbor2.loads(anchoring().encode())
    return {**good, **{int(key.removeprefix("k")): value for key, value in changes.items()}}


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"k1": "sericin-anchoring/2"}, "format"),
        ({"k12": 0}, "anchoring"),
        ({"k64": 0}, "anchoring"),
        ({"k2": 1 << 32}, "index"),
        ({"k2": -1}, "anchoring"),
        ({"k3": bytes(8193)}, "inclusion"),
        ({"k4": bytes(4097)}, "statement"),
        ({"k4": "text"}, "statement"),
        ({"k5": bytes(63)}, "signature"),
        ({"k6": [[b"\x01" * 32, 1, 1]] * (MAX_LATER + 1)}, "later"),
        ({"k6": [bytes(4097)]}, "later"),
        ({"k6": b""}, "later"),
        ({"k6": [[b"\x01" * 31, 1, 1]]}, "later"),
        ({"k6": [[b"\x01" * 32, 1 << 32, 1]]}, "later"),
        ({"k6": [[b"\x01" * 32, 1, "now"]]}, "later"),
        ({"k6": [[b"\x01" * 32, 1]]}, "later"),
        ({"k6": [[b"\x01" * 32, 1, 1, 1]]}, "later"),
        ({"k6": [[b"\x01" * 32, 0, 1]]}, "later"),
        ({"k6": [[bytes(32), 0, 1]]}, "later"),
        ({"k6": [[bytes(32), 1, 1]]}, "later"),
        ({"k6": [[b"\x01" * 32, 0, 1, 1, bytes(32)]]}, "later"),
        ({"k6": [[b"\x01" * 32, 1, 1, 0, bytes(32)]]}, "later"),
        ({"k6": [[b"\x01" * 32, 1, 1, 4097, bytes(32)]]}, "later"),
        ({"k6": [[b"\x01" * 32, 1, 1, 1, bytes(31)]]}, "later"),
        ({"k7": bytes(79)}, "block"),
        ({"k8": [0]}, "registry"),
        ({"k8": [0, bytes(32), 0]}, "registry"),
        ({"k8": [0, bytes(31)]}, "registry"),
        ({"k8": [1, bytes(32)]}, "registry"),
        ({"k8": [False, bytes(32)]}, "registry"),
        ({"k8": [0.0, bytes(32)]}, ""),
        ({"k9": bytes(128 * 1024 + 1)}, "shard_proof"),
        ({"k10": bytes(128 * 1024 + 1)}, "proof"),
        ({"k11": bytes(128 * 1024 + 1)}, "state"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_other_maps_are_refused(changes: dict[str, Any], where: str) -> None:
    data = cbor2.dumps(fields(**changes), canonical=True)
    refuse("MalformedProof", where, Anchoring.decode, data)


def test_a_map_without_a_field_is_refused() -> None:
    for key in range(1, 12):
        left = fields()
        del left[key]
        refuse("MalformedProof", "anchoring", Anchoring.decode, cbor2.dumps(left, canonical=True))
    refuse("MalformedProof", "anchoring", Anchoring.decode, bytes(MAX_ANCHORING + 1))
    assert fields()[1] == FORMAT


def test_a_proof_too_long_is_not_written() -> None:
    with pytest.raises(ValueError, match="at most"):
        replace(anchoring(), later=anchoring().later[:1] * (MAX_LATER + 1)).encode()
    with pytest.raises(ValueError, match="at most"):
        replace(anchoring(), inclusion=bytes(MAX_ANCHORING)).encode()


def test_as_many_later_batches_as_fit_take_some_90_kb() -> None:
    longest = Later(root=b"\xff" * 32, count=2**16, time=2**33)
    assert len(replace(anchoring(), later=(longest,) * MAX_LATER).encode()) < 110_000


def test_the_proof_of_a_key_is_small_in_a_large_registry() -> None:
    enclaves = {bytes([n, m]) * 16: record(statements()[0]) for n in range(16) for m in range(16)}
    content = registry(enclaves=enclaves)
    account = active_account(LOW, code=CODE, data=write_boc(content), balance=9, now=NOW)
    (cell,) = read_boc(account, what="account", limit=1 << 20, max_cells=9999)
    key = bytes([3, 4]) * 16
    proof = prove_key(cell, content, key)
    assert len(write_boc(proof)) < 1500
    found = find_key(content, key).enclave
    assert found is not None
    assert found.seqno == 1
