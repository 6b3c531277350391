# SPDX-License-Identifier: Apache-2.0
"""An appraisal as an EAT Attestation Result (EAR) with an AR4SI trustworthiness vector; unsigned JSON."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from attestation.tdx.tcbinfo import TcbStatus
from attestation.tdx.verify import VerifiedQuote
from attestation.window import rfc3339

PROFILE: Final = "tag:github.com,2023:veraison/ear"
AFFIRMING: Final = 2
WARNING: Final = 32
CONTRAINDICATED: Final = 96
NO_CLAIM: Final = 0
_STATUS: Final = {AFFIRMING: "affirming", WARNING: "warning", CONTRAINDICATED: "contraindicated", NO_CLAIM: "none"}


def ear(
    verified: VerifiedQuote, *, accepted: bool | None, policy: tuple[str, bytes] | None, now: datetime, version: str
) -> dict[str, object]:
    """Give the result as EAR. `accepted` is None without a policy: then nothing but the hardware has a claim.

    `policy` is its name and SHA-256 (32 bytes).
    """
    hardware = AFFIRMING if verified.tcb.status is TcbStatus.UP_TO_DATE else WARNING
    executables = NO_CLAIM if accepted is None else AFFIRMING if accepted else CONTRAINDICATED
    if accepted is False:
        hardware = CONTRAINDICATED
    overall = max(hardware, executables) if accepted is not None else NO_CLAIM
    appraisal: dict[str, object] = {
        "ear.status": _STATUS[overall],
        "ear.trustworthiness-vector": {
            "instance-identity": AFFIRMING,
            "configuration": executables,
            "executables": executables,
            "hardware": hardware,
            "runtime-opaque": AFFIRMING,
        },
        "sericin.tdx": {
            "tcb-status": str(verified.tcb.status),
            "tcb-date": rfc3339(verified.tcb.date),
            "advisory-ids": list(verified.tcb.advisories),
            "tcb-evaluation-data-number": verified.tcb.evaluation_data_number,
            "earliest-expiration": rfc3339(verified.window.not_after),
            "evidence-sha256": verified.quote_digest.hex(),
            "root-sha256": verified.root_sha256.hex(),
        },
    }
    if policy is not None:
        appraisal["ear.appraisal-policy-id"] = f"{policy[0]}#sha256:{policy[1].hex()}"
    return {
        "eat_profile": PROFILE,
        "iat": int(now.timestamp()),
        "ear.verifier-id": {"developer": "sericin", "build": version},
        "submods": {"tdx": appraisal},
    }
