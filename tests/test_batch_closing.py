# SPDX-License-Identifier: Apache-2.0
"""When a batch closes: by count, by the age of its first receipt, at the end; soon enough to be anchored in time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from attestation.batch import verify_signature
from client.ledger_file import find_receipt, read_chains
from enclave import receipt_book
from tests.served import Served, served


def batches(enclave: Served) -> list[int]:
    """Give how many receipts each batch in the ledger has."""
    (chain,) = read_chains(enclave.folder / "ledger").values()
    return [signed.statement.count for _, signed in sorted(chain.statements.items())]


def ask(enclave: Served, times: int = 1) -> None:
    for _ in range(times):
        list(enclave.run("one").items())


def pass_time(enclave: Served, seconds: float) -> None:
    def work() -> None:
        enclave.clock.forward(seconds)
        enclave.floor.book.tend()

    enclave.call(work)


@pytest.mark.parametrize(("anchor_within", "seconds"), [(86_400, 600), (3600, 600), (240, 60), (60, 15)])
def test_a_batch_closes_by_the_age_of_its_first_receipt(tmp_path: Path, anchor_within: int, seconds: int) -> None:
    with served(tmp_path, anchor_within=anchor_within) as enclave:
        pass_time(enclave, 300)  # idle time does not count
        ask(enclave)
        pass_time(enclave, seconds - 1)
        ask(enclave)
        assert batches(enclave) == []
        pass_time(enclave, 1)
        assert batches(enclave) == [2]
        pass_time(enclave, 300)
        assert batches(enclave) == [2]  # nothing to say


def test_a_batch_closes_by_count_and_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receipt_book, "BATCH_SIZE", 3)
    with served(tmp_path) as enclave:
        ask(enclave, 2)
        pass_time(enclave, 1)
        assert batches(enclave) == []
        ask(enclave, 2)
        pass_time(enclave, 1)
        ask(enclave)
    assert batches(enclave) in ([4, 1], [3, 2])  # the enclave's own tick may have come between the two


def test_what_the_host_reads_is_signed_and_chained(tmp_path: Path) -> None:
    with served(tmp_path) as enclave:
        for count in (1, 3, 2):
            ask(enclave, count)
            enclave.call(enclave.floor.book.close_batch)
        key, boot = enclave.booted.boot.receipt_key, enclave.booted.boot.digest
    chain = read_chains(tmp_path / "ledger")[key]
    assert chain.machine == "simulated"
    assert chain.registration is not None
    registration, signature = chain.registration
    verify_signature(registration, signature=signature, key=key)
    previous = registration.hash
    for seqno in (1, 2, 3):
        signed = chain.statements[seqno]
        verify_signature(signed.statement, signature=signed.signature, key=key)
        assert (signed.statement.previous, signed.statement.boot) == (previous, boot)
        previous = signed.statement.hash
    assert [chain.statements[n].first_serial for n in (1, 2, 3)] == [0, 1, 4]
    assert find_receipt(tmp_path / "ledger", chain, serial=6, receipt_hash=bytes(32)) is None


def test_a_full_ledger_costs_the_record_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with served(tmp_path) as enclave:

        def full(kind: str, record: bytes) -> None:  # noqa: ARG001
            raise OSError(28, "No space left on device")

        append: Callable[[str, bytes], None] = enclave.booted.ledger.append
        monkeypatch.setattr(enclave.booted.ledger, "append", full)
        ask(enclave)
        monkeypatch.setattr(enclave.booted.ledger, "append", append)
        ask(enclave)
        enclave.call(enclave.floor.book.close_batch)
    assert batches(enclave) == [2]
