# SPDX-License-Identifier: Apache-2.0
"""Gather a finished run into a dossier."""

from __future__ import annotations

from attestation.dossier import DisclosedSalts, Dossier

from .errors import UsageFault
from .exchange import Run


def dossier_of(run: Run, *, policy: bytes) -> Dossier:
    """Make the dossier of a run whose receipt was checked. It holds the prompt, the answer and the salts; no key."""
    if run.receipt is None or run.witness is None or run.sealed is None:
        raise RuntimeError("only a finished run has a dossier")
    salts = run.sealed.schedule.salts
    return Dossier(
        evidence=run.attested.evidence,
        nonce=run.attested.nonce,
        sealed=run.sealed.wire,
        transcript_hash=run.witness.transcript_hash,
        request=run.witness.body.encode(),
        response=bytes(run.response_payload),
        salts=DisclosedSalts(request=salts.request, response=salts.response, tokens=salts.tokens),
        receipt=run.receipt.encode(),
        policy=policy,
        collateral=run.attested.collateral,
    )


def dossier_bytes(run: Run, *, policy: bytes) -> bytes:
    """Give a run's dossier as a file. Raises UsageFault for a run too long for one; its receipt holds all the same."""
    try:
        return dossier_of(run, policy=policy).encode()
    except ValueError as e:
        raise UsageFault(f"no dossier: {e}") from None
