# SPDX-License-Identifier: Apache-2.0
"""Every table of the server has its size, every task its time."""

from __future__ import annotations

import io
import time
from pathlib import Path
from typing import Any

import pytest

from enclave import epochs, replay, runs
from enclave.journal import MAX_ID, Happening, Journal
from enclave.metrics import Count
from enclave.receipt_book import ReceiptBook
from enclave.runs import RunRefused, RunTable
from enclave.seams import QuoteUnavailable
from enclave.service import DRAIN_SECONDS, RETRY_SECONDS, Service
from tests.forged import StoppedClock
from tests.sealed_by_hand import sealed_for
from tests.served import served


@pytest.fixture(autouse=True)
def _short_farewells(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("enclave.doors.LINGER_SECONDS", 0.2)


def test_the_table_of_run_ids_is_full_rather_than_forgetful() -> None:
    table = RunTable(capacity=2)
    assert RunTable()._capacity == runs.CAPACITY
    for number in range(2):
        table.enter(bytes([number]) * 32, first_epoch=1, current_epoch=1)
    with pytest.raises(RunRefused, match="busy"):
        table.enter(bytes(31) + b"\x09", first_epoch=1, current_epoch=1)
    table.remove(bytes(32))
    table.enter(bytes(31) + b"\x09", first_epoch=1, current_epoch=1)
    with pytest.raises(RunRefused, match="already_run"):
        table.enter(bytes([1]) * 32, first_epoch=1, current_epoch=1)


def test_few_private_keys_live_at_once(tmp_path: Path) -> None:
    """Replays that fill set after set bring early epochs only until the keys are at their number; then it is 503."""
    assert replay.ReplaySet()._capacity == replay.CAPACITY
    with served(tmp_path, replay_capacity=2) as enclave:
        status = 0
        for _ in range(epochs.MAX_LIVE_KEYS + 2):
            for _ in range(2):
                status = enclave.post(sealed_for(enclave)[0].wire)[0]
            enclave.do(enclave.service.tend())
        assert len(enclave.floor.epochs) == epochs.MAX_LIVE_KEYS
        assert status == 503
        enclave.clock.forward(4200)
        enclave.do(enclave.service.tend())
        assert list(enclave.run("on it goes").items())


def test_epochs_are_renewed_in_time_and_a_failure_is_tried_again(tmp_path: Path) -> None:
    with served(tmp_path) as enclave:
        attester: Any = enclave.booted.attester
        real, calls = attester.new_epoch, []

        def failing(number: int) -> Any:
            calls.append(number)
            raise QuoteUnavailable("the host says no")

        attester.new_epoch = failing
        enclave.clock.forward(epochs.ROTATE_SECONDS - 1)
        enclave.do(enclave.service.tend())
        assert calls == []
        enclave.clock.forward(1)
        for _ in range(3):
            enclave.do(enclave.service.tend())
        assert calls == [2]
        enclave.clock.forward(RETRY_SECONDS)
        attester.new_epoch = real
        enclave.do(enclave.service.tend())
        assert enclave.floor.epochs.current.number == 2
        assert '"event": "epoch_failed"' in enclave.log.getvalue()


def test_receipts_are_kept_for_their_time_and_in_their_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("enclave.receipt_book.MAX_KEPT", 3)
    with served(tmp_path) as enclave:  # its own: the others' clock stays where it is
        book: ReceiptBook = enclave.floor.book
        asked = [sealed_for(enclave)[0] for _ in range(4)]
        for sealed in asked:
            assert enclave.post(sealed.wire)[0] == 200
        kept = [enclave.call(lambda s=s: book.fetch(s.schedule.capability)) is not None for s in asked]  # type: ignore[misc]
        assert kept == [False, True, True, True]
        enclave.clock.forward(enclave.booted.boot.retention)
        assert enclave.call(lambda: book.fetch(asked[-1].schedule.capability)) is None
        enclave.call(book.tend)
        assert len(book._kept) == 0


def test_stopping_takes_its_time_and_no_longer(tmp_path: Path) -> None:
    with served(tmp_path, delay=0.05) as enclave:
        assert Service(enclave.booted)._drain == DRAIN_SECONDS
        run = enclave.run("long " * 400)
        next(run.items())
        enclave.service._drain = 0.3
        start = time.monotonic()
        enclave.do(enclave.service.stop())
        assert time.monotonic() - start < 5
        assert enclave.floor.metrics.read(Count.RUNS_ABORTED) == 1
        assert not enclave.floor.epochs.current.seal.live


def test_a_line_of_the_journal_has_no_room_for_anything_else() -> None:
    out = io.StringIO()
    journal = Journal(StoppedClock(), out=out)
    journal.write(Happening.RUN, code="complete", id=bytes(MAX_ID), number=1, size=2, ms=3)
    bad: list[dict[str, Any]] = [
        {"id": bytes(MAX_ID + 1)}, {"id": "x"}, {"code": "a prompt"}, {"code": "x" * 49}, {"number": "7"},
        {"size": 1.5},
    ]  # fmt: skip
    for fields in bad:
        with pytest.raises(TypeError):
            journal.write(Happening.RUN, **fields)
    assert len(out.getvalue().splitlines()) == 1
