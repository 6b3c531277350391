# SPDX-License-Identifier: Apache-2.0
"""The ledger's records: how signed receipts and batch statements lie in a file (docs/operator.md, Ledger).

A file is a sequence of ``u32 length || first 8 bytes of SHA-256(payload) || payload``; a payload is CBOR [kind, body].
On a disk of fixed size a length of zero ends it: what lies behind was never written.
Its reader believes nothing of it: every receipt and statement in it carries its own signature.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from . import cbor
from .errors import Malformed

RECEIPT: Final = "receipt"
BATCH: Final = "batch"
REGISTRATION: Final = "registration"
KINDS: Final = (RECEIPT, BATCH, REGISTRATION)
MAX_RECORD: Final = 512 * 1024
MAX_RECOVERED: Final = 4096
_LENGTH: Final = 4
_CHECKSUM: Final = 8
_CODE: Final = "MalformedBatch"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiptRecord:
    """One signed receipt."""

    key: bytes  # receipt public key, 32
    serial: int
    item: bytes  # the receipt item of docs/protocol.md

    def encode(self) -> bytes:
        """Give the record's body."""
        return cbor.encode({1: self.key, 2: self.serial, 3: self.item})

    @classmethod
    def decode(cls, data: bytes) -> ReceiptRecord:
        """Read a body. Raises Malformed(MalformedBatch)."""
        m = cbor.decode_map(data, limit=MAX_RECORD, what="ledger.receipt", code=_CODE, required=(1, 2, 3))
        return cls(
            key=cbor.as_bytes(m[1], "ledger.key", code=_CODE, size=32),
            serial=cbor.as_uint(m[2], "ledger.serial", code=_CODE),
            item=cbor.as_bytes(m[3], "ledger.item", code=_CODE, limit=8192),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class StatementRecord:
    """A signed batch statement or registration."""

    key: bytes  # receipt public key, 32
    boc: bytes  # the cell
    signature: bytes  # 64
    first_serial: int = 0  # batch: position 0 holds the receipt with this serial
    recovered: tuple[tuple[bytes, int], ...] = ()  # batch: (key, serial) by position in the recovered dictionary

    def encode(self) -> bytes:
        """Give the record's body."""
        recovered = [[key, serial] for key, serial in self.recovered]
        return cbor.encode({1: self.key, 2: self.boc, 3: self.signature, 4: self.first_serial, 5: recovered})

    @classmethod
    def decode(cls, data: bytes) -> StatementRecord:
        """Read a body. Raises Malformed(MalformedBatch)."""
        m = cbor.decode_map(data, limit=MAX_RECORD, what="ledger.statement", code=_CODE, required=range(1, 6))
        recovered = []
        for entry in cbor.as_list(m[5], "ledger.recovered", code=_CODE, limit=MAX_RECOVERED):
            pair = cbor.as_list(entry, "ledger.recovered", code=_CODE, limit=2, least=2)
            key = cbor.as_bytes(pair[0], "ledger.recovered", code=_CODE, size=32)
            recovered.append((key, cbor.as_uint(pair[1], "ledger.recovered", code=_CODE)))
        return cls(
            key=cbor.as_bytes(m[1], "ledger.key", code=_CODE, size=32),
            boc=cbor.as_bytes(m[2], "ledger.boc", code=_CODE, limit=4096),
            signature=cbor.as_bytes(m[3], "ledger.signature", code=_CODE, size=64),
            first_serial=cbor.as_uint(m[4], "ledger.first_serial", code=_CODE),
            recovered=tuple(recovered),
        )


def frame(kind: str, body: bytes) -> bytes:
    """Give one record as it lies in the file. Raises ValueError for an unknown kind or too large a body."""
    payload = cbor.encode([kind, body])
    if kind not in KINDS or len(payload) > MAX_RECORD:
        raise ValueError(f"a record is one of {', '.join(KINDS)} and at most {MAX_RECORD} bytes")
    return len(payload).to_bytes(_LENGTH, "big") + sha256(payload).digest()[:_CHECKSUM] + payload


class RecordCutter:
    """Cuts records off a file that is read in pieces. `whole` counts the bytes of whole records so far."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self.whole = 0
        self.ended = False  # a length of zero was read

    @property
    def left(self) -> int:
        """Bytes after the last whole record."""
        return len(self._buffer)

    def feed(self, data: bytes) -> list[tuple[str, bytes]]:
        """Take bytes and give (kind, body) of every record that is now whole.

        Raises Malformed(MalformedBatch) for a record that is whole but is not what its checksum says.
        """
        if self.ended:
            return []
        self._buffer += data
        records = []
        while len(self._buffer) >= _LENGTH + _CHECKSUM:
            size = int.from_bytes(self._buffer[:_LENGTH], "big")
            if size == 0:
                self.ended = True
                self._buffer.clear()
                break
            if size > MAX_RECORD:
                raise Malformed(_CODE, "ledger", want=f"records of at most {MAX_RECORD} bytes", got=size)
            end = _LENGTH + _CHECKSUM + size
            if len(self._buffer) < end:
                break
            payload = bytes(self._buffer[_LENGTH + _CHECKSUM : end])
            if sha256(payload).digest()[:_CHECKSUM] != self._buffer[_LENGTH : _LENGTH + _CHECKSUM]:
                raise Malformed(_CODE, "ledger", want="the record's checksum", got="another")
            pair = cbor.as_list(
                cbor.decode(payload, limit=MAX_RECORD, what="ledger", code=_CODE),
                "ledger",
                code=_CODE,
                limit=2,
                least=2,
            )
            kind = cbor.as_text(pair[0], "ledger.kind", code=_CODE, limit=16)
            records.append((kind, cbor.as_bytes(pair[1], "ledger.body", code=_CODE)))
            del self._buffer[:end]
            self.whole += end
        return records


def read_records(data: bytes) -> list[tuple[str, bytes]]:
    """Give (kind, body) of every whole record of a file's bytes; a torn end is left out. Raises Malformed."""
    return RecordCutter().feed(data)
