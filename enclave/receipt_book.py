# SPDX-License-Identifier: Apache-2.0
"""The receipts of one boot: numbered, chained, signed, kept for whoever has the capability, and gathered into batches.

Serial, previous hash and the open batch live in memory alone; nothing that was read from a disk influences them.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from attestation.batch import BatchStatement, Orphan, Recovered, Registration
from attestation.batch_tree import BatchTree, Leaf
from attestation.boot import BootMap
from attestation.errors import AttestationError
from attestation.ledger import BATCH, MAX_RECOVERED, RECEIPT, REGISTRATION, ReceiptRecord, StatementRecord
from attestation.receipt import Receipt, SignedReceipt, Status

from .journal import Happening, Journal
from .keys import ReceiptSigner
from .metrics import Count, Gauge, Metrics
from .reply import Reply
from .seams import Clock, Ledger

MAX_KEPT: Final = 1 << 16  # receipts that can be fetched by capability: about 80 MB when full
BATCH_SIZE: Final = 1024  # receipts that close a batch early
BATCH_SECONDS: Final = 600  # that close a batch at the latest; sooner where the boot promises to anchor sooner
ANCHOR_SHARE: Final = 4  # a batch waits a quarter of `anchor_within`; the host has the rest to publish it
REGISTRATION_SECONDS: Final = 365 * 24 * 3600  # the contract takes 366 days; the host's clock may be ahead
_DEPTH: Final = 2  # of a receipt without extension


@dataclass(slots=True)
class _Kept:
    item: bytes
    until: float  # CLOCK_BOOTTIME


class ReceiptBook:
    """Issues receipts and batch statements. Not thread-safe: the event loop alone calls it."""

    def __init__(
        self, *, signer: ReceiptSigner, boot: BootMap, ledger: Ledger, clock: Clock, journal: Journal, metrics: Metrics
    ) -> None:
        self._signer, self._boot, self._ledger = signer, boot, ledger
        self._clock, self._journal, self._metrics = clock, journal, metrics
        self._serial = 0
        self._previous = bytes(32)
        self._kept: OrderedDict[bytes, _Kept] = OrderedDict()
        self._open: list[bytes] = []  # receipt hashes since the last batch
        self._opened_at = clock.boot()
        self._batch_seconds = min(BATCH_SECONDS, boot.anchor_within // ANCHOR_SHARE)
        self._batch = 0
        self._orphans = ledger.orphans()
        registration = Registration(
            key=signer.public,
            boot=boot.digest,
            serial=0,
            valid_until=clock.wall() + REGISTRATION_SECONDS,
            seqno=0,
            head=bytes(32),
        )
        self._head = registration.hash
        self._write(REGISTRATION, self._statement(registration))

    def issue(self, reply: Reply, status: Status, *, capability: bytes) -> bytes:
        """Sign the receipt of a run as it stands; give its item, keep it, and write it to the ledger."""
        wall = self._clock.wall()
        receipt = reply.receipt(status, boot=self._boot, wall_now=wall, serial=self._serial, previous=self._previous)
        signed = self._signer.receipt(receipt)
        self._serial += 1
        self._previous = receipt.hash
        if not self._open:
            self._opened_at = self._clock.boot()
        self._open.append(receipt.hash)
        item = signed.encode()
        self._keep(capability, item)
        self._write(RECEIPT, ReceiptRecord(key=self._signer.public, serial=receipt.serial, item=item).encode())
        self._count(receipt)
        return item

    def fetch(self, capability: bytes) -> bytes | None:
        """Give the receipt item that `capability` (32 bytes) names, while it is kept."""
        kept = self._kept.get(sha256(capability).digest())
        return kept.item if kept is not None and self._clock.boot() < kept.until else None

    def tend(self) -> None:
        """Forget receipts whose time is over, close a batch that is due, bring the ledger to the disk."""
        now = self._clock.boot()
        while self._kept and (oldest := next(iter(self._kept.values()))).until <= now:
            self._kept.pop(next(iter(self._kept)))
            del oldest
        self._metrics.set(Gauge.RECEIPTS_KEPT, len(self._kept))
        waited = now - self._opened_at >= self._batch_seconds
        if len(self._open) >= BATCH_SIZE or (waited and (self._open or self._orphans)):
            self.close_batch()

    def close_batch(self) -> None:
        """Sign a statement over every receipt since the last one; nothing when there is none."""
        self._opened_at = self._clock.boot()
        recovered, listed = self._recover()
        if not self._open and recovered is None:
            return
        leaves = [Leaf(receipt, _DEPTH) for receipt in self._open]
        statement = BatchStatement(
            boot=self._boot.digest,
            seqno=self._batch + 1,
            previous=self._head,
            root=BatchTree(leaves).root if leaves else bytes(32),
            count=len(leaves),
            time=self._clock.wall(),
            recovered=recovered,
        )
        self._batch += 1
        self._head = statement.hash
        first = self._serial - len(self._open)
        self._open = []
        self._write(BATCH, self._statement(statement, first_serial=first, recovered=listed))
        self._metrics.add(Count.BATCHES)
        self._journal.write(Happening.BATCH, number=statement.seqno, size=statement.count)

    def _recover(self) -> tuple[Recovered | None, tuple[tuple[bytes, int], ...]]:
        """Take orphaned receipts of earlier boots, each proved by its own signature; what is none is left out."""
        orphans, listed = [], []
        for body in self._orphans[:MAX_RECOVERED]:
            try:
                record = ReceiptRecord.decode(body)
                signed = SignedReceipt.decode(record.item)
                signed.verify(record.key)
            except AttestationError:
                self._metrics.add(Count.LEDGER_ERRORS)
                continue
            orphans.append(Orphan(key=record.key, signature=signed.signature, receipt=signed.receipt.cell()).leaf())
            listed.append((record.key, record.serial))
        self._orphans = self._orphans[MAX_RECOVERED:]
        if not orphans:
            return None, ()
        return Recovered(count=len(orphans), root=BatchTree(orphans).root), tuple(listed)

    def _statement(
        self,
        cell: BatchStatement | Registration,
        *,
        first_serial: int = 0,
        recovered: tuple[tuple[bytes, int], ...] = (),
    ) -> bytes:
        record = StatementRecord(
            key=self._signer.public,
            boc=cell.to_boc(),
            signature=self._signer.statement(cell),
            first_serial=first_serial,
            recovered=recovered,
        )
        return record.encode()

    def _keep(self, capability: bytes, item: bytes) -> None:
        if len(self._kept) >= MAX_KEPT:
            self._kept.popitem(last=False)
        until = self._clock.boot() + self._boot.retention
        self._kept[sha256(capability).digest()] = _Kept(item, until)

    def _write(self, kind: str, record: bytes) -> None:
        """Write to the ledger. A full disk costs the record, never the answer: the client has its receipt."""
        try:
            self._ledger.append(kind, record)
        except OSError as e:
            self._metrics.add(Count.LEDGER_ERRORS)
            self._journal.write(Happening.LEDGER_ERROR, code=type(e).__name__)

    def _count(self, receipt: Receipt) -> None:
        outcome = {Status.COMPLETE: Count.RUNS_COMPLETE, Status.ABORTED: Count.RUNS_ABORTED}
        self._metrics.add(outcome.get(receipt.status, Count.RUNS_FAILED))
        self._metrics.add(Count.TOKENS_PROMPT, receipt.prompt_tokens)
        self._metrics.add(Count.TOKENS_COMPLETION, receipt.completion_tokens)
        tokens = receipt.prompt_tokens + receipt.completion_tokens
        name = receipt.status.name.lower()
        self._journal.write(Happening.RUN, code=name, id=receipt.request_id, number=receipt.serial, size=tokens)
