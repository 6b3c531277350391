# SPDX-License-Identifier: Apache-2.0
"""Transports for httpx2: `openai.OpenAI(http_client=...)` over a verified enclave, no proxy between (docs/python.md).

What a request's URL names is never connected to: its path says what is asked, the enclave behind `upstream` answers.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import httpx2

from .door_threads import MAX_AT_ONCE, answer_in_thread, chunks_in_thread, end_in_thread
from .errors import Unreachable
from .openai_door import Answered, Door, Ticket
from .upstream import Upstream

BASE_URL: Final = "http://enclave.invalid/v1"  # a name that resolves nowhere: without the transport nothing is sent


class SealedTransport(httpx2.BaseTransport):
    """For httpx2.Client.

    A refusal of the enclave is a response with OpenAI's error object. AttestationError and RunOutcomeUnknown are raised
    as they are, so that no program retries them unasked; an enclave that cannot be reached is httpx2.ConnectError.
    """

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self._door = Door(upstream)

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """Answer one request."""
        try:
            answered = self._door.answer(request.method, request.url.path, request.read(), Ticket())
        except Unreachable as e:
            raise httpx2.ConnectError(str(e), request=request) from e
        return httpx2.Response(
            answered.status,
            headers=answered.headers,
            stream=_Body(answered),
            extensions={"sericin_run": answered.run},
        )

    def close(self) -> None:
        """Close every idle connection."""
        self._upstream.close()


class _Body(httpx2.SyncByteStream):
    def __init__(self, answered: Answered) -> None:
        self._answered = answered

    def __iter__(self) -> Iterator[bytes]:
        yield from self._answered.body

    def close(self) -> None:
        self._answered.close()


class AsyncSealedTransport(httpx2.AsyncBaseTransport):
    """For httpx2.AsyncClient under asyncio; cancelling a request ends its run. Otherwise as SealedTransport."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self._door = Door(upstream)
        self._threads = ThreadPoolExecutor(MAX_AT_ONCE, thread_name_prefix="sealed")

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Answer one request."""
        try:
            data = await request.aread()
            answered = await answer_in_thread(self._threads, self._door, request.method, request.url.path, data)
        except Unreachable as e:
            raise httpx2.ConnectError(str(e), request=request) from e
        body = _AsyncBody(self._threads, answered)
        extensions = {"sericin_run": answered.run}
        return httpx2.Response(answered.status, headers=answered.headers, stream=body, extensions=extensions)

    async def aclose(self) -> None:
        """Close every idle connection."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._upstream.close()


class _AsyncBody(httpx2.AsyncByteStream):
    def __init__(self, threads: ThreadPoolExecutor, answered: Answered) -> None:
        self._threads = threads
        self._answered = answered

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in chunks_in_thread(self._threads, self._answered):
            yield chunk

    async def aclose(self) -> None:
        end_in_thread(self._threads, self._answered)
