# SPDX-License-Identifier: Apache-2.0
"""The boot gate of GPUs: the enclave verifies its own devices, under its release's roots, before any key exists."""

from __future__ import annotations

from collections.abc import Sequence

from attestation.errors import AttestationError
from attestation.gpu.anchor import GpuTrustAnchor
from attestation.gpu.appraise import GpuPolicy, appraise_gpus
from attestation.gpu.evidence import NONCE_EPOCH, GpuDeviceEvidence, GpuEndorsementSet
from attestation.gpu.opaque import GpuMode
from attestation.gpu.verify import verify_set

from .attester import GpuJudge
from .seams import Clock, GpuEndorsements, GpuReport, GpuUnavailable
from .times import utc


def gate_judge(anchor: GpuTrustAnchor, *, count: int, clock: Clock) -> GpuJudge:
    """Give the judge of the boot gate: the strict policy for `count` GPUs in any confidential mode.

    A CRL will do where there is no OCSP response: a client whose policy asks for more refuses that evidence itself.
    """
    section = GpuPolicy.strict_template() | {"fresh": "epoch", "count": count, "revocation": "either"}
    section["modes"] = [str(mode) for mode in GpuMode]
    policy = GpuPolicy.parse(section, "gate")

    def judge(devices: Sequence[GpuDeviceEvidence], endorsements: GpuEndorsementSet, nonce: bytes) -> None:
        now = utc(clock)
        try:
            verified = verify_set(tuple(devices), endorsements, nonce=nonce, anchor=anchor, now=now)
        except AttestationError as e:
            raise GpuUnavailable(f"the boot gate refuses the GPUs: {e}") from None
        for finding in appraise_gpus(verified, policy, nonce_kind=NONCE_EPOCH, now=now):
            if not finding.holds:
                what = f"{finding.code}: {finding.rule}: want {finding.want}, got {finding.got}"
                raise GpuUnavailable(f"the boot gate refuses the GPUs: {what}")

    return judge


class NoGpus:
    """The GPU seam of a machine without GPUs."""

    def collect(self, nonce: bytes) -> tuple[GpuReport, ...]:  # noqa: ARG002 - the seam's
        """Give no report."""
        return ()

    def endorsements(self, reports: Sequence[GpuReport]) -> GpuEndorsements:  # noqa: ARG002 - the seam's
        """Give none."""
        return GpuEndorsements()

    def ready(self) -> None:
        """Do nothing."""
