# SPDX-License-Identifier: Apache-2.0
"""Has the vendor revoked a certificate? Stapled OCSP responses (RFC 6960) and CRLs (RFC 5280), each verified by itself.

Every response and every CRL must speak of a certificate of the evidence at hand. "Good" says that a certificate is not
revoked, never that it was issued: chains are verified elsewhere. A device's own leaf is covered by neither.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Final, TypeAlias

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, Hash, HashAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import ocsp
from cryptography.x509.oid import CRLEntryExtensionOID, ExtendedKeyUsageOID, SignatureAlgorithmOID

from ..certificate import UNREADABLE
from ..errors import Malformed, Untrusted
from ..window import Window
from .certificate import p384_key, require_issued, require_role, require_valid
from .pem import load_certificate

_CACHED_ANSWERS: Final = 128  # a machine of twelve devices has some thirty
_HASHES: Final[dict[str, type[HashAlgorithm]]] = {"sha256": SHA256, "sha384": SHA384}
_SIGNATURES: Final = {
    SignatureAlgorithmOID.ECDSA_WITH_SHA256: SHA256,
    SignatureAlgorithmOID.ECDSA_WITH_SHA384: SHA384,
}


LinkKey: TypeAlias = tuple[int, bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A certificate whose revocation can be asked about, and its issuer. Made by `links_of`."""

    name: str  # where it stands, for messages
    certificate: x509.Certificate
    issuer: x509.Certificate
    issuer_name: bytes  # DER
    issuer_point: bytes  # 97, the key as CertID hashes it
    publishes_crl: bool  # the certificate says where its issuer's CRL is

    @property
    def key(self) -> LinkKey:
        """Serial number and issuer's name: what names a certificate."""
        return self.certificate.serial_number, self.issuer_name


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateStatus:
    """What is known about one certificate's revocation. Known to be revoked never gets this far."""

    name: str
    serial: int
    ocsp: Window | None  # while a good OCSP answer holds
    crl: Window | None  # while a CRL of its issuer without it holds
    publishes_crl: bool  # the certificate says where its issuer's CRL is


def links_of(certs: Sequence[x509.Certificate], *, first: int, name: str) -> tuple[Link, ...]:
    """Give the links of a verified chain from certificate `first` up to, and without, the root."""
    return tuple(_link(certs[i], certs[i + 1], f"{name}[{i}]") for i in range(first, len(certs) - 1))


def _link(certificate: x509.Certificate, issuer: x509.Certificate, name: str) -> Link:
    return Link(
        name=name,
        certificate=certificate,
        issuer=issuer,
        issuer_name=issuer.subject.public_bytes(),
        issuer_point=p384_key(issuer, where=name).public_bytes(Encoding.X962, PublicFormat.UncompressedPoint),
        publishes_crl=any(isinstance(e.value, x509.CRLDistributionPoints) for e in certificate.extensions),
    )


def check_revocation(
    links: Iterable[Link],
    *,
    responses: Sequence[bytes],
    crls: Sequence[bytes],
    organizations: frozenset[str],
    now: datetime,
) -> dict[LinkKey, CertificateStatus]:
    """Verify every OCSP response and CRL (DER) at `now` and give each link's status.

    Raises Malformed(MalformedOcsp | MalformedCrl), Untrusted(OcspRevoked | OcspUnknown | OcspMismatch | OcspExpired |
    OcspNotYetValid | OcspSignatureInvalid | CertificateRevoked | CrlIssuerMismatch | CrlSignatureInvalid | CrlExpired |
    CrlNotYetValid | CrlUnsupported).
    """
    known = {link.key: link for link in links}
    good: dict[LinkKey, Window] = {}
    for i, der in enumerate(responses):
        link, window = verify_ocsp(der, [*known.values()], organizations=organizations, now=now, where=f"ocsp[{i}]")
        if link.key in good:
            raise Malformed("MalformedOcsp", f"ocsp[{i}]", want=f"one response about {link.name}", got="a second one")
        good[link.key] = window
    clear: dict[bytes, Window] = {}
    for i, der in enumerate(crls):
        issuer, window = _verify_crl(der, [*known.values()], now, f"crl[{i}]")
        if issuer in clear:
            raise Malformed("MalformedCrl", f"crl[{i}]", want="one list of each issuer", got="a second one")
        clear[issuer] = window
    return {
        key: CertificateStatus(
            name=link.name,
            serial=link.certificate.serial_number,
            ocsp=good.get(key),
            crl=clear.get(link.issuer_name),
            publishes_crl=link.publishes_crl,
        )
        for key, link in known.items()
    }


def verify_ocsp(
    der: bytes,
    links: Sequence[Link],
    *,
    organizations: frozenset[str],
    now: datetime,
    where: str,
    nonce: bytes | None = None,
) -> tuple[Link, Window]:
    """Verify one OCSP response about one of `links`: who signed it, what it says, and that it says so now.

    With `nonce` the response must carry it. Stapled responses come from caches and have none.
    """
    try:
        response = ocsp.load_der_ocsp_response(der)
        if response.response_status is not ocsp.OCSPResponseStatus.SUCCESSFUL:
            raise Untrusted("OcspUnknown", where, want="a successful response", got=response.response_status.name)
        singles = list(response.responses)
        carried = [e.value.nonce for e in response.extensions if isinstance(e.value, x509.OCSPNonce)]
        for single in singles:
            _require_readable(single)
    except UNREADABLE:
        raise Malformed("MalformedOcsp", where, want="an OCSP response", got="other data") from None
    if len(singles) != 1:
        raise Untrusted("OcspMismatch", where, want="an answer about one certificate", got=len(singles))
    if nonce is not None and carried != [nonce]:
        raise Untrusted("OcspMismatch", f"{where}.nonce", want=nonce.hex(), got="absent or another")
    single = singles[0]
    link = _subject(single, links, where)
    responder = verified_answer(der, link.issuer, organizations, where)
    require_valid([responder], now, where=f"{where}.responder")
    return link, _good(single, now, f"{where} ({link.name})")


@lru_cache(maxsize=_CACHED_ANSWERS)
def verified_answer(
    der: bytes, issuer: x509.Certificate, organizations: frozenset[str], where: str
) -> x509.Certificate:
    """Verify who signed a response, without regard to time: the responder that `issuer` appointed. Gives it.

    The answer for the same bytes and issuer never changes, so it is remembered; refusals are not, nor is any status.
    Raises Malformed(MalformedOcsp | MalformedCertificate), Untrusted(OcspSignatureInvalid | CertificateRoleMismatch |
    CertificateAlgorithm).
    """
    try:
        response = ocsp.load_der_ocsp_response(der)
        certificates = [load_certificate(c.public_bytes(Encoding.DER), where=where) for c in response.certificates]
    except UNREADABLE:
        raise Malformed("MalformedOcsp", where, want="an OCSP response", got="other data") from None
    return _require_signed(response, certificates, issuer, organizations, where)


def _require_readable(single: ocsp.OCSPSingleResponse) -> None:
    """Ask once for every part that is judged later: the library reads them on demand. Raises what it raises."""
    _ = single.hash_algorithm.name, single.serial_number, single.issuer_name_hash, single.issuer_key_hash
    _ = single.certificate_status, single.revocation_reason, single.this_update_utc, single.next_update_utc


def _subject(single: ocsp.OCSPSingleResponse, links: Sequence[Link], where: str) -> Link:
    algorithm = _HASHES.get(single.hash_algorithm.name)
    if algorithm is None:
        raise Untrusted("OcspMismatch", where, want="SHA-256 or SHA-384 CertID", got=single.hash_algorithm.name)
    for link in links:
        if link.certificate.serial_number == single.serial_number:
            want = (_digest(algorithm, link.issuer_name), _digest(algorithm, link.issuer_point))
            if (single.issuer_name_hash, single.issuer_key_hash) == want:
                return link
    raise Untrusted("OcspMismatch", where, want="a certificate of this evidence", got=f"{single.serial_number:x}")


def _digest(algorithm: type[HashAlgorithm], data: bytes) -> bytes:
    h = Hash(algorithm())
    h.update(data)
    return h.finalize()


def _require_signed(
    response: ocsp.OCSPResponse,
    certificates: Sequence[x509.Certificate],
    issuer: x509.Certificate,
    organizations: frozenset[str],
    where: str,
) -> x509.Certificate:
    """Require a responder that the subject's own issuer appointed, and its signature."""
    if len(certificates) != 1:
        raise Untrusted("OcspSignatureInvalid", where, want="one responder certificate", got=len(certificates))
    responder, place = certificates[0], f"{where}.responder"
    require_role(responder, ca=False, below=0, organizations=organizations, where=place)
    try:
        usage = responder.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        purposes = {u.dotted_string for u in usage}
    except x509.ExtensionNotFound:
        purposes = set()
    if ExtendedKeyUsageOID.OCSP_SIGNING.dotted_string not in purposes:
        want = "extended key usage OCSPSigning"
        raise Untrusted("OcspSignatureInvalid", place, want=want, got=" ".join(sorted(purposes)) or "none")
    require_issued(responder, issuer, code="OcspSignatureInvalid", where=place)
    if response.signature_algorithm_oid != SignatureAlgorithmOID.ECDSA_WITH_SHA384:
        got = response.signature_algorithm_oid.dotted_string
        raise Untrusted("OcspSignatureInvalid", where, want="ecdsa-with-SHA384", got=got)
    try:
        key = p384_key(responder, where=place)
        key.verify(response.signature, response.tbs_response_bytes, ec.ECDSA(SHA384()))
    except InvalidSignature:
        raise Untrusted("OcspSignatureInvalid", where, want="a valid signature", got="an invalid one") from None
    return responder


def _good(single: ocsp.OCSPSingleResponse, now: datetime, where: str) -> Window:
    if single.certificate_status is ocsp.OCSPCertStatus.REVOKED:
        reason = single.revocation_reason.value if single.revocation_reason else "no reason given"
        raise Untrusted("OcspRevoked", where, want="good", got=f"revoked: {reason}")
    if single.certificate_status is not ocsp.OCSPCertStatus.GOOD:
        raise Untrusted("OcspUnknown", where, want="good", got="unknown")
    return _window(single.this_update_utc, single.next_update_utc, now, "Ocsp", where)


def _window(start: datetime, end: datetime | None, now: datetime, family: str, where: str) -> Window:
    if end is None:
        raise Untrusted(f"{family}Expired", where, want="a next update", got="none")
    if now < start:
        raise Untrusted(f"{family}NotYetValid", where, want=f"not before {start.isoformat()}", got=now.isoformat())
    if now >= end:
        raise Untrusted(f"{family}Expired", where, want=f"before {end.isoformat()}", got=now.isoformat())
    return Window(start, end)


def _verify_crl(der: bytes, links: Sequence[Link], now: datetime, where: str) -> tuple[bytes, Window]:
    try:
        crl = x509.load_der_x509_crl(der)
        critical = [e.oid.dotted_string for e in crl.extensions if e.critical]
        algorithm = _SIGNATURES.get(crl.signature_algorithm_oid)
        # The library reads these on demand: a list whose parts cannot be read goes no further.
        name, begins, ends = crl.issuer.public_bytes(), crl.last_update_utc, crl.next_update_utc
        serials = {link.certificate.serial_number for link in links}
        entries = [crl.get_revoked_certificate_by_serial_number(serial) for serial in serials]
        listed = {entry.serial_number: _reason(entry) for entry in entries if entry is not None}
    except UNREADABLE:
        raise Malformed("MalformedCrl", where, want="a CRL", got="other data") from None
    if critical or algorithm is None:  # delta and partial CRLs say so in a critical extension
        raise Untrusted("CrlUnsupported", where, want="a complete CRL under ECDSA", got=" ".join(critical) or "another")
    of_issuer = [link for link in links if link.issuer_name == name]
    if not of_issuer:
        want = "an issuer of this evidence"
        raise Untrusted("CrlIssuerMismatch", where, want=want, got=crl.issuer.rfc4514_string()[:128])
    issuer = of_issuer[0].issuer
    if not issuer.extensions.get_extension_for_class(x509.KeyUsage).value.crl_sign:
        raise Untrusted("CrlSignatureInvalid", where, want="an issuer that may sign CRLs", got="one that may not")
    try:
        p384_key(issuer, where=where).verify(crl.signature, crl.tbs_certlist_bytes, ec.ECDSA(algorithm()))
    except InvalidSignature:
        raise Untrusted("CrlSignatureInvalid", where, want="a valid signature", got="an invalid one") from None
    window = _window(begins, ends, now, "Crl", where)
    for link in of_issuer:
        reason = listed.get(link.certificate.serial_number)
        if reason is not None:
            raise Untrusted("CertificateRevoked", f"{where} ({link.name})", want="not listed", got=reason)
    return name, window


def _reason(entry: x509.RevokedCertificate) -> str:
    for extension in entry.extensions:
        if extension.oid == CRLEntryExtensionOID.CRL_REASON and isinstance(extension.value, x509.CRLReason):
            return f"revoked: {extension.value.reason.value}"
    return "revoked"
