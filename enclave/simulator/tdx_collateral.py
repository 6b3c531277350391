# SPDX-License-Identifier: Apache-2.0
"""Collateral shaped like Intel's for a simulated platform: every field open to change, then signed as it stands."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

from .tdx_ca import SimulatedCa, TdxIssuer, pem_chain, sign_raw
from .tdx_platform import FMSPC
from .tdx_quote import QE_MR_SIGNER, TEE_TCB_SVN

EVALUATION_NUMBER = 18
LIFETIME = timedelta(days=7)


@dataclass(kw_only=True)
class CrlPlan:
    """One CRL before it is signed."""

    issuer: TdxIssuer
    last_update: datetime
    next_update: datetime
    revoked: list[int] = field(default_factory=list)
    extensions: list[tuple[x509.ExtensionType, bool]] = field(default_factory=list)

    def sign(self) -> bytes:
        """Give the CRL as DER."""
        name = self.issuer.certificate.subject
        authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.issuer.key.public_key())
        builder = x509.CertificateRevocationListBuilder(name, self.last_update, self.next_update)
        builder = builder.add_extension(x509.CRLNumber(1), critical=False).add_extension(authority, critical=False)
        for extension, critical in self.extensions:
            builder = builder.add_extension(extension, critical=critical)
        for serial in self.revoked:
            entry = x509.RevokedCertificateBuilder(serial, self.last_update).build()
            builder = builder.add_revoked_certificate(entry)
        return builder.sign(self.issuer.key, SHA256()).public_bytes(Encoding.DER)


@dataclass(kw_only=True)
class CollateralPlan:
    """Everything that goes into collateral, before it is signed."""

    tcb_info: dict[str, object]
    qe_identity: dict[str, object]
    tcb_signer: TdxIssuer
    qe_signer: TdxIssuer
    tcb_chain: Sequence[x509.Certificate]
    qe_chain: Sequence[x509.Certificate]
    pck_crl_chain: Sequence[x509.Certificate]
    root_crl: CrlPlan
    pck_crl: CrlPlan

    @classmethod
    def of(cls, ca: SimulatedCa, *, now: datetime, processor: bool = False) -> CollateralPlan:
        """Plan collateral that makes the simulated platform UpToDate from a day before `now` on, for a week."""
        begins = now.replace(microsecond=0) - timedelta(hours=12)
        ends = begins + LIFETIME
        issuer = ca.processor_ca if processor else ca.platform_ca
        chain = (ca.tcb_signer.certificate, ca.root.certificate)
        return cls(
            tcb_info=tcb_info(begins, ends),
            qe_identity=qe_identity(begins, ends),
            tcb_signer=ca.tcb_signer,
            qe_signer=ca.tcb_signer,
            tcb_chain=chain,
            qe_chain=chain,
            pck_crl_chain=(issuer.certificate, ca.root.certificate),
            root_crl=CrlPlan(issuer=ca.root, last_update=begins, next_update=ends),
            pck_crl=CrlPlan(issuer=issuer, last_update=begins, next_update=ends),
        )

    def sign(self) -> dict[str, str]:
        """Sign everything as it stands and give the fields of the collateral document."""
        info, identity = (json.dumps(part, separators=(",", ":")) for part in (self.tcb_info, self.qe_identity))
        return {
            "pck_crl_issuer_chain": pem_chain(*self.pck_crl_chain).decode(),
            "root_ca_crl": self.root_crl.sign().hex(),
            "pck_crl": self.pck_crl.sign().hex(),
            "tcb_info_issuer_chain": pem_chain(*self.tcb_chain).decode(),
            "tcb_info": info,
            "tcb_info_signature": sign_raw(self.tcb_signer.key, info.encode()).hex(),
            "qe_identity_issuer_chain": pem_chain(*self.qe_chain).decode(),
            "qe_identity": identity,
            "qe_identity_signature": sign_raw(self.qe_signer.key, identity.encode()).hex(),
        }

    def document(self) -> bytes:
        """Give the collateral document as JSON."""
        return json.dumps(self.sign()).encode()


def moment(when: datetime) -> str:
    """Write a time as Intel does."""
    return when.strftime("%Y-%m-%dT%H:%M:%SZ")


def components(svns: Sequence[int], kinds: Sequence[str] = ()) -> list[dict[str, object]]:
    """Write 16 component SVNs, the first ones with what they are."""
    written: list[dict[str, object]] = [{"svn": svn} for svn in svns]
    for component, kind in zip(written, kinds, strict=False):
        component |= {"category": "BIOS", "type": kind}
    return written


def level(
    status: str, *, sgx: Sequence[int], tdx: Sequence[int], pce_svn: int, advisories: Sequence[str] = ()
) -> dict[str, object]:
    """Write one TCB level."""
    kinds = ("Early Microcode Update", "SGX Late Microcode Update", "TXT SINIT")
    tcb = {
        "sgxtcbcomponents": components(sgx, kinds),
        "pcesvn": pce_svn,
        "tdxtcbcomponents": components(tdx, ("TDX Module", "TDX Module", "TDX Late Microcode Update")),
    }
    written: dict[str, object] = {"tcb": tcb, "tcbDate": "2025-08-13T00:00:00Z", "tcbStatus": status}
    return written | ({"advisoryIDs": list(advisories)} if advisories else {})


def svn_level(isv_svn: int, status: str, *, advisories: Sequence[str] = ()) -> dict[str, object]:
    """Write one level of a module or an enclave."""
    written: dict[str, object] = {"tcb": {"isvsvn": isv_svn}, "tcbDate": "2025-08-13T00:00:00Z", "tcbStatus": status}
    return written | ({"advisoryIDs": list(advisories)} if advisories else {})


def tcb_info(begins: datetime, ends: datetime) -> dict[str, object]:
    """Write TCB info under which the default platform and quote are UpToDate."""
    signer = {"mrsigner": "00" * 48, "attributes": "00" * 8, "attributesMask": "FF" * 8}
    high = [2, 2, 2, 2, 3, 1, 0, 5, *[0] * 8]
    low = [1, 1, 1, 1, 2, 1, 0, 3, *[0] * 8]
    module = TEE_TCB_SVN
    levels = [svn_level(module[0], "UpToDate"), svn_level(module[0] - 2, "OutOfDate", advisories=["INTEL-SA-90001"])]
    old = ["INTEL-SA-90002", "INTEL-SA-90003"]
    return {
        "id": "TDX",
        "version": 3,
        "issueDate": moment(begins),
        "nextUpdate": moment(ends),
        "fmspc": FMSPC.hex().upper(),
        "pceId": "0000",
        "tcbType": 0,
        "tcbEvaluationDataNumber": EVALUATION_NUMBER,
        "tdxModule": dict(signer),
        "tdxModuleIdentities": [{"id": f"TDX_{module[1]:02X}", **signer, "tcbLevels": levels}],
        "tcbLevels": [
            level("UpToDate", sgx=high, tdx=[5, 0, 2, *[0] * 13], pce_svn=11),
            level("OutOfDate", sgx=high, tdx=[5, 0, 2, *[0] * 13], pce_svn=5, advisories=old[:1]),
            level("OutOfDate", sgx=low, tdx=[3, 0, 1, *[0] * 13], pce_svn=5, advisories=old),
        ],
    }


def qe_identity(begins: datetime, ends: datetime) -> dict[str, object]:
    """Write the identity of the simulated quoting enclave."""
    return {
        "id": "TD_QE",
        "version": 2,
        "issueDate": moment(begins),
        "nextUpdate": moment(ends),
        "tcbEvaluationDataNumber": EVALUATION_NUMBER,
        "miscselect": "00000000",
        "miscselectMask": "FFFFFFFF",
        "attributes": "11000000000000000000000000000000",
        "attributesMask": "FBFFFFFFFFFFFFFF0000000000000000",
        "mrsigner": QE_MR_SIGNER.hex().upper(),
        "isvprodid": 2,
        "tcbLevels": [svn_level(4, "UpToDate"), svn_level(2, "OutOfDate", advisories=["INTEL-SA-90004"])],
    }
