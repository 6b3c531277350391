# SPDX-License-Identifier: Apache-2.0
"""The listeners: plain HTTP on loopback or a unix socket, and RA-TLS. Connections are counted, and none may loiter."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from typing import Final

from aiohttp import web
from OpenSSL import SSL

from attestation.operator import Listen

from .epochs import EpochTable
from .exchanges import outer
from .metrics import Count, Gauge, Metrics
from .routes import Routes
from .session import OuterRefusal
from .tls import TlsProtocol, server_context

MAX_CONNECTIONS: Final = 1024
REQUEST_SECONDS: Final = 30.0  # from the connection to its first whole request head
KEEPALIVE_SECONDS: Final = 30.0
LINGER_SECONDS: Final = 2.0  # for the rest of a body that was refused, so that its sender reads why
STALL_SECONDS: Final = 30.0  # until a peer has taken an answer that waits for it; streams have their own patience
SWEEP_SECONDS: Final = 1.0
BACKLOG: Final = 128


class ListenerUnusable(Exception):
    """An address cannot be listened on. The message names it."""


class _Handler(web.RequestHandler):
    """HTTP of one connection. aiohttp would repeat what it could not read, to peer and log: here a code is enough."""

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,  # noqa: ARG002 - it holds what the peer sent
        message: str | None = None,  # noqa: ARG002 - so does this
    ) -> web.StreamResponse:
        """Answer a request that is none."""
        if request.writer.output_size > 0:
            raise ConnectionError("an answer is under way")
        return outer(OuterRefusal(status, "http_error"))


class _Turned(asyncio.Protocol):
    """A connection that is one too many."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()


class _Visit(asyncio.Protocol):
    """One counted connection in front of the protocol that serves it."""

    def __init__(
        self,
        inner: asyncio.Protocol,
        *,
        serving: Callable[[], object],
        routes: Routes,
        left: Callable[[_Visit], None],
    ) -> None:
        self._inner = inner
        self._serving = serving  # the HTTP protocol behind it, once there is one
        self._routes = routes
        self._left = left
        self._transport: asyncio.BaseTransport | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._waiting_since: float | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._deadline = asyncio.get_running_loop().call_later(REQUEST_SECONDS, self._out_of_patience)
        self._inner.connection_made(transport)

    def _out_of_patience(self) -> None:
        if id(self._serving()) not in self._routes.served and isinstance(self._transport, asyncio.Transport):
            self._transport.abort()

    def sweep(self, now: float) -> None:
        """Put a peer out that does not take its answer: else it could hold a connection for ever, even a closed one."""
        transport = self._transport
        if not isinstance(transport, asyncio.Transport):
            return
        if not transport.get_write_buffer_size() or id(self._serving()) in self._routes.streaming:
            self._waiting_since = None
        elif self._waiting_since is None:
            self._waiting_since = now
        elif now - self._waiting_since >= STALL_SECONDS:
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._left(self)
        self._routes.served.discard(id(self._serving()))
        self._inner.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        return self._inner.eof_received()

    def pause_writing(self) -> None:
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._inner.resume_writing()


class Doors:
    """All listeners of one enclave."""

    def __init__(
        self, routes: Routes, epochs: EpochTable, metrics: Metrics, *, max_connections: int = MAX_CONNECTIONS
    ) -> None:
        self._routes = routes
        self._epochs = epochs
        self._metrics = metrics
        self._max = max_connections
        self._visits: set[_Visit] = set()
        self._sweeping: asyncio.Task[None] | None = None
        self._servers: list[asyncio.Server] = []
        self._runner: web.AppRunner | None = None
        self._context: tuple[int, SSL.Context] | None = None
        self.targets: dict[str, str] = {}

    async def open(self, listen: Listen) -> None:
        """Start to listen. Raises ListenerUnusable."""
        self._runner = web.AppRunner(
            self._routes.application(),
            handler_cancellation=True,
            access_log=None,
            handle_signals=False,
        )
        await self._runner.setup()
        loop = asyncio.get_running_loop()
        self._sweeping = asyncio.create_task(self._sweep())
        try:
            if listen.http is not None:
                server = await loop.create_server(self._plain, *listen.http, backlog=BACKLOG)
                self._note("http", "http", server)
            if listen.unix is not None:
                self._servers.append(await loop.create_unix_server(self._plain, listen.unix, backlog=BACKLOG))
                os.chmod(listen.unix, 0o600)  # noqa: PTH101 - one call, before anybody connects
                self.targets["unix"] = f"unix:{listen.unix}"
            if listen.ra_tls is not None:
                server = await loop.create_server(self._tls, *listen.ra_tls, backlog=BACKLOG)
                self._note("ra_tls", "https", server)
        except OSError as e:
            await self.close()
            raise ListenerUnusable(f"cannot listen: {e.strerror or e}") from None

    def _note(self, name: str, scheme: str, server: asyncio.Server) -> None:
        self._servers.append(server)
        found = server.sockets[0]
        host, port = found.getsockname()[:2]
        shown = f"[{host}]" if found.family == socket.AF_INET6 else host
        self.targets[name] = f"{scheme}://{shown}:{port}"

    def _serve(self) -> asyncio.Protocol:
        if self._runner is None or self._runner.server is None:
            raise RuntimeError("not open")
        return _Handler(
            self._runner.server,
            loop=asyncio.get_running_loop(),
            keepalive_timeout=KEEPALIVE_SECONDS,
            lingering_time=LINGER_SECONDS,
            auto_decompress=False,  # ciphertext does not shrink: what would grow here is an attack
            access_log=None,  # type: ignore[arg-type]  # no log of requests at all
        )

    def _visit(self, inner: asyncio.Protocol, serving: Callable[[], object]) -> asyncio.Protocol:
        if len(self._visits) >= self._max:
            self._metrics.add(Count.CONNECTIONS_REFUSED)
            return _Turned()
        visit = _Visit(inner, serving=serving, routes=self._routes, left=self._leave)
        self._visits.add(visit)
        self._metrics.add(Count.CONNECTIONS)
        self._metrics.set(Gauge.CONNECTIONS_OPEN, len(self._visits))
        return visit

    def _leave(self, visit: _Visit) -> None:
        self._visits.discard(visit)
        self._metrics.set(Gauge.CONNECTIONS_OPEN, len(self._visits))

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            for visit in list(self._visits):
                visit.sweep(asyncio.get_running_loop().time())

    def _plain(self) -> asyncio.Protocol:
        inner = self._serve()
        return self._visit(inner, lambda: inner)

    def _tls(self) -> asyncio.Protocol:
        epoch = self._epochs.current
        if self._context is None or self._context[0] != epoch.number:
            self._context = (epoch.number, server_context(epoch))
        door = TlsProtocol(epoch, self._context[1], self._serve, failed=self._handshake_failed)
        return self._visit(door, lambda: door.inner)

    def _handshake_failed(self) -> None:
        self._metrics.add(Count.HANDSHAKES_FAILED)

    async def close(self) -> None:
        """Stop listening and close every connection."""
        if self._sweeping is not None:
            self._sweeping.cancel()
        for server in self._servers:
            server.close()
        if self._runner is not None:
            await self._runner.cleanup()
        self._servers = []
