# SPDX-License-Identifier: Apache-2.0
"""The receipt: a TON cell tree whose representation hash is the proof hash (docs/protocol.md, Receipt)."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from . import cbor
from .errors import Malformed, Untrusted
from .ton.boc import read_boc, write_boc
from .ton.cells import Cell, make_cell
from .ton.slices import Slice

TAG: Final = 0x53524331
VERSION: Final = 1
MAX_BOC: Final = 2048
MAX_CELLS: Final = 16
MACHINE_CODES: Final = {"simulated": 0, "tdx": 1}
_CODE: Final = "MalformedReceipt"
_HEAD: Final = struct.Struct(">IBIQQB")  # tag, version, epoch, serial, issued_at, status: no padding with ">"
_COUNTS: Final = struct.Struct(">IIII")  # prompt, cached, completion, reasoning
_CHARGED: Final = struct.Struct(">BQ")  # finish, price


class Status(IntEnum):
    """How a run ended."""

    COMPLETE = 0
    ABORTED = 1
    FAILED = 2


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Receipt:
    """What the enclave signs about one run. Hashes are 32 bytes; `issued_at` is the host's claim of unix time.

    Two receipts are equal when their proof hashes are: these cover every field, an extension too.
    """

    epoch: int
    serial: int
    issued_at: int
    status: Status
    previous: bytes
    ciphertext: bytes
    request: bytes
    response: bytes
    tokens: bytes
    transcript: bytes
    nonce: bytes
    request_id: bytes  # 16
    boot: bytes
    image: bytes
    model: bytes
    machine: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    reasoning_tokens: int
    params: bytes
    finish: int
    price: int  # nanograms
    account: bytes
    extension: Cell | None = None
    _made: Cell | None = field(default=None, init=False, repr=False)

    def cell(self) -> Cell:
        """Give the cell tree, made once."""
        if self._made is None:
            object.__setattr__(self, "_made", self._make())
        if self._made is None:
            raise RuntimeError("just made")
        return self._made

    def _make(self) -> Cell:
        more = _cell(self.tokens + self.transcript + self.nonce + self.request_id)
        exchange = _cell(self.ciphertext + self.request + self.response, more)
        identity = _cell(self.boot + self.image + self.model + self.machine.to_bytes(1, "big"))
        counts = (self.prompt_tokens, self.cached_tokens, self.completion_tokens, self.reasoning_tokens)
        usage = _cell(_COUNTS.pack(*counts) + self.params + _CHARGED.pack(self.finish, self.price) + self.account)
        head = _HEAD.pack(TAG, VERSION, self.epoch, self.serial, self.issued_at, self.status) + self.previous
        maybe = () if self.extension is None else (self.extension,)
        # The last byte: one bit that says whether there is an extension, then the completion tag.
        tail = b"\xc0" if maybe else b"\x40"
        return make_cell(head + tail, len(head) * 8 + 1, (exchange, identity, usage, *maybe))

    def __eq__(self, other: object) -> bool:
        """Compare the proof hashes."""
        return isinstance(other, Receipt) and self.hash == other.hash

    def __hash__(self) -> int:
        """Agree with `==`."""
        return hash(self.hash)

    @property
    def hash(self) -> bytes:
        """The representation hash: the proof hash, 32 bytes."""
        return self.cell().hash

    @classmethod
    def from_cell(cls, cell: Cell) -> Receipt:
        """Read a receipt cell tree. Raises Malformed(MalformedReceipt); every bit must be used."""
        receipt = cls._read(cell)
        if cell.hash != receipt.hash:
            raise Malformed(_CODE, "receipt", want="the one encoding", got="another")
        return receipt

    @classmethod
    def _read(cls, cell: Cell) -> Receipt:
        root = Slice(cell, what="receipt", code=_CODE)
        root.tag(32, TAG)
        root.tag(8, VERSION, "version")
        epoch, serial, issued_at = root.uint(32, "epoch"), root.uint(64, "serial"), root.uint(64, "issued_at")
        status = root.uint(8, "status")
        if status > max(Status):
            raise Malformed(_CODE, "receipt.status", want=f"at most {max(Status)}", got=status)
        previous = root.octets(32, "previous")
        exchange, identity, usage = (root.child(name) for name in ("exchange", "identity", "usage"))
        extension = root.maybe_ref("extension")
        ciphertext, request, response = (exchange.octets(32, name) for name in ("ciphertext", "request", "response"))
        more = exchange.child("more")
        tokens, transcript, nonce = (more.octets(32, name) for name in ("tokens", "transcript", "nonce"))
        request_id = more.octets(16, "request_id")
        boot, image, model = (identity.octets(32, name) for name in ("boot", "image", "model"))
        machine = identity.uint(8, "machine")
        if machine not in MACHINE_CODES.values():
            raise Malformed(_CODE, "receipt.machine", want="0 or 1", got=machine)
        prompt, cached, completion, reasoning = (
            usage.uint(32, name) for name in ("prompt", "cached", "completion", "reasoning")
        )
        params, finish = usage.octets(32, "params"), usage.uint(8, "finish")
        price, account = usage.uint(64, "price"), usage.octets(32, "account")
        for part in (root, exchange, more, identity, usage):
            part.end()
        return cls(
            epoch=epoch, serial=serial, issued_at=issued_at, status=Status(status), previous=previous,
            ciphertext=ciphertext, request=request, response=response, tokens=tokens, transcript=transcript,
            nonce=nonce, request_id=request_id, boot=boot, image=image, model=model, machine=machine,
            prompt_tokens=prompt, cached_tokens=cached, completion_tokens=completion, reasoning_tokens=reasoning,
            params=params, finish=finish, price=price, account=account, extension=extension,
        )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedReceipt:
    """A receipt with the enclave's signature over its hash."""

    receipt: Receipt
    signature: bytes  # 64, Ed25519

    def encode(self) -> bytes:
        """Give the receipt item: CBOR {1: bag of cells, 2: signature}."""
        return cbor.encode({1: write_boc(self.receipt.cell()), 2: self.signature})

    @classmethod
    def decode(cls, data: bytes) -> SignedReceipt:
        """Read a receipt item. Raises Malformed(MalformedReceipt)."""
        m = cbor.decode_map(data, limit=MAX_BOC + 128, what="receipt item", code=_CODE, required=(1, 2))
        boc = cbor.as_bytes(m[1], "receipt.boc", code=_CODE, limit=MAX_BOC)
        (cell,) = read_boc(boc, what="receipt", limit=MAX_BOC, max_cells=MAX_CELLS, code=_CODE)
        receipt = Receipt.from_cell(cell)
        return cls(receipt=receipt, signature=cbor.as_bytes(m[2], "receipt.signature", code=_CODE, size=64))

    def verify(self, receipt_key: bytes) -> None:
        """Require the signature by `receipt_key` (32 bytes). Raises Untrusted(ReceiptSignatureInvalid)."""
        try:
            Ed25519PublicKey.from_public_bytes(receipt_key).verify(self.signature, self.receipt.hash)
        except InvalidSignature:
            raise Untrusted("ReceiptSignatureInvalid", "receipt.signature") from None


def _cell(data: bytes, *refs: Cell) -> Cell:
    return make_cell(data, len(data) * 8, refs)
