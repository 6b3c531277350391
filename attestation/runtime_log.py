# SPDX-License-Identifier: Apache-2.0
"""The runtime log behind RTMR3: which events, in which order, and the register they replay to (docs/protocol.md)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha384
from typing import Final

from . import cbor
from .errors import Malformed
from .wire import label

MAX_EVENTS: Final = 64
MAX_NAME: Final = 64
MAX_PAYLOAD: Final = 1024
MAX_LOG: Final = MAX_EVENTS * (MAX_NAME + MAX_PAYLOAD + 8)
REGISTER_SIZE: Final = 48
_SIZES: Final = {"image-id": (32,), "config": (48,), "operator": (48,), "model": (32,), "gpu": (0, 32), "ready": (32,)}
BOOT_EVENTS: Final = tuple(_SIZES)

_CODE: Final = "MalformedRuntimeLog"
_NAME: Final = re.compile(r"[a-z0-9-]{1,64}")
_LABEL: Final = label("rtmr3-event")


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One measured fact: its name and what was measured."""

    name: str
    payload: bytes  # at most 1024 bytes

    @property
    def digest(self) -> bytes:
        """SHA-384(L(rtmr3-event) || CBOR([name, payload])): 48 bytes, what RTMR3 is extended by."""
        return sha384(_LABEL + cbor.encode([self.name, self.payload])).digest()


def require_event(name: str, payload: bytes, where: str) -> Event:
    """Give the event, or raise Malformed when its name or size is not of the log's grammar."""
    if not _NAME.fullmatch(name):
        raise Malformed(_CODE, f"{where}.name", want="[a-z0-9-]{1,64}", got=f"{len(name)} characters")
    if len(payload) > MAX_PAYLOAD:
        raise Malformed(_CODE, f"{where}.payload", want=f"at most {MAX_PAYLOAD} bytes", got=len(payload))
    return Event(name=name, payload=payload)


def parse(data: bytes) -> tuple[Event, ...]:
    """Parse a runtime log: grammar only, any order. Raises Malformed."""
    value = cbor.decode(data, limit=MAX_LOG, what="runtime_log", code=_CODE)
    items = cbor.as_list(value, "runtime_log", code=_CODE, limit=MAX_EVENTS)
    return tuple(_event(item, f"runtime_log[{at}]") for at, item in enumerate(items))


def parse_boot(data: bytes) -> tuple[Event, ...]:
    """Parse the log of a whole boot: exactly the events of `BOOT_EVENTS`, in their order. Raises Malformed."""
    events = parse(data)
    names = tuple(event.name for event in events)
    if names != BOOT_EVENTS:
        raise Malformed(_CODE, "runtime_log", want=",".join(BOOT_EVENTS), got=",".join(names)[:200])
    for event in events:
        if len(event.payload) not in _SIZES[event.name]:
            got = len(event.payload)
            raise Malformed(_CODE, f"runtime_log.{event.name}", want=f"{_SIZES[event.name][-1]} bytes", got=got)
    return events


def _event(item: cbor.Value, where: str) -> Event:
    pair = cbor.as_list(item, where, code=_CODE, limit=2, least=2)
    name = cbor.as_text(pair[0], f"{where}.name", code=_CODE, limit=MAX_NAME)
    return require_event(name, cbor.as_bytes(pair[1], f"{where}.payload", code=_CODE), where)


def encode(events: Iterable[Event]) -> bytes:
    """Encode a log: the bytes that `sericin-log` hashes."""
    return cbor.encode([[event.name, event.payload] for event in events])


def replay(events: Iterable[Event]) -> bytes:
    """Give RTMR3 (48 bytes) after `events`, from 48 zero bytes."""
    register = bytes(REGISTER_SIZE)
    for event in events:
        register = sha384(register + event.digest).digest()
    return register
