# SPDX-License-Identifier: Apache-2.0
"""The sealed exchange over HTTP: read, admit, run, stream, receipt. Knows bytes and order; meanings are elsewhere."""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass
from typing import Final, NoReturn

from aiohttp import web

from attestation.boot import BootMap, ModelRecord
from attestation.channel.header import Padding
from attestation.exchange import SealedRefusal
from attestation.operator import Prices
from attestation.receipt import Status

from .admission import Admission, Admitted, SealedNo, refuse
from .engine_pump import EnginePump, LiveJob
from .epochs import EpochTable
from .journal import Happening, Journal, kind_of
from .metrics import Count, Metrics
from .receipt_book import ReceiptBook
from .reply import GRID_SECONDS, OverMaximum, PendingFull, Reply, refusal_wire
from .runs import RunTable
from .seams import Clock, EngineEvent, EventKind
from .session import Intake, Opened, OuterRefusal

READ_SECONDS: Final = 60.0  # for a whole request body
WRITE_SECONDS: Final = 30.0  # until a slow reader has taken what waits
CHUNK: Final = 64 * 1024
SMALL: Final = 32 * 1024  # what never has to wait when nothing else does: half of what a transport takes at once
NONCE_SIZE: Final = 32
_HEADERS: Final = {"Content-Type": "application/octet-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no"}


class _Answer(web.StreamResponse):
    """An answer whose head leaves together with its first bytes."""

    _send_headers_immediately = False


class _RunFailed(Exception):
    """The engine or a limit ended the run: a refusal code."""

    def __init__(self, code: str, status: Status, *, field: str | None = None) -> None:
        super().__init__(code)
        self.refusal = SealedRefusal(code=code, field=field, retry_after=None)
        self.status = status


@dataclass(frozen=True, slots=True, kw_only=True)
class Floor:
    """Everything that an exchange needs of one boot."""

    boot: BootMap
    epochs: EpochTable
    admission: Admission
    runs: RunTable
    pump: EnginePump
    book: ReceiptBook
    prices: Prices | None
    clock: Clock
    journal: Journal
    metrics: Metrics

    def record(self, model: str) -> ModelRecord:
        """Give the record of a model that admission has found."""
        return next(record for record in self.boot.models if record.name == model)


async def exchange(request: web.Request, floor: Floor) -> web.StreamResponse:
    """Answer one POST to the sealed path."""
    try:
        opened = await _read(request, floor)
    except OuterRefusal as no:
        floor.metrics.add(Count.SEALED_REFUSED_OUTER)
        return outer(no)
    floor.metrics.add(Count.SEALED_ACCEPTED)
    try:
        admitted = floor.admission.admit(
            opened,
            wall_now=floor.clock.wall(),
            current_epoch=floor.epochs.current.number,
            live_runs=floor.pump.live,
        )
    except SealedNo as no:
        return await _refused(request, floor, opened, no)
    run_id = admitted.body.run_id
    try:
        answer, live = await floor.pump.submit(
            model=opened.header.model,
            endpoint=admitted.body.endpoint,
            body=admitted.body.openai,
            tenant=admitted.body.tenant or b"",
        )
    except asyncio.CancelledError:
        floor.runs.remove(run_id)
        raise
    except Exception as e:  # noqa: BLE001 - whatever broke, it never started, and the answer is sealed as every other
        floor.runs.remove(run_id)
        floor.metrics.add(Count.INTERNAL_ERRORS)
        floor.journal.write(Happening.INTERNAL_ERROR, code=kind_of(e))
        return await _refused(request, floor, opened, refuse("engine_failed"))
    if not answer.accepted:
        floor.runs.remove(run_id)
        refusal = refuse(answer.code, field=answer.field or None, retry_after=answer.retry_after or None)
        return await _refused(request, floor, opened, refusal)
    return await _answer(request, floor, admitted, live)


def outer(no: OuterRefusal) -> web.Response:
    """Give an unauthenticated refusal; the connection ends with it, for its body may be unread."""
    headers = {"Retry-After": str(no.retry_after)} if no.retry_after else {}
    response = web.json_response({"code": no.code}, status=no.status, headers=headers)
    response.force_close()
    return response


async def _read(request: web.Request, floor: Floor) -> Opened:
    """Open the request as its bytes arrive: nothing of it is kept that did not authenticate."""
    limit = floor.boot.limits.max_request_bytes
    if request.content_length is not None and request.content_length > limit:
        raise OuterRefusal(413, "too_large")
    intake = Intake(epochs=floor.epochs, clock=floor.clock, max_bytes=limit)
    if request.content.is_eof():  # all of it came with its head: nothing to wait for
        intake.feed(request.content.read_nowait())
        return intake.finish()
    try:
        async with asyncio.timeout(READ_SECONDS):
            async for chunk in request.content.iter_chunked(CHUNK):
                intake.feed(chunk)
    except TimeoutError:
        raise OuterRefusal(400, "bad_request") from None
    return intake.finish()


async def _refused(request: web.Request, floor: Floor, opened: Opened, no: SealedNo) -> web.StreamResponse:
    """Answer no, inside the seal."""
    floor.metrics.add(Count.SEALED_REFUSED)
    floor.journal.write(Happening.REFUSED, code=no.refusal.code, id=opened.header.request_id)
    nonce = secrets.token_bytes(NONCE_SIZE)
    wire = refusal_wire(opened, no.refusal, resp_nonce=nonce, receipt=no.receipt)
    response = _Answer(headers=_HEADERS)
    await response.prepare(request)
    await _write(request, response, wire, last=True)
    return response


async def _answer(request: web.Request, floor: Floor, admitted: Admitted, live: LiveJob) -> web.StreamResponse:
    """Stream one accepted run. However it ends, the engine is told and a run that started has a receipt."""
    opened = admitted.opened
    reply = Reply(
        admitted,
        record=floor.record(opened.header.model),
        resp_nonce=secrets.token_bytes(NONCE_SIZE),
        prices=floor.prices,
        token_limit=floor.boot.limits.max_completion_tokens,
    )
    response = _Answer(headers=_HEADERS)
    status, ending = Status.ABORTED, b""
    try:
        await response.prepare(request)
        try:
            ending = await _stream(request, response, floor, reply, live)
            status = Status.COMPLETE
        except _RunFailed as failed:
            status = failed.status  # what still waits never reaches the wire, and is not charged
            ending = reply.error(failed.refusal)
    except BaseException as e:
        if isinstance(e, TimeoutError):
            floor.metrics.add(Count.READERS_TOO_SLOW)
        _conclude(floor, admitted, reply, Status.ABORTED)
        raise
    finally:
        floor.pump.leave(live.job_id)
    item = _conclude(floor, admitted, reply, status)
    await _write(request, response, reply.opening() + ending + reply.end(item), last=True)
    return response


def _conclude(floor: Floor, admitted: Admitted, reply: Reply, status: Status) -> bytes | None:
    """Sign the receipt of a run that started; forget the run id of one that did not."""
    run_id = admitted.body.run_id
    if not reply.started:
        floor.runs.remove(run_id)
        return None
    item = floor.book.issue(reply, status, capability=admitted.opened.schedule.capability)
    floor.runs.done(run_id, item)
    return item


async def _stream(
    request: web.Request, response: web.StreamResponse, floor: Floor, reply: Reply, live: LiveJob
) -> bytes:
    """Carry the engine's events to the wire until the job has finished; give the last bytes, if they are few."""
    finished, grid = False, reply.padding is Padding.GRID
    events = live.waiting()
    while True:
        for event in events:
            finished = _take(floor, reply, live, event) or finished
        if live.overrun:
            _nobody_reads(floor)
        wire = reply.opening() + (reply.tick() if grid else reply.flush())
        if finished and reply.idle and len(wire) <= SMALL:
            return wire
        if wire:
            await _write(request, response, wire)
        if finished and reply.idle:
            return b""
        if grid:
            await asyncio.sleep(GRID_SECONDS)
        events = live.waiting() if grid or finished else await live.events()


def _take(floor: Floor, reply: Reply, live: LiveJob, event: EngineEvent) -> bool:
    """Put one event into the answer; True when it was the last one. Raises _RunFailed."""
    if event.kind is EventKind.FAILED:
        raise _RunFailed(event.code or "engine_failed", Status.FAILED)
    if event.kind is EventKind.FINISHED and not reply.started:
        raise _RunFailed("engine_failed", Status.FAILED)  # cancelled in the queue, while its client still waits
    try:
        if reply.push(event, wall_now=floor.clock.wall()):
            floor.pump.cancel(live.job_id)
    except OverMaximum:
        raise _RunFailed("limit_exceeded", Status.ABORTED, field="maximum_total") from None
    except PendingFull:
        _nobody_reads(floor)
    return event.kind is EventKind.FINISHED


def _nobody_reads(floor: Floor) -> NoReturn:
    floor.metrics.add(Count.READERS_TOO_SLOW)
    raise ConnectionAbortedError("nobody reads the answer")


async def _write(request: web.Request, response: web.StreamResponse, wire: bytes, *, last: bool = False) -> None:
    """Write, and wait until a slow reader has made room. Raises TimeoutError when it does not.

    The `last` bytes leave together with the end of the body.
    """
    write = response.write_eof if last else response.write
    transport = request.transport
    if transport is not None and not transport.get_write_buffer_size() and len(wire) <= SMALL:
        await write(wire)  # never waits: no timer for it
        return
    async with asyncio.timeout(WRITE_SECONDS):
        await write(wire)
