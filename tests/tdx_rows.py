# SPDX-License-Identifier: Apache-2.0
"""One thing wrong with a quote or its collateral, everything else signed anew: rows N01 to N46."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.hashes import SHA384

from enclave.simulator.tdx_ca import SIGNING, intel_name, new_key, pem_chain
from enclave.simulator.tdx_collateral import CrlPlan, moment, svn_level
from enclave.simulator.tdx_platform import sgx_extension, sgx_fields
from tests import tdx_algorithms
from tests.tdx_cases import (
    NOW,
    PLATFORM,
    Case,
    certificate,
    other_world,
    p384_key,
    reissued_root,
    signer,
    use_signer,
    window,
)

ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
AUTH = 636  # of a quote v4: signature, key, then the certification data
QE = AUTH + 134


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the list of attacks. `accepts` says that the oracle is known to accept what we refuse."""

    name: str
    code: str | None  # None: we accept
    change: Callable[[Case], None]
    version: int = 4
    accepts: bool = False


def set_fields(target: object, changes: dict[str, Any]) -> None:
    """Set fields of one plan."""
    for name, value in changes.items():
        setattr(target, name, value)


def quoted(**changes: Any) -> Callable[[Case], None]:
    """Change fields of the quote."""
    return lambda case: set_fields(case.quote, changes)


def qe(**changes: Any) -> Callable[[Case], None]:
    """Change fields of the quoting enclave's report."""
    return lambda case: set_fields(case.quote.qe, changes)


def both(*changes: Callable[[Case], None]) -> Callable[[Case], None]:
    """Make several changes."""

    def change(case: Case) -> None:
        for one in changes:
            one(case)

    return change


def info(**changes: Any) -> Callable[[Case], None]:
    """Change fields of the TCB info."""
    return lambda case: case.collateral.tcb_info.update(changes)


def identity(**changes: Any) -> Callable[[Case], None]:
    """Change fields of the QE identity."""
    return lambda case: case.collateral.qe_identity.update(changes)


def at(moment_of: timedelta) -> Callable[[Case], None]:
    """Verify at another time."""
    return lambda case: setattr(case, "now", NOW + moment_of)


def platform(**changes: Any) -> Callable[[Case], None]:
    """Issue the PCK for another platform."""
    return lambda case: case.pck(replace(PLATFORM, **changes))


def pck(**changes: Any) -> Callable[[Case], None]:
    """Issue the PCK with another field."""
    return lambda case: case.pck(**changes)


def crl(which: str, **changes: Any) -> Callable[[Case], None]:
    """Change fields of a CRL."""
    return lambda case: set_fields(getattr(case.collateral, which), changes)


def revoke(which: str, role: str) -> Callable[[Case], None]:
    """List a certificate."""

    def change(case: Case) -> None:
        getattr(case.collateral, which).revoked.append(getattr(case.ca, role).certificate.serial_number)

    return change


def truncated(case: Case) -> None:
    size = case.pick.below(4000) + 1
    case.quote_after.append(lambda data: data[:-size])


def sized(value: int) -> Callable[[Case], None]:
    return lambda case: case.set_bytes(632, value.to_bytes(4, "little"))


def one_more(case: Case) -> None:
    case.quote_after.append(
        lambda d: d[:632] + (int.from_bytes(d[632:636], "little") + 1).to_bytes(4, "little") + d[636:]
    )


def signature_half(value: int, at_byte: int) -> Callable[[Case], None]:
    return lambda case: case.set_bytes(AUTH + at_byte, value.to_bytes(32, "big"))


def flipped(start: int, size: int) -> Callable[[Case], None]:
    return lambda case: case.flip(start, size)


def ca_with(**changes: Any) -> Callable[[Case], None]:
    """Issue the platform CA and the PCK under it anew, the CA with something changed."""

    def change(case: Case) -> None:
        fields: dict[str, Any] = {"usage": SIGNING, "ca": True, "path_length": 0}
        made = certificate("Intel SGX PCK Platform CA", new_key(), case.ca.root, **(fields | changes))
        case.pck(parent=made)
        case.collateral.pck_crl.issuer = made

    return change


def world(case: Case) -> None:
    """Give everything of another authority with the same names."""
    from enclave.simulator.tdx_collateral import CollateralPlan
    from enclave.simulator.tdx_quote import QuotePlan

    case.quote = QuotePlan.of(other_world(), case.quote.report)
    case.collateral = CollateralPlan.of(other_world(), now=NOW)


def signed_by_pck(case: Case) -> None:
    use_signer(case, case.ca.pck, case.ca.platform_ca.certificate)


def chain_of(order: str) -> Callable[[Case], None]:
    """Order the PCK chain: l leaf, c CA, r root."""

    def change(case: Case) -> None:
        names = {"l": case.ca.pck, "c": case.ca.platform_ca, "r": case.ca.root}
        case.chain(*[names[letter] for letter in order])

    return change


def sub_intermediate(case: Case) -> None:
    middle = certificate(
        "Intel SGX PCK Platform CA", new_key(), case.ca.platform_ca, usage=SIGNING, ca=True, path_length=0
    )
    case.pck(parent=middle)
    leaf = x509.load_pem_x509_certificate(case.quote.chain.rstrip(b"\0"))
    case.quote.chain = pem_chain(leaf, middle.certificate, case.ca.platform_ca.certificate, case.ca.root.certificate)


def rsa_leaf(case: Case) -> None:
    key = rsa.generate_private_key(65537, 2048)
    leaf = certificate("Intel SGX PCK Certificate", key, case.ca.platform_ca, extensions=(sgx_extension(PLATFORM),))
    case.chain(leaf, case.ca.platform_ca, case.ca.root)


def p384_leaf(case: Case) -> None:
    leaf = certificate(
        "Intel SGX PCK Certificate", p384_key(), case.ca.platform_ca, extensions=(sgx_extension(PLATFORM),)
    )
    case.chain(leaf, case.ca.platform_ca, case.ca.root)


def fields_of(choose: Callable[[list[bytes]], list[bytes]]) -> Callable[[Case], None]:
    """Choose among the fields of the SGX extension."""

    def change(case: Case) -> None:
        body = b"".join(choose(sgx_fields(PLATFORM)))
        der = b"\x30\x82" + len(body).to_bytes(2, "big") + body
        case.pck(extensions=(x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.840.113741.1.13.1"), der),))

    return change


def foreign_crl(case: Case) -> None:
    case.collateral.pck_crl.issuer = other_world().platform_ca


def swapped_crls(case: Case) -> None:
    plan = case.collateral
    plan.root_crl, plan.pck_crl = plan.pck_crl, plan.root_crl


def without_next_update(document: dict[str, str]) -> None:
    """Cut nextUpdate out of the PCK CRL; its signature goes with it, but the check comes first in neither verifier."""
    document["pck_crl"] = document["root_ca_crl"]


def crl_of(role: str) -> Callable[[Case], None]:
    def change(case: Case) -> None:
        plan = case.collateral.pck_crl
        case.collateral.pck_crl = CrlPlan(
            issuer=getattr(case.ca, role), last_update=plan.last_update, next_update=plan.next_update
        )

    return change


def broken(name: str) -> Callable[[Case], None]:
    """Break a document's signature."""

    def bend(document: dict[str, str]) -> None:
        first = document[name][0]
        document[name] = ("0" if first != "0" else "1") + document[name][1:]

    return lambda case: case.document_after.append(bend)


def other_signer(case: Case) -> None:
    case.collateral.tcb_signer = signer()


DAY = timedelta(days=1)
DEBUG_QE = bytes.fromhex("13" + "00" * 15)
HIGH = (256, *PLATFORM.components[1:])
CERT_SIGN = ("digital_signature", "key_cert_sign")
CHAIN = "CertificateChainInvalid"
NUMBERS = "TcbEvaluationDataNumberMismatch"
DELTA = (x509.DeltaCRLIndicator(1), True)
POINT = (
    x509.IssuingDistributionPoint(
        full_name=None,
        relative_name=None,
        only_contains_user_certs=False,
        only_contains_ca_certs=False,
        only_some_reasons=None,
        indirect_crl=True,
        only_contains_attribute_certs=False,
    ),
    True,
)

ROWS: list[Row] = [
    Row("N01 version 3", "UnsupportedVersion", quoted(version=3)),
    Row("N01 version 6", "UnsupportedVersion", quoted(version=6)),
    Row("N02 key type 3", "UnsupportedAttestationKeyType", quoted(key_type=3)),
    Row("N03 TEE type 0", "UnsupportedTeeType", quoted(tee_type=0)),
    Row("N03 TEE type 0x82", "UnsupportedTeeType", quoted(tee_type=0x82)),
    Row("N04 reserved not zero", "ReservedNotZero", quoted(reserved=b"\1\0\1\0"), accepts=True),
    Row("N05 another vendor", "UnknownQeVendor", quoted(vendor=bytes(16))),
    Row("N06 body type 3 with size 584", "MalformedQuote", quoted(body_size=584), 5),
    Row("N06 body type 7", "UnsupportedBodyType", quoted(body_type=7), 5),
    Row("N06 body type 1", "UnsupportedBodyType", quoted(body_type=1), 5),
    Row("N08 auth length 0xffffffff", "MalformedQuote", sized(0xFFFFFFFF)),
    Row("N08 auth length 0x80000000", "MalformedQuote", sized(0x80000000)),
    Row("N08 auth length one more", "MalformedQuote", one_more),
    Row("N08 truncated", "MalformedQuote", truncated),
    Row("N09 bytes after the quote", "TrailingData", quoted(padding=b"evil"), accepts=True),
    Row("N10 70 zeros after the quote", None, quoted(padding=bytes(70))),
    Row("N11 bytes inside the auth data", "TrailingData", quoted(outer_extra=b"x"), accepts=True),
    Row("N11 bytes inside the certification data", "TrailingData", quoted(inner_extra=b"x"), accepts=True),
    Row("N12 outer type 5", "UnsupportedCertificationData", quoted(outer_type=5), accepts=True),
    Row("N13 inner type 4", "UnsupportedCertificationData", quoted(inner_type=4)),
    Row("N13 inner type 7", "UnsupportedCertificationData", quoted(inner_type=7)),
    Row("N14 empty QE auth data", "MalformedQuote", qe(auth=b"")),
    Row("N14 31 bytes of QE auth data", "MalformedQuote", qe(auth=bytes(31))),
    Row("N15 a bit of REPORTDATA", "QuoteSignatureInvalid", flipped(48 + 520, 64)),
    Row("N15 a bit of MRTD", "QuoteSignatureInvalid", flipped(48 + 136, 48)),
    Row("N15 a bit of RTMR3", "QuoteSignatureInvalid", flipped(48 + 472, 48)),
    Row("N15 a bit of the user data", "QuoteSignatureInvalid", flipped(28, 20)),
    Row("N16 a bit of the signature", "QuoteSignatureInvalid", flipped(AUTH, 64)),
    Row("N16 r is 0", "QuoteSignatureInvalid", signature_half(0, 0)),
    Row("N16 s is 0", "QuoteSignatureInvalid", signature_half(0, 32)),
    Row("N16 r is n", "QuoteSignatureInvalid", signature_half(ORDER, 0)),
    Row("N17 a bit of the attestation key", "QeReportDataMismatch", flipped(AUTH + 64, 64)),
    Row("N17 a key that is no point", "AttestationKeyInvalid", quoted(attestation_key=b"\1" * 64)),
    Row("N17 a key of zeros", "AttestationKeyInvalid", quoted(attestation_key=bytes(64))),
    Row("N18 a bit of the QE report", "QeReportSignatureInvalid", flipped(QE, 384)),
    Row("N18 a bit of its signature", "QeReportSignatureInvalid", flipped(QE + 384, 64)),
    Row("N19 QE REPORTDATA of another key", "QeReportDataMismatch", qe(report_data=bytes(64))),
    Row("N20 documents signed by a PCK", CHAIN, signed_by_pck, accepts=True),
    Row("N21 PCK of another name", "CertificateRoleMismatch", pck(name="Evil"), accepts=True),
    Row(
        "N21 PCK with a second organization", "CertificateRoleMismatch",
        pck(subject=x509.Name([*intel_name("Intel SGX PCK Certificate"), *intel_name("Intel SGX PCK Certificate")])),
        accepts=True,
    ),
    Row(
        "N21 PCK with one RDN of several values", "CertificateRoleMismatch",
        pck(subject=x509.Name([x509.RelativeDistinguishedName(list(intel_name("Intel SGX PCK Certificate")))])),
        accepts=True,
    ),
    Row("N21 signer of another name", "CertificateRoleMismatch", lambda c: use_signer(c, signer("Evil")), accepts=True),
    Row("N22 another world", "UntrustedRoot", world),
    Row(
        "N22 root issued anew with the same key", "UntrustedRoot",
        lambda c: c.chain(c.ca.pck, c.ca.platform_ca, reissued_root()), accepts=True,
    ),
    Row("N23 chain reversed", "UntrustedRoot", chain_of("rcl")),
    Row("N23 leaf alone", CHAIN, chain_of("l")),
    Row("N23 no root", CHAIN, chain_of("lc"), accepts=True),
    Row("N23 leaf twice", CHAIN, chain_of("llcr"), accepts=True),
    Row("N23 CA and root swapped", "UntrustedRoot", chain_of("lrc"), accepts=True),
    Row("N23 four certificates", CHAIN, sub_intermediate),
    Row("N24 CA that is none", CHAIN, ca_with(ca=False, path_length=None)),
    Row("N24 CA with another path length", CHAIN, ca_with(path_length=3), accepts=True),
    Row("N24 CA without keyCertSign", CHAIN, ca_with(usage=("crl_sign",)), accepts=True),
    Row("N24 CA without cRLSign", CHAIN, ca_with(usage=("key_cert_sign",)), accepts=True),
    Row("N24 PCK that is a CA", CHAIN, pck(ca=True, path_length=0), accepts=True),
    Row("N24 PCK that may sign certificates", CHAIN, pck(usage=CERT_SIGN), accepts=True),
    Row("N24 PCK without digitalSignature", CHAIN, pck(usage=("content_commitment",)), accepts=True),
    Row("N25 P-384 PCK", "CertificateAlgorithm", p384_leaf),
    Row("N25 RSA PCK", "CertificateAlgorithm", rsa_leaf),
    Row("N25 SHA-384 signature", "CertificateAlgorithm", pck(algorithm=SHA384()), accepts=True),
    Row("N25 two algorithms", CHAIN, tdx_algorithms.two_algorithms),
    Row("N26 PCK expired", "CertificateExpired", pck(window=window(-3, -1))),
    Row("N26 PCK not yet valid", "CertificateNotYetValid", pck(window=window(1, 3))),
    Row("N27 no SGX extension", "PckExtensionInvalid", pck(extensions=())),
    Row("N27 a field twice", "PckExtensionInvalid", fields_of(lambda f: [*f, f[0]]), accepts=True),
    Row("N27 a field missing", "PckExtensionInvalid", fields_of(lambda f: f[1:]), accepts=True),
    Row("N27 FMSPC of 5 bytes", "PckExtensionInvalid", platform(fmspc=bytes(5))),
    Row("N27 component above 255", "PckExtensionInvalid", platform(components=HIGH), accepts=True),
    Row("N27 CPUSVN that is not the components", "PckExtensionInvalid", platform(cpu_svn=b"\xff" * 16), accepts=True),
    Row("N27 SGX type 3", "PckExtensionInvalid", platform(sgx_type=3), accepts=True),
    Row("N30 PCK revoked", "CertificateRevoked", revoke("pck_crl", "pck")),
    Row("N31 PCK CA revoked", "CertificateRevoked", revoke("root_crl", "platform_ca")),
    Row("N31 TCB signer revoked", "CertificateRevoked", revoke("root_crl", "tcb_signer")),
    Row("N31 root revoked", "CertificateRevoked", revoke("root_crl", "root")),
    Row("N32 CRL of a stranger with the same name", "CrlSignatureInvalid", foreign_crl),
    Row("N32 CRLs swapped", "CrlIssuerMismatch", swapped_crls),
    Row("N32 root CRL twice", "CrlIssuerMismatch", lambda c: c.document_after.append(without_next_update)),
    Row("N32 CRL of the processor CA", "CrlIssuerMismatch", crl_of("processor_ca")),
    Row("N33 PCK CRL expired", "CrlExpired", crl("pck_crl", last_update=NOW - 3 * DAY, next_update=NOW - DAY)),
    Row("N33 root CRL expired", "CrlExpired", crl("root_crl", last_update=NOW - 3 * DAY, next_update=NOW)),
    Row("N33 PCK CRL of tomorrow", "CrlNotYetValid", crl("pck_crl", last_update=NOW + DAY), accepts=True),
    Row("N33 root CRL of tomorrow", "CrlNotYetValid", crl("root_crl", last_update=NOW + DAY), accepts=True),
    Row("N33 delta CRL", "CrlUnsupported", crl("pck_crl", extensions=[DELTA])),
    Row("N33 indirect CRL", "CrlUnsupported", crl("pck_crl", extensions=[POINT]), accepts=True),
    Row("N33 CRL with two algorithms", "CrlUnsupported", tdx_algorithms.crl("pck_crl", tdx_algorithms.SHA384_INSIDE)),
    Row("N34 another PCEID", "PceIdMismatch", info(pceId="0001"), accepts=True),
    Row("N34 another FMSPC", "FmspcMismatch", info(fmspc="51F0C0DE0001")),
    Row("N35 id SGX", "TcbInfoUnsupported", info(id="SGX")),
    Row("N35 version 2", "TcbInfoUnsupported", info(version=2)),
    Row("N35 version 4", "TcbInfoUnsupported", info(version=4), accepts=True),
    Row("N35 version 3.0", "TcbInfoUnsupported", info(version=3.0)),
    Row("N35 tcbType 1", "TcbInfoUnsupported", info(tcbType=1), accepts=True),
    Row("N36 TCB info of tomorrow", "CollateralNotYetValid", info(issueDate=moment(NOW + DAY))),
    Row("N36 QE identity of tomorrow", "CollateralNotYetValid", identity(issueDate=moment(NOW + DAY))),
    Row("N37 TCB info over now", "CollateralExpired", info(nextUpdate=moment(NOW)), accepts=True),
    Row("N37 QE identity over a second ago", "CollateralExpired", identity(nextUpdate=moment(NOW - DAY / 86400))),
    Row("N39 documents of two evaluations", NUMBERS, identity(tcbEvaluationDataNumber=5), accepts=True),
    Row("N40 a bit of TCB info's signature", "CollateralSignatureInvalid", broken("tcb_info_signature")),
    Row("N40 a bit of QE identity's signature", "CollateralSignatureInvalid", broken("qe_identity_signature")),
    Row("N40 signed by another key", "CollateralSignatureInvalid", other_signer),
    Row("N41 QE of another signer", "QeIdentityMismatch", qe(mr_signer=bytes(32))),
    Row("N41 QE of another product", "QeIdentityMismatch", qe(isv_prod_id=1)),
    Row("N41 QE with MISCSELECT", "QeIdentityMismatch", qe(misc_select=1)),
    Row("N42 debug QE", "QeIdentityMismatch", qe(attributes=DEBUG_QE)),
    Row(
        "N42 debug QE that the mask hides", "QeIdentityMismatch",
        both(qe(attributes=DEBUG_QE), identity(attributesMask="F9" + "FF" * 7 + "00" * 8)),
    ),
    Row("N43 QE below every level", "QeTcbNotSupported", qe(isv_svn=1)),
    Row("N44 identity of the SGX QE", "QeIdentityUnsupported", identity(id="QE")),
    Row("N46 QE level revoked", "TcbRevoked", identity(tcbLevels=[svn_level(4, "Revoked")])),
    Row("N46 QE identity without levels", "QeTcbNotSupported", identity(tcbLevels=[])),
    Row("N46 QE identity version 3", "QeIdentityUnsupported", identity(version=3), accepts=True),
]  # fmt: skip
