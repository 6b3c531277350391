# SPDX-License-Identifier: Apache-2.0
"""Read an enclave's ledger as somebody outside: the host that anchors it, or a client that wants a proof.

Whoever holds the file can write anything into it, so only what a receipt key signed is taken from it. A record that is
missing is missing; one that does not verify is an error, and two statements with one number are kept as proof of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from attestation.batch import BatchStatement, BatchTree, Leaf, Registration, verify_signature
from attestation.errors import Malformed, Untrusted
from attestation.ledger import BATCH, MAX_RECORD, RECEIPT, REGISTRATION, ReceiptRecord, RecordCutter, StatementRecord
from attestation.receipt import MACHINE_CODES, SignedReceipt

from .errors import UsageFault

MAX_KEYS: Final = 4096  # boots in one ledger
MAX_STATEMENTS: Final = 1 << 20
_READ: Final = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Signed:
    """A statement, its signature, and the serial of the receipt at position 0."""

    statement: BatchStatement
    signature: bytes
    first_serial: int


@dataclass(slots=True, kw_only=True)
class KeyChain:
    """What one receipt key signed, every signature verified."""

    key: bytes
    registration: tuple[Registration, bytes] | None = None  # the boot's, with its signature
    statements: dict[int, Signed] = field(default_factory=dict)  # by seqno
    machine: str | None = None  # of the boot, by its first receipt; None: no receipt says

    @property
    def last(self) -> int:
        """The highest seqno; 0 for none."""
        return max(self.statements, default=0)


def read_records(path: Path) -> Iterator[tuple[str, bytes]]:
    """Give (kind, body) of every whole record, in order. Raises UsageFault, Malformed for a damaged file."""
    cutter = RecordCutter()
    try:
        with path.open("rb") as file:
            while data := file.read(_READ):
                yield from cutter.feed(data)
    except OSError as e:
        raise UsageFault(f"{path}: {e.strerror}; name the enclave's ledger with --ledger") from None
    if cutter.left > MAX_RECORD:
        raise Malformed("MalformedBatch", "ledger", want="whole records", got=f"{cutter.left} bytes of another kind")


def read_chains(path: Path) -> dict[bytes, KeyChain]:
    """Read every key's registration and statements. Raises UsageFault, Malformed or Untrusted."""
    chains: dict[bytes, KeyChain] = {}
    statements = 0
    for kind, body in read_records(path):
        if kind == RECEIPT:
            record = ReceiptRecord.decode(body)
            chain = _chain(chains, record.key)
            if chain.machine is None:
                chain.machine = _machine(record)
            continue
        signed = StatementRecord.decode(body)
        chain = _chain(chains, signed.key)
        if kind == REGISTRATION:
            registration = Registration.from_boc(signed.boc)
            verify_signature(registration, signature=signed.signature, key=signed.key)
            if registration.key != signed.key or registration.serial:
                raise Malformed("MalformedRegistration", "ledger", want="the key's own, made at boot", got="another")
            chain.registration = (registration, signed.signature)
        elif kind == BATCH:
            statements += 1
            if statements > MAX_STATEMENTS:
                raise UsageFault(f"{path}: more than {MAX_STATEMENTS} batches; start a new ledger")
            _add(chain, signed)
    return chains


def _chain(chains: dict[bytes, KeyChain], key: bytes) -> KeyChain:
    if key not in chains and len(chains) == MAX_KEYS:
        raise UsageFault(f"the ledger has more than {MAX_KEYS} boots; start a new one")
    return chains.setdefault(key, KeyChain(key=key))


def _machine(record: ReceiptRecord) -> str:
    signed = SignedReceipt.decode(record.item)
    signed.verify(record.key)
    return {code: name for name, code in MACHINE_CODES.items()}[signed.receipt.machine]


def _add(chain: KeyChain, record: StatementRecord) -> None:
    statement = BatchStatement.from_boc(record.boc)
    verify_signature(statement, signature=record.signature, key=record.key)
    before = chain.statements.get(statement.seqno)
    if before is not None and before.statement.hash != statement.hash:
        raise Untrusted("ReceiptEquivocation", f"batch {statement.seqno}", want="one statement", got="two")
    chain.statements[statement.seqno] = Signed(
        statement=statement, signature=record.signature, first_serial=record.first_serial
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a receipt stands in its key's batches: the statement, the position, and the proof of it."""

    signed: Signed
    index: int
    inclusion: bytes


def find_receipt(path: Path, chain: KeyChain, *, serial: int, receipt_hash: bytes) -> Place | None:
    """Find the batch that a receipt is in and make its inclusion proof; None when no batch has it yet.

    Raises Untrusted(BatchProofInvalid) when the ledger's receipts are not those that the statement is about.
    """
    signed = _covering(chain, serial)
    if signed is None:
        return None
    first, count = signed.first_serial, signed.statement.count
    leaves: dict[int, Leaf] = {}
    for kind, body in read_records(path):
        if kind == RECEIPT:
            record = ReceiptRecord.decode(body)
            if record.key == chain.key and first <= record.serial < first + count:
                receipt = SignedReceipt.decode(record.item).receipt
                leaves[record.serial] = Leaf(receipt.hash, receipt.cell().depth)
    if len(leaves) != count:
        raise Untrusted("BatchProofInvalid", "ledger", want=f"{count} receipts of the batch", got=len(leaves))
    tree = BatchTree([leaves[first + at] for at in range(count)])
    if tree.root != signed.statement.root or leaves[serial].hash != receipt_hash:
        raise Untrusted("BatchProofInvalid", "ledger", want="the receipts that were signed for", got="others")
    return Place(signed=signed, index=serial - first, inclusion=tree.prove(serial - first))


def is_recovered(path: Path, key: bytes, serial: int) -> bool:
    """Whether the ledger says that a later boot's batch lists the receipt as recovered. Only words depend on it."""
    return any(
        (key, serial) in StatementRecord.decode(body).recovered for kind, body in read_records(path) if kind == BATCH
    )


def _covering(chain: KeyChain, serial: int) -> Signed | None:
    for signed in chain.statements.values():
        if signed.first_serial <= serial < signed.first_serial + signed.statement.count:
            return signed
    return None
