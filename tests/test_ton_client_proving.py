# SPDX-License-Identifier: Apache-2.0
"""What `receipt prove` refuses: receipts that no batch has, heads that are not there yet, ledgers that do not fit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from attestation.batch import BatchStatement, Recovered
from attestation.dossier import Dossier
from attestation.errors import AttestationError, Untrusted
from attestation.ledger import BATCH, StatementRecord, frame
from attestation.receipt import SignedReceipt
from attestation.ton.anchoring import Anchoring
from attestation.ton.blockid import BlockId
from attestation.ton.boc import write_boc
from attestation.ton.registry import Enclave
from client.errors import Unreachable, UsageFault
from client.ledger_file import read_records
from client.ton import proving
from client.ton.chain import with_chain
from client.ton.proving import Located, Proof, locate, prove_anchoring, with_anchoring
from tests.anchored_dossier import Kept, bent, keep_one
from tests.ton_in_box import CODE, REGISTRY, in_box, registry_data


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kept")


@pytest.fixture(scope="module")
def kept(folder: Path) -> Kept:
    return keep_one(folder)


def records(folder: Path) -> list[tuple[str, bytes]]:
    return list(read_records(folder / "enclave" / "ledger"))


def located(kept: Kept, path: Path, written: list[tuple[str, bytes]], data: bytes | None = None) -> Located:
    path.write_bytes(b"".join(frame(kind, body) for kind, body in written))
    return locate(Dossier.decode(data or kept.data), path)


def heads(folder: Path) -> list[BatchStatement]:
    return [BatchStatement.from_boc(StatementRecord.decode(b).boc) for kind, b in records(folder) if kind == BATCH]


def prove(kept: Kept, tmp_path: Path, where: Located, **record: Any) -> Anchoring:
    """Prove against a registry that has `record` for the key."""
    return proved(kept, tmp_path, where, **record)[0].anchoring


def proved(kept: Kept, tmp_path: Path, where: Located, **record: Any) -> tuple[Proof, BlockId]:
    """Give also the way, and the block that it starts at."""
    now = int(kept.now.timestamp())
    known: dict[str, Any] = {
        "boot": kept.boot.digest,
        "serial": 0,
        "valid_until": now,
        "anchored_at": now,
        "extension": None,
    }
    enclaves = {kept.boot.receipt_key: Enclave(**(known | record))} if record else {}
    with in_box(tmp_path, None, now=now) as ton:
        data = write_boc(registry_data(enclaves=enclaves))
        ton.do(lambda: ton.box.put(REGISTRY, code=CODE, data=data, balance=10**9))
        ton.do(ton.box.block)
        found = with_chain(
            ton.network, lambda chain: prove_anchoring(chain, ton.network, where, now=kept.now, path=True)
        )
        return found, ton.network.init_block


def test_a_head_at_the_batch_itself_needs_no_later_statement(kept: Kept, folder: Path, tmp_path: Path) -> None:
    where = located(kept, tmp_path / "l", records(folder))
    first = heads(folder)[0]
    anchoring = prove(kept, tmp_path, where, seqno=1, head=first.hash)
    assert (anchoring.later, anchoring.index) == ((), 0)


@pytest.mark.parametrize(
    ("seqno", "after", "late"), [(1, 0, False), (1, 86_400, True), (2, 0, False), (2, 86_400, None)]
)
def test_an_anchor_that_came_late_says_so(
    kept: Kept, folder: Path, tmp_path: Path, seqno: int, after: int, *, late: bool | None
) -> None:
    where = located(kept, tmp_path / "l", records(folder))
    at = int(kept.now.timestamp()) + after + 1
    proof, init = proved(
        kept, tmp_path, where, seqno=seqno, head=heads(folder)[seqno - 1].hash, anchored_at=at, valid_until=at
    )
    data = with_anchoring(Dossier.decode(kept.data), proof.anchoring)
    found = kept.audit(data, path=proof.path, init=init).anchoring
    assert (found.status, found.late) == ("anchored", late)
    assert ("later than the boot promised" in found.describe(now=kept.now)) == bool(late)


def test_a_key_that_is_not_registered(kept: Kept, folder: Path, tmp_path: Path) -> None:
    where = located(kept, tmp_path / "l", records(folder))
    with pytest.raises(Untrusted, match=r"NotAnchored.*not registered"):
        prove(kept, tmp_path, where)


def test_a_head_before_the_batch(kept: Kept, folder: Path, tmp_path: Path) -> None:
    where = located(kept, tmp_path / "l", records(folder))
    with pytest.raises(Untrusted, match=r"NotAnchored: registry\.head.*head 0"):
        prove(kept, tmp_path, where, seqno=0, head=bytes(32))


def test_a_head_that_the_ledger_does_not_know(kept: Kept, folder: Path, tmp_path: Path) -> None:
    where = located(kept, tmp_path / "l", records(folder))
    with pytest.raises(Untrusted, match=r"NotAnchored.*no statement 3"):
        prove(kept, tmp_path, where, seqno=3, head=bytes(32))
    with pytest.raises(Untrusted, match=r"NotAnchored: registry\.head"):
        prove(kept, tmp_path, where, seqno=2, head=bytes(32))


def test_a_ledger_of_somebody_else(kept: Kept, folder: Path, tmp_path: Path) -> None:
    for kinds in ({"receipt", "registration"}, {"batch"}):
        written = [(kind, body) for kind, body in records(folder) if kind in kinds]
        with pytest.raises(Untrusted, match=r"NotAnchored|BatchProofInvalid"):
            located(kept, tmp_path / "l", written)
    with pytest.raises(Untrusted, match="NotAnchored"):
        located(kept, tmp_path / "l", [])


def test_a_receipt_that_a_later_boot_recovered_has_no_batch_for_good(kept: Kept, folder: Path, tmp_path: Path) -> None:
    serial = SignedReceipt.decode(Dossier.decode(kept.data).receipt).receipt.serial
    receipts = [(kind, body) for kind, body in records(folder) if kind == "receipt"]
    later = Ed25519PrivateKey.generate()
    statement = replace(heads(folder)[0], count=0, root=bytes(32), recovered=Recovered(count=1, root=b"\x01" * 32))
    for recovered, words in ((serial, "none, for good"), (serial + 1, "none yet")):
        record = StatementRecord(
            key=later.public_key().public_bytes_raw(), boc=statement.to_boc(), signature=later.sign(statement.hash),
            recovered=((kept.boot.receipt_key, recovered),),
        )  # fmt: skip
        with pytest.raises(Untrusted, match=f"NotAnchored.*{words}"):
            located(kept, tmp_path / "l", [*receipts, (BATCH, record.encode())])


def test_a_receipt_that_its_evidence_s_key_did_not_sign(kept: Kept, folder: Path, tmp_path: Path) -> None:
    flip: Callable[[bytes], bytes] = lambda signature: bytes((signature[0] ^ 1,)) + signature[1:]  # noqa: E731
    with pytest.raises(Untrusted, match="ReceiptSignatureInvalid"):
        located(kept, tmp_path / "l", records(folder), bent(kept.data, (9, ">", 2), flip))


def test_too_many_batches_since(kept: Kept, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proving, "MAX_LATER", 0)
    where = located(kept, tmp_path / "l", records(folder))
    with pytest.raises(UsageFault, match=r"head is 1 batches after.*room for 0.*--block"):
        prove(kept, tmp_path, where, seqno=2, head=heads(folder)[1].hash)


def test_an_earlier_block_has_a_nearer_head(kept: Kept, folder: Path, tmp_path: Path) -> None:
    where = located(kept, tmp_path / "l", records(folder))
    first, second = heads(folder)
    now = int(kept.now.timestamp())
    with in_box(tmp_path, None, now=now) as ton:

        def anchor(head: BatchStatement) -> BlockId:
            enclave = Enclave(
                boot=kept.boot.digest, serial=0, valid_until=now, seqno=head.seqno, head=head.hash, anchored_at=now,
                extension=None,
            )  # fmt: skip
            data = write_boc(registry_data(enclaves={kept.boot.receipt_key: enclave}))
            ton.do(lambda: ton.box.put(REGISTRY, code=CODE, data=data, balance=10**9))
            ton.do(ton.box.block)
            return BlockId.decode(ton.box.chain.head.encode(), what="block")

        def at(block: BlockId | None) -> Proof:
            job = lambda chain: prove_anchoring(  # noqa: E731
                chain, ton.network, where, now=kept.now, path=True, block=block
            )
            return with_chain(ton.network, job)

        early, late = anchor(first), anchor(second)
        assert [len(at(block).anchoring.later) for block in (None, late, early)] == [1, 1, 0]
        proof = at(early)
        data = with_anchoring(Dossier.decode(kept.data), proof.anchoring)
        assert kept.audit(data, path=proof.path, init=ton.network.init_block).anchoring.block == early
        with pytest.raises((AttestationError, Unreachable)):
            at(replace(early, root_hash=bytes(32)))
        with pytest.raises(Untrusted, match="TrustPathInvalid: block"):
            at(replace(late, seqno=late.seqno + 1))


def test_a_proof_that_does_not_fit_leaves_the_dossier_alone(kept: Kept) -> None:
    dossier = Dossier.decode(kept.data)
    anchoring = Anchoring.decode(dossier.anchoring or b"")
    big = replace(dossier, response=bytes(1024 * 1024 - 85_000))
    with pytest.raises(UsageFault, match="does not fit"):
        with_anchoring(big, anchoring)
