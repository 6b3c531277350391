# SPDX-License-Identifier: Apache-2.0
"""What is claimed by an enclave, and is it true? Pure: no I/O, no clock, no randomness of its own.

This is the room's door: what a Python program uses (docs/python.md).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .dossier import Dossier
    from .errors import AttestationError, Malformed, PolicyInvalid, Refused, Untrusted
    from .evidence import Evidence
    from .findings import Finding
    from .policy import Policy
    from .receipt import Receipt, SignedReceipt
    from .verdict import Verdict
    from .verify import Verified, verify_evidence

_HOME = {
    "Dossier": "dossier",
    "AttestationError": "errors",
    "Malformed": "errors",
    "PolicyInvalid": "errors",
    "Refused": "errors",
    "Untrusted": "errors",
    "Evidence": "evidence",
    "Finding": "findings",
    "Policy": "policy",
    "Receipt": "receipt",
    "SignedReceipt": "receipt",
    "Verdict": "verdict",
    "Verified": "verify",
    "verify_evidence": "verify",
}
__all__ = [
    "AttestationError",
    "Dossier",
    "Evidence",
    "Finding",
    "Malformed",
    "Policy",
    "PolicyInvalid",
    "Receipt",
    "Refused",
    "SignedReceipt",
    "Untrusted",
    "Verdict",
    "Verified",
    "verify_evidence",
]


def __getattr__(name: str) -> object:
    """Load a name when it is asked for: reading one format does not load the parsers of all."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)
