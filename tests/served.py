# SPDX-License-Identifier: Apache-2.0
"""A whole enclave in a thread: simulated machine, real sockets on loopback, a clock that tests move, an echo engine."""

from __future__ import annotations

import asyncio
import io
import json
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from attestation.config import EnclaveConfig
from attestation.operator import OperatorDocument
from attestation.policy import Policy
from client.attested import Attested, attest
from client.exchange import Run, RunRequest
from client.memory import ReceiptMemory
from client.policy_making import from_simulator
from client.target import parse_target
from enclave.attester import Documents
from enclave.booting import Booted, LoadEngine, boot
from enclave.commands.serve import _publish
from enclave.engine.echo import EchoEngine
from enclave.journal import Journal
from enclave.metrics import Count
from enclave.replay import CAPACITY
from enclave.seams import Clock, Engine
from enclave.service import Service
from tests.forged import MODEL, StoppedClock, config_document

T = TypeVar("T")
CHAT = "/v1/chat/completions"
START = datetime(2026, 10, 1, 12, tzinfo=UTC)


def operator_document(folder: Path, **changes: Any) -> bytes:
    """Write an operator document whose files all lie in `folder`."""
    document = {
        "schema": "sericin-operator/1",
        "listen": {"http": "127.0.0.1:0", "ra_tls": "127.0.0.1:0", "unix": str(folder / "socket")},
        "state": str(folder / "state"),
        "ledger": str(folder / "ledger"),
        "model_dir": str(folder),
        "ton_address": None,
        "prices": {"prompt": 1000000, "cached": 500000, "completion": 2000000},
        "contact": "",
    }
    return json.dumps(document | changes).encode()


class Served:
    """One running enclave. Use through `served()`."""

    def __init__(
        self,
        folder: Path,
        *,
        delay: float,
        context: int,
        config: dict[str, Any],
        replay_capacity: int,
        start: datetime,
        load: LoadEngine | None,
    ) -> None:
        self.folder = folder
        self.clock = StoppedClock(start)
        self.log = io.StringIO()
        self._open: list[Any] = []  # what clients have opened, until the enclave stops
        documents = Documents(config=config_document(**config), operator=operator_document(folder))

        def echo(config: EnclaveConfig, operator: OperatorDocument | None, clock: Clock) -> Engine:  # noqa: ARG001
            queue = config.limits.queue_length
            return EchoEngine(clock=clock, name=MODEL, context=context, delay=delay, queue_limit=queue)

        self.booted: Booted = boot(
            documents,
            clock=self.clock,
            load_engine=load or echo,
            step=lambda _: None,
            journal=Journal(self.clock, out=self.log),
            replay_capacity=replay_capacity,
        )
        _publish(self.booted)
        self.service = Service(self.booted, drain=1.0)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="served", daemon=True)
        self._thread.start()
        self.do(self.service.start())

    def do(self, work: Any) -> Any:
        """Run a coroutine in the enclave's loop and wait for it."""
        future: Future[Any] = asyncio.run_coroutine_threadsafe(work, self._loop)
        return future.result(timeout=30)

    def call(self, function: Callable[[], T]) -> T:
        """Run a function in the enclave's loop."""

        async def work() -> T:
            return function()

        found: T = self.do(work())
        return found

    def drop_connections(self) -> None:
        """Abort every open connection, as a machine that is cut off."""
        server: Any = self.service._doors._runner.server  # type: ignore[union-attr]

        def drop() -> None:
            for connection in server.connections:
                connection.transport.abort()

        self.call(drop)

    def stop(self) -> None:
        """Stop everything."""
        for opened in self._open:
            opened.close()
        self.do(self.service.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=10)
        self._loop.close()

    @property
    def floor(self) -> Any:
        """The enclave's inside."""
        return self.booted.floor

    def count(self, name: Count) -> int:
        """Read a counter."""
        return int(self.call(lambda: self.floor.metrics.read(name)))

    def now(self) -> datetime:
        """Give the client's clock: the same as the enclave's."""
        return datetime.fromtimestamp(self.clock.wall(), UTC)

    def policy_document(self, **changes: Any) -> dict[str, Any]:
        """Make the policy that a client makes from the public file."""
        document: dict[str, Any] = from_simulator(self.folder / "state", now=self.now())
        return document | changes

    def policy(self, **changes: Any) -> Policy:
        """Give the parsed policy."""
        return Policy.parse(self.policy_bytes(**changes))

    def policy_bytes(self, **changes: Any) -> bytes:
        """Give the policy's document, whose digest requests name."""
        return json.dumps(self.policy_document(**changes)).encode()

    def attest(self, name: str = "http", *, target: str | None = None, **changes: Any) -> Attested:
        """Verify this enclave as a client does."""
        attested = attest(
            parse_target(target or self.service.targets[name]),
            self.policy(**changes),
            now=self.now,
            allow_unconfidential=True,
            timeout=10,
        )
        self._open.append(attested.connection)
        return attested

    def run(self, text: str, name: str = "http", *, request: dict[str, Any] | None = None, **fields: Any) -> Run:
        """Prepare one run; iterate its `items`."""
        target = fields.pop("target", None)
        attested = fields.pop("attested", lambda: self.attest(name, target=target))
        body = {"model": MODEL, "stream": True, "messages": [{"role": "user", "content": text}]} | (request or {})
        asked = RunRequest(endpoint=CHAT, openai=json.dumps(body).encode(), model=MODEL, stream=True, **fields)
        memory = ReceiptMemory(self.folder / "receipts.sqlite")
        self._open.append(memory)
        return Run(
            attested(),
            asked,
            reattest=attested,
            now=self.now,
            memory=memory,
        )

    def raw(self, data: bytes, *, finish: bool = True, timeout: float = 10) -> bytes:
        """Send bytes to the plain listener and read until it closes."""
        host, port = self.service.targets["http"].removeprefix("http://").rsplit(":", 1)
        with socket.create_connection((host, int(port)), timeout=timeout) as sock:
            sock.sendall(data)
            if finish:
                sock.shutdown(socket.SHUT_WR)
            answer = b""
            while portion := sock.recv(65536):
                answer += portion
            return answer

    def post(self, body: bytes, path: str = "/v1/sericin/sealed") -> tuple[int, bytes]:
        """Post a body and give status and answer, chunks joined."""
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        answer = self.raw(head.encode() + body, finish=False)
        top, _, rest = answer.partition(b"\r\n\r\n")
        status = int(top.split()[1])
        return status, unchunked(rest) if b"chunked" in top.lower() else rest


def unchunked(data: bytes) -> bytes:
    """Join the chunks of an HTTP/1.1 body."""
    out = b""
    while data:
        size, _, data = data.partition(b"\r\n")
        out += data[: int(size, 16)]
        data = data[int(size, 16) + 2 :]
    return out


@contextmanager
def served(
    folder: Path,
    *,
    delay: float = 0.0,
    context: int = 4096,
    replay_capacity: int = CAPACITY,
    start: datetime = START,
    load: LoadEngine | None = None,
    **config: Any,
) -> Iterator[Served]:
    """Run an enclave for a while, with another engine than the echo if `load` gives one."""
    enclave = Served(
        folder,
        delay=delay,
        context=context,
        config=config,
        replay_capacity=replay_capacity,
        start=start,
        load=load,
    )
    try:
        yield enclave
    finally:
        enclave.stop()
