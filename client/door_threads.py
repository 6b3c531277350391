# SPDX-License-Identifier: Apache-2.0
"""The door under asyncio: its blocking answers in threads of their own, and no run for a caller that has gone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Final

from .openai_door import Answered, Chunks, Door, Ticket

MAX_AT_ONCE: Final = 64  # requests under way, each with a thread that waits for its enclave


async def answer_in_thread(threads: ThreadPoolExecutor, door: Door, method: str, path: str, data: bytes) -> Answered:
    """Let the door answer in a thread; cancelling this ends the run."""
    ticket = Ticket()
    try:
        return await asyncio.get_running_loop().run_in_executor(threads, door.answer, method, path, data, ticket)
    except BaseException:
        ticket.abandon()
        raise


async def chunks_in_thread(threads: ThreadPoolExecutor, answered: Answered) -> AsyncIterator[bytes]:
    """Iterate a blocking body without blocking the loop."""
    loop = asyncio.get_running_loop()
    while (chunk := await loop.run_in_executor(threads, _next, answered.body)) is not None:
        yield chunk


def end_in_thread(threads: ThreadPoolExecutor, answered: Answered) -> None:
    """End a run that may still be waited for in a thread: hang up now, and tidy up behind that thread."""
    if answered.run is not None:
        answered.run.abandon()
    with suppress(RuntimeError):  # the transport is closed, and its threads are gone
        threads.submit(_close_quietly, answered)


def _next(chunks: Chunks) -> bytes | None:
    return next(chunks, None)


def _close_quietly(answered: Answered) -> None:
    with suppress(ValueError):  # another thread is inside, and will end by itself
        answered.body.close()
