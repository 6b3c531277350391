# SPDX-License-Identifier: Apache-2.0
"""Is this quote true? One numbered chain from the pinned root to the signed report; opinions are for the policy."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import Final

from ..errors import Refused, Untrusted
from ..window import Window, require_aware
from .anchor import TdxTrustAnchor
from .authdata import AuthData, QeReport
from .certificates import RoleCertificate, verify_pck_chain, verify_signing_chain
from .collateral import Collateral
from .crl import VerifiedCrl, verify_crl
from .ecdsa import raw_key, require_raw
from .memory import Memory, NoMemory
from .pck import Platform, read_platform
from .qeidentity import QeIdentity
from .quote import Quote, TdReport
from .tcb import Svns, Tcb, evaluate
from .tcbinfo import TcbInfo

DEBUG: Final = 1 << 0
TUD_RESERVED: Final = 0xFE
SEPT_VE_DISABLE: Final = 1 << 28
MIGRATABLE: Final = 1 << 29
KNOWN_ATTRIBUTES: Final = DEBUG | 1 << 27 | SEPT_VE_DISABLE | MIGRATABLE | 1 << 30 | 1 << 31 | 1 << 62 | 1 << 63
"""TDATTRIBUTES (TDX module specification): DEBUG, LASS, SEPT_VE_DISABLE, MIGRATABLE, PKS, KL, TPA, PERFMON."""

XFAM_FIXED1: Final = 0x3
XFAM_ALLOWED: Final = 0x6DBE7
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

    @property
    def quote_digest(self) -> bytes:
        """SHA-256 of the quote without its padding (32 bytes)."""
        return self.quote.digest


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _PckChain:
    """A PCK chain down to the root, and the platform that it speaks for."""

    leaf: RoleCertificate
    ca: RoleCertificate
    root: RoleCertificate
    platform: Platform
    window: Window


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Endorsements:
    """Both signed documents and the CRL of a PCK CA, neither it nor its root revoked."""

    info: TcbInfo
    identity: QeIdentity
    pck_crl: VerifiedCrl
    window: Window


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _QeReport:
    """A quoting enclave's report that its PCK signed."""

    window: Window


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Evaluated:
    """What the TCB of some SVNs is worth under some endorsements."""

    tcb: Tcb
    window: Window


def verify_quote(
    quote: bytes | Quote, collateral: Collateral, *, anchor: TdxTrustAnchor, now: datetime, memory: Memory | None = None
) -> VerifiedQuote:
    """Verify a quote, or what `Quote.parse` made of it, with its collateral down to `anchor` at `now`.

    Raises Malformed, Untrusted or Refused.

    1. the quote is well formed, every byte of it
    2. PCK chain to the pinned root: names, constraints, windows; the platform that it names
    3. root CRL, PCK CRL; TCB signing chains; TCB info and QE identity: signatures over the exact text, windows
    4. nothing in the chains is revoked
    5. QE report: signed by the PCK, names the attestation key, is Intel's quoting enclave
    6. quote signature by the attestation key
    7. TCB info is this platform's, both documents of one evaluation
    8. module identity and TCB levels, at launch and now
    9. hard rules: no debug TD, no migratable TD, no reserved bit, whatever a policy says

    `memory` may answer for 8 and the signatures of 2, 3 and 5, within their windows and for the very same input; every
    other comparison is made each time.
    Whether REPORTDATA, the measurements and the TCB status are acceptable is the caller's question.
    """
    now, memory = require_aware(now), NoMemory() if memory is None else memory
    parsed = quote if isinstance(quote, Quote) else Quote.parse(quote)  # 1
    auth, pin = parsed.auth, anchor.root_sha256
    chain = memory.recall(
        "pck", (pin, auth.chain), now=now, make=lambda: _pck_chain(auth.chain, anchor, now, memory)
    )  # 2
    parts = (pin, chain.ca.der, chain.root.der, *collateral.parts)
    known = memory.recall("collateral", parts, now=now, make=lambda: _endorsements(collateral, chain, anchor, now))  # 3
    known.pck_crl.require_not_revoked(chain.leaf)  # 4
    qe = (chain.leaf.der, auth.qe_report.raw, auth.qe_report_signature)
    memory.recall("qe", qe, now=now, make=lambda: _qe_signature(auth, chain.leaf))  # 5
    _require_qe(auth, known.identity)
    key = raw_key(auth.attestation_key, "quote.attestation_key")
    require_raw(key, auth.signature, parsed.signed, code="QuoteSignatureInvalid", where="quote.signature")  # 6
    _require_platform(chain.platform, known.info, known.identity)  # 7
    svns = Svns.of(parsed.report, chain.platform, auth.qe_report.isv_svn)
    tcb = memory.recall("tcb", (svns, *parts), now=now, make=lambda: _evaluated(svns, known)).tcb  # 8
    require_hard_rules(parsed.report)  # 9
    return VerifiedQuote(
        quote=parsed,
        tcb=tcb,
        platform=chain.platform,
        pck_ca="processor" if chain.ca.subject == anchor.names.processor_ca else "platform",
        window=chain.window.meet(known.window),
        collateral_issued=min(known.info.issue_date, known.identity.issue_date),
        root_sha256=pin,  # `verify_pck_chain` required it of the root
    )


def _pck_chain(pem: bytes, anchor: TdxTrustAnchor, now: datetime, memory: Memory) -> _PckChain:
    leaf, ca, root = verify_pck_chain(pem, anchor=anchor, now=now, memory=memory)
    window = leaf.window.meet(ca.window, root.window)
    platform = Platform.parse(leaf.sgx) if leaf.sgx else read_platform(leaf.certificate.extensions)
    return _PckChain(leaf=leaf, ca=ca, root=root, platform=platform, window=window)


def _endorsements(collateral: Collateral, chain: _PckChain, anchor: TdxTrustAnchor, now: datetime) -> _Endorsements:
    root_crl = verify_crl(collateral.root_ca_crl, chain.root, name="root_ca_crl", now=now)
    pck_crl = verify_crl(collateral.pck_crl, chain.ca, name="pck_crl", now=now)
    info, identity, window = _documents(collateral, chain.root, anchor, root_crl, now)
    for certificate in (chain.root, chain.ca):
        root_crl.require_not_revoked(certificate)
    window = window.meet(root_crl.window, pck_crl.window)
    return _Endorsements(info=info, identity=identity, pck_crl=pck_crl, window=window)


def _documents(
    collateral: Collateral, root: RoleCertificate, anchor: TdxTrustAnchor, root_crl: VerifiedCrl, now: datetime
) -> tuple[TcbInfo, QeIdentity, Window]:
    """Verify the two signed documents, mostly by one signer, and only then read them."""
    chain, other = collateral.tcb_info_issuer_chain, collateral.qe_identity_issuer_chain
    signer = _signer(chain, "tcb_info_issuer_chain", root, anchor, root_crl, now)
    second = signer if other == chain else _signer(other, "qe_identity_issuer_chain", root, anchor, root_crl, now)
    code = "CollateralSignatureInvalid"
    text, signature = collateral.tcb_info, collateral.tcb_info_signature
    require_raw(signer.key, signature, text, code=code, where="tcb_info_signature")
    text, signature = collateral.qe_identity, collateral.qe_identity_signature
    require_raw(second.key, signature, text, code=code, where="qe_identity_signature")
    info, identity = TcbInfo.parse(collateral.tcb_info), QeIdentity.parse(collateral.qe_identity)
    windows = _issued(info, "tcb_info", now), _issued(identity, "qe_identity", now)
    return info, identity, signer.window.meet(second.window, *windows)


def _signer(
    chain: bytes, where: str, root: RoleCertificate, anchor: TdxTrustAnchor, root_crl: VerifiedCrl, now: datetime
) -> RoleCertificate:
    signer = verify_signing_chain(chain, where=where, root=root, anchor=anchor, now=now)
    root_crl.require_not_revoked(signer)
    return signer


def _issued(document: TcbInfo | QeIdentity, name: str, now: datetime) -> Window:
    """Give the window of a document that holds now."""
    begins, ends = document.issue_date, document.next_update
    if now < begins:
        raise Untrusted("CollateralNotYetValid", f"{name}.issueDate", want=f"at most {now}", got=begins)
    if now >= ends:
        raise Untrusted("CollateralExpired", f"{name}.nextUpdate", want=f"later than {now}", got=ends)
    return Window(begins, ends)


def _qe_signature(auth: AuthData, pck: RoleCertificate) -> _QeReport:
    signed, code = auth.qe_report.raw, "QeReportSignatureInvalid"
    require_raw(pck.key, auth.qe_report_signature, signed, code=code, where="quote.qe_report")
    return _QeReport(window=pck.window)


def _evaluated(svns: Svns, known: _Endorsements) -> _Evaluated:
    return _Evaluated(tcb=evaluate(svns, known.info, known.identity), window=known.window)


def _require_qe(auth: AuthData, identity: QeIdentity) -> None:
    """Require the report to name the attestation key, and to be of Intel's quoting enclave."""
    qe = auth.qe_report
    want = sha256(auth.attestation_key + auth.qe_auth).digest() + bytes(32)
    if qe.report_data != want:
        got = qe.report_data.hex()
        raise Untrusted("QeReportDataMismatch", "quote.qe_report.report_data", want=want.hex(), got=got)
    _require_identity(qe, identity)


def _require_identity(qe: QeReport, identity: QeIdentity) -> None:
    """Compare the report with Intel's quoting enclave; a debug enclave never is one, whatever the mask says."""
    misc = _masked(qe.misc_select, identity.misc_select_mask)
    attributes = _masked(qe.attributes, identity.attributes_mask)
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
    both = int.from_bytes(value, "big") & int.from_bytes(mask, "big")
    return both.to_bytes(len(value), "big")


def _require_platform(platform: Platform, info: TcbInfo, identity: QeIdentity) -> None:
    if platform.fmspc != info.fmspc:
        raise Untrusted("FmspcMismatch", "tcb_info.fmspc", want=platform.fmspc.hex(), got=info.fmspc.hex())
    if platform.pce_id != info.pce_id:
        raise Untrusted("PceIdMismatch", "tcb_info.pceId", want=platform.pce_id.hex(), got=info.pce_id.hex())
    if info.evaluation_data_number != identity.evaluation_data_number:
        where, code = "qe_identity.tcbEvaluationDataNumber", "TcbEvaluationDataNumberMismatch"
        raise Untrusted(code, where, want=info.evaluation_data_number, got=identity.evaluation_data_number)


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
