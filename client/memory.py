# SPDX-License-Identifier: Apache-2.0
"""What the client remembers of receipts: (receipt key, serial) -> hash, so that equivocation shows."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

from attestation.errors import Untrusted
from attestation.receipt import SignedReceipt

BUSY_SECONDS = 10.0


class ReceiptMemory:
    """A small SQLite file in the user's state directory, or nothing at all in memory.

    Two hashes for one serial, or two successors of one hash, are kept both, as proof, and refused.
    """

    def __init__(self, path: Path | None) -> None:
        self._kept_in = str(path) if path is not None else "memory"
        if path is not None:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = threading.Lock()  # runs of a proxy end in threads of their own
        self._db = sqlite3.connect(path or ":memory:", timeout=BUSY_SECONDS, check_same_thread=False)
        with self._db:
            self._db.execute(
                "CREATE TABLE IF NOT EXISTS receipts (key BLOB, serial TEXT, hash BLOB, previous BLOB, item BLOB,"
                " PRIMARY KEY (key, serial, hash)) WITHOUT ROWID"
            )
            self._db.execute("CREATE INDEX IF NOT EXISTS successors ON receipts (key, previous)")

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def remember(self, key: bytes, signed: SignedReceipt) -> None:
        """Keep a verified receipt. Raises Untrusted(ReceiptEquivocation) when it contradicts one that is kept."""
        with self._lock:
            self._remember(key, signed)

    def _remember(self, key: bytes, signed: SignedReceipt) -> None:
        receipt = signed.receipt
        serial, digest = str(receipt.serial), receipt.hash
        with self._db:
            self._db.execute(
                "INSERT OR IGNORE INTO receipts VALUES (?, ?, ?, ?, ?)",
                (key, serial, digest, receipt.previous, signed.encode()),
            )
        same_serial = self._db.execute(
            "SELECT count(*) FROM receipts WHERE key = ? AND serial = ?", (key, serial)
        ).fetchone()[0]
        successors = self._db.execute(
            "SELECT count(DISTINCT hash) FROM receipts WHERE key = ? AND previous = ?", (key, receipt.previous)
        ).fetchone()[0]
        if same_serial > 1 or successors > 1:
            what = "serial" if same_serial > 1 else "previous"
            kept = f"two, both kept as proof in {self._kept_in}"
            raise Untrusted("ReceiptEquivocation", f"receipt.{what}", want="one receipt", got=kept)

    def evidence_of_equivocation(self, key: bytes, signed: SignedReceipt) -> list[bytes]:
        """Give every kept receipt item that has the serial or the predecessor of `signed`: one, when all is well."""
        asked = (key, str(signed.receipt.serial), signed.receipt.previous)
        rows = self._db.execute("SELECT item FROM receipts WHERE key = ? AND (serial = ? OR previous = ?)", asked)
        return [bytes(row[0]) for row in rows]
