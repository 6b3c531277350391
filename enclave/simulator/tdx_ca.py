# SPDX-License-Identifier: Apache-2.0
"""The simulated vendor of TDX platforms: a P-256 hierarchy shaped like Intel's, made at first use.

Every name says SIMULATED - NOT CONFIDENTIAL. The keys lie in the state directory, mode 0600, and are made anew after 30
days. Nothing here is shared with the code that reads quotes.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256, SHA384
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import NameOID

from .tdx_platform import PlatformProfile, sgx_extension

ORGANIZATION: Final = "SIMULATED - NOT CONFIDENTIAL"
LIFETIME: Final = timedelta(days=30)
STATE_FILE: Final = "tdx-ca.json"
ROOT_FILE: Final = "tdx-root.pem"
SIGNING: Final = ("key_cert_sign", "crl_sign")
LEAF: Final = ("digital_signature", "content_commitment")

_KEY_USAGE: Final = (
    "digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
    "key_cert_sign", "crl_sign", "encipher_only", "decipher_only",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class TdxIssuer:
    """A key and its certificate."""

    key: ec.EllipticCurvePrivateKey = field(repr=False)
    certificate: x509.Certificate

    @property
    def der(self) -> bytes:
        """The certificate."""
        return self.certificate.public_bytes(Encoding.DER)


def intel_name(common_name: str, organization: str = ORGANIZATION) -> x509.Name:
    """Give a name with the attributes that Intel's have."""
    pairs = (
        (NameOID.COMMON_NAME, common_name),
        (NameOID.ORGANIZATION_NAME, organization),
        (NameOID.LOCALITY_NAME, "Santa Clara"),
        (NameOID.STATE_OR_PROVINCE_NAME, "CA"),
        (NameOID.COUNTRY_NAME, "US"),
    )
    return x509.Name([x509.NameAttribute(oid, value) for oid, value in pairs])


def new_key() -> ec.EllipticCurvePrivateKey:
    """Make a P-256 key."""
    return ec.generate_private_key(ec.SECP256R1())


def certify(
    subject: x509.Name,
    public_key: ec.EllipticCurvePublicKey,
    *,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    usage: tuple[str, ...],
    ca: bool,
    path_length: int | None,
    window: tuple[datetime, datetime],
    extensions: tuple[x509.ExtensionType, ...] = (),
    serial: int | None = None,
    algorithm: SHA256 | SHA384 | None = None,
) -> x509.Certificate:
    """Sign one certificate: basic constraints and key usage critical, everything else not."""
    authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key())
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(serial if serial is not None else secrets.randbits(152) | 1 << 151)
        .not_valid_before(window[0])
        .not_valid_after(window[1])
        .add_extension(authority, critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(x509.KeyUsage(**{name: name in usage for name in _KEY_USAGE}), critical=True)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=path_length), critical=True)
    )
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(key, algorithm or SHA256())


def sign_raw(key: ec.EllipticCurvePrivateKey, data: bytes) -> bytes:
    """Sign with SHA-256 and give r || s (64 bytes, big-endian)."""
    r, s = decode_dss_signature(key.sign(data, ec.ECDSA(SHA256())))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedCa:
    """The whole hierarchy: root, both PCK CAs, the TCB signer and the PCK of one platform."""

    root: TdxIssuer
    platform_ca: TdxIssuer
    processor_ca: TdxIssuer
    tcb_signer: TdxIssuer
    pck: TdxIssuer

    @property
    def root_pem(self) -> str:
        """The root certificate as PEM: the only thing of this CA that anybody else needs."""
        return self.root.certificate.public_bytes(Encoding.PEM).decode()

    @property
    def root_sha256(self) -> bytes:
        """SHA-256 of the root certificate (32 bytes)."""
        return sha256(self.root.der).digest()

    @classmethod
    def make(cls, *, now: datetime, platform: PlatformProfile | None = None) -> SimulatedCa:
        """Make every key and certificate anew, valid for 30 days from `now`, and a day before it."""
        start = now.astimezone(UTC).replace(microsecond=0) - timedelta(days=1)
        window = (start, start + LIFETIME + timedelta(days=1))
        key = new_key()
        name = intel_name("Intel SGX Root CA")
        own = certify(
            name, key.public_key(), issuer=name, key=key, usage=SIGNING, ca=True, path_length=1, window=window
        )
        root = TdxIssuer(key=key, certificate=own)
        platform_ca = issue(root, "Intel SGX PCK Platform CA", ca=True, window=window)
        processor_ca = issue(root, "Intel SGX PCK Processor CA", ca=True, window=window)
        signer = issue(root, "Intel SGX TCB Signing", ca=False, window=window)
        pck = issue_pck(platform_ca, platform or PlatformProfile.new(), window=window)
        return cls(root=root, platform_ca=platform_ca, processor_ca=processor_ca, tcb_signer=signer, pck=pck)

    @classmethod
    def load_or_create(cls, state_dir: Path, *, now: datetime) -> SimulatedCa:
        """Load the CA of `state_dir`, or make and keep a new one there when it has none or an old one.

        Raises PermissionError when others may read the keys.
        """
        path = state_dir / STATE_FILE
        if path.exists():
            if path.stat().st_mode & 0o077:
                raise PermissionError(f"{path} holds private keys and must have mode 0600")
            loaded = cls._read(json.loads(path.read_text()))
            start = loaded.root.certificate.not_valid_before_utc
            if start <= now.astimezone(UTC) < start + LIFETIME:
                return loaded
        made = cls.make(now=now)
        state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        replace_file(path, json.dumps(made._document()).encode(), mode=0o600)  # noqa: SLF001 - its own
        replace_file(state_dir / ROOT_FILE, made.root_pem.encode(), mode=0o644)
        return made

    @classmethod
    def _read(cls, document: Mapping[str, Mapping[str, str]]) -> SimulatedCa:
        issuers = {}
        for role, entry in document.items():
            key = load_pem_private_key(entry["key"].encode(), password=None)
            if not isinstance(key, ec.EllipticCurvePrivateKey):
                raise TypeError(f"the key of {role} is not an elliptic-curve key")
            certificate = x509.load_pem_x509_certificate(entry["certificate"].encode())
            issuers[role] = TdxIssuer(key=key, certificate=certificate)
        return cls(**issuers)

    def _document(self) -> dict[str, dict[str, str]]:
        roles = {name: getattr(self, name) for name in self.__slots__}
        return {
            role: {
                "key": issuer.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode(),
                "certificate": issuer.certificate.public_bytes(Encoding.PEM).decode(),
            }
            for role, issuer in roles.items()
        }


def issue(parent: TdxIssuer, common_name: str, *, ca: bool, window: tuple[datetime, datetime]) -> TdxIssuer:
    """Make a key and a certificate under `parent`: a CA that may issue leaves, or a signer."""
    key = new_key()
    certificate = certify(
        intel_name(common_name),
        key.public_key(),
        issuer=parent.certificate.subject,
        key=parent.key,
        usage=SIGNING if ca else LEAF,
        ca=ca,
        path_length=0 if ca else None,
        window=window,
    )
    return TdxIssuer(key=key, certificate=certificate)


def issue_pck(parent: TdxIssuer, platform: PlatformProfile, *, window: tuple[datetime, datetime]) -> TdxIssuer:
    """Make the PCK of `platform` under a PCK CA."""
    key = new_key()
    certificate = certify(
        intel_name("Intel SGX PCK Certificate"),
        key.public_key(),
        issuer=parent.certificate.subject,
        key=parent.key,
        usage=LEAF,
        ca=False,
        path_length=None,
        window=window,
        extensions=(sgx_extension(platform),),
    )
    return TdxIssuer(key=key, certificate=certificate)


def pem_chain(*certificates: x509.Certificate) -> bytes:
    """Give certificates as PEM, in order."""
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates)


def replace_file(path: Path, data: bytes, *, mode: int) -> None:
    """Write a file whole or not at all."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(data)
    draft.replace(path)
