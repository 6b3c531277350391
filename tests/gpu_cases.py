# SPDX-License-Identifier: Apache-2.0
"""Simulated GPU evidence, open to one change: report, chain, reference values, OCSP."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from hashlib import sha256
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from attestation.findings import Finding
from attestation.gpu.anchor import GpuTrustAnchor
from attestation.gpu.appraise import GpuPolicy, appraise_gpus
from attestation.gpu.evidence import NONCE_CLIENT, GpuDeviceEvidence, GpuEndorsementSet
from attestation.gpu.verify import VerifiedGpuSet, verify_set
from enclave.simulator.gpu_authority import GpuAuthority, spki
from enclave.simulator.gpu_device import SimulatedDevice, make_machine, make_rims
from enclave.simulator.gpu_ocsp import SimulatedOcsp
from enclave.simulator.gpu_report import ReportFields, encode_report, sign_raw

NOW = datetime(2026, 10, 1, 12, tzinfo=UTC)
NONCE = bytes(range(32))
CC_STATE = {"cc_feature": 1, "dev_tools": 0, "environment": 2, "multi_gpu_mode": 0, "ready": 1}


@cache
def authority() -> GpuAuthority:
    """Give one authority for the whole run."""
    return GpuAuthority.make(now=NOW)


@cache
def other_authority() -> GpuAuthority:
    """Give another one, with the same names."""
    return GpuAuthority.make(now=NOW)


@cache
def machine(mode: str, count: int) -> tuple[SimulatedDevice, ...]:
    """Give the devices of one machine."""
    return make_machine(authority(), mode=mode, count=count)


@cache
def rims(*products: str) -> tuple[bytes, ...]:
    """Give the reference values of products."""
    return make_rims(authority(), products)


@cache
def ocsp_responses(mode: str, count: int) -> tuple[bytes, ...]:
    """Give answers about every certificate of a machine and of the reference values."""
    responder = SimulatedOcsp(authority().issuers.values())
    chains: list[Sequence[x509.Certificate]] = [device.chain[1:] for device in machine(mode, count)]
    chains.append(authority().chain("rim-signer", "rim-l3", "rim-ca"))
    return responder.about(chains, now=NOW)


def anchor() -> GpuTrustAnchor:
    """Give the anchor of the authority."""
    roots = [authority().device_root, authority().rim_root]
    digests = [sha256(spki(root.key.public_key())).digest() for root in roots]
    return GpuTrustAnchor.of_simulator(device_root_spki=frozenset(digests[:1]), rim_root_spki=frozenset(digests[1:]))


def pem(certificates: Sequence[x509.Certificate]) -> bytes:
    """Give certificates as PEM."""
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates)


@dataclass(kw_only=True)
class GpuCase:
    """One machine's evidence. `fields` bends what a device signs, `after` what was signed."""

    mode: str = "spt"
    count: int = 1
    fields: Callable[[ReportFields], ReportFields] = lambda f: f
    after: Callable[[bytes], bytes] = lambda data: data
    chain: Callable[[SimulatedDevice], bytes] = lambda device: device.pem
    signature: Callable[[bytes], bytes] = lambda data: data
    rims: tuple[bytes, ...] | None = None
    ocsp: tuple[bytes, ...] | None = None
    crls: tuple[bytes, ...] = ()
    cc_state: dict[str, int] = field(default_factory=lambda: dict(CC_STATE))
    nonce: bytes = NONCE
    kind: str | None = None
    now: datetime = NOW
    devices: Callable[[list[GpuDeviceEvidence]], list[GpuDeviceEvidence]] = lambda devices: devices

    def evidence(self) -> list[GpuDeviceEvidence]:
        """Sign everything as it stands."""
        found = []
        for device in machine(self.mode, self.count):
            signed = encode_report(self.fields(device.fields(self.nonce)))
            report = self.after(signed + self.signature(sign_raw(device.leaf.key, signed)))
            state = dict(self.cc_state)
            kind = self.kind or device.kind
            found.append(GpuDeviceEvidence(kind=kind, report=report, chain=self.chain(device), cc_state=state))
        return self.devices(found)

    def verified(self) -> VerifiedGpuSet:
        """Verify. Raises AttestationError."""
        products = sorted({device.product for device in machine(self.mode, self.count)})
        endorsements = GpuEndorsementSet(
            rims=rims(*products) if self.rims is None else self.rims,
            ocsp=ocsp_responses(self.mode, self.count) if self.ocsp is None else self.ocsp,
            crls=self.crls,
        )
        return verify_set(self.evidence(), endorsements, nonce=NONCE, anchor=anchor(), now=self.now)

    def findings(self, **changes: Any) -> list[Finding]:
        """Verify and appraise under the strict policy with some clauses changed."""
        policy = GpuPolicy.parse(GpuPolicy.strict_template() | changes, "gpu")
        return appraise_gpus(self.verified(), policy, nonce_kind=NONCE_CLIENT, now=self.now)


def but(**changes: Any) -> Callable[[ReportFields], ReportFields]:
    """Change fields of a report before it is signed."""
    return lambda fields: replace(fields, **changes)


def measurement(index: int, value: bytes) -> Callable[[ReportFields], ReportFields]:
    """Report another measurement."""

    def change(fields: ReportFields) -> ReportFields:
        values = list(fields.measurements)
        values[index] = value
        return replace(fields, measurements=tuple(values))

    return change


def opaque(
    change: Callable[[list[tuple[int, bytes]]], list[tuple[int, bytes]]],
) -> Callable[[ReportFields], ReportFields]:
    """Report other opaque data."""
    return lambda fields: replace(fields, opaque=tuple(change(list(fields.opaque))))


def without(kind: int) -> Callable[[ReportFields], ReportFields]:
    """Leave one opaque field out."""
    return opaque(lambda found: [(number, value) for number, value in found if number != kind])


def given(kind: int, value: bytes) -> Callable[[ReportFields], ReportFields]:
    """Give one opaque field another value."""
    return opaque(lambda found: [(number, value if number == kind else old) for number, old in found])


DAY = timedelta(days=1)
