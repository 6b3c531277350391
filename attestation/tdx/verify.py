# SPDX-License-Identifier: Apache-2.0
"""Is this quote true? One numbered chain from the pinned root to the signed report; opinions are for the policy."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.x509 import ObjectIdentifier

from ..errors import Refused, Untrusted
from ..window import Window, require_aware
from .anchor import TdxTrustAnchor
from .authdata import AuthData, QeReport
from .certificates import RoleCertificate, verify_pck_chain, verify_signing_chain
from .collateral import Collateral
from .crl import VerifiedCrl, verify_crl
from .ecdsa import raw_key, require_raw
from .pck import SGX_EXTENSION, Platform
from .qeidentity import QeIdentity
from .quote import Quote, TdReport
from .tcb import Tcb, evaluate
from .tcbinfo import TcbInfo

DEBUG: Final = 1 << 0
TUD_RESERVED: Final = 0xFE
SEPT_VE_DISABLE: Final = 1 << 28
MIGRATABLE: Final = 1 << 29
KNOWN_ATTRIBUTES: Final = DEBUG | 1 << 27 | SEPT_VE_DISABLE | MIGRATABLE | 1 << 30 | 1 << 31 | 1 << 62 | 1 << 63
"""TDATTRIBUTES (TDX module specification): DEBUG, LASS, SEPT_VE_DISABLE, MIGRATABLE, PKS, KL, TPA, PERFMON."""

XFAM_FIXED1: Final = 0x3
XFAM_ALLOWED: Final = 0x6DBE7
_SGX_OID: Final = ObjectIdentifier(SGX_EXTENSION)
_QE_DEBUG: Final = 0x02


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedQuote:
    """True, under the root named, within the window. Made by `verify_quote` alone."""

    quote: Quote
    tcb: Tcb
    platform: Platform
    pck_ca: str  # "platform" or "processor"
    window: Window
    collateral_issued: datetime  # the older of TCB info and QE identity
    root_sha256: bytes  # 32
    quote_digest: bytes  # 32, without padding


def verify_quote(quote: bytes, collateral: Collateral, *, anchor: TdxTrustAnchor, now: datetime) -> VerifiedQuote:
    """Verify a quote with its collateral down to `anchor` at `now`. Raises Malformed, Untrusted or Refused.

    1. the quote is well formed, every byte of it
    2. PCK chain to the pinned root: names, constraints, windows
    3. root CRL, PCK CRL; nothing in the chains is revoked
    4. TCB signing chains; TCB info and QE identity: signatures over the exact text, windows
    5. QE report: signed by the PCK, names the attestation key, is Intel's quoting enclave
    6. quote signature by the attestation key
    7. TCB info is this platform's, both documents of one evaluation
    8. module identity and TCB levels, at launch and now
    9. hard rules: no debug TD, no migratable TD, no reserved bit, whatever a policy says

    Whether REPORTDATA, the measurements and the TCB status are acceptable is the caller's question.
    """
    now = require_aware(now)
    parsed = Quote.parse(quote)  # 1
    auth = parsed.auth
    leaf, ca, root = verify_pck_chain(auth.chain, anchor=anchor, now=now)  # 2
    root_crl = verify_crl(collateral.root_ca_crl, root, name="root_ca_crl", now=now)  # 3
    pck_crl = verify_crl(collateral.pck_crl, ca, name="pck_crl", now=now)
    for certificate, crl in ((root, root_crl), (ca, root_crl), (leaf, pck_crl)):
        crl.require_not_revoked(certificate)
    info, identity, window = _documents(collateral, anchor, root_crl, now)  # 4
    _require_qe(auth, leaf.key, identity)  # 5
    key = raw_key(auth.attestation_key, "quote.attestation_key")
    require_raw(key, auth.signature, parsed.signed, code="QuoteSignatureInvalid", where="quote.signature")  # 6
    platform = _platform(leaf, info, identity)  # 7
    tcb = evaluate(parsed.report, platform, auth.qe_report.isv_svn, info, identity)  # 8
    require_hard_rules(parsed.report)  # 9
    return VerifiedQuote(
        quote=parsed,
        tcb=tcb,
        platform=platform,
        pck_ca="processor" if ca.subject == anchor.names.processor_ca else "platform",
        window=window.meet(leaf.window, ca.window, root.window, root_crl.window, pck_crl.window),
        collateral_issued=min(info.issue_date, identity.issue_date),
        root_sha256=sha256(root.der).digest(),
        quote_digest=parsed.digest,
    )


def _documents(
    collateral: Collateral, anchor: TdxTrustAnchor, root_crl: VerifiedCrl, now: datetime
) -> tuple[TcbInfo, QeIdentity, Window]:
    """Verify the two signed documents, and only then read them."""
    chains = {"tcb_info": collateral.tcb_info_issuer_chain, "qe_identity": collateral.qe_identity_issuer_chain}
    signers: dict[bytes, RoleCertificate] = {}
    for name, chain in chains.items():
        if chain not in signers:
            signer, _ = verify_signing_chain(chain, where=f"{name}_issuer_chain", anchor=anchor, now=now)
            root_crl.require_not_revoked(signer)
            signers[chain] = signer
    parts = (
        ("tcb_info", collateral.tcb_info, collateral.tcb_info_signature),
        ("qe_identity", collateral.qe_identity, collateral.qe_identity_signature),
    )
    for name, text, signature in parts:
        key = signers[chains[name]].key
        require_raw(key, signature, text, code="CollateralSignatureInvalid", where=f"{name}_signature")
    info, identity = TcbInfo.parse(collateral.tcb_info), QeIdentity.parse(collateral.qe_identity)
    windows = [signer.window for signer in signers.values()]
    for name, begins, ends in (
        ("tcb_info", info.issue_date, info.next_update),
        ("qe_identity", identity.issue_date, identity.next_update),
    ):
        if now < begins:
            raise Untrusted("CollateralNotYetValid", f"{name}.issueDate", want=f"at most {now}", got=begins)
        if now >= ends:
            raise Untrusted("CollateralExpired", f"{name}.nextUpdate", want=f"later than {now}", got=ends)
        windows.append(Window(begins, ends))
    return info, identity, windows[0].meet(*windows)


def _require_qe(auth: AuthData, pck_key: EllipticCurvePublicKey, identity: QeIdentity) -> None:
    qe = auth.qe_report
    code = "QeReportSignatureInvalid"
    require_raw(pck_key, auth.qe_report_signature, qe.raw, code=code, where="quote.qe_report")
    want = sha256(auth.attestation_key + auth.qe_auth).digest() + bytes(32)
    if qe.report_data != want:
        got = qe.report_data.hex()
        raise Untrusted("QeReportDataMismatch", "quote.qe_report.report_data", want=want.hex(), got=got)
    _require_identity(qe, identity)


def _require_identity(qe: QeReport, identity: QeIdentity) -> None:
    """Compare the report with Intel's quoting enclave; a debug enclave never is one, whatever the mask says."""
    misc, attributes = (
        _masked(qe.misc_select, identity.misc_select_mask),
        _masked(qe.attributes, identity.attributes_mask),
    )
    for field, want, got in (
        ("mr_signer", identity.mr_signer, qe.mr_signer),
        ("misc_select", identity.misc_select, misc),
        ("attributes", identity.attributes, attributes),
    ):
        if want != got:
            raise Untrusted("QeIdentityMismatch", f"quote.qe_report.{field}", want=want.hex(), got=got.hex())
    if qe.attributes[0] & _QE_DEBUG:
        raise Untrusted("QeIdentityMismatch", "quote.qe_report.attributes", want="no debug enclave", got="debug")
    if qe.isv_prod_id != identity.isv_prod_id:
        where = "quote.qe_report.isv_prod_id"
        raise Untrusted("QeIdentityMismatch", where, want=identity.isv_prod_id, got=qe.isv_prod_id)


def _masked(value: bytes, mask: bytes) -> bytes:
    return bytes(a & b for a, b in zip(value, mask, strict=True))


def _platform(leaf: RoleCertificate, info: TcbInfo, identity: QeIdentity) -> Platform:
    found = [e for e in leaf.certificate.extensions if e.oid == _SGX_OID]
    if len(found) != 1:
        raise Untrusted("PckExtensionInvalid", "pck.sgx", want="the SGX extension once", got=len(found))
    platform = Platform.parse(found[0].value.public_bytes())
    if platform.fmspc != info.fmspc:
        raise Untrusted("FmspcMismatch", "tcb_info.fmspc", want=platform.fmspc.hex(), got=info.fmspc.hex())
    if platform.pce_id != info.pce_id:
        raise Untrusted("PceIdMismatch", "tcb_info.pceId", want=platform.pce_id.hex(), got=info.pce_id.hex())
    if info.evaluation_data_number != identity.evaluation_data_number:
        want, got = info.evaluation_data_number, identity.evaluation_data_number
        raise Untrusted("TcbEvaluationDataNumberMismatch", "qe_identity.tcbEvaluationDataNumber", want=want, got=got)
    return platform


def require_hard_rules(report: TdReport) -> None:
    """Refuse what no policy may allow: a TD that its host can read, move or has configured unknown to us."""
    attributes = int.from_bytes(report.td_attributes, "little")
    shown = report.td_attributes.hex()
    if attributes & DEBUG:
        raise Refused("DebugTd", "td_attributes", want="DEBUG clear", got=shown)
    if attributes & (~KNOWN_ATTRIBUTES | TUD_RESERVED):
        raise Refused("TdAttributesReserved", "td_attributes", want="reserved bits clear", got=shown)
    if attributes & MIGRATABLE:
        raise Refused("MigratableTd", "td_attributes", want="MIGRATABLE clear", got=shown)
    if not attributes & SEPT_VE_DISABLE:
        raise Refused("SeptVeDisableRequired", "td_attributes", want="SEPT_VE_DISABLE set", got=shown)
    if report.mr_service_td is not None and any(report.mr_service_td):
        raise Refused("MigratableTd", "mr_service_td", want="zero", got=report.mr_service_td.hex())
    xfam = int.from_bytes(report.xfam, "little")
    if xfam & XFAM_FIXED1 != XFAM_FIXED1 or xfam & ~XFAM_ALLOWED:
        raise Refused(
            "XfamInvalid", "xfam", want=f"{XFAM_FIXED1:#x} set, nothing outside {XFAM_ALLOWED:#x}", got=hex(xfam)
        )
