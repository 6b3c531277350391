# SPDX-License-Identifier: Apache-2.0
"""Dial, challenge, verify, compare the live key: yields an `Attested` connection or raises.

No byte of a prompt exists in this module. Whoever wants to send one needs an `Attested`; there is one way to get it.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from hashlib import sha256
from typing import Final

from attestation import cbor
from attestation.appraise import appraise
from attestation.binding import NONCE_SIZE
from attestation.boot import PROFILE
from attestation.errors import Refused, Untrusted
from attestation.evidence import MAX_EVIDENCE, Evidence
from attestation.findings import Waived
from attestation.liveness import EXPORTER_LABEL, EXPORTER_SIZE, SignedLiveness
from attestation.policy import ChannelMode, Policy
from attestation.ratls import PeerCertificate, read_certificate, require_peer_key
from attestation.registry_rule import RegistryProof
from attestation.verdict import Verdict
from attestation.verify import Verified, verify_evidence

from .connection import TLS_GROUP, Connection
from .endorsements import CollateralSource, collateral_source
from .errors import Unreachable
from .target import Target, parse_target

ATTEST_PATH = "/v1/sericin/attest"
LIVE_PATH = "/v1/sericin/live"
TIMEOUT: Final = 60.0  # seconds of silence from the server
Now = Callable[[], datetime]


@dataclass(frozen=True, slots=True, kw_only=True)
class Attested:
    """An open connection to an enclave that was verified and accepted, and what was verified."""

    connection: Connection
    target: Target
    policy: Policy
    verified: Verified
    verdict: Verdict
    evidence: bytes
    nonce: bytes
    collateral: bytes | None  # fetched for evidence that staples none

    @property
    def evidence_digest(self) -> bytes:
        """SHA-256 of the evidence as it came, then of what was fetched for it: 32 bytes, key 12 of the body."""
        return sha256(self.evidence + (self.collateral or b"")).digest()

    def fresh(self, now: datetime) -> bool:
        """Whether the epoch and every window the answer rests on still hold."""
        return self.verified.window.holds(now)


def connector(
    target: str,
    policy: Policy,
    *,
    now: Now,
    allow_unconfidential: bool,
    pccs: str | None,
    timeout: float = TIMEOUT,
) -> Callable[[], Attested]:
    """Give what connects to `target` and verifies it under `policy`, anew at each call. Dials nothing yet.

    Where the enclave staples no collateral, it is fetched from Intel, or from the caching service at `pccs` (https).
    Raises UsageFault for a target or an address that is none; what it gives raises what `attest` raises.
    """
    source = collateral_source(pccs, anchor=policy.roots.tdx, now=now)
    return partial(
        attest,
        parse_target(target),
        policy,
        now=now,
        allow_unconfidential=allow_unconfidential,
        timeout=timeout,
        collateral_for=source,
    )


def attest(
    target: Target,
    policy: Policy,
    *,
    now: Now,
    allow_unconfidential: bool,
    timeout: float,
    collateral_for: CollateralSource | None = None,
) -> Attested:
    """Connect to `target` and verify it under `policy`. Raises AttestationError or Unreachable, and closes then.

    `collateral_for` fetches endorsements for a quote when the evidence staples none.
    """
    if policy.channel.mode is ChannelMode.RA_TLS and not target.tls:
        raise Refused("ChannelNotAllowed", "channel.mode", want="ra-tls", got=f"{target.scheme}: sealed only")
    connection = Connection(target, timeout=timeout)
    try:
        peer = _peer(connection, policy)
        nonce = secrets.token_bytes(NONCE_SIZE)
        data = _challenge(connection, policy, nonce)
        at = now()
        came = Evidence.decode(data)
        collateral = None if came.collateral or collateral_for is None else collateral_for(came.quote)
        verified = verify_evidence(
            data, nonce=nonce, collateral=collateral, roots=policy.roots, time=policy.time, now=at
        )
        if peer is not None and (policy.channel.mode is ChannelMode.RA_TLS or peer.quote is not None):
            require_peer_key(peer.spki, verified.claims.pubkey_hash)
        if policy.channel.strict:
            _require_live(connection, verified)
        verdict = appraise(verified, policy, now=at, registry=_registry(policy, at))
        verdict.require(allow_unconfidential=allow_unconfidential)
    except BaseException:
        connection.close()
        raise
    return Attested(
        connection=connection,
        target=target,
        policy=policy,
        verified=verified,
        verdict=verdict,
        evidence=data,
        nonce=nonce,
        collateral=collateral,
    )


def _registry(policy: Policy, at: datetime) -> RegistryProof | None:
    if isinstance(policy.registry, Waived):
        return None
    from .ton.policy_registry import prove_registry  # noqa: PLC0415 - TON's transport only for who asks for it

    return prove_registry(policy, now=at)


def _peer(connection: Connection, policy: Policy) -> PeerCertificate | None:
    der = connection.peer_certificate()
    if der is None:
        if connection.target.tls:
            raise Untrusted("ChannelNotBound", "peer.certificate", want="a certificate", got="none")
        return None
    if policy.channel.strict and connection.key_exchange_group() != TLS_GROUP:
        got = connection.key_exchange_group()
        raise Refused("ChannelNotAllowed", "channel.strict", want=TLS_GROUP, got=got)
    return read_certificate(der)


def _challenge(connection: Connection, policy: Policy, nonce: bytes) -> bytes:
    fresh = "epoch" if isinstance(policy.gpu, Waived) else str(policy.gpu.fresh)
    body = cbor.encode({1: [PROFILE], 2: nonce, 3: fresh})
    reply = connection.request("POST", ATTEST_PATH, body=body)
    data = reply.read(MAX_EVIDENCE)
    if reply.status != 200:
        raise Unreachable(f"{connection.target}: no evidence (status {reply.status})")
    return data


def _require_live(connection: Connection, verified: Verified) -> None:
    nonce = secrets.token_bytes(NONCE_SIZE)
    exporter = connection.exporter(EXPORTER_LABEL, nonce, EXPORTER_SIZE)
    if exporter is None:
        raise Refused("ChannelNotAllowed", "channel.strict", want="TLS with an exporter", got="none")
    reply = connection.request("POST", LIVE_PATH, body=cbor.encode({1: nonce}))
    data = reply.read(1024)
    if reply.status != 200:
        raise Unreachable(f"{connection.target}: no liveness proof (status {reply.status})")
    SignedLiveness.decode(data).verify(
        verified.boot.identity_key, nonce=nonce, keyset_digest=verified.claims.keyset_digest, exporter=exporter
    )
