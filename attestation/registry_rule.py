# SPDX-License-Identifier: Apache-2.0
"""A policy's registry: what its proved state must say about an enclave. No proof counts as revoked (docs/policy.md).

That the state is the registry's at a block of the chain was verified before (attestation/ton/reading.py); this is
acceptance. A registration asserts nothing about attestation, so none is asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256

from .boot import BootMap
from .errors import AttestationError
from .findings import Finding, Waived, clause, waiver
from .image import ImageManifest
from .policy import RegistryRule
from .tdx.quote import TdReport
from .ton.registry import Address, Listing, RegistryState


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryProof:
    """A registry's whole proved state at a block made at `gen_utime` (unix seconds, by its validators' clocks)."""

    address: Address
    state: RegistryState
    gen_utime: int


def appraise_registry(
    rule: RegistryRule, proof: RegistryProof | None, boot: BootMap, *, now: datetime
) -> list[Finding]:
    """Appraise a boot under `rule`: its image and models listed and in time, nothing of it revoked."""
    if proof is None or str(proof.address) != rule.address:
        got = (
            "no proof of it (offline, appraise under a policy that lists images)"
            if proof is None
            else f"a proof of {proof.address}"
        )
        return [clause("registry", "RegistryRejected", holds=False, want=rule.address, got=got)]
    state, at = proof.state, int(now.timestamp())
    age = at - proof.gen_utime
    findings = [
        clause("registry", "RegistryRejected", holds=True, want=rule.address, got="proved"),
        clause(
            "registry.age", "RegistryStale", holds=age <= rule.max_staleness, want=f"at most {rule.max_staleness} s",
            got=f"{age} s",
        ),
        _listed("registry.image", state.images, boot.image_id, at),
        _not_revoked("registry.image.revoked", state.revoked_images, boot.image_id),
        _not_revoked("registry.key.revoked", state.revoked_keys, boot.receipt_key),
    ]  # fmt: skip
    findings += [_listed(f"registry.models.{m.name}", state.models, m.weights, at) for m in boot.models]
    return findings


def appraise_listed_image(report: TdReport, image_id: bytes, manifest: bytes) -> list[Finding]:
    """Appraise a quote's registers by the manifest of an image that a registry lists: the id is the manifest's hash."""
    digest = sha256(manifest).digest()
    if digest != image_id:
        want = f"the manifest of image {image_id.hex()}"
        return [clause("image.manifest", "ImageIdMismatch", holds=False, want=want, got=digest.hex())]
    try:
        measured = ImageManifest.parse(manifest).measurements
    except AttestationError as e:
        return [clause("image.manifest", "ImageUnknown", holds=False, want="a manifest that can be read", got=e.code)]
    found = (report.mr_td, report.rtmr[1], report.rtmr[2])
    shapes = [m for m in measured if (m.mr_td, m.rtmr1, m.rtmr2) == found]
    names = ", ".join(m.shape_name for m in measured)
    got = f"MRTD {report.mr_td.hex()[:16]}..."
    findings = [
        clause("image.manifest", "ImageIdMismatch", holds=True, want=image_id.hex(), got=digest.hex()),
        clause("image.measurements", "ImageUnknown", holds=bool(shapes), want=f"one of {names}", got=got),
    ]
    rtmr0 = [m.rtmr0 for m in shapes]
    if None in rtmr0:
        why = Waived("the manifest has no ACPI digests of the shape: RTMR0 cannot be computed")
        findings.append(waiver("image.rtmr0", why, got=report.rtmr[0].hex()))
    else:
        wants = ", ".join(value.hex() for value in rtmr0 if value is not None)
        holds = report.rtmr[0] in rtmr0
        findings.append(clause("image.rtmr0", "MeasurementMismatch", holds=holds, want=wants, got=report.rtmr[0].hex()))
    return findings


def _listed(rule: str, listed: dict[bytes, Listing], digest: bytes, at: int) -> Finding:
    found = listed.get(digest)
    if found is None:
        return clause(rule, "RegistryRejected", holds=False, want=f"{digest.hex()} listed", got="not on the list")
    want = f"listed beyond {at}"
    return clause(rule, "RegistryRejected", holds=at < found.not_after, want=want, got=f"until {found.not_after}")


def _not_revoked(rule: str, revoked: dict[bytes, int], digest: bytes) -> Finding:
    since = revoked.get(digest)
    got = "not revoked" if since is None else f"revoked at {since}"
    return clause(rule, "RegistryRejected", holds=since is None, want="not revoked", got=got)
