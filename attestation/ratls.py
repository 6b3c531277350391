# SPDX-License-Identifier: Apache-2.0
"""RA-TLS certificates: evidence in an X.509 extension, and what a peer's certificate claims.

CCC interoperable RA-TLS with the TCG DICE extension 2.23.133.5.4.9: CBOR tag 60000 around [quote, claims]
(docs/protocol.md, Claims and REPORTDATA). A certificate proves nothing by itself: its key must be the one that verified
claims name.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from . import cbor
from .binding import spki_claim
from .certificate import load_der
from .errors import Malformed, Untrusted
from .evidence import MAX_CLAIMS, MAX_QUOTE

OID: Final = x509.ObjectIdentifier("2.23.133.5.4.9")
_TAG_60000: Final = bytes.fromhex("d9ea60")
MAX_CERTIFICATE: Final = 32 * 1024
_CODE: Final = "MalformedCertificate"


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerCertificate:
    """What a peer's certificate says of itself."""

    spki: bytes  # DER SubjectPublicKeyInfo
    quote: bytes | None  # None: a certificate without the extension
    claims: bytes | None


def make_certificate(
    key: EllipticCurvePrivateKey,
    *,
    quote: bytes,
    claims: bytes,
    serial: int,
    not_before: datetime,
    not_after: datetime,
) -> bytes:
    """Make the self-signed certificate that carries `quote` and `claims`; DER."""
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "sericin enclave")])
    value = _TAG_60000 + cbor.encode([quote, claims])
    builder = (
        x509.CertificateBuilder(subject_name=name, issuer_name=name)
        .public_key(key.public_key())
        .serial_number(serial)
        .not_valid_before(not_before)
        .not_valid_after(not_after)
        .add_extension(x509.UnrecognizedExtension(OID, value), critical=False)
    )
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


def spki_of(key: EllipticCurvePrivateKey) -> bytes:
    """Give the DER SubjectPublicKeyInfo of a key pair."""
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def read_certificate(der: bytes) -> PeerCertificate:
    """Read a peer's certificate. Raises Malformed(MalformedCertificate)."""
    if len(der) > MAX_CERTIFICATE:
        raise Malformed(_CODE, "certificate", want=f"at most {MAX_CERTIFICATE} bytes", got=len(der))
    try:
        certificate = load_der(der)
        spki = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        found = [e.value for e in certificate.extensions if e.oid == OID]
    except Exception as e:  # noqa: BLE001 - the X.509 reader raises many kinds on hostile bytes
        raise Malformed(_CODE, "certificate", want="an X.509 certificate", got=type(e).__name__) from None
    if not found:
        return PeerCertificate(spki=spki, quote=None, claims=None)
    extension = found[0]
    value = extension.value if isinstance(extension, x509.UnrecognizedExtension) else b""
    if not value.startswith(_TAG_60000):
        raise Malformed(_CODE, "certificate.evidence", want="CBOR tag 60000", got="other bytes")
    limit = MAX_QUOTE + MAX_CLAIMS + 16
    item = cbor.decode(value[len(_TAG_60000) :], limit=limit, what="certificate.evidence", code=_CODE)
    pair = cbor.as_list(item, "certificate.evidence", code=_CODE, limit=2, least=2)
    return PeerCertificate(
        spki=spki,
        quote=cbor.as_bytes(pair[0], "certificate.quote", code=_CODE, limit=MAX_QUOTE),
        claims=cbor.as_bytes(pair[1], "certificate.claims", code=_CODE, limit=MAX_CLAIMS),
    )


def require_peer_key(spki: bytes, pubkey_hash: bytes) -> None:
    """Require the peer's key to be the one that verified claims name. Raises Untrusted(PeerKeyMismatch)."""
    if spki_claim(spki) != pubkey_hash:
        raise Untrusted("PeerKeyMismatch", "peer.key", want=pubkey_hash.hex(), got=spki_claim(spki).hex())
