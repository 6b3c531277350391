# SPDX-License-Identifier: Apache-2.0
"""The OpenAI-compatible proxy: loopback in, verified and sealed out. It holds no policy of its own."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from aiohttp import web

from attestation.errors import AttestationError

from .door_threads import MAX_AT_ONCE, answer_in_thread, chunks_in_thread, end_in_thread
from .errors import ClientError
from .openai_door import Answered, Door, error_object, failure
from .openai_shapes import event
from .upstream import MAX_BODY, Upstream

HOSTS: Final = ("127.0.0.1", "localhost", "[::1]")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Proxy:
    """The routes of one proxy."""

    def __init__(self, upstream: Upstream, *, token: str | None = None, at_once: int = MAX_AT_ONCE) -> None:
        self._door = Door(upstream)
        self._token = token
        self._at_once = at_once
        self._busy = 0
        self._threads = ThreadPoolExecutor(at_once, thread_name_prefix="proxy")

    def application(self) -> web.Application:
        """Give the aiohttp application."""
        app = web.Application(middlewares=[self._guard], client_max_size=MAX_BODY)
        app.router.add_route("*", "/{path:.*}", self._any)
        return app

    def runner(self) -> web.AppRunner:
        """Give its runner: no log of requests, no body unpacked, and a caller who goes away ends its request."""
        return web.AppRunner(
            self.application(), access_log=None, handler_cancellation=True, handle_signals=False, auto_decompress=False
        )

    def close(self) -> None:
        """Let go of the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Let in this machine's programs alone: no page's script, no other name for this address, no other token."""
        host = request.headers.get("Host", "")
        if not _is_here(host) or "Origin" in request.headers:
            return await self._send(request, failure(403, "forbidden", "Host or Origin"))
        given = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if self._token is not None and not hmac.compare_digest(given.encode(), self._token.encode()):
            return await self._send(request, failure(401, "unauthorized", "Authorization"))
        if self._busy >= self._at_once:
            return await self._send(request, failure(429, "busy", "", headers={"Retry-After": "1"}))
        self._busy += 1
        try:
            return await handler(request)
        except (AttestationError, ClientError) as e:
            return await self._send(request, failure(502, e.code, getattr(e, "where", "")))
        except web.HTTPException as e:
            return await self._send(request, failure(e.status, "http_error", ""))
        finally:
            self._busy -= 1

    async def _any(self, request: web.Request) -> web.StreamResponse:
        data = await request.read()
        answered = await answer_in_thread(self._threads, self._door, request.method, request.path, data)
        try:
            return await self._send(request, answered)
        finally:
            end_in_thread(self._threads, answered)

    async def _send(self, request: web.Request, answered: Answered) -> web.StreamResponse:
        """Send an answer as it comes. One that breaks off after its head says so, and has no [DONE]."""
        if answered.headers["Content-Type"] == "application/json":
            return web.Response(status=answered.status, headers=answered.headers, body=b"".join(answered.body))
        response = web.StreamResponse(status=answered.status, headers=answered.headers)
        await response.prepare(request)
        try:
            async for chunk in chunks_in_thread(self._threads, answered):
                await response.write(chunk)
        except (AttestationError, ClientError) as e:
            await response.write(event(error_object(str(e), e.code)))
        await response.write_eof()
        return response


def _is_here(host: str) -> bool:
    """Whether a Host header names this machine, with or without a port."""
    name, colon, port = host.rpartition(":")
    return host in HOSTS or (bool(colon) and name in HOSTS and port.isdigit())
