# SPDX-License-Identifier: Apache-2.0
"""The simulated vendor of GPUs: P-384 hierarchies for devices and for reference values, made at first use.

Every name says SIMULATED - NOT CONFIDENTIAL. The keys lie in the state directory, mode 0600, and are made anew after 30
days. Nothing here is shared with the code that reads evidence.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

ORGANIZATION: Final = "SIMULATED - NOT CONFIDENTIAL"
LIFETIME: Final = timedelta(days=30)
STATE_FILE: Final = "gpu-ca.json"
DEVICE_ROOT_FILE: Final = "gpu-device-root.pem"
RIM_ROOT_FILE: Final = "gpu-rim-root.pem"

_KEY_USAGE: Final = (
    "digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
    "key_cert_sign", "crl_sign", "encipher_only", "decipher_only",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Issuer:
    """A key and its certificate."""

    key: ec.EllipticCurvePrivateKey = field(repr=False)
    certificate: x509.Certificate
    crl_url: str | None = None  # said in every certificate that it issues, where there is one

    def issue(
        self,
        common_name: str,
        public_key: ec.EllipticCurvePublicKey,
        *,
        usage: tuple[str, ...],
        ca: bool,
        serial: int | None = None,
        extensions: tuple[x509.ExtensionType, ...] = (),
        window: tuple[datetime, datetime] | None = None,
    ) -> x509.Certificate:
        """Issue a certificate under this one. `usage` names key usages."""
        mine = self.certificate
        if self.crl_url:
            point = x509.DistributionPoint([x509.UniformResourceIdentifier(self.crl_url)], None, None, None)
            extensions = (*extensions, x509.CRLDistributionPoints([point]))
        return _sign(
            common_name,
            public_key,
            issuer=mine.subject,
            key=self.key,
            usage=usage,
            ca=ca,
            serial=serial,
            extensions=extensions,
            window=window or (mine.not_valid_before_utc, mine.not_valid_after_utc),
        )

    def child(self, common_name: str, *, crl_url: str | None = None) -> Issuer:
        """Make a key and a CA certificate for it."""
        key = new_key()
        certificate = self.issue(common_name, key.public_key(), usage=("key_cert_sign", "crl_sign"), ca=True)
        return Issuer(key=key, certificate=certificate, crl_url=crl_url)

    def responder(self, common_name: str) -> Issuer:
        """Make a key and a certificate that may sign OCSP responses for this issuer's certificates."""
        key = new_key()
        certificate = self.issue(
            common_name,
            key.public_key(),
            usage=("digital_signature",),
            ca=False,
            extensions=(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.OCSP_SIGNING]),),
        )
        return Issuer(key=key, certificate=certificate)


def new_key() -> ec.EllipticCurvePrivateKey:
    """Make a P-384 key."""
    return ec.generate_private_key(ec.SECP384R1())


def name_of(common_name: str) -> x509.Name:
    """Give the name that every certificate of the hierarchy has."""
    return x509.Name(
        [
            x509.NameAttribute(NameOID.COUNTRY_NAME, "US"),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, ORGANIZATION),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )


def make_root(common_name: str, *, now: datetime) -> Issuer:
    """Make a self-signed root that is valid for 30 days from a day before `now`."""
    key = new_key()
    start = now.replace(microsecond=0) - timedelta(days=1)
    certificate = _sign(
        common_name,
        key.public_key(),
        issuer=name_of(common_name),
        key=key,
        usage=("key_cert_sign", "crl_sign"),
        ca=True,
        serial=None,
        extensions=(),
        window=(start, start + LIFETIME + timedelta(days=1)),
    )
    return Issuer(key=key, certificate=certificate)


def _sign(
    common_name: str,
    public_key: ec.EllipticCurvePublicKey,
    *,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    usage: tuple[str, ...],
    ca: bool,
    serial: int | None,
    extensions: tuple[x509.ExtensionType, ...],
    window: tuple[datetime, datetime],
) -> x509.Certificate:
    builder = (
        x509.CertificateBuilder()
        .subject_name(name_of(common_name))
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(serial if serial is not None else secrets.randbits(152) | 1 << 151)
        .not_valid_before(window[0])
        .not_valid_after(window[1])
        .add_extension(x509.KeyUsage(**{name: name in usage for name in _KEY_USAGE}), critical=True)
    )
    if ca:
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(key, SHA384())


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuAuthority:
    """Both hierarchies of the simulated vendor: roles by name, so that they can be kept in one file."""

    issuers: Mapping[str, Issuer]

    @property
    def device_root(self) -> Issuer:
        """The root of device identities."""
        return self.issuers["device-root"]

    @property
    def rim_root(self) -> Issuer:
        """The root of reference values."""
        return self.issuers["rim-root"]

    @classmethod
    def make(cls, *, now: datetime, crls: str | None = None) -> GpuAuthority:
        """Make every key and certificate anew. With `crls` (a URL to which ROLE.crl is appended) they say so.

        What is kept in a state directory forgets `crls`: it serves one run.
        """
        issuers: dict[str, Issuer] = {}

        def add(role: str, common_name: str, above: str | None = None) -> None:
            url = f"{crls}{role}.crl" if crls else None
            if above is None:
                issuers[role] = replace(make_root(common_name, now=now), crl_url=url)
            else:
                issuers[role] = issuers[above].child(common_name, crl_url=url)

        add("device-root", "NVIDIA Device Identity CA")
        for chip in ("GH100", "GB100"):
            add(f"{chip}-identity", f"NVIDIA {chip} Identity", "device-root")
            add(f"{chip}-ica", f"NVIDIA {chip} Provisioner ICA 1", f"{chip}-identity")
        issuers["LS10-identity"] = issuers["GH100-identity"]
        add("LS10-ica", "NVIDIA LS_10 Provisioner ICA 1", "LS10-identity")
        add("rim-root", "NVIDIA CoRIM signing Root CA")
        add("rim-ca", "NVIDIA Reference Value CA", "rim-root")
        add("rim-l3", "NVIDIA Reference Value L3 001", "rim-ca")
        key = new_key()
        leaf = issuers["rim-l3"].issue("HCC RIM L4 Signer", key.public_key(), usage=("digital_signature",), ca=False)
        issuers["rim-signer"] = Issuer(key=key, certificate=leaf)
        return cls(issuers=issuers)

    @classmethod
    def load_or_make(cls, state_dir: Path, *, now: datetime) -> GpuAuthority:
        """Load the authority of `state_dir`, or make and keep a new one there when it has none or an old one.

        Raises PermissionError when others may read the keys.
        """
        path = state_dir / STATE_FILE
        if path.exists():
            if path.stat().st_mode & 0o077:
                raise PermissionError(f"{path} holds private keys and must have mode 0600")
            authority = cls._read(path.read_text())
            start = authority.device_root.certificate.not_valid_before_utc
            if start <= now.astimezone(UTC) < start + LIFETIME:
                return authority
        authority = cls.make(now=now.astimezone(UTC))
        authority.keep(state_dir)
        return authority

    @classmethod
    def _read(cls, text: str) -> GpuAuthority:
        issuers = {}
        for role, entry in json.loads(text).items():
            key = load_pem_private_key(entry["key"].encode(), password=None)
            if not isinstance(key, ec.EllipticCurvePrivateKey):
                raise TypeError(f"the key of {role} is not an elliptic-curve key")
            issuers[role] = Issuer(key=key, certificate=x509.load_pem_x509_certificate(entry["certificate"].encode()))
        return cls(issuers=issuers)

    def keep(self, state_dir: Path) -> None:
        """Write the authority to `state_dir`: keys in one file of mode 0600, roots in files of their own."""
        document = {
            role: {
                "key": issuer.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode(),
                "certificate": issuer.certificate.public_bytes(Encoding.PEM).decode(),
            }
            for role, issuer in self.issuers.items()
        }
        state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        _replace(state_dir / STATE_FILE, json.dumps(document).encode(), mode=0o600)
        for file, issuer in ((DEVICE_ROOT_FILE, self.device_root), (RIM_ROOT_FILE, self.rim_root)):
            _replace(state_dir / file, issuer.certificate.public_bytes(Encoding.PEM), mode=0o644)

    def chain(self, *roles: str) -> list[x509.Certificate]:
        """Give the certificates of `roles`, in that order."""
        return [self.issuers[role].certificate for role in roles]


def _replace(path: Path, data: bytes, *, mode: int) -> None:
    """Write a file whole or not at all."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(data)
    draft.replace(path)


def spki(key: ec.EllipticCurvePublicKey) -> bytes:
    """Give a key's SubjectPublicKeyInfo."""
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
