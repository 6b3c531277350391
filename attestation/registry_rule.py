# SPDX-License-Identifier: Apache-2.0
"""A policy's registry: what its proved state must say about an enclave. No proof counts as revoked (docs/policy.md).

That the state is the registry's at a block of the chain was verified before (attestation/ton/reading.py); this is
acceptance. A registration asserts nothing about attestation, so none is asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from .boot import BootMap
from .findings import Finding, clause
from .policy import RegistryRule
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
        got = "no proof" if proof is None else f"a proof of {proof.address}"
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
