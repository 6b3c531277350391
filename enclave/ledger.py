# SPDX-License-Identifier: Apache-2.0
"""The ledger file: append-only, readable by the host, never believed (docs/operator.md, Ledger).

Nothing read here influences a serial, a previous hash or a batch's chain; earlier boots' receipts are only listed.
"""

from __future__ import annotations

import fcntl
import os
import stat
from pathlib import Path
from typing import Final

from attestation.batch import BatchStatement
from attestation.errors import Malformed
from attestation.ledger import BATCH, MAX_RECORD, RECEIPT, ReceiptRecord, RecordCutter, StatementRecord, frame

MAX_ORPHANS: Final = 65536  # receipts of earlier boots that one boot looks after
_READ: Final = 1 << 20


class LedgerUnusable(Exception):
    """The file cannot be used. The message names it and says what to do."""


class MemoryLedger:
    """A ledger for an enclave that was given no file: keeps nothing."""

    def append(self, kind: str, record: bytes) -> None:
        """Check the record and forget it."""
        frame(kind, record)

    def orphans(self) -> list[bytes]:
        """Give none."""
        return []

    def sync(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


class _OpenLedger:
    """What was opened: its orphans, and when it goes to the disk."""

    _file: int
    _orphans: list[bytes]
    _dirty = False

    def orphans(self) -> list[bytes]:
        """Give the receipt records of earlier boots that no batch statement covers, oldest first."""
        return list(self._orphans)

    def sync(self) -> None:
        """Bring everything written so far to the disk."""
        if self._dirty:
            self._dirty = False
            os.fdatasync(self._file)

    def close(self) -> None:
        """Sync and close."""
        self.sync()
        os.close(self._file)


class FileLedger(_OpenLedger):
    """The Ledger seam over one file. One process at a time holds it."""

    def __init__(self, path: Path) -> None:
        """Open or make the file, cut a torn end off, and find the orphans. Raises LedgerUnusable."""
        self._path = path
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        except OSError as e:
            raise LedgerUnusable(f"{path}: {e.strerror}") from None
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._orphans = self._scan()
        except BlockingIOError:
            os.close(self._file)
            raise LedgerUnusable(f"{path}: another process is writing it") from None
        except (OSError, LedgerUnusable):
            os.close(self._file)
            raise

    def _scan(self) -> list[bytes]:
        cutter = RecordCutter()
        open_receipts: dict[tuple[bytes, int], bytes] = {}
        at = 0
        try:
            while data := os.pread(self._file, _READ, at):
                at += len(data)
                for kind, body in cutter.feed(data):
                    _follow(open_receipts, kind, body)
        except Malformed as e:
            # A crash tears the last record; anything else is damage that nobody may silently cut away.
            if at < os.fstat(self._file).st_size or at - cutter.whole > MAX_RECORD:
                raise LedgerUnusable(f"{self._path}: {e}; move the file away to start a new one") from None
        if os.fstat(self._file).st_size > cutter.whole:
            os.ftruncate(self._file, cutter.whole)
        return list(open_receipts.values())

    def append(self, kind: str, record: bytes) -> None:
        """Write one record in one piece. Raises OSError; a piece that was written is taken back."""
        data = frame(kind, record)
        before = os.fstat(self._file).st_size
        try:
            written = os.write(self._file, data)
        except OSError:
            os.ftruncate(self._file, before)
            raise
        if written != len(data):
            os.ftruncate(self._file, before)
            raise OSError(f"{self._path}: only {written} of {len(data)} bytes were written")
        self._dirty = True


class DiskLedger(_OpenLedger):
    """The Ledger seam over a disk of fixed size, which the host reads: an image's ledger (docs/image.md).

    Every record is written together with the zero length that ends the ledger, at the place where that was before.
    """

    def __init__(self, path: Path) -> None:
        """Open the disk and find end and orphans. Raises LedgerUnusable."""
        self._path = path
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError as e:
            raise LedgerUnusable(f"{path}: {e.strerror}") from None
        try:
            self._size = os.lseek(self._file, 0, os.SEEK_END)
            self._end, self._orphans = self._scan()
        except (OSError, LedgerUnusable):
            os.close(self._file)
            raise

    def _scan(self) -> tuple[int, list[bytes]]:
        cutter = RecordCutter()
        open_receipts: dict[tuple[bytes, int], bytes] = {}
        at = 0
        try:
            while not cutter.ended and (data := os.pread(self._file, _READ, at)):
                at += len(data)
                for kind, body in cutter.feed(data):
                    _follow(open_receipts, kind, body)
        except Malformed as e:
            if not self._torn(cutter.whole):
                raise LedgerUnusable(f"{self._path}: {e}; give the enclave a new ledger disk") from None
        return cutter.whole, list(open_receipts.values())

    def _torn(self, at: int) -> bool:
        """Whether the record at `at` is the last one, cut by a crash: then nothing follows it."""
        size = int.from_bytes(os.pread(self._file, 4, at), "big")
        return size <= MAX_RECORD and not any(os.pread(self._file, MAX_RECORD, at + 12 + size))

    def append(self, kind: str, record: bytes) -> None:
        """Write one record and the end behind it. Raises OSError, also for a full disk, and nothing is written then."""
        data = frame(kind, record)
        if self._end + len(data) + 4 > self._size:
            raise OSError(f"{self._path}: the ledger disk is full")
        if os.pwrite(self._file, data + bytes(4), self._end) != len(data) + 4:
            os.pwrite(self._file, bytes(4), self._end)
            raise OSError(f"{self._path}: a short write")
        self._end += len(data)
        self._dirty = True


def open_ledger(path: Path) -> FileLedger | DiskLedger:
    """Open a ledger file, made where there is none, or a ledger disk. Raises LedgerUnusable."""
    try:
        is_disk = stat.S_ISBLK(path.stat().st_mode)
    except OSError:
        is_disk = False
    return DiskLedger(path) if is_disk else FileLedger(path)


def _follow(open_receipts: dict[tuple[bytes, int], bytes], kind: str, body: bytes) -> None:
    """Keep the receipts that no batch has covered so far."""
    if kind == RECEIPT:
        receipt = ReceiptRecord.decode(body)
        if len(open_receipts) < MAX_ORPHANS:
            open_receipts.setdefault((receipt.key, receipt.serial), body)
    elif kind == BATCH:
        batch = StatementRecord.decode(body)
        count = BatchStatement.from_boc(batch.boc).count
        for covered in batch.recovered:
            open_receipts.pop(covered, None)
        for serial in range(batch.first_serial, batch.first_serial + count):
            open_receipts.pop((batch.key, serial), None)
