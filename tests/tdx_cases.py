# SPDX-License-Identifier: Apache-2.0
"""A simulated quote with its collateral, open to one change, and what both verifiers say of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from hashlib import sha256
from typing import Any

import dcap_qvl
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from attestation.tdx.anchor import SIMULATED_NAMES, TdxTrustAnchor
from attestation.tdx.collateral import Collateral
from attestation.tdx.verify import VerifiedQuote, verify_quote
from enclave.simulator.tdx_ca import LEAF, SimulatedCa, TdxIssuer, certify, intel_name, issue, new_key, pem_chain
from enclave.simulator.tdx_collateral import CollateralPlan
from enclave.simulator.tdx_platform import PlatformProfile, sgx_extension
from enclave.simulator.tdx_quote import QuotePlan, ReportPlan

NOW = datetime(2026, 10, 1, 12, tzinfo=UTC)
_BYTES = ("root_ca_crl", "pck_crl", "tcb_info_signature", "qe_identity_signature")
PLATFORM = PlatformProfile(ppid=bytes(range(16)), platform_instance_id=bytes(range(16, 32)))


@cache
def authority() -> SimulatedCa:
    """Give one authority for the whole run."""
    return SimulatedCa.make(now=NOW, platform=PLATFORM)


class Pick:
    """Choices that follow from a seed alone."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._count = 0

    def bytes(self, size: int) -> bytes:
        """Give `size` bytes."""
        out = b""
        while len(out) < size:
            self._count += 1
            out += sha256(f"{self._seed}/{self._count}".encode()).digest()
        return out[:size]

    def below(self, limit: int) -> int:
        """Give an integer from 0 to `limit` - 1."""
        return int.from_bytes(self.bytes(8), "big") % limit

    def of(self, *values: Any) -> Any:
        """Give one of `values`."""
        return values[self.below(len(values))]


@dataclass(kw_only=True)
class Case:
    """Everything that goes into one verification."""

    ca: SimulatedCa
    pick: Pick
    quote: QuotePlan
    collateral: CollateralPlan
    now: datetime = NOW
    root: TdxIssuer | None = None
    quote_after: list[Callable[[bytes], bytes]] = field(default_factory=list)
    document_after: list[Callable[[dict[str, str]], None]] = field(default_factory=list)
    text_after: list[Callable[[bytes], bytes]] = field(default_factory=list)
    signed: bytes = b""
    document: dict[str, str] = field(default_factory=dict)
    text: bytes = b""

    @classmethod
    def new(cls, seed: int = 0, *, version: int = 4) -> Case:
        """Give a case that holds: v4, or v5 with a TD 1.5 body."""
        ca, pick = authority(), Pick(seed)
        report = ReportPlan(report_data=pick.bytes(64), mr_td=pick.bytes(48))
        return cls(
            ca=ca,
            pick=pick,
            quote=QuotePlan.of(ca, report, version=version),
            collateral=CollateralPlan.of(ca, now=NOW),
        )

    def build(self) -> Case:
        """Sign everything as it stands."""
        self.signed = self.quote.sign()
        for change in self.quote_after:
            self.signed = change(self.signed)
        self.document = self.collateral.sign()
        for bend in self.document_after:
            bend(self.document)
        self.text = json.dumps(self.document).encode()
        for change in self.text_after:
            self.text = change(self.text)
        return self

    def ours(self) -> VerifiedQuote:
        """Verify with our code. Raises AttestationError."""
        anchor = TdxTrustAnchor(root_sha256=sha256(authority().root.der).digest(), names=SIMULATED_NAMES)
        return verify_quote(self.signed, Collateral.from_json(self.text), anchor=anchor, now=self.now)

    def theirs(self) -> Any:
        """Verify with the oracle. Raises whatever it raises."""
        fields = {k: bytes.fromhex(v) if k in _BYTES else v for k, v in json.loads(self.text).items()}
        collateral = dcap_qvl.QuoteCollateralV3(**fields)
        at = int(self.now.timestamp())
        return dcap_qvl.verify_with_root_ca(self.signed, collateral, authority().root.der, at)

    # ---- ways to change a case

    @property
    def levels(self) -> Any:
        """The platform's TCB levels."""
        return self.collateral.tcb_info["tcbLevels"]

    @property
    def module(self) -> Any:
        """The identity of module TDX_01."""
        found: Any = self.collateral.tcb_info["tdxModuleIdentities"]
        return found[0]

    @property
    def identity(self) -> Any:
        """The QE identity."""
        return self.collateral.qe_identity

    def flip(self, start: int, size: int) -> None:
        """Flip one bit of the signed quote, somewhere in `size` bytes from `start`."""
        at, bit = start + self.pick.below(size), self.pick.below(8)
        self.quote_after.append(lambda data: data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :])

    def set_bytes(self, at: int, value: bytes) -> None:
        """Overwrite bytes of the signed quote."""
        self.quote_after.append(lambda data: data[:at] + value + data[at + len(value) :])

    def chain(self, *issuers: TdxIssuer) -> None:
        """Give the quote another PCK chain."""
        self.quote.chain = pem_chain(*[issuer.certificate for issuer in issuers]) + b"\0"

    def pck(self, platform: PlatformProfile | None = None, **changes: Any) -> None:
        """Issue the PCK anew, with something changed, under the platform CA."""
        parent: TdxIssuer = changes.pop("parent", self.ca.platform_ca)
        extensions = changes.pop("extensions", (sgx_extension(platform or PLATFORM),))
        key = changes.pop("key", None) or new_key()
        leaf = certificate(
            changes.pop("name", "Intel SGX PCK Certificate"), key, parent, extensions=extensions, **changes
        )
        self.quote.pck_key = key
        self.chain(leaf, parent, self.ca.root)

    def bits(self, number: int) -> None:
        """Set the TD attributes."""
        self.quote.report.td_attributes = number.to_bytes(8, "little")


def certificate(name: str, key: Any, parent: TdxIssuer, **changes: Any) -> TdxIssuer:
    """Issue a certificate, any field changed."""
    subject = changes.pop("subject", None) or intel_name(name)
    fields: dict[str, Any] = {
        "issuer": parent.certificate.subject,
        "key": parent.key,
        "usage": LEAF,
        "ca": False,
        "path_length": None,
        "window": window(),
    }
    made = certify(subject, key.public_key(), **(fields | changes))
    return TdxIssuer(key=key, certificate=made)


def window(begins: float = -1, ends: float = 30) -> tuple[datetime, datetime]:
    """Give a window in days from now."""
    return NOW + timedelta(days=begins), NOW + timedelta(days=ends)


def other_world() -> SimulatedCa:
    """Give an authority with the same names and other keys."""
    return _other_world()


@cache
def _other_world() -> SimulatedCa:
    return SimulatedCa.make(now=NOW, platform=PLATFORM)


@cache
def reissued_root() -> TdxIssuer:
    """Give the root's key in another certificate."""
    root = authority().root
    made = certify(
        root.certificate.subject,
        root.key.public_key(),
        issuer=root.certificate.subject,
        key=root.key,
        usage=("key_cert_sign", "crl_sign"),
        ca=True,
        path_length=1,
        window=window(-2, 40),
    )
    return TdxIssuer(key=root.key, certificate=made)


def signer(name: str = "Intel SGX TCB Signing", parent: TdxIssuer | None = None) -> TdxIssuer:
    """Issue another TCB signer."""
    return issue(parent or authority().root, name, ca=False, window=window())


def use_signer(case: Case, made: TdxIssuer, *middle: x509.Certificate) -> None:
    """Let `made` sign both documents."""
    plan = case.collateral
    plan.tcb_signer = plan.qe_signer = made
    plan.tcb_chain = plan.qe_chain = (made.certificate, *middle, case.ca.root.certificate)


def p384_key() -> ec.EllipticCurvePrivateKey:
    """Make a key of a curve that does not belong here."""
    return ec.generate_private_key(ec.SECP384R1())
