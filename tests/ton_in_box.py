# SPDX-License-Identifier: Apache-2.0
"""A TON in a box on loopback: a registry, a funded wallet, and ledgers that enclaves might write."""

from __future__ import annotations

import asyncio
import base64
import importlib.util
import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from attestation.batch import BatchStatement, BatchTree, Leaf, Registration
from attestation.ledger import BATCH, RECEIPT, REGISTRATION, ReceiptRecord, StatementRecord, frame
from attestation.receipt import Receipt, SignedReceipt, Status
from attestation.ton.blockid import BlockId
from attestation.ton.boc import write_boc
from attestation.ton.cells import Cell
from attestation.ton.registry import Enclave, Listing
from attestation.ton.slices import Builder
from client import registry_messages
from client.ton.network import SCHEMA, Network, block_json
from client.ton.wallet import Wallet, read_wallet
from enclave.simulator.ton_answers import TonAnswers
from enclave.simulator.ton_box import TonBox
from enclave.simulator.ton_chain import GLOBAL_ID
from enclave.simulator.ton_machine import TonMachine
from enclave.simulator.ton_server import TonServer
from tests.ton_cells import address, maybe_hashmap

NOW = 1_800_000_000
REGISTRY = b"\x09" * 32
OWNER = b"\x01" * 32
FEE = 50_000_000
CODE = (Path(__file__).parent.parent / "attestation" / "ton" / "registry.boc").read_bytes()
T = TypeVar("T")

# Looked for and never imported: its native code, once in a process, keeps llama.cpp from loading a model there.
needs_tonpy = pytest.mark.skipif(
    importlib.util.find_spec("tonpy") is None, reason="tonpy is not installed (requirements/tvm.txt)"
)


@dataclass
class BoxClock:
    """The box's time, which is also the client's."""

    at: int = NOW

    def __call__(self) -> int:
        return self.at

    def now(self) -> datetime:
        """Give the time as a client wants it."""
        return datetime.fromtimestamp(self.at, UTC)


class InBox:
    """The box, its server's thread, and what a user needs to reach it."""

    def __init__(
        self,
        folder: Path,
        machine: TonMachine | None,
        *,
        now: int = NOW,
        answers: Callable[[TonBox], TonAnswers] = TonAnswers,
    ) -> None:
        self.folder = folder
        self.clock = BoxClock(now)
        self.box = TonBox(seed=sha256(str(folder).encode()).digest(), clock=self.clock, machine=machine)
        data = registry_messages.initial_data(owner=OWNER, fee=FEE)
        self.box.put(REGISTRY, code=CODE, data=write_boc(data), balance=2 * 10**9)
        self.box.block()
        self.answers = answers(self.box)
        self.server = TonServer(self.answers.answer, key=Ed25519PrivateKey.generate())
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="ton-in-box", daemon=True)
        self._thread.start()
        self.port: int = self.await_(self.server.start())

    def await_(self, work: Any) -> Any:
        """Run a coroutine in the server's loop."""
        future: Future[Any] = asyncio.run_coroutine_threadsafe(work, self._loop)
        return future.result(timeout=60)

    def do(self, function: Callable[[], T]) -> T:
        """Run a function in the server's loop, where the box lives."""

        async def work() -> T:
            return function()

        found: T = self.await_(work())
        return found

    def stop(self) -> None:
        """Stop the server."""
        self.await_(self.server.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=10)
        self._loop.close()

    @property
    def network_path(self) -> Path:
        """Write the network file and name it."""
        init = BlockId.decode(self.box.chain.init_block.encode(), what="init_block")
        server = {"host": "127.0.0.1", "port": self.port, "key": base64.b64encode(self.server.public).decode()}
        document = {
            "schema": SCHEMA,
            "name": "box",
            "init_block": block_json(init),
            "lite_servers": [server],
            "registry": f"0:{REGISTRY.hex()}",
            "ledger": "ledger",
        }
        path = self.folder / "network.json"
        path.write_text(json.dumps(document))
        return path

    @property
    def network(self) -> Network:
        """Read the network file."""
        return Network.read(self.network_path)

    def wallet(self, version: str = "v4r2", *, balance: int = 10 * 10**9) -> tuple[Wallet, Path]:
        """Make a wallet whose account is funded and not yet deployed."""
        path = self.folder / f"wallet-{version}.json"
        seed = sha256(version.encode()).hexdigest()
        path.write_text(json.dumps({"schema": "sericin-wallet/1", "version": version, "seed": seed}))
        path.chmod(0o600)
        wallet = read_wallet(path)
        address = wallet.address(GLOBAL_ID).account
        self.do(lambda: self.box.fund(address, balance))
        self.do(self.box.block)
        return wallet, path

    def exits(self, *, of: bytes = REGISTRY) -> list[int | None]:
        """Give the exit codes of every message that an account ran."""
        return [step.exit for step in self.box.steps if step.address == of]


@contextmanager
def in_box(folder: Path, machine: TonMachine | None, **options: Any) -> Iterator[InBox]:
    """Run a box for a while."""
    made = InBox(folder, machine, **options)
    try:
        yield made
    finally:
        made.stop()


@dataclass
class Boot:
    """A boot as its ledger shows it: a receipt key, receipts, batches. Nothing but the key is secret."""

    name: str = "first"
    machine: int = 0
    valid_until: int = NOW + 86_400
    statements: list[BatchStatement] = field(default_factory=list)
    receipts: list[SignedReceipt] = field(default_factory=list)
    records: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.key = Ed25519PrivateKey.from_private_bytes(sha256(self.name.encode()).digest())
        self.public = self.key.public_key().public_bytes_raw()
        self.boot = sha256(b"boot" + self.name.encode()).digest()
        self.registration = Registration(
            key=self.public, boot=self.boot, serial=0, valid_until=self.valid_until, seqno=0, head=bytes(32)
        )
        self.records.append(self._frame(REGISTRATION, self.registration))

    def _frame(self, kind: str, cell: BatchStatement | Registration, first: int = 0) -> bytes:
        signature = self.key.sign(cell.hash)
        record = StatementRecord(key=self.public, boc=cell.to_boc(), signature=signature, first_serial=first)
        return frame(kind, record.encode())

    def batch(self, *receipts: SignedReceipt, count: int = 3) -> BatchStatement:
        """Close a batch over `receipts`, or over `count` new ones."""
        new = list(receipts) or [self.receipt() for _ in range(count)]
        first = len(self.receipts) - len(new)
        root = BatchTree([Leaf(item.receipt.hash, 2) for item in new]).root
        previous = self.statements[-1].hash if self.statements else self.registration.hash
        statement = BatchStatement(
            boot=self.boot, seqno=len(self.statements) + 1, previous=previous, root=root, count=len(new), time=NOW
        )
        self.statements.append(statement)
        self.records.append(self._frame(BATCH, statement, first))
        return statement

    def receipt(self) -> SignedReceipt:
        """Issue a receipt and write it down."""
        serial = len(self.receipts)
        previous = self.receipts[-1].receipt.hash if self.receipts else bytes(32)
        made: dict[str, Any] = {name: sha256(name.encode()).digest() for name in HASHES}
        receipt = Receipt(
            epoch=1, serial=serial, issued_at=NOW, status=Status.COMPLETE, previous=previous, **made,
            request_id=serial.to_bytes(16, "big"), boot=self.boot, machine=self.machine, prompt_tokens=1,
            cached_tokens=0, completion_tokens=1, reasoning_tokens=0, finish=1, price=0,
        )  # fmt: skip
        return self.add(SignedReceipt(receipt=receipt, signature=self.key.sign(receipt.hash)))

    def add(self, signed: SignedReceipt) -> SignedReceipt:
        """Write a receipt down."""
        self.receipts.append(signed)
        record = ReceiptRecord(key=self.public, serial=signed.receipt.serial, item=signed.encode())
        self.records.append(frame(RECEIPT, record.encode()))
        return signed


HASHES = (
    "ciphertext", "request", "response", "tokens", "transcript", "nonce", "image", "model", "params", "account",
)  # fmt: skip


def write_ledger(path: Path, boots: Sequence[Boot]) -> Path:
    """Write the ledger of several boots, one after another."""
    path.write_bytes(b"".join(record for boot in boots for record in boot.records))
    return path


def registry_data(*, enclaves: Mapping[bytes, Enclave] | None = None, **lists: Mapping[bytes, Any]) -> Cell:
    """Write a registry's storage as the contract does (docs/ton.md), from the reader's own types."""
    digests = Builder()
    for name in ("images", "models", "revoked_images", "revoked_keys"):
        entries = {int.from_bytes(key, "big"): _entry(value) for key, value in lists.get(name, {}).items()}
        maybe_hashmap(digests, entries, 256)
    records = {int.from_bytes(key, "big"): _record(it) for key, it in (enclaves or {}).items()}
    head = address(Builder().uint(1, 8), 0, OWNER).coins(FEE)
    return maybe_hashmap(head, records, 256).ref(digests.uint(0, 2).cell()).cell()


def _entry(value: Listing | int) -> Cell:
    if isinstance(value, Listing):
        return Builder().uint(value.since, 64).uint(value.not_after, 64).cell()
    return Builder().uint(value, 64).cell()


def _record(it: Enclave) -> Cell:
    builder = Builder().octets(it.boot, 32).uint(it.serial, 32).uint(it.valid_until, 64).uint(it.seqno, 64)
    return builder.octets(it.head, 32).uint(it.anchored_at, 64).maybe_ref(it.extension).cell()
