# SPDX-License-Identifier: Apache-2.0
"""A booted enclave at work: doors open, epochs renewed, receipts gathered; and how it stops."""

from __future__ import annotations

import asyncio
from typing import Final

from .booting import Booted
from .doors import Doors
from .journal import Happening, kind_of
from .routes import Routes
from .seams import GpuUnavailable, QuoteUnavailable

TICK_SECONDS: Final = 1.0
RETRY_SECONDS: Final = 30.0  # after an epoch that could not be made
GPU_CHECK_SECONDS: Final = 600.0  # how often the GPUs are judged again
DRAIN_SECONDS: Final = 10.0  # for runs under way when the enclave stops


class Service:
    """Runs one boot until it is told to stop."""

    def __init__(self, booted: Booted, *, drain: float = DRAIN_SECONDS) -> None:
        self.booted = booted
        self._floor = booted.floor
        self._drain = drain
        self._routes = Routes(booted.desk)
        self._doors = Doors(self._routes, booted.floor.epochs, booted.floor.metrics)
        self._next_try = 0.0
        self._gpus_checked = booted.floor.clock.boot()
        self.failed = asyncio.Event()  # set when the GPUs are refused: nothing is served from then on
        self._tending: asyncio.Task[None] | None = None

    @property
    def targets(self) -> dict[str, str]:
        """Where it listens, as the client writes it: by listener."""
        return dict(self._doors.targets)

    async def start(self) -> None:
        """Open the doors. Raises ListenerUnusable."""
        self._floor.pump.start()
        await self._doors.open(self.booted.listen)
        self._tending = asyncio.create_task(self._tend())
        self._floor.journal.write(Happening.LISTENING, id=self.booted.boot.digest)

    async def _tend(self) -> None:
        while True:
            await asyncio.sleep(TICK_SECONDS)
            try:
                await self.tend()
            except Exception as e:  # noqa: BLE001 - housekeeping goes on; the error's kind is in the journal
                self._floor.journal.write(Happening.INTERNAL_ERROR, code=kind_of(e))

    async def tend(self) -> None:
        """Do what is due: drop keys, renew the epoch, close batches, bring the ledger to the disk."""
        floor, now = self._floor, self._floor.clock.boot()
        await self._check_gpus(now)
        if self.failed.is_set():
            return
        for number in floor.epochs.drop_expired(boot_now=now):
            floor.journal.write(Happening.EPOCH_DROPPED, number=number)
        if floor.epochs.due(boot_now=now) and now >= self._next_try:
            await self._renew(floor.epochs.current.number + 1)
        floor.book.tend()
        try:
            await asyncio.to_thread(self.booted.ledger.sync)
        except OSError as e:
            floor.journal.write(Happening.LEDGER_ERROR, code=kind_of(e))

    async def _check_gpus(self, now: float) -> None:
        """Judge the GPUs again when it is time; from the first refusal on, nothing is served any more."""
        if self.failed.is_set() or now - self._gpus_checked < GPU_CHECK_SECONDS:
            return
        try:
            await asyncio.to_thread(self.booted.attester.recheck_gpus, self._floor.epochs.current)
        except Exception as e:
            self._floor.admission.closing = True
            self._floor.epochs.wipe()
            self._routes.cut_short()
            self._floor.journal.write(Happening.GPU_REFUSED, code=kind_of(e))
            self.failed.set()
            if not isinstance(e, GpuUnavailable):
                raise
        self._gpus_checked = now

    async def _renew(self, number: int) -> None:
        floor = self._floor
        try:
            epoch = await asyncio.to_thread(self.booted.attester.new_epoch, number)
        except (QuoteUnavailable, GpuUnavailable) as e:
            self._next_try = floor.clock.boot() + RETRY_SECONDS
            floor.journal.write(Happening.EPOCH_FAILED, code=kind_of(e), number=number)
            return
        floor.epochs.publish(epoch)
        # A first attempt older than the previous epoch is run_expired from now on.
        floor.runs.forget_before(number - 1)
        floor.journal.write(Happening.EPOCH, id=epoch.digest, number=number)

    async def stop(self) -> None:
        """Refuse new runs, let those under way end, then close everything and wipe the keys."""
        floor = self._floor
        floor.admission.closing = True
        floor.journal.write(Happening.DRAINING, number=self._routes.running)
        try:
            async with asyncio.timeout(self._drain):
                await self._routes.quiet()
        except TimeoutError:
            self._routes.cut_short()
            await asyncio.sleep(0)
        if self._tending is not None:
            self._tending.cancel()
        await self._doors.close()
        floor.pump.stop()
        await asyncio.to_thread(self.booted.engine.close)
        floor.book.close_batch()
        floor.epochs.wipe()
        try:
            self.booted.ledger.close()
        except OSError as e:
            floor.journal.write(Happening.LEDGER_ERROR, code=kind_of(e))
        floor.journal.write(Happening.STOPPED)
