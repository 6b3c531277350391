# SPDX-License-Identifier: Apache-2.0
"""Which event of a log is wrong? One whose digest is not its payload's, or one byte away from a log that would replay.

Sources: TCG PC Client Platform Firmware Profile 1.06, 10.4 (what each event type hashes); GRUB's TPM verifier.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from hashlib import sha384
from typing import Final

from .eventlog import LogEvent
from .measure_efi import (
    EV_EFI_ACTION,
    EV_EFI_VARIABLE_BOOT,
    EV_EFI_VARIABLE_DRIVER_CONFIG,
    EV_SEPARATOR,
)

MAX_HASHES: Final = (
    4_000_000  # of the search for one changed byte: a few seconds; a register of a real log needs a third
)
_EV_IPL: Final = 0xD
_EV_EFI_GPT_EVENT: Final = 0x80000006
_EV_EFI_VARIABLE_AUTHORITY: Final = 0x800000E0
_WHOLE: Final = (
    EV_SEPARATOR, EV_EFI_ACTION, EV_EFI_VARIABLE_DRIVER_CONFIG, _EV_EFI_GPT_EVENT, _EV_EFI_VARIABLE_AUTHORITY,
)  # fmt: skip
_PREFIXES: Final = (b"grub_cmd: ", b"kernel_cmdline: ")


def _measured(event: LogEvent) -> tuple[bytes, ...]:
    """Give what an event's type says was hashed, by each custom there is; nothing for types that hash other data."""
    payload = event.payload
    if event.type in _WHOLE:
        return payload, payload.rstrip(b"\0")
    if event.type == EV_EFI_VARIABLE_BOOT and len(payload) >= 32:
        # UEFI_VARIABLE_DATA: GUID, length of the name in characters, length of the data, name, data.
        name = 2 * int.from_bytes(payload[16:24], "little")
        return payload, payload[32 + name :]
    if event.type == _EV_IPL and payload.startswith(_PREFIXES):
        return (payload.split(b": ", 1)[1].rstrip(b"\0"),)
    return ()


def contradicting(events: Sequence[LogEvent]) -> tuple[int, ...]:
    """Give the places of events whose payload is not what their digest was made of, though their type says it is."""
    found = []
    for at, event in enumerate(events):
        measured = _measured(event)
        if measured and event.digest not in {sha384(data).digest() for data in measured}:
            found.append(at)
    return tuple(found)


def locate(events: Sequence[LogEvent], quoted: bytes) -> int | None:
    """Give the place of the one event of a register whose digest was changed, or None where it cannot be told.

    `events` are one register's, `quoted` its value in the quote (48 bytes). An event is named when another digest in
    its place makes the log replay: that of its payload, or its own with one byte changed. Bounded by MAX_HASHES.
    """
    before = [bytes(48)]
    for event in events:
        before.append(sha384(before[-1] + event.digest).digest())
    budget = MAX_HASHES
    for cheap in (True, False):
        for at, event in enumerate(events):
            rest = [later.digest for later in events[at + 1 :]]
            for digest in _from_payload(event) if cheap else _one_byte_away(event):
                value = sha384(before[at] + digest).digest()
                for later in rest:
                    value = sha384(value + later).digest()
                budget -= 1 + len(rest)
                if value == quoted:
                    return at
                if budget < 0:
                    return None
    return None


def _from_payload(event: LogEvent) -> Iterator[bytes]:
    for data in _measured(event):
        yield sha384(data).digest()


def _one_byte_away(event: LogEvent) -> Iterator[bytes]:
    if _measured(event):
        return
    for at, old in enumerate(event.digest):
        for new in range(256):
            if new != old:
                yield event.digest[:at] + bytes([new]) + event.digest[at + 1 :]
