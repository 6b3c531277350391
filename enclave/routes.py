# SPDX-License-Identifier: Apache-2.0
"""The paths of docs/protocol.md on aiohttp. Every body is bounded, and no error says more than a code."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from aiohttp import web

from attestation import cbor
from attestation.boot import PROFILE
from attestation.errors import AttestationError
from attestation.liveness import EXPORTER_LABEL, EXPORTER_SIZE, Liveness

from .attester import FRESH_CLIENT, FRESH_EPOCH, Attester
from .epochs import Epoch
from .exchanges import Floor, exchange, outer
from .journal import Happening, kind_of
from .keys import IdentitySigner
from .metrics import Count, Gauge
from .seams import GpuUnavailable, QuoteUnavailable
from .session import OuterRefusal
from .tls import CONNECTION

EVIDENCE_PATH: Final = "/.well-known/sericin/attestation"
ATTEST_PATH: Final = "/v1/sericin/attest"
LIVE_PATH: Final = "/v1/sericin/live"
SEALED_PATH: Final = "/v1/sericin/sealed"
RECEIPTS_PATH: Final = "/v1/sericin/receipts"
CAPABILITY: Final = "Sericin-Capability"
MAX_SMALL_BODY: Final = 4096
SMALL_BODY_SECONDS: Final = 10.0
ATTEST_AT_ONCE: Final = 2  # quotes that are made at the same time
ATTEST_WAITING: Final = 64
_CBOR: Final = {"Cache-Control": "no-store"}
_HEX: Final = re.compile(r"[0-9a-f]{64}")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Desk:
    """What the routes speak for."""

    floor: Floor
    attester: Attester
    identity: IdentitySigner


class Routes:
    """The handlers of one boot."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._floor = desk.floor
        self._attesting = asyncio.Semaphore(ATTEST_AT_ONCE)
        self._waiting = 0
        self._exchanges: set[asyncio.Task[object]] = set()
        self.served: set[int] = set()  # ids of the open protocols that have seen a whole request head
        self.streaming: set[int] = set()  # ids of those that carry an exchange now

    async def quiet(self) -> None:
        """Wait until no sealed exchange is under way."""
        while self._exchanges:
            await asyncio.wait(set(self._exchanges))

    @property
    def running(self) -> int:
        """How many sealed exchanges are under way."""
        return len(self._exchanges)

    def application(self) -> web.Application:
        """Give the aiohttp application."""
        app = web.Application(middlewares=[self._guard], client_max_size=MAX_SMALL_BODY)
        app.add_routes(
            [
                web.get(EVIDENCE_PATH, self._evidence),
                web.post(ATTEST_PATH, self._attest),
                web.post(LIVE_PATH, self._live),
                web.post(SEALED_PATH, self._sealed),
                web.get(RECEIPTS_PATH, self._receipts),
                web.get("/healthz", self._health),
                web.get("/metrics", self._metrics),
            ]
        )
        return app

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Count every request and turn whatever goes wrong into a code."""
        self._floor.metrics.add(Count.HTTP_REQUESTS)
        self.served.add(id(request.protocol))
        try:
            return await handler(request)
        except OuterRefusal as no:
            return outer(no)
        except web.HTTPException as e:
            return outer(OuterRefusal(e.status, "http_error"))
        except (ConnectionError, TimeoutError):
            if request.transport is not None:
                request.transport.abort()
            raise
        except Exception as e:  # the message may hold anything: only the error's kind is kept
            self._floor.metrics.add(Count.INTERNAL_ERRORS)
            self._floor.journal.write(Happening.INTERNAL_ERROR, code=kind_of(e))
            if request.transport is not None:
                request.transport.abort()
            raise

    def _epoch(self, request: web.Request) -> Epoch:
        """Give the epoch whose TLS key this connection has, or the current one without TLS."""
        tls = request.transport.get_extra_info(CONNECTION) if request.transport is not None else None
        return tls.epoch if tls is not None and tls.epoch.seal.live else self._floor.epochs.current

    async def _evidence(self, request: web.Request) -> web.Response:
        epoch = self._epoch(request)
        headers = {"ETag": f'"{epoch.digest.hex()}"', "Cache-Control": "no-cache"}
        return web.Response(body=epoch.encoded_evidence, content_type="application/cbor", headers=headers)

    async def _attest(self, request: web.Request) -> web.Response:
        m = await self._small_map(request, (1, 2, 3))
        if not isinstance(m[1], list) or PROFILE not in m[1]:
            raise OuterRefusal(406, "no_shared_profile")
        nonce, fresh = m[2], m[3]
        if not isinstance(nonce, bytes) or len(nonce) != 32 or fresh not in (FRESH_CLIENT, FRESH_EPOCH):
            raise OuterRefusal(400, "bad_request")
        if self._waiting >= ATTEST_WAITING:
            raise OuterRefusal(503, "busy", retry_after=2)
        self._waiting += 1
        try:
            async with self._attesting:
                make = self._desk.attester.evidence
                data = await asyncio.to_thread(make, self._epoch(request), nonce, fresh=str(fresh))
        except (QuoteUnavailable, GpuUnavailable) as e:
            self._floor.journal.write(Happening.INTERNAL_ERROR, code=kind_of(e))
            raise OuterRefusal(503, "no_quote", retry_after=5) from None
        finally:
            self._waiting -= 1
        self._floor.metrics.add(Count.ATTESTATIONS)
        return web.Response(body=data, content_type="application/cbor", headers=_CBOR)

    async def _live(self, request: web.Request) -> web.Response:
        nonce = (await self._small_map(request, (1,)))[1]
        if not isinstance(nonce, bytes) or len(nonce) != 32:
            raise OuterRefusal(400, "bad_request")
        tls = request.transport.get_extra_info(CONNECTION) if request.transport is not None else None
        statement = Liveness(
            exporter=tls.exporter(EXPORTER_LABEL, nonce, EXPORTER_SIZE) if tls is not None else None,
            nonce=nonce,
            keyset_digest=self._epoch(request).digest,
            time=self._floor.clock.wall(),
        )
        body = self._desk.identity.liveness(statement).encode()
        return web.Response(body=body, content_type="application/cbor", headers=_CBOR)

    async def _sealed(self, request: web.Request) -> web.StreamResponse:
        task: asyncio.Task[object] | None = asyncio.current_task()
        if task is None:
            raise RuntimeError("handlers run in tasks")
        self._exchanges.add(task)
        self.streaming.add(id(request.protocol))
        try:
            return await exchange(request, self._floor)
        finally:
            self._exchanges.discard(task)
            self.streaming.discard(id(request.protocol))

    def cut_short(self) -> None:
        """End every exchange that is under way, as if its client had gone."""
        for task in self._exchanges:
            task.cancel()

    async def _receipts(self, request: web.Request) -> web.Response:
        capability = request.headers.get(CAPABILITY, "")
        item = self._floor.book.fetch(bytes.fromhex(capability)) if _HEX.fullmatch(capability) else None
        if item is None:
            raise OuterRefusal(404, "not_found")
        return web.Response(body=item, content_type="application/cbor", headers=_CBOR)

    async def _health(self, _: web.Request) -> web.Response:
        floor = self._floor
        well = not floor.pump.broken and not floor.admission.closing and floor.epochs.current.seal.live
        return web.json_response({"ok": well, "epoch": floor.epochs.current.number}, status=200 if well else 503)

    async def _metrics(self, _: web.Request) -> web.Response:
        floor = self._floor
        current = floor.epochs.current
        floor.metrics.set(Gauge.RUNS_LIVE, floor.pump.live)
        floor.metrics.set(Gauge.EPOCH, current.number)
        floor.metrics.set(Gauge.KEYS_LIVE, len(floor.epochs))
        floor.metrics.set(Gauge.REPLAY_ENTRIES, len(current.replay))
        floor.metrics.set(Gauge.RUN_IDS, len(floor.runs))
        return web.Response(text=floor.metrics.exposition(), content_type="text/plain")

    async def _small_map(self, request: web.Request, keys: tuple[int, ...]) -> dict[int, cbor.Value]:
        """Read a small CBOR map. Raises OuterRefusal."""
        data = bytearray()
        try:
            async with asyncio.timeout(SMALL_BODY_SECONDS):
                async for chunk in request.content.iter_chunked(MAX_SMALL_BODY):
                    data += chunk
                    if len(data) > MAX_SMALL_BODY:
                        raise OuterRefusal(413, "too_large")
            return cbor.decode_map(bytes(data), limit=MAX_SMALL_BODY, what="request", required=keys)
        except (TimeoutError, AttestationError):
            raise OuterRefusal(400, "bad_request") from None
