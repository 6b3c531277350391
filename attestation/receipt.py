# SPDX-License-Identifier: Apache-2.0
"""The receipt: a TON cell tree whose representation hash is the proof hash (docs/protocol.md, Receipt)."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from pytoniq_core.boc.builder import Builder
from pytoniq_core.boc.cell import Cell
from pytoniq_core.boc.slice import Slice

from . import cbor
from .errors import Malformed, Untrusted
from .ton.boc import read_boc

TAG: Final = 0x53524331
VERSION: Final = 1
MAX_BOC: Final = 2048
MAX_CELLS: Final = 16
MACHINE_CODES: Final = {"simulated": 0, "tdx": 1}
_CODE: Final = "MalformedReceipt"
_HEAD: Final = struct.Struct(">IBIQQB")  # tag, version, epoch, serial, issued_at, status: no padding with ">"


class Status(IntEnum):
    """How a run ended."""

    COMPLETE = 0
    ABORTED = 1
    FAILED = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """What the enclave signs about one run. Hashes are 32 bytes; `issued_at` is the host's claim of unix time."""

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
    _made: Cell | None = field(default=None, init=False, repr=False, compare=False)

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
        charged = self.finish.to_bytes(1, "big") + self.price.to_bytes(8, "big") + self.account
        usage = _cell(b"".join(count.to_bytes(4, "big") for count in counts) + self.params + charged)
        head = _HEAD.pack(TAG, VERSION, self.epoch, self.serial, self.issued_at, self.status) + self.previous
        root = Builder().store_bytes(head).store_ref(exchange).store_ref(identity).store_ref(usage)
        cell: Cell = root.store_maybe_ref(self.extension).end_cell()
        return cell

    @property
    def hash(self) -> bytes:
        """The representation hash: the proof hash, 32 bytes."""
        return bytes(self.cell().hash)

    @classmethod
    def from_cell(cls, cell: Cell) -> Receipt:
        """Read a receipt cell tree. Raises Malformed(MalformedReceipt); every bit must be used."""
        try:
            receipt = cls._read(cell)
        except (Malformed, Untrusted):
            raise
        except Exception as e:  # noqa: BLE001 - the cell library raises many kinds on hostile trees
            raise Malformed(_CODE, "receipt", want="the receipt cell tree", got=type(e).__name__) from None
        if bytes(cell.hash) != receipt.hash:
            raise Malformed(_CODE, "receipt", want="the one encoding", got="another")
        return receipt

    @classmethod
    def _read(cls, cell: Cell) -> Receipt:
        if cell.type_ != -1:
            raise Malformed(_CODE, "receipt", want="an ordinary cell", got="an exotic one")
        root = cell.begin_parse()
        if root.load_uint(32) != TAG:
            raise Malformed(_CODE, "receipt.tag", want=hex(TAG), got="another tag")
        if root.load_uint(8) != VERSION:
            raise Malformed(_CODE, "receipt.version", want=VERSION, got="another version")
        epoch, serial, issued_at = root.load_uint(32), root.load_uint(64), root.load_uint(64)
        status = root.load_uint(8)
        if status > max(Status):
            raise Malformed(_CODE, "receipt.status", want=f"at most {max(Status)}", got=status)
        previous = root.load_bytes(32)
        exchange, identity, usage = (root.load_ref().begin_parse() for _ in range(3))
        extension = root.load_maybe_ref()
        ciphertext, request, response = (exchange.load_bytes(32) for _ in range(3))
        more = exchange.load_ref().begin_parse()
        tokens, transcript, nonce = (more.load_bytes(32) for _ in range(3))
        request_id = more.load_bytes(16)
        boot, image, model = (identity.load_bytes(32) for _ in range(3))
        machine = identity.load_uint(8)
        if machine not in MACHINE_CODES.values():
            raise Malformed(_CODE, "receipt.machine", want="0 or 1", got=machine)
        prompt, cached, completion, reasoning = (usage.load_uint(32) for _ in range(4))
        params, finish, price, account = (
            usage.load_bytes(32),
            usage.load_uint(8),
            usage.load_uint(64),
            usage.load_bytes(32),
        )
        for part in (root, exchange, more, identity, usage):
            _end(part)
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
        return cbor.encode({1: bytes(self.receipt.cell().to_boc()), 2: self.signature})

    @classmethod
    def decode(cls, data: bytes) -> SignedReceipt:
        """Read a receipt item. Raises Malformed(MalformedReceipt)."""
        m = cbor.decode_map(data, limit=MAX_BOC + 128, what="receipt item", code=_CODE, required=(1, 2))
        boc = cbor.as_bytes(m[1], "receipt.boc", code=_CODE, limit=MAX_BOC)
        read_boc(boc, what="receipt", limit=MAX_BOC, max_cells=MAX_CELLS, code=_CODE)  # strict: every byte is used
        try:
            cell = Cell.one_from_boc(boc)
        except Exception as e:  # noqa: BLE001 - the bag-of-cells reader raises many kinds on hostile bytes
            raise Malformed(_CODE, "receipt.boc", want="one bag of cells", got=type(e).__name__) from None
        receipt = Receipt.from_cell(cell)
        return cls(receipt=receipt, signature=cbor.as_bytes(m[2], "receipt.signature", code=_CODE, size=64))

    def verify(self, receipt_key: bytes) -> None:
        """Require the signature by `receipt_key` (32 bytes). Raises Untrusted(ReceiptSignatureInvalid)."""
        try:
            Ed25519PublicKey.from_public_bytes(receipt_key).verify(self.signature, self.receipt.hash)
        except InvalidSignature:
            raise Untrusted("ReceiptSignatureInvalid", "receipt.signature") from None


def _cell(data: bytes, *refs: Cell) -> Cell:
    builder = Builder().store_bytes(data)
    for ref in refs:
        builder.store_ref(ref)
    cell: Cell = builder.end_cell()
    return cell


def _end(part: Slice) -> None:
    if part.remaining_bits or part.remaining_refs:
        raise Malformed(_CODE, "receipt", want="every bit used", got="more")
