# SPDX-License-Identifier: Apache-2.0
"""Tokens of the vendor's remote service beside GPU evidence: what they add, under keys that the caller gave."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from attestation.findings import Finding
from attestation.gpu.eat import MAX_TOKEN_BYTES, VerifiedEat, appraise_eat, parse_keys, verify_eat
from attestation.gpu.verify import VerifiedGpuSet

from .errors import UsageFault
from .output import read_file


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedToken:
    """A token that holds, and how far it agrees with what was verified here."""

    eat: VerifiedEat
    findings: tuple[Finding, ...]

    def to_json(self) -> dict[str, object]:
        """Give the documented JSON object."""
        return {
            "overall": self.eat.overall,
            "window": self.eat.window.to_json(),
            "devices": [
                {
                    "name": device.name,
                    "ueid": device.ueid,
                    "hwmodel": device.hwmodel,
                    "success": device.success,
                    "debug_disabled": device.debug_disabled,
                    "driver": device.driver_version or None,
                    "vbios": device.vbios_version or None,
                }
                for device in self.eat.devices
            ],
            "agrees": all(finding.holds for finding in self.findings),
        }


def judge_token(token: Path, keys: Path, verified: VerifiedGpuSet, *, now: datetime) -> JudgedToken:
    """Verify the token at `token` under the JWK set at `keys`, over the nonce that every device of `verified` signed.

    Raises UsageFault for files that cannot be read and devices of several nonces, and what `verify_eat` raises.
    """
    nonces = {device.nonce for device in verified.devices}
    if len(nonces) != 1:
        raise UsageFault("--eat speaks of one nonce, and these devices signed several")
    known = parse_keys(read_file(keys, limit=MAX_TOKEN_BYTES))
    eat = verify_eat(read_file(token, limit=MAX_TOKEN_BYTES), keys=known, nonce=nonces.pop(), now=now)
    return JudgedToken(eat=eat, findings=tuple(appraise_eat(eat, verified)))
