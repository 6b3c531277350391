# SPDX-License-Identifier: Apache-2.0
"""What did the firmware and the loader measure? Event logs (CCEL, or a JSON list) and the registers they replay to.

A log explains registers; it proves nothing beyond them. Only digests are covered: a payload counts as shown where its
hash is the digest, and many event types hash something else (TCG PC Client PFP; ACPI CCEL).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha384
from typing import Final

from .. import strict_json
from ..errors import Malformed
from ..wire import Reader

MAX_LOG: Final = 512 * 1024
MAX_EVENTS: Final = 4096
MAX_PAYLOAD: Final = 64 * 1024
EV_NO_ACTION: Final = 3
SHA384_ID: Final = 0x000C
REGISTERS: Final = 4

_CODE: Final = "MalformedEventLog"
_PADDING: Final = ((0xFFFFFFFF, 0xFFFFFFFF), (0, 0))
_SPEC_ID: Final = b"Spec ID Event03\0"
_NAMES: Final = {
    0x00000001: "EV_POST_CODE",
    0x00000004: "EV_SEPARATOR",
    0x00000005: "EV_ACTION",
    0x00000006: "EV_EVENT_TAG",
    0x0000000A: "EV_PLATFORM_CONFIG_FLAGS",
    0x0000000D: "EV_IPL",
    0x80000001: "EV_EFI_VARIABLE_DRIVER_CONFIG",
    0x80000002: "EV_EFI_VARIABLE_BOOT",
    0x80000003: "EV_EFI_BOOT_SERVICES_APPLICATION",
    0x80000004: "EV_EFI_BOOT_SERVICES_DRIVER",
    0x80000006: "EV_EFI_GPT_EVENT",
    0x80000007: "EV_EFI_ACTION",
    0x80000008: "EV_EFI_PLATFORM_FIRMWARE_BLOB",
    0x80000009: "EV_EFI_HANDOFF_TABLES",
    0x8000000A: "EV_EFI_PLATFORM_FIRMWARE_BLOB2",
    0x8000000B: "EV_EFI_HANDOFF_TABLES2",
    0x8000000C: "EV_EFI_VARIABLE_BOOT2",
    0x800000E0: "EV_EFI_VARIABLE_AUTHORITY",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class LogEvent:
    """One event that extended a register."""

    register: int  # 0 to 3: RTMR0 to RTMR3
    type: int
    digest: bytes  # 48
    payload: bytes

    @property
    def name(self) -> str:
        """The event type's name, or its number."""
        return _NAMES.get(self.type, f"{self.type:#010x}")

    @property
    def payload_covered(self) -> bool:
        """Whether the digest is the payload's own hash: then the register covers the payload too."""
        return sha384(self.payload).digest() == self.digest


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisterReplay:
    """One register: what the quote says, what the log comes to, and where they part."""

    index: int
    quoted: bytes  # 48
    replayed: bytes  # 48
    events: int
    matches_after: int | None  # how many of its events come to the quoted value; None when no number of them does

    @property
    def equal(self) -> bool:
        """Whether the whole log comes to the quoted value."""
        return self.quoted == self.replayed

    def explanation(self) -> str:
        """Say where log and register part."""
        if self.equal:
            return f"{self.events} events"
        if not self.events:
            return "this log has none of its events"
        if self.matches_after is not None:
            return f"event {self.matches_after} of this register is the first that the register does not hold"
        return (
            f"no beginning of its {self.events} events comes to the quoted value: an early event differs or is missing"
        )


def parse_event_log(data: bytes) -> tuple[LogEvent, ...]:
    """Parse a CCEL log area or a JSON list of events, told apart by content. Raises Malformed."""
    if len(data) > MAX_LOG:
        raise Malformed(_CODE, "event_log", want=f"at most {MAX_LOG} bytes", got=len(data))
    return _parse_json(data) if data.lstrip()[:1] in (b"[", b"{") else _parse_ccel(data)


def replay(events: Sequence[LogEvent]) -> tuple[bytes, bytes, bytes, bytes]:
    """Give RTMR0 to RTMR3 (48 bytes each) after `events`, each from 48 zero bytes."""
    rtmr = [bytes(48)] * REGISTERS
    for event in events:
        rtmr[event.register] = sha384(rtmr[event.register] + event.digest).digest()
    return rtmr[0], rtmr[1], rtmr[2], rtmr[3]


def compare(events: Sequence[LogEvent], rtmr: Sequence[bytes]) -> tuple[RegisterReplay, ...]:
    """Compare a log with a quote's registers, one by one."""
    found = []
    for index in range(REGISTERS):
        mine = [event for event in events if event.register == index]
        value, matches = bytes(48), 0 if rtmr[index] == bytes(48) else None
        for count, event in enumerate(mine, start=1):
            value = sha384(value + event.digest).digest()
            if value == rtmr[index]:
                matches = count
        replayed = RegisterReplay(
            index=index, quoted=rtmr[index], replayed=value, events=len(mine), matches_after=matches
        )
        found.append(replayed)
    return tuple(found)


def _parse_ccel(data: bytes) -> tuple[LogEvent, ...]:
    r = Reader(data, what="event_log", code=_CODE)
    _spec_id(r)
    events: list[LogEvent] = []
    while r.left >= 8:
        register, kind = r.u32le("mr_index"), r.u32le("type")
        if (register, kind) in _PADDING:
            break
        if len(events) == MAX_EVENTS:
            raise Malformed(_CODE, "event_log", want=f"at most {MAX_EVENTS} events", got="more")
        digest = _digest(r)
        payload = r.take(_bounded(r.u32le("event_size")), "event")
        if register > REGISTERS:
            raise Malformed(_CODE, "event_log.mr_index", want=f"0 to {REGISTERS}", got=register)
        # Index 0 is MRTD, which nothing extends; EV_NO_ACTION extends nothing.
        if register and kind != EV_NO_ACTION:
            events.append(LogEvent(register=register - 1, type=kind, digest=digest, payload=payload))
    if r.left and r.rest().strip(b"\xff\0"):
        raise Malformed("TrailingData", "event_log", want="padding after the last event", got="other bytes")
    return tuple(events)


def _spec_id(r: Reader) -> None:
    """Read the first event: it names the one algorithm that a TDX log has."""
    r.u32le("mr_index")
    if r.u32le("type") != EV_NO_ACTION:
        raise Malformed(_CODE, "event_log.spec_id", want="EV_NO_ACTION first", got="another event")
    r.take(20, "sha1")
    body = Reader(r.take(_bounded(r.u32le("event_size")), "spec_id"), what="event_log.spec_id", code=_CODE)
    if body.take(16, "signature") != _SPEC_ID:
        raise Malformed(_CODE, "event_log.spec_id", want="Spec ID Event03", got="another signature")
    body.take(8, "versions")
    if body.u32le("algorithms") != 1 or (body.u16le("algorithm"), body.u16le("size")) != (SHA384_ID, 48):
        raise Malformed(_CODE, "event_log.spec_id", want="SHA-384 alone", got="other algorithms")
    body.take(int.from_bytes(body.take(1, "vendor_size"), "big"), "vendor")
    body.end(code=_CODE)


def _digest(r: Reader) -> bytes:
    if r.u32le("digests") != 1 or r.u16le("algorithm") != SHA384_ID:
        raise Malformed(_CODE, "event_log.digests", want="one SHA-384 digest", got="others")
    return r.take(48, "digest")


def _bounded(size: int) -> int:
    if size > MAX_PAYLOAD:
        raise Malformed(_CODE, "event_log.event_size", want=f"at most {MAX_PAYLOAD}", got=size)
    return size


def _parse_json(data: bytes) -> tuple[LogEvent, ...]:
    """Read [{"imr": 0..3, "event_type": n, "digest": hex, "event_payload": hex}, ...]; other fields are ignored."""
    value = strict_json.loads(data, limit=MAX_LOG, what="event_log")
    if not isinstance(value, list) or len(value) > MAX_EVENTS:
        raise Malformed(_CODE, "event_log", want=f"a list of at most {MAX_EVENTS} events", got=type(value).__name__)
    return tuple(_json_event(item, f"event_log[{i}]") for i, item in enumerate(value))


def _json_event(item: object, where: str) -> LogEvent:
    if not isinstance(item, dict):
        raise Malformed(_CODE, where, want="an object", got=type(item).__name__)
    register, kind = item.get("imr"), item.get("event_type", 0)
    if type(register) is not int or not 0 <= register < REGISTERS:
        raise Malformed(_CODE, f"{where}.imr", want=f"0 to {REGISTERS - 1}", got=str(register)[:16])
    if type(kind) is not int or not 0 <= kind < 2**32:
        raise Malformed(_CODE, f"{where}.event_type", want="32 bits", got=str(kind)[:16])
    digest, payload = (_hex(item.get(name, ""), f"{where}.{name}") for name in ("digest", "event_payload"))
    if len(digest) != 48:
        raise Malformed(_CODE, f"{where}.digest", want="48 bytes", got=len(digest))
    return LogEvent(register=register, type=kind, digest=digest, payload=payload)


def _hex(value: object, where: str) -> bytes:
    if not isinstance(value, str) or len(value) > 2 * MAX_PAYLOAD or not re.fullmatch(r"(?:[0-9a-fA-F]{2})*", value):
        raise Malformed(_CODE, where, want="hex", got=type(value).__name__)
    return bytes.fromhex(value)
