# SPDX-License-Identifier: Apache-2.0
"""Batches of receipts: the statement that chains them, the registration that starts the chain, inclusion proofs.

All are TON cells (docs/ton.md, Batches); the receipt key signs their representation hashes. Parsing says what a cell
holds; `verify_signature` and `check_inclusion` say whether it is true.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from .batch_tree import KEY_BITS, MAX_LEAF_DEPTH, BatchTree, Leaf
from .errors import Malformed, Untrusted
from .ton.boc import read_boc, write_boc
from .ton.cells import MERKLE_PROOF, Cell
from .ton.hashmap import lookup
from .ton.slices import Builder, Slice

__all__ = [
    "BatchStatement",
    "BatchTree",
    "Leaf",
    "Orphan",
    "Recovered",
    "Registration",
    "batch_root",
    "check_inclusion",
    "prove",
    "verify_signature",
]

BATCH_TAG: Final = 0x53524332
REGISTRATION_TAG: Final = 0x53524333
VERSION: Final = 1
MAX_RECOVERED: Final = 4096
ZERO_HASH: Final = bytes(32)

_PROOF_LIMIT: Final = 8 * 1024
_PROOF_CELLS: Final = 2 + 3 * KEY_BITS
_CELL_LIMIT: Final = 2 * 1024
_CELL_COUNT: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovered:
    """Signed receipts of earlier boots that no batch covered, listed without endorsement (TL-B `Recovered`)."""

    count: int
    root: bytes  # of a Hashmap 32 ^Orphan

    def to_cell(self) -> Cell:
        """Give the cell. Raises ValueError when a field does not fit."""
        if not 1 <= self.count <= MAX_RECOVERED:
            raise ValueError(f"1 to {MAX_RECOVERED} receipts can be recovered at once")
        return Builder().uint(self.count, 32).octets(self.root, 32).cell()

    @classmethod
    def from_cell(cls, cell: Cell) -> Recovered:
        """Read the cell. Raises MalformedBatch."""
        at = Slice(cell, what="recovered", code="MalformedBatch")
        count = at.uint(32, "count")
        root = at.octets(32, "root")
        at.end()
        if not 1 <= count <= MAX_RECOVERED:
            raise at.malformed("count", want=f"1 to {MAX_RECOVERED}", got=count)
        return cls(count=count, root=root)


@dataclass(frozen=True, slots=True, kw_only=True)
class Orphan:
    """One recovered receipt: who signed it, the signature, and the receipt as the tree sees it (TL-B `Orphan`)."""

    key: bytes
    signature: bytes
    receipt: Cell

    def to_cell(self) -> Cell:
        """Give the cell whose hash and depth are the leaf of the recovered dictionary."""
        return Builder().octets(self.key, 32).octets(self.signature, 64).ref(self.receipt).cell()

    def leaf(self) -> Leaf:
        """Give the leaf for `batch_root`."""
        cell = self.to_cell()
        return Leaf(cell.hash, cell.depth)


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchStatement:
    """What a receipt key says about one batch (TL-B `BatchStatement`)."""

    boot: bytes  # boot digest, 32 bytes
    seqno: int  # from 1
    previous: bytes  # hash of statement seqno - 1; of the boot's registration for seqno 1
    root: bytes  # of a Hashmap 32 ^Receipt; zero when count is 0
    count: int
    time: int  # unix seconds, the host's claim
    recovered: Recovered | None = None

    def to_cell(self) -> Cell:
        """Give the cell. Raises ValueError when a field does not fit or the statement says nothing."""
        if self.seqno < 1 or not _says_something(self):
            raise ValueError("a batch has a sequence number from 1, and receipts or recovered ones")
        return (
            Builder()
            .uint(BATCH_TAG, 32)
            .uint(VERSION, 8)
            .octets(self.boot, 32)
            .uint(self.seqno, 64)
            .octets(self.previous, 32)
            .octets(self.root, 32)
            .uint(self.count, 32)
            .uint(self.time, 64)
            .maybe_ref(None if self.recovered is None else self.recovered.to_cell())
            .cell()
        )

    @classmethod
    def from_cell(cls, cell: Cell) -> BatchStatement:
        """Read the cell. Raises MalformedBatch or UnsupportedVersion."""
        at = Slice(cell, what="batch", code="MalformedBatch")
        _take_head(at, BATCH_TAG, "batch")
        boot, seqno = at.octets(32, "boot"), at.uint(64, "seqno")
        previous, root = at.octets(32, "previous"), at.octets(32, "root")
        count, time = at.uint(32, "count"), at.uint(64, "time")
        rest = at.maybe_ref("recovered")
        at.end()
        recovered = None if rest is None else Recovered.from_cell(rest)
        statement = cls(
            boot=boot, seqno=seqno, previous=previous, root=root, count=count, time=time, recovered=recovered
        )
        if seqno < 1 or not _says_something(statement):
            raise at.malformed("count", want="a sequence number from 1, and receipts", got=f"{seqno}, {count}")
        return statement

    @classmethod
    def from_boc(cls, boc: bytes) -> BatchStatement:
        """Read a bag of one statement. Raises MalformedBatch or UnsupportedVersion."""
        (cell,) = read_boc(boc, what="batch", limit=_CELL_LIMIT, max_cells=_CELL_COUNT, code="MalformedBatch")
        return cls.from_cell(cell)

    def to_boc(self) -> bytes:
        """Give the statement as a bag of cells."""
        return write_boc(self.to_cell())

    @property
    def hash(self) -> bytes:
        """The representation hash: what the receipt key signs, and the next statement's `previous`."""
        return self.to_cell().hash


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """A receipt key presents itself to a registry (TL-B `Registration`). Asserts nothing about attestation.

    The one made at boot has serial 0, seqno 0 and a zero head: its own hash starts the chain of batches. A renewal
    has a higher serial and says where the chain stands.
    """

    key: bytes  # receipt public key, 32 bytes
    boot: bytes
    serial: int
    valid_until: int  # unix seconds
    seqno: int
    head: bytes
    extension: Cell | None = None

    def to_cell(self) -> Cell:
        """Give the cell. Raises ValueError when a field does not fit or the serial contradicts the head."""
        if not _starts_or_continues(self):
            raise ValueError("serial 0 has seqno 0 and a zero head; later ones have a head")
        return (
            Builder()
            .uint(REGISTRATION_TAG, 32)
            .uint(VERSION, 8)
            .octets(self.key, 32)
            .octets(self.boot, 32)
            .uint(self.serial, 32)
            .uint(self.valid_until, 64)
            .uint(self.seqno, 64)
            .octets(self.head, 32)
            .maybe_ref(self.extension)
            .cell()
        )

    @classmethod
    def from_cell(cls, cell: Cell) -> Registration:
        """Read the cell. Raises MalformedRegistration or UnsupportedVersion."""
        at = Slice(cell, what="registration", code="MalformedRegistration")
        _take_head(at, REGISTRATION_TAG, "registration")
        key, boot = at.octets(32, "key"), at.octets(32, "boot")
        serial, valid_until = at.uint(32, "serial"), at.uint(64, "valid_until")
        seqno, head = at.uint(64, "seqno"), at.octets(32, "head")
        extension = at.maybe_ref("extension")
        at.end()
        registration = cls(
            key=key, boot=boot, serial=serial, valid_until=valid_until, seqno=seqno, head=head, extension=extension
        )
        if not _starts_or_continues(registration):
            raise at.malformed("head", want="zero with seqno 0 for serial 0, else a head", got=f"serial {serial}")
        return registration

    @classmethod
    def from_boc(cls, boc: bytes) -> Registration:
        """Read a bag of one registration. Raises MalformedRegistration or UnsupportedVersion."""
        (cell,) = read_boc(
            boc, what="registration", limit=_CELL_LIMIT, max_cells=_CELL_COUNT, code="MalformedRegistration"
        )
        return cls.from_cell(cell)

    def to_boc(self) -> bytes:
        """Give the registration as a bag of cells."""
        return write_boc(self.to_cell())

    @property
    def hash(self) -> bytes:
        """The representation hash: what the receipt key signs; for serial 0 also where the chain of batches starts."""
        return self.to_cell().hash


def verify_signature(cell: BatchStatement | Registration, *, signature: bytes, key: bytes) -> None:
    """Verify the receipt key's Ed25519 signature over the hash of a statement or registration.

    Raises BatchSignatureInvalid or RegistrationSignatureInvalid.
    """
    code = "RegistrationSignatureInvalid" if isinstance(cell, Registration) else "BatchSignatureInvalid"
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, cell.hash)
    except (InvalidSignature, ValueError):
        raise Untrusted(code, "signature", want="by the receipt key", got="another") from None


def batch_root(leaves: Sequence[Leaf]) -> bytes:
    """Compute the root hash of the dictionary position -> receipt. Raises ValueError for no or too many leaves."""
    return BatchTree(leaves).root


def prove(leaves: Sequence[Leaf], index: int) -> bytes:
    """Make the inclusion proof of position `index`. For many proofs of one batch keep a `BatchTree`."""
    return BatchTree(leaves).prove(index)


def check_inclusion(proof_boc: bytes, *, root: bytes, index: int, receipt_hash: bytes) -> None:
    """Check that `receipt_hash` is at position `index` of the batch with dictionary root `root`.

    `proof_boc` is a Merkle-proof cell (exotic, type 3) as a bag of cells. Raises MalformedProof or BatchProofInvalid.
    """
    code = "MalformedProof"
    (cell,) = read_boc(proof_boc, what="inclusion", limit=_PROOF_LIMIT, max_cells=_PROOF_CELLS, code=code)
    if cell.kind != MERKLE_PROOF:
        raise Malformed(code, "inclusion", want="a Merkle proof cell", got=f"kind {cell.kind}")
    if cell.refs[0].hashes[0] != root:
        raise Untrusted("BatchProofInvalid", "inclusion.root", want=root.hex(), got=cell.refs[0].hashes[0].hex())
    if not 0 <= index < 1 << KEY_BITS:
        raise Untrusted("BatchProofInvalid", "inclusion.index", want="a position of the batch", got=index)
    value = lookup(cell.refs[0], index, KEY_BITS, what="inclusion", code=code)
    if value is None:
        raise Untrusted("BatchProofInvalid", "inclusion.index", want=index, got="no such position")
    found = value.ref("receipt")
    value.end()
    if found.hashes[0] != receipt_hash or found.depths[0] > MAX_LEAF_DEPTH:
        raise Untrusted("BatchProofInvalid", "inclusion.receipt", want=receipt_hash.hex(), got=found.hashes[0].hex())


def _take_head(at: Slice, tag: int, what: str) -> None:
    at.tag(32, tag)
    version = at.uint(8, "version")
    if version != VERSION:
        raise Malformed("UnsupportedVersion", f"{what}.version", want=VERSION, got=version)


def _says_something(statement: BatchStatement) -> bool:
    if statement.count == 0:
        return statement.root == ZERO_HASH and statement.recovered is not None
    return statement.root != ZERO_HASH


def _starts_or_continues(registration: Registration) -> bool:
    if registration.serial == 0:
        return registration.seqno == 0 and registration.head == ZERO_HASH
    return registration.head != ZERO_HASH
