# SPDX-License-Identifier: Apache-2.0
"""Is it revoked? Intel's two CRLs: the root's, over CAs and TCB signers, and a PCK CA's, over PCK certificates."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from cryptography import x509
from cryptography.x509.oid import SignatureAlgorithmOID

from ..certificate import UNREADABLE
from ..der import elements_and_rest, first_elements
from ..errors import Untrusted
from ..window import Window
from .anchor import usual_der
from .certificates import RoleCertificate
from .ecdsa import require_der

MAX_CRL: Final = 256 * 1024
_LIST: Final = b"\x30"  # SEQUENCE OF what is revoked
_ORDINARY: Final = re.compile(
    rb"\xa0\x2f\x30\x2d"
    rb"\x30\x0a\x06\x03\x55\x1d\x14\x04\x03\x02\x01[\x00-\x7f]"  # cRLNumber
    rb"\x30\x1f\x06\x03\x55\x1d\x23\x04\x18\x30\x16\x80\x14.{20}",  # authorityKeyIdentifier
    re.DOTALL,
)
"""The extensions of a CRL as Intel writes them; all others the library reads."""

_UNDERSTOOD: Final = (x509.CRLNumber, x509.AuthorityKeyIdentifier)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class VerifiedCrl:
    """A CRL whose signature and window hold. Made by `verify_crl` alone."""

    name: str
    crl: x509.CertificateRevocationList
    window: Window

    def require_not_revoked(self, certificate: RoleCertificate) -> None:
        """Raise Untrusted(CertificateRevoked) if `certificate` is listed."""
        if self.crl.get_revoked_certificate_by_serial_number(certificate.serial) is not None:
            got = f"serial {certificate.serial:x}, listed in {self.name}"
            raise Untrusted("CertificateRevoked", certificate.role, want="not revoked", got=got)


def verify_crl(der: bytes, issuer: RoleCertificate, *, name: str, now: datetime) -> VerifiedCrl:
    """Verify a complete CRL of `issuer` at `now`; it must have a nextUpdate. Raises Untrusted."""
    if len(der) > MAX_CRL:
        raise Untrusted("CrlUnsupported", name, want=f"at most {MAX_CRL} bytes", got=len(der))
    try:
        crl = x509.load_der_x509_crl(der)
        algorithm, begins, ends = crl.signature_algorithm_oid, crl.last_update_utc, crl.next_update_utc
        (signed,) = first_elements(der, 1)
        found, rest = elements_and_rest(signed, 4 if ends is None else 5)  # version, algorithm, issuer, times
        issued_by = None if found[2] == usual_der(issuer.subject) else crl.issuer
        if rest.startswith(_LIST):
            _, rest = elements_and_rest(signed, len(found) + 1)
        extensions = crl.extensions if _ORDINARY.fullmatch(rest) is None else None
    except UNREADABLE as e:
        raise Untrusted("CrlUnsupported", name, want="an X.509 CRL", got=type(e).__name__) from None
    if issued_by is not None and issued_by != issuer.certificate.subject:
        got = issued_by.rfc4514_string()[:120]
        raise Untrusted("CrlIssuerMismatch", name, want=f"the subject of {issuer.role}", got=got)
    if algorithm != SignatureAlgorithmOID.ECDSA_WITH_SHA256:
        raise Untrusted("CrlUnsupported", f"{name}.signature", want="ecdsa-with-SHA256", got=algorithm.dotted_string)
    require_der(issuer.key, crl.signature, signed, code="CrlSignatureInvalid", where=f"{name}.signature")
    if extensions is not None:
        _require_complete(extensions, name)
    if ends is None:
        raise Untrusted("CrlUnsupported", f"{name}.nextUpdate", want="present", got="absent")
    if now < begins:
        raise Untrusted("CrlNotYetValid", name, want=f"now from {begins}", got=now)
    if now >= ends:
        raise Untrusted("CrlExpired", name, want=f"now before {ends}", got=now)
    return VerifiedCrl(name=name, crl=crl, window=Window(begins, ends))


def _require_complete(extensions: x509.Extensions, name: str) -> None:
    """Require exactly what Intel's CRLs carry: no delta CRL, no distribution point, nothing critical."""
    for extension in extensions:
        if extension.critical or not isinstance(extension.value, _UNDERSTOOD):
            got = extension.oid.dotted_string
            raise Untrusted(
                "CrlUnsupported", f"{name}.extensions", want="cRLNumber and authorityKeyIdentifier", got=got
            )
    if len(extensions) != len(_UNDERSTOOD):
        raise Untrusted("CrlUnsupported", f"{name}.extensions", want="cRLNumber and authorityKeyIdentifier", got="one")
