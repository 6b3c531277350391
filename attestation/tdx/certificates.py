# SPDX-License-Identifier: Apache-2.0
"""Who signed? The fixed chains of Intel's hierarchy: leaf, CA, root for a PCK; signer, root for TCB data.

Each certificate stands for one role: exact name, exact constraints, P-256 and SHA-256, valid now. There is no path
building: the chains have one shape each (Intel SGX PCK Certificate and CRL Profile, sections 1.2 and 1.3).
"""

from __future__ import annotations

import binascii
import re
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from hashlib import sha256
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtensionOID, SignatureAlgorithmOID

from ..certificate import UNREADABLE, load_der, require_one_algorithm
from ..errors import Untrusted
from ..window import Window
from .anchor import DistinguishedName, TdxTrustAnchor
from .ecdsa import CURVE, require_der
from .form import usual_form
from .memory import Memory

MAX_PEM: Final = 12 * 1024
MAX_DER: Final = 4096

_CHAIN: Final = "CertificateChainInvalid"
_BLOCK: Final = re.compile(rb"-----BEGIN CERTIFICATE-----\r?\n([^-]+)-----END CERTIFICATE-----(?:\r?\n)*")
_CRITICAL: Final = frozenset({ExtensionOID.KEY_USAGE, ExtensionOID.BASIC_CONSTRAINTS})


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RoleCertificate:
    """A certificate that was parsed and found fit for its role; its signature is checked against its issuer."""

    role: str
    der: bytes
    signed: bytes  # TBSCertificate, as the issuer signed it
    subject: DistinguishedName
    certificate: x509.Certificate
    key: ec.EllipticCurvePublicKey
    window: Window
    sgx: bytes | None  # the SGX extension, where the certificate has the usual form

    @property
    def serial(self) -> int:
        """The serial number."""
        return self.certificate.serial_number


def split_pem(data: bytes, count: int, where: str) -> tuple[bytes, ...]:
    """Split PEM into exactly `count` certificates as DER; one final zero byte is allowed. Raises Untrusted."""
    return tuple(_decoded(text, where) for text in _texts(data, count, where))


def _texts(data: bytes, count: int, where: str) -> tuple[bytes, ...]:
    """Give the base64 of each block, with its line ends."""
    if len(data) > MAX_PEM:
        raise Untrusted(_CHAIN, where, want=f"at most {MAX_PEM} bytes", got=len(data))
    text = data.removesuffix(b"\0")
    whole = _blocks(count).fullmatch(text)
    if whole is None:
        raise _no_chain(text, count, where)
    return whole.groups()


def _first(data: bytes, where: str) -> tuple[bytes, bytes]:
    """Give the first certificate as DER, and all text after it."""
    if len(data) > MAX_PEM:
        raise Untrusted(_CHAIN, where, want=f"at most {MAX_PEM} bytes", got=len(data))
    block = _BLOCK.match(data)
    if block is None:
        raise _no_chain(data, 3, where)
    return _decoded(block[1], where), data[block.end() :]


@lru_cache(maxsize=4)
def _blocks(count: int) -> re.Pattern[bytes]:
    return re.compile(_BLOCK.pattern * count)


def _no_chain(text: bytes, count: int, where: str) -> Untrusted:
    """Say why `text` is not `count` blocks."""
    found, at = 0, 0
    while at < len(text):
        block = _BLOCK.match(text, at)
        if block is None:
            return Untrusted(_CHAIN, where, want="PEM certificates and nothing else", got=f"other bytes at {at}")
        found, at = found + 1, block.end()
    return Untrusted(_CHAIN, where, want=f"{count} certificates", got=found)


def _decoded(text: bytes, where: str) -> bytes:
    """Decode base64 in its one form: a stray bit in the last character would give one chain two encodings."""
    text = text.translate(None, b"\r\n")
    try:
        der = binascii.a2b_base64(text, strict_mode=True)
    except binascii.Error:
        der = b""
    # In strict mode four characters are three bytes, and only the end can be written in more than one way.
    end = binascii.b2a_base64(der[(len(der) - 1) // 3 * 3 :], newline=False)
    if not der or len(text) != (len(der) + 2) // 3 * 4 or not text.endswith(end):
        raise Untrusted(_CHAIN, where, want="base64 in its one form", got="other text")
    return der


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _PckCa:
    """A PCK CA under the pinned root: the same for every platform."""

    ca: RoleCertificate
    root: RoleCertificate
    window: Window


def _pck_ca(pem: bytes, anchor: TdxTrustAnchor, now: datetime) -> _PckCa:
    text, root = _texts(pem, 2, "pck_chain.issuers")
    names, ca = anchor.names, _decoded(text, "pck_chain.issuers")
    top = _valid(_pinned(root, names.root, anchor.root_sha256), now)
    middle = _certificate(ca, "pck_ca", (names.platform_ca, names.processor_ca), names.root, now, path_length=0)
    _require_issued(middle, top)
    return _PckCa(ca=middle, root=top, window=middle.window.meet(top.window))


def verify_pck_chain(
    pem: bytes, *, anchor: TdxTrustAnchor, now: datetime, memory: Memory
) -> tuple[RoleCertificate, RoleCertificate, RoleCertificate]:
    """Verify PCK leaf, platform or processor CA, and root, in this order, down to the anchor. Raises Untrusted."""
    leaf, rest = _first(pem, "pck_chain")
    names = anchor.names
    issuers = memory.recall("pck_ca", (anchor.root_sha256, rest), now=now, make=lambda: _pck_ca(rest, anchor, now))
    middle, top = issuers.ca, issuers.root
    bottom = _certificate(leaf, "pck", (names.pck,), middle.subject, now, path_length=None)
    _require_issued(bottom, middle)
    return bottom, middle, top


def verify_signing_chain(
    pem: bytes, *, where: str, root: RoleCertificate, anchor: TdxTrustAnchor, now: datetime
) -> RoleCertificate:
    """Verify the TCB signer under `root`, the pinned one, which the chain must end in. Raises Untrusted."""
    signer_text, top = _texts(pem, 2, where)
    signer = _decoded(signer_text, where)
    if top.translate(None, b"\r\n") != binascii.b2a_base64(root.der, newline=False):
        want, got = sha256(root.der).hexdigest(), sha256(_decoded(top, where)).hexdigest()
        raise Untrusted("UntrustedRoot", f"{where}.root", want=want, got=got)
    bottom = _certificate(signer, "tcb_signer", (anchor.names.tcb_signing,), anchor.names.root, now, path_length=None)
    _require_issued(bottom, root)
    return bottom


@lru_cache(maxsize=4)
def _pinned(text: bytes, name: DistinguishedName, pin: bytes) -> RoleCertificate:
    """Read the pinned root itself, the same for every quote; whether it is valid is asked anew each time.

    Its own signature would add nothing to the pin. Raises Untrusted, which is not kept.
    """
    der = _decoded(text, "pck_chain.root")
    digest = sha256(der).digest()
    if digest != pin:
        raise Untrusted("UntrustedRoot", "pck_chain.root", want=pin.hex(), got=digest.hex())
    return _role(der, "root", (name,), name, 1)


def _certificate(
    der: bytes,
    role: str,
    subjects: tuple[DistinguishedName, ...],
    issuer: DistinguishedName,
    now: datetime,
    *,
    path_length: int | None,
) -> RoleCertificate:
    """Parse one certificate and require everything of its role; `path_length` None means no CA."""
    return _valid(_role(der, role, subjects, issuer, path_length), now)


def _valid(certificate: RoleCertificate, now: datetime) -> RoleCertificate:
    window, role = certificate.window, certificate.role
    if now < window.not_before:
        raise Untrusted("CertificateNotYetValid", role, want=f"now from {window.not_before}", got=now)
    if now >= window.not_after:
        raise Untrusted("CertificateExpired", role, want=f"now before {window.not_after}", got=now)
    return certificate


def _role(
    der: bytes,
    role: str,
    subjects: tuple[DistinguishedName, ...],
    issuer: DistinguishedName,
    path_length: int | None,
) -> RoleCertificate:
    if len(der) > MAX_DER:
        raise Untrusted(_CHAIN, role, want=f"at most {MAX_DER} bytes", got=len(der))
    try:
        certificate = load_der(der)
        form = usual_form(der, subjects, issuer, path_length)
        if form is None:
            subject = _require_role(certificate, role, subjects, issuer, path_length)
            require_one_algorithm(der)
            signed, point, sgx = certificate.tbs_certificate_bytes, None, None
        else:
            signed, subject, point, sgx = form
    except UNREADABLE as e:
        raise Untrusted(_CHAIN, role, want="an X.509 certificate", got=type(e).__name__) from None
    return RoleCertificate(
        role=role,
        der=der,
        signed=signed,
        subject=subject,
        certificate=certificate,
        key=_key(certificate, point, role),
        window=Window(certificate.not_valid_before_utc, certificate.not_valid_after_utc),
        sgx=sgx,
    )


def _require_role(
    certificate: x509.Certificate,
    role: str,
    subjects: tuple[DistinguishedName, ...],
    issuer: DistinguishedName,
    path_length: int | None,
) -> DistinguishedName:
    """Require of a certificate, as the library reads it, what `usual_form` knows; give its subject."""
    version, algorithm = certificate.version, certificate.signature_algorithm_oid
    subject, issued_by = _name(certificate.subject), _name(certificate.issuer)
    extensions = certificate.extensions
    if version is not x509.Version.v3:
        raise Untrusted(_CHAIN, f"{role}.version", want="v3", got=version.name)
    if subject not in subjects:
        raise Untrusted("CertificateRoleMismatch", f"{role}.subject", want=_shown(subjects[0]), got=_shown(subject))
    if issued_by != issuer:
        raise Untrusted("CertificateRoleMismatch", f"{role}.issuer", want=_shown(issuer), got=_shown(issued_by))
    if algorithm != SignatureAlgorithmOID.ECDSA_WITH_SHA256:
        got = algorithm.dotted_string
        raise Untrusted("CertificateAlgorithm", f"{role}.signature", want="ecdsa-with-SHA256", got=got)
    _require_constraints(extensions, role, path_length)
    return subject


def _key(certificate: x509.Certificate, point: bytes | None, role: str) -> ec.EllipticCurvePublicKey:
    """Load the key of the certificate, whose `point` may be known; it must be of P-256."""
    key: object = None
    try:
        if point is not None:
            return ec.EllipticCurvePublicKey.from_encoded_point(CURVE, point)
        key = certificate.public_key()
    except UNREADABLE:
        key = None  # judged below
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise Untrusted("CertificateAlgorithm", f"{role}.key", want="P-256", got=type(key).__name__)
    return key


def _require_constraints(extensions: x509.Extensions, role: str, path_length: int | None) -> None:
    critical = {extension.oid for extension in extensions if extension.critical}
    if critical != _CRITICAL:
        got = ", ".join(sorted(oid.dotted_string for oid in critical))
        raise Untrusted(_CHAIN, f"{role}.critical", want="basicConstraints and keyUsage", got=got or "none")
    try:
        basic = extensions.get_extension_for_class(x509.BasicConstraints).value
        usage = extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        raise Untrusted(_CHAIN, role, want="basicConstraints and keyUsage", got="absent") from None
    is_ca = path_length is not None
    if basic.ca is not is_ca or basic.path_length != path_length:
        got = f"CA:{basic.ca}, pathLen {basic.path_length}"
        raise Untrusted(_CHAIN, f"{role}.basicConstraints", want=f"CA:{is_ca}, pathLen {path_length}", got=got)
    fit = usage.key_cert_sign and usage.crl_sign if is_ca else usage.digital_signature and not usage.key_cert_sign
    if not fit:
        want = "keyCertSign and cRLSign" if is_ca else "digitalSignature without keyCertSign"
        raise Untrusted(_CHAIN, f"{role}.keyUsage", want=want, got="another")


def _require_issued(certificate: RoleCertificate, issuer: RoleCertificate) -> None:
    require_der(
        issuer.key,
        certificate.certificate.signature,
        certificate.signed,
        code=_CHAIN,
        where=f"{certificate.role}.signature",
    )


def _name(name: x509.Name) -> DistinguishedName:
    """Give a name as a set of attributes. One with a multi-valued RDN is empty and equals no expected name."""
    pairs = []
    for rdn in name.rdns:
        attributes = list(rdn)
        if len(attributes) != 1:
            return ()
        pairs.append((attributes[0].oid.dotted_string, str(attributes[0].value)))
    return tuple(sorted(pairs))


def _shown(name: DistinguishedName) -> str:
    values = [value for oid, value in name if oid in ("2.5.4.3", "2.5.4.10")]
    return " / ".join(values)[:120]
