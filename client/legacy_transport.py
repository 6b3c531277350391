# SPDX-License-Identifier: Apache-2.0
"""The twin of `client.transport` for programs that still use httpx. Importing it needs the package httpx."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor

try:
    import httpx
except ImportError as e:
    raise ImportError("client.legacy_transport needs httpx; with httpx2 use client.transport") from e

from .door_threads import MAX_AT_ONCE, answer_in_thread, chunks_in_thread, end_in_thread
from .errors import Unreachable
from .openai_door import Answered, Door, Ticket
from .upstream import Upstream


class SealedTransport(httpx.BaseTransport):
    """For httpx.Client, with the errors of `client.transport.SealedTransport`."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self._door = Door(upstream)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Answer one request."""
        try:
            answered = self._door.answer(request.method, request.url.path, request.read(), Ticket())
        except Unreachable as e:
            raise httpx.ConnectError(str(e), request=request) from e
        return httpx.Response(
            answered.status,
            headers=answered.headers,
            stream=_Body(answered),
            extensions={"sericin_run": answered.run},
        )

    def close(self) -> None:
        """Close every idle connection."""
        self._upstream.close()


class _Body(httpx.SyncByteStream):
    def __init__(self, answered: Answered) -> None:
        self._answered = answered

    def __iter__(self) -> Iterator[bytes]:
        yield from self._answered.body

    def close(self) -> None:
        self._answered.close()


class AsyncSealedTransport(httpx.AsyncBaseTransport):
    """For httpx.AsyncClient under asyncio; cancelling a request ends its run. Otherwise as SealedTransport."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self._door = Door(upstream)
        self._threads = ThreadPoolExecutor(MAX_AT_ONCE, thread_name_prefix="sealed")

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Answer one request."""
        try:
            data = await request.aread()
            answered = await answer_in_thread(self._threads, self._door, request.method, request.url.path, data)
        except Unreachable as e:
            raise httpx.ConnectError(str(e), request=request) from e
        body = _AsyncBody(self._threads, answered)
        extensions = {"sericin_run": answered.run}
        return httpx.Response(answered.status, headers=answered.headers, stream=body, extensions=extensions)

    async def aclose(self) -> None:
        """Close every idle connection."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._upstream.close()


class _AsyncBody(httpx.AsyncByteStream):
    def __init__(self, threads: ThreadPoolExecutor, answered: Answered) -> None:
        self._threads = threads
        self._answered = answered

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in chunks_in_thread(self._threads, self._answered):
            yield chunk

    async def aclose(self) -> None:
        end_in_thread(self._threads, self._answered)
