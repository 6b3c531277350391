# SPDX-License-Identifier: Apache-2.0
"""The verdict: every finding, computed confidentiality, and one way to act on it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import NoReturn

from .errors import Refused, error_for
from .findings import Finding
from .window import Window, rfc3339


@dataclass(frozen=True, slots=True, kw_only=True)
class Root:
    """A root that was actually used, and whether it is one of those compiled into this release."""

    role: str  # "tdx", "gpu-device", "gpu-rim"
    sha256: bytes  # 32: of the certificate (tdx) or of the SubjectPublicKeyInfo (gpu)
    compiled_in: bool

    def to_json(self) -> dict[str, object]:
        """Give the root as the documented JSON object."""
        return {"role": self.role, "sha256": self.sha256.hex(), "compiled_in": self.compiled_in}


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What an appraisal came to. It is no boolean: ask `accepted`, or call `require()`."""

    findings: tuple[Finding, ...]
    roots: tuple[Root, ...]
    evidence_sha256: bytes
    policy_sha256: bytes
    policy_name: str
    at: datetime
    window: Window

    def __bool__(self) -> NoReturn:
        """Refuse to be a truth value by accident."""
        raise TypeError("ask .accepted, or call .require()")

    @property
    def accepted(self) -> bool:
        """Whether every finding holds. No findings means no."""
        return bool(self.findings) and all(f.holds for f in self.findings)

    @property
    def confidential(self) -> bool:
        """Whether every root used is compiled into this release: computed, never declared."""
        return bool(self.roots) and all(root.compiled_in for root in self.roots)

    def require(self, *, allow_unconfidential: bool = False) -> None:
        """Raise Refused, carrying this verdict, unless accepted and confidential.

        `allow_unconfidential` lets a simulated machine through; nothing else changes.
        """
        for finding in self.findings:
            if not finding.holds:
                error = error_for(finding.code, finding.rule, want=finding.want, got=finding.got)
                if isinstance(error, Refused):
                    error.verdict = self
                raise error
        if not self.accepted:
            self._refuse("PolicyRejected", "verdict", want="at least one finding", got="none")
        if not self.confidential and not allow_unconfidential:
            self._refuse("Unconfidential", "verdict.roots", want="roots of this release", got="a simulated root")

    def _refuse(self, code: str, where: str, *, want: str, got: str) -> NoReturn:
        error = Refused(code, where, want=want, got=got)
        error.verdict = self
        raise error

    def to_json(self) -> dict[str, object]:
        """Give the verdict as the documented JSON object (docs/policy.md)."""
        return {
            "accepted": self.accepted,
            "confidential": self.confidential,
            "roots": [root.to_json() for root in self.roots],
            "policy": {"name": self.policy_name, "sha256": self.policy_sha256.hex()},
            "evidence_sha256": self.evidence_sha256.hex(),
            "at": rfc3339(self.at),
            "window": self.window.to_json(),
            "findings": [finding.to_json() for finding in self.findings],
        }
