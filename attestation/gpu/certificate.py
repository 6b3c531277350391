# SPDX-License-Identifier: Apache-2.0
"""What every certificate of the vendor's hierarchies must be: v3, P-384, SHA-384, one role, a known organization."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache
from hashlib import sha256
from typing import Final, NoReturn, TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtensionOID, NameOID, SignatureAlgorithmOID

from ..certificate import UNREADABLE
from ..errors import Untrusted
from ..window import Window

E = TypeVar("E", bound=x509.ExtensionType)

_CACHED_SIGNATURES: Final = 128  # the CAs above devices, reference values and responders are few
_CRITICAL: Final = frozenset({ExtensionOID.BASIC_CONSTRAINTS, ExtensionOID.KEY_USAGE, ExtensionOID.EXTENDED_KEY_USAGE})


def p384_key(cert: x509.Certificate, *, where: str) -> ec.EllipticCurvePublicKey:
    """Give a certificate's P-384 key. Raises Untrusted(CertificateAlgorithm)."""
    try:
        key = cert.public_key()
    except UNREADABLE as e:
        raise Untrusted("CertificateAlgorithm", where, want="a P-384 key", got=type(e).__name__) from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise Untrusted("CertificateAlgorithm", where, want="a P-384 key", got="another key")
    return key


def spki_sha256(cert: x509.Certificate, *, where: str) -> bytes:
    """Give SHA-256 of a certificate's SubjectPublicKeyInfo, 32 bytes."""
    spki = p384_key(cert, where=where).public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return sha256(spki).digest()


def validity(cert: x509.Certificate) -> Window:
    """Give a certificate's own window."""
    return Window(cert.not_valid_before_utc, cert.not_valid_after_utc)


def require_valid(certs: Sequence[x509.Certificate], now: datetime, *, where: str) -> None:
    """Require every window to hold `now`. Raises Untrusted(CertificateNotYetValid | CertificateExpired)."""
    moment = now.astimezone(UTC)
    for i, cert in enumerate(certs):
        window = validity(cert)
        if moment < window.not_before:
            want = f"not before {window.not_before.isoformat()}"
            raise Untrusted("CertificateNotYetValid", f"{where}[{i}]", want=want, got=moment.isoformat())
        if moment >= window.not_after:
            want = f"not after {window.not_after.isoformat()}"
            raise Untrusted("CertificateExpired", f"{where}[{i}]", want=want, got=moment.isoformat())


def common_name(cert: x509.Certificate) -> str:
    """Give the one CN of a certificate's subject, or an empty string."""
    return _one(cert.subject, NameOID.COMMON_NAME)


def _one(name: x509.Name, oid: x509.ObjectIdentifier) -> str:
    values = name.get_attributes_for_oid(oid)
    return str(values[0].value) if len(values) == 1 else ""


def require_chain(
    certs: Sequence[x509.Certificate],
    *,
    length: int,
    roots: frozenset[bytes],
    organizations: frozenset[str],
    code: str,
    where: str,
) -> bytes:
    """Require a chain of `length`, leaf first and root last, to end in a pinned root key and to be signed link by link.

    Windows are the caller's (`require_valid`): this answer does not depend on time. Gives the root's SPKI digest.
    Raises Malformed(MalformedCertificate), Untrusted(UntrustedRoot | CertificateAlgorithm | CertificateRoleMismatch |
    `code`).
    """
    last = len(certs) - 1
    root = spki_sha256(certs[last], where=f"{where}[{last}]")
    if root not in roots:
        raise Untrusted("UntrustedRoot", f"{where}[{last}]", want="a pinned root key", got=root.hex())
    if len(certs) != length:
        raise Untrusted(code, where, want=f"{length} certificates", got=len(certs))
    for i, cert in enumerate(certs):
        require_role(cert, ca=i > 0, below=max(0, i - 1), organizations=organizations, where=f"{where}[{i}]")
    for i, cert in enumerate(certs):
        require_issued(cert, certs[min(i + 1, last)], code=code, where=f"{where}[{i}]")
    return root


def require_role(cert: x509.Certificate, *, ca: bool, below: int, organizations: frozenset[str], where: str) -> None:
    """Require the profile of a signer (`ca` False) or of a CA with `below` CA certificates under it."""
    if cert.version is not x509.Version.v3 or cert.signature_algorithm_oid != SignatureAlgorithmOID.ECDSA_WITH_SHA384:
        got = cert.signature_algorithm_oid.dotted_string
        raise Untrusted("CertificateAlgorithm", where, want="X.509 v3 with ecdsa-with-SHA384", got=got)
    p384_key(cert, where=where)
    extensions = cert.extensions  # readable: `load_certificate` has read them
    for extension in extensions:
        if extension.critical and extension.oid not in _CRITICAL:
            _wrong_role(where, "no unknown critical extension", extension.oid.dotted_string)
    organization = _one(cert.subject, NameOID.ORGANIZATION_NAME)
    if organization not in organizations:
        _wrong_role(where, " or ".join(sorted(organizations)), organization or "no one organization")
    constraints = _find(extensions, x509.BasicConstraints)
    is_ca = constraints is not None and constraints.ca
    if is_ca != ca:
        _wrong_role(where, "a CA" if ca else "no CA", "a CA" if is_ca else "no CA")
    if constraints is not None and constraints.path_length is not None and constraints.path_length < below:
        _wrong_role(where, f"path length of at least {below}", constraints.path_length)
    usage = _find(extensions, x509.KeyUsage)
    if usage is None or usage.key_cert_sign != ca or (not ca and not usage.digital_signature):
        _wrong_role(where, "keyCertSign" if ca else "digitalSignature without keyCertSign", "another key usage")


def require_issued(cert: x509.Certificate, issuer: x509.Certificate, *, code: str, where: str) -> None:
    """Require `issuer` to have named and signed `cert`. Raises Untrusted(`code`)."""
    if cert.issuer.public_bytes() != issuer.subject.public_bytes():
        raise Untrusted(code, where, want=issuer.subject.rfc4514_string(), got=cert.issuer.rfc4514_string())
    try:
        _check_signature(cert, issuer)
    except InvalidSignature:
        raise Untrusted(code, where, want="a signature of its issuer", got="an invalid signature") from None


@lru_cache(maxsize=_CACHED_SIGNATURES)
def _check_signature(cert: x509.Certificate, issuer: x509.Certificate) -> None:
    """Check one signature: the same two certificates have the same answer at all times. A refusal is not remembered."""
    key = p384_key(issuer, where="issuer")
    key.verify(cert.signature, cert.tbs_certificate_bytes, ec.ECDSA(SHA384()))


def forget_signatures() -> None:
    """Forget what was checked."""
    _check_signature.cache_clear()


def _find(extensions: x509.Extensions, kind: type[E]) -> E | None:
    try:
        return extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def _wrong_role(where: str, want: object, got: object) -> NoReturn:
    raise Untrusted("CertificateRoleMismatch", where, want=want, got=got)
