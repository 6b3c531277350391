# SPDX-License-Identifier: Apache-2.0
"""Event logs: what they replay to, where they part from a quote, and what is no log at all."""

from __future__ import annotations

import json
from dataclasses import replace
from hashlib import sha384
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attestation.errors import AttestationError, Malformed
from attestation.tdx.eventlog import EV_NO_ACTION, MAX_EVENTS, LogEvent, compare, parse_event_log, replay
from attestation.tdx.quote import Quote
from tests.vectors_root import vectors

SPEC = (
    (0).to_bytes(4, "little") + (3).to_bytes(4, "little") + bytes(20) + (33).to_bytes(4, "little")
    + b"Spec ID Event03\0" + bytes(8) + (1).to_bytes(4, "little") + (0x0C).to_bytes(2, "little")
    + (48).to_bytes(2, "little") + b"\0"
)  # fmt: skip


def record(index: int, kind: int, digest: bytes, payload: bytes = b"x") -> bytes:
    head = index.to_bytes(4, "little") + kind.to_bytes(4, "little") + (1).to_bytes(4, "little")
    return head + (0x0C).to_bytes(2, "little") + digest + len(payload).to_bytes(4, "little") + payload


EVENTS = [LogEvent(register=i % 3, type=4, digest=sha384(bytes([i])).digest(), payload=bytes([i])) for i in range(9)]


def binary(events: list[LogEvent] = EVENTS) -> bytes:
    return SPEC + b"".join(record(e.register + 1, e.type, e.digest, e.payload) for e in events)


def test_binary_and_json_logs_say_the_same() -> None:
    as_json = [
        {
            "imr": e.register,
            "event_type": e.type,
            "digest": e.digest.hex(),
            "event_payload": e.payload.hex(),
            "event": "",
        }
        for e in EVENTS
    ]
    assert parse_event_log(binary()) == tuple(EVENTS) == parse_event_log(json.dumps(as_json).encode())
    assert parse_event_log(binary() + b"\xff" * 500) == tuple(EVENTS) == parse_event_log(binary() + bytes(64))
    assert all(event.payload_covered for event in EVENTS)


def test_what_extends_nothing_is_left_out() -> None:
    data = binary() + record(1, EV_NO_ACTION, bytes(48)) + record(0, 4, bytes(48))
    assert parse_event_log(data) == tuple(EVENTS)


def test_replay_is_the_chain_of_hashes() -> None:
    value = bytes(48)
    for event in EVENTS[::3]:
        value = sha384(value + event.digest).digest()
    assert replay(EVENTS)[0] == value
    assert replay(EVENTS)[3] == bytes(48)
    assert all(register.equal for register in compare(EVENTS, replay(EVENTS)))


@pytest.mark.parametrize(
    "bend",
    [
        lambda e: e[1:],
        lambda e: e[:-1],
        lambda e: [e[3], *e[1:3], e[0], *e[4:]],
        lambda e: [replace(e[0], digest=bytes(48)), *e[1:]],
        lambda e: [*e, e[0]],
        lambda e: [replace(e[0], register=1), *e[1:]],
    ],
    ids=["first dropped", "last dropped", "swapped", "digest changed", "one more", "in another register"],
)
def test_a_log_that_was_changed_does_not_replay(bend: Any) -> None:
    """N92."""
    assert not all(register.equal for register in compare(bend(EVENTS), replay(EVENTS)))


def test_a_changed_payload_is_not_shown_as_covered() -> None:
    """N92: the registers still agree, for they cover digests alone."""
    bent = [replace(EVENTS[0], payload=b"evil"), *EVENTS[1:]]
    assert all(register.equal for register in compare(bent, replay(EVENTS)))
    assert not bent[0].payload_covered


def test_the_first_event_beyond_the_register_is_named() -> None:
    found = compare([*EVENTS, replace(EVENTS[0], digest=bytes(48))], replay(EVENTS))
    assert (found[0].matches_after, found[0].events) == (3, 4)
    assert found[0].explanation().startswith("event 3 of this register")
    assert "differs or is missing" in compare(EVENTS[3:], replay(EVENTS))[0].explanation()


MALFORMED: list[tuple[str, bytes]] = [
    ("empty", b""),
    ("no spec event", binary()[len(SPEC) :]),
    ("another signature", SPEC.replace(b"Spec ID", b"Spec IX") + binary()[len(SPEC) :]),
    ("SHA-256 in the spec", SPEC.replace(b"\x0c\x00\x30\x00", b"\x0b\x00\x20\x00")),
    ("cut", binary()[:-1]),
    ("a digest of SHA-256", binary() + record(1, 4, bytes(48)).replace(b"\x0c\0", b"\x0b\0", 1)),
    ("register 5", binary() + record(5, 4, bytes(48))),
    ("a payload past the end", binary() + record(1, 4, bytes(48))[:-5] + b"\xff\xff\xff\x7f"),
    ("junk behind", binary() + bytes(8) + b"junk"),
    ("too many", SPEC + record(1, 4, bytes(48), b"") * (MAX_EVENTS + 1)),
    ("too long", bytes(600_000)),
    ("JSON that is no list", b"{}"),
    ("a JSON event that is no object", b"[1]"),
    ("imr 4", b'[{"imr":4,"digest":"' + b"00" * 48 + b'"}]'),
    ("imr true", b'[{"imr":true,"digest":"' + b"00" * 48 + b'"}]'),
    ("a short digest", b'[{"imr":0,"digest":"00"}]'),
    ("a digest that is no hex", b'[{"imr":0,"digest":"zz"}]'),
    ("a type that is no number", b'[{"imr":0,"event_type":"4","digest":"' + b"00" * 48 + b'"}]'),
    ("a key twice", b'[{"imr":0,"imr":1,"digest":"' + b"00" * 48 + b'"}]'),
]


@pytest.mark.parametrize("data", [row[1] for row in MALFORMED], ids=[row[0] for row in MALFORMED])
def test_what_is_no_log_is_malformed(data: bytes) -> None:
    with pytest.raises(Malformed):
        parse_event_log(data)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=400), st.integers(0, 400))
def test_only_typed_errors_leave_the_parsers(noise: bytes, at: int) -> None:
    data = binary()[:at] + noise
    for reader in (parse_event_log, Quote.parse):
        try:
            reader(data)
        except AttestationError:
            continue


def test_a_real_log_replays_to_its_quote() -> None:
    folder = vectors("tdx") / "go-tdx-guest" / "ccel"
    events = parse_event_log((folder / "ccel_data.dat").read_bytes())
    rtmr = Quote.parse((folder / "cos-113-tdx-quote.dat").read_bytes()).report.rtmr
    assert len(events) == 43
    assert replay(events) == rtmr
    assert sum(event.payload_covered for event in events) == 13
