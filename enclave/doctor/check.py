# SPDX-License-Identifier: Apache-2.0
"""One check: what is wanted, how it is looked at, how it is mended; and what came of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from ..image.devices import OUTLETS, Outlet
from .host import Host, Unseen, plain


class Status(StrEnum):
    """What came of a check."""

    OK = "ok"
    FAILS = "fails"
    UNSEEN = "unseen"  # could not be looked at, so it does not hold
    NOT_NEEDED = "not needed"


QUOTE_PORT: Final = 4050  # vsock port of Intel's quote service, as its packages set it


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What this host is to launch. Without a shape the checks ask for the least that any enclave needs."""

    qemu: str = "qemu-system-x86_64"
    release: tuple[int, int] | None = None  # of QEMU, exactly; None: any that knows TDX
    memory: int = 4 << 30  # bytes
    phys_bits: int | None = None  # width of the shape's addresses; None: no shape
    gpus: tuple[str, ...] | None = None  # PCI addresses of the shape's GPUs; None: whatever the host has
    quote_socket: str | None = None  # path of the quote service's unix socket; None: a vsock port
    quote_port: int = QUOTE_PORT
    outlets: tuple[Outlet, ...] = OUTLETS  # services that a guest with GPUs must reach through this host
    firmware: tuple[str, bytes] | None = None  # file of the image, SHA-256 that its manifest names


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one look gave. `mend` overrides the check's own advice."""

    status: Status
    found: str
    mend: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """A named check."""

    name: str  # stable: group.word
    want: str
    mend: str
    look: Callable[[Host, Wanted], Outcome]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A check with its outcome."""

    name: str
    status: Status
    want: str
    found: str
    mend: str  # empty where nothing is to be mended

    @property
    def holds(self) -> bool:
        """Say whether it stands in nobody's way."""
        return self.status in _GOOD

    def to_json(self) -> dict[str, str]:
        """Give the documented JSON object."""
        return {
            "name": self.name,
            "status": self.status.value,
            "want": self.want,
            "found": self.found,
            "mend": self.mend,
        }


_GOOD: Final = frozenset({Status.OK, Status.NOT_NEEDED})


def holds(found: str) -> Outcome:
    """Give the outcome of a check that holds."""
    return Outcome(status=Status.OK, found=found)


def fails(found: str, mend: str | None = None) -> Outcome:
    """Give the outcome of a check that fails."""
    return Outcome(status=Status.FAILS, found=found, mend=mend)


def decides(found: str, *, good: bool, mend: str | None = None) -> Outcome:
    """Give the outcome that `good` decides."""
    return holds(found) if good else fails(found, mend)


def not_needed(found: str) -> Outcome:
    """Give the outcome of a check that asks nothing of this host."""
    return Outcome(status=Status.NOT_NEEDED, found=found)


def examine(checks: Iterable[Check], host: Host, wanted: Wanted) -> list[Finding]:
    """Run every check, each on its own: what one cannot see keeps no other from looking."""
    return [_finding(check, host, wanted) for check in checks]


def _finding(check: Check, host: Host, wanted: Wanted) -> Finding:
    try:
        outcome = check.look(host, wanted)
    except Unseen as e:
        outcome = Outcome(status=Status.UNSEEN, found=str(e), mend=e.mend)
    mend = "" if outcome.status in _GOOD else (outcome.mend or check.mend)
    return Finding(name=check.name, status=outcome.status, want=check.want, found=plain(outcome.found), mend=mend)
