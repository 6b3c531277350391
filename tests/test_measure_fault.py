# SPDX-License-Identifier: Apache-2.0
"""One changed byte of a log names its event: on a real log and its real quote, and on logs of our own."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha384

import pytest

from attestation.tdx import eventlog_fault
from attestation.tdx.eventlog import LogEvent, parse_event_log, replay
from attestation.tdx.eventlog_fault import contradicting, locate
from attestation.tdx.quote import Quote
from tests.vectors_root import vectors

VARIABLE = bytes(16) + (4).to_bytes(8, "little") + (2).to_bytes(8, "little") + "Boot".encode("utf-16-le") + b"\1\2"


def event(kind: int, payload: bytes, measured: bytes | None = None, register: int = 0) -> LogEvent:
    digest = sha384(payload if measured is None else measured).digest()
    return LogEvent(register=register, type=kind, digest=digest, payload=payload)


LOG = (
    event(0x8000000B, b"TdxTable", b"the list itself"),
    event(0x80000001, b"a variable"),
    event(0x4, bytes(4)),
    event(0xA, b"ACPI DATA", b"the tables"),
    event(0x80000002, VARIABLE, b"\1\2"),
    event(0x80000002, VARIABLE),
    event(0xD, b"grub_cmd: boot\0", b"boot"),
    event(0xD, b"/vmlinuz\0", b"the kernel"),
    event(0x80000007, b"Exit\0", b"Exit"),
)


def real() -> tuple[tuple[LogEvent, ...], tuple[bytes, ...]]:
    folder = vectors("tdx") / "go-tdx-guest" / "ccel"
    events = parse_event_log((folder / "ccel_data.dat").read_bytes())
    return events, Quote.parse((folder / "cos-113-tdx-quote.dat").read_bytes()).report.rtmr


def flipped(data: bytes, at: int, by: int = 0x41) -> bytes:
    return data[:at] + bytes([data[at] ^ by]) + data[at + 1 :]


def register(events: Sequence[LogEvent], index: int) -> list[LogEvent]:
    return [item for item in events if item.register == index]


@pytest.mark.parametrize("at", range(len(LOG)))
def test_a_changed_byte_of_a_digest_names_its_event(at: int) -> None:
    quoted = replay(LOG)[0]
    for byte in (0, 3):
        changed = [*LOG[:at], replace(LOG[at], digest=flipped(LOG[at].digest, byte)), *LOG[at + 1 :]]
        assert replay(changed)[0] != quoted
        assert locate(changed, quoted) == at


def test_a_changed_payload_contradicts_its_digest() -> None:
    assert contradicting(LOG) == ()
    for at, item in enumerate(LOG):
        changed = [
            *LOG[:at],
            replace(item, payload=b"grub_cmd: evil" if item.type == 0xD else b"evil" * 9),
            *LOG[at + 1 :],
        ]
        telling = item.type in {0x4, 0x80000001, 0x80000002, 0x80000007, 0xD}
        assert contradicting(changed) == ((at,) if telling else ())


def test_a_digest_of_another_payload_is_found_however_many_bytes_differ() -> None:
    at, other = 1, sha384(b"something else").digest()
    changed = [*LOG[:at], replace(LOG[at], digest=other), *LOG[at + 1 :]]
    assert locate(changed, replay(LOG)[0]) == at


def test_what_cannot_be_told_is_not_guessed() -> None:
    quoted = replay(LOG)[0]
    assert locate(LOG[1:], quoted) is None
    twice = [replace(e, digest=flipped(e.digest, 1)) if i in {0, 3} else e for i, e in enumerate(LOG)]
    assert locate(twice, quoted) is None
    assert locate([], quoted) is None


def test_the_search_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eventlog_fault, "MAX_HASHES", 50_000)
    long = [event(0xA, b"", bytes([i % 256])) for i in range(4096)]
    began = time.perf_counter()
    assert locate(long, b"\1" * 48) is None
    assert time.perf_counter() - began < 2


def test_a_real_log_holds_together_and_a_changed_byte_names_its_event() -> None:
    events, rtmr = real()
    assert contradicting(events) == ()
    assert replay(events) == rtmr
    for index in range(3):
        mine = register(events, index)
        for at in range(0, len(mine), 4):
            changed = list(mine)
            changed[at] = replace(mine[at], digest=flipped(mine[at].digest, at % 3))
            assert locate(changed, rtmr[index]) == at


def test_a_changed_byte_of_a_real_payload_is_seen_where_the_type_tells() -> None:
    events, _ = real()
    seen = 0
    for at, item in enumerate(events):
        changed = [
            *events[:at],
            replace(item, payload=flipped(item.payload, len(item.payload) // 2)),
            *events[at + 1 :],
        ]
        found = contradicting(changed)
        assert found in {(), (at,)}
        seen += bool(found)
    assert seen == 30  # the rest hash other data, or the byte is of a length or a name that is not hashed


def test_a_real_td_writes_its_events_in_the_order_that_is_predicted() -> None:
    """The two registers up to the boot path, of another vendor's build of the same firmware."""
    events, _ = real()
    first = [item.type for item in register(events, 0)]
    assert first[:11] == [0x8000000B, 0x8000000A, *(0x80000001,) * 5, 0x4, *(0xA,) * 3]
    assert set(first[11:14]) == {0x80000002}
    second = [item.type for item in register(events, 1)]
    assert second[:2] == [0x80000007, 0x4]
    assert second[-2:] == [0x80000007, 0x80000007]
