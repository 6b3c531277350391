# SPDX-License-Identifier: Apache-2.0
"""The ledger on a disk of fixed size: what is written is read back, by the next boot and by the host."""

from __future__ import annotations

from pathlib import Path

import pytest

from attestation.ledger import RECEIPT, ReceiptRecord, frame, read_records
from enclave.ledger import DiskLedger, FileLedger, LedgerUnusable, open_ledger


def receipt(serial: int, size: int = 100) -> bytes:
    return ReceiptRecord(key=bytes(32), serial=serial, item=bytes([serial % 256]) * size).encode()


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "ledger.img"
    with path.open("wb") as file:
        file.truncate(64 * 1024)
    return path


def write(path: Path, *serials: int) -> None:
    ledger = DiskLedger(path)
    for serial in serials:
        ledger.append(RECEIPT, receipt(serial))
    ledger.close()


def test_the_next_boot_and_the_host_read_what_was_written(disk: Path) -> None:
    write(disk, 1, 2, 3)
    write(disk, 4)
    ledger = DiskLedger(disk)
    assert ledger.orphans() == [receipt(serial) for serial in (1, 2, 3, 4)]
    ledger.close()
    assert [body for _, body in read_records(disk.read_bytes())] == [receipt(serial) for serial in (1, 2, 3, 4)]
    assert disk.stat().st_size == 64 * 1024


@pytest.mark.parametrize("cut", [1, 4, 11, 12, 60, 140])
def test_a_torn_last_record_is_written_over(disk: Path, cut: int) -> None:
    write(disk, 1)
    at = len(frame(RECEIPT, receipt(1)))
    torn = frame(RECEIPT, receipt(2))[:cut]
    with disk.open("r+b") as file:
        file.seek(at)
        file.write(torn)
    write(disk, 3)
    assert [body for _, body in read_records(disk.read_bytes())] == [receipt(1), receipt(3)]


def test_damage_before_the_end_is_not_written_over(disk: Path) -> None:
    write(disk, 1, 2)
    before = bytearray(disk.read_bytes())
    before[30] ^= 1
    disk.write_bytes(before)
    with pytest.raises(LedgerUnusable, match="new ledger disk"):
        DiskLedger(disk)
    assert disk.read_bytes() == before


def test_a_disk_of_other_things_is_refused(disk: Path) -> None:
    disk.write_bytes(b"other things " * 5000)
    with pytest.raises(LedgerUnusable):
        DiskLedger(disk)
    with pytest.raises(LedgerUnusable):
        DiskLedger(disk.parent / "absent")


def test_a_full_disk_takes_nothing_and_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "small"
    room = len(frame(RECEIPT, receipt(1)))
    path.write_bytes(bytes(2 * room + 4))
    ledger = DiskLedger(path)
    ledger.append(RECEIPT, receipt(1))
    ledger.append(RECEIPT, receipt(2))
    with pytest.raises(OSError, match="full"):
        ledger.append(RECEIPT, receipt(3))
    ledger.close()
    assert [body for _, body in read_records(path.read_bytes())] == [receipt(1), receipt(2)]


def test_a_file_is_a_file_and_zeros_behind_it_are_its_end(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    ledger = open_ledger(path)
    assert isinstance(ledger, FileLedger)
    ledger.append(RECEIPT, receipt(1))
    ledger.close()
    with path.open("ab") as file:
        file.write(bytes(100))
    again = open_ledger(path)
    again.append(RECEIPT, receipt(2))
    assert again.orphans() == [receipt(1)]
    again.close()
    assert [body for _, body in read_records(path.read_bytes())] == [receipt(1), receipt(2)]


def test_a_disk_device_is_a_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, disk: Path) -> None:
    monkeypatch.setattr("stat.S_ISBLK", bool)
    ledger = open_ledger(disk)
    assert isinstance(ledger, DiskLedger)
    ledger.close()
    assert [path.name for path in tmp_path.iterdir()] == ["ledger.img"]
