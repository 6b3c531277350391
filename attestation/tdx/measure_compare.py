# SPDX-License-Identifier: Apache-2.0
"""Where do a quote and a prediction part? The first event that differs, what it should be, and what it most likely is.

Registers decide; a log only explains. Without one, an alternative that makes the register come out is named instead.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from hashlib import sha384
from typing import Final

from ..errors import Malformed
from ..shape import Shape
from . import measure_efi as efi
from .eventlog import LogEvent
from .measure import BootFiles, Predicted, Prediction, extended
from .measure_firmware import Firmware
from .measure_hob import td_hob_digest
from .measure_kernel import authenticode, patched
from .measure_layout import layout_of
from .quote import TdReport

GUESSED_GIB: Final = 1024  # memory sizes that are tried, 1 GiB apart, to say which one a list of memory is of
_GIB: Final = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One event that is not as predicted. `expected` or `got` is None where there is no such event."""

    event: str
    number: int  # of the register's events, from 0
    expected: bytes | None
    got: bytes | None
    cause: str

    def __str__(self) -> str:
        """Say it in one line."""
        expected, got = (value.hex() if value is not None else "no event" for value in (self.expected, self.got))
        return f"event {self.number}, {self.event}: expected {expected}, got {got}; likely {self.cause}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One register of a quote beside its prediction."""

    register: str  # mr_td, rtmr0, rtmr1 or rtmr2
    expected: bytes | None  # 48, or None where it was not to be computed
    quoted: bytes  # 48
    why: str  # why it was not computed, else empty
    difference: Difference | None

    @property
    def equal(self) -> bool:
        """Whether the quote holds the predicted value."""
        return self.expected == self.quoted

    def to_json(self) -> dict[str, object]:
        """Give the documented JSON object."""
        d = self.difference
        return {
            "register": self.register,
            "equal": self.equal if self.expected is not None else None,
            "expected": self.expected.hex() if self.expected is not None else None,
            "quoted": self.quoted.hex(),
            "not_computed": self.why or None,
            "difference": None
            if d is None
            else {
                "event": d.event,
                "number": d.number,
                "expected": d.expected.hex() if d.expected is not None else None,
                "got": d.got.hex() if d.got is not None else None,
                "cause": d.cause,
            },
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class _Alternative:
    """Another digest that an event could have, and what that would mean."""

    event: str
    digest: bytes
    cause: str


def compare_report(
    prediction: Prediction, report: TdReport, files: BootFiles, shape: Shape, *, log: Sequence[LogEvent] | None
) -> tuple[Comparison, ...]:
    """Compare MRTD and RTMR0 to RTMR2 of a quote with a prediction for `files` in `shape`.

    `log` must be one that replays to the quote's registers (eventlog.compare): it is believed for the name of a
    difference and for nothing else.
    """
    others = tuple(_alternatives(files, shape))
    found = [_compare_mr_td(prediction, report.mr_td, files)]
    for register in range(3):
        quoted, events = report.rtmr[register], prediction.of(register)
        expected = prediction.rtmr(register)
        difference = None
        if expected != quoted and prediction.unknown is None:
            mine = None if log is None else [event for event in log if event.register == register]
            difference = _guess(events, quoted, others) if mine is None else _first(events, mine, others)
        why = "" if expected is not None else prediction.unknown or _missing(events)
        found.append(
            Comparison(register=f"rtmr{register}", expected=expected, quoted=quoted, why=why, difference=difference)
        )
    return tuple(found)


def _missing(events: tuple[Predicted, ...]) -> str:
    return next((f"{event.name}: {event.cause}" for event in events if event.digest is None), "")


def _compare_mr_td(prediction: Prediction, quoted: bytes, files: BootFiles) -> Comparison:
    difference = None
    if prediction.mr_td != quoted:
        two = Firmware.parse(files.firmware).mr_td(single_pass=False) == quoted
        cause = "a host that adds all pages of a section before it extends them" if two else "another firmware file"
        difference = Difference(event="firmware pages", number=0, expected=prediction.mr_td, got=quoted, cause=cause)
    return Comparison(register="mr_td", expected=prediction.mr_td, quoted=quoted, why="", difference=difference)


def _first(
    events: tuple[Predicted, ...], log: Sequence[LogEvent], others: tuple[_Alternative, ...]
) -> Difference | None:
    """Give the first event of a register's log that is not the predicted one."""
    for number in range(max(len(events), len(log))):
        want = events[number] if number < len(events) else None
        got = log[number] if number < len(log) else None
        if want is None or got is None:
            name = want.name if want is not None else f"{got.name if got is not None else ''}, beyond the last"
            cause = "another firmware, or a device with an option ROM" if want is None else "a log that is cut short"
            return Difference(
                event=name, number=number, expected=want.digest if want is not None else None,
                got=got.digest if got is not None else None, cause=cause,
            )  # fmt: skip
        if want.digest is None and want.type == got.type:
            continue
        if want.digest != got.digest:
            cause = _cause(want, got.digest, others)
            return Difference(event=want.name, number=number, expected=want.digest, got=got.digest, cause=cause)
    return None


def _cause(event: Predicted, got: bytes, others: tuple[_Alternative, ...]) -> str:
    return next((o.cause for o in others if (o.event, o.digest) == (event.name, got)), event.cause)


def _guess(events: tuple[Predicted, ...], quoted: bytes, others: tuple[_Alternative, ...]) -> Difference | None:
    """Without a log: name the one event whose alternative makes the register come out as quoted."""
    for number, event in enumerate(events):
        for other in others:
            if other.event != event.name:
                continue
            changed = (*events[:number], replace(event, digest=other.digest), *events[number + 1 :])
            if extended(changed) == quoted:
                return Difference(
                    event=event.name, number=number, expected=event.digest, got=other.digest, cause=other.cause
                )
    return None


def _alternatives(files: BootFiles, shape: Shape) -> Iterator[_Alternative]:
    """List the differences that hosts are known to make; those that this image could not have are left out."""
    layout = layout_of(files.firmware)
    if layout is None:
        return
    form = efi.load_options(files.cmdline, initrd_first=not layout.initrd_first)
    side = "a firmware release that names the initrd on the other side of the command line"
    yield _Alternative(event="command line", digest=sha384(form).digest(), cause=side)
    shipped = "a QEMU release that serves the kernel as shipped"
    yield _Alternative(event="kernel", digest=authenticode(files.kernel), cause=shipped)
    with suppress(Malformed):  # an image that older releases could not load
        by_qemu = authenticode(patched(files.kernel, initrd_size=len(files.initrd), memory=shape.memory))
        yield _Alternative(event="kernel", digest=by_qemu, cause="a QEMU release that patches the kernel's header")
    firmware = Firmware.parse(files.firmware)
    for gib in range(1, GUESSED_GIB + 1):
        with suppress(Malformed):  # less memory than the firmware itself asks for
            cause = f"{gib} GiB of memory in place of {shape.memory_mib} MiB"
            yield _Alternative(event="TD HOB", digest=td_hob_digest(firmware, gib * _GIB), cause=cause)
