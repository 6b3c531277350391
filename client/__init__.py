# SPDX-License-Identifier: Apache-2.0
"""What does a person outside do? This is the room's door: what a Python program uses (docs/python.md)."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .attested import Attested
    from .clock import wall_clock
    from .errors import ClientError, Declined, RunOutcomeUnknown, Unreachable, UsageFault
    from .remote import RemoteEnclave, Reply
    from .transport import BASE_URL, AsyncSealedTransport, SealedTransport

_HOME = {
    "Attested": "attested",
    "wall_clock": "clock",
    "ClientError": "errors",
    "Declined": "errors",
    "RunOutcomeUnknown": "errors",
    "Unreachable": "errors",
    "UsageFault": "errors",
    "RemoteEnclave": "remote",
    "Reply": "remote",
    "BASE_URL": "transport",
    "AsyncSealedTransport": "transport",
    "SealedTransport": "transport",
}
__all__ = [
    "BASE_URL",
    "AsyncSealedTransport",
    "Attested",
    "ClientError",
    "Declined",
    "RemoteEnclave",
    "Reply",
    "RunOutcomeUnknown",
    "SealedTransport",
    "Unreachable",
    "UsageFault",
    "wall_clock",
]


def __getattr__(name: str) -> object:
    """Load a name when it is asked for: a command that uses one part does not load them all."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)
