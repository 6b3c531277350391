# SPDX-License-Identifier: Apache-2.0
"""Device chains with one certificate issued anew, in one thing another."""

from __future__ import annotations

from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA384

from enclave.simulator.gpu_authority import Issuer, new_key
from enclave.simulator.gpu_device import SimulatedDevice, fwid_extension
from tests.gpu_cases import authority, machine, pem


def certificate(
    device: SimulatedDevice, at: int, *, issuer: Issuer, key: Any = None, algorithm: Any = None, **changes: Any
) -> x509.Certificate:
    """Issue certificate `at` of a device anew, in one thing another."""
    old = device.chain[at]
    builder = x509.CertificateBuilder(
        issuer_name=issuer.certificate.subject,
        subject_name=changes.pop("subject", old.subject),
        public_key=key or old.public_key(),
        serial_number=changes.pop("serial", old.serial_number),
        not_valid_before=changes.pop("begins", old.not_valid_before_utc),
        not_valid_after=changes.pop("ends", old.not_valid_after_utc),
    )
    replaced = changes.pop("extensions", {})
    kept = {type(e.value): e for e in old.extensions}
    for kind, (value, critical) in replaced.items():
        if value is None:
            kept.pop(kind, None)
        else:
            kept[kind] = x509.Extension(value.oid, critical, value)
    for extension in kept.values():
        builder = builder.add_extension(extension.value, critical=extension.critical)
    return builder.sign(issuer.key, algorithm or SHA384())


def usage(**on: bool) -> x509.KeyUsage:
    names = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
             "key_cert_sign", "crl_sign", "encipher_only", "decipher_only")  # fmt: skip
    return x509.KeyUsage(**{name: on.get(name, False) for name in names})


class Plan:
    """A device whose CA's key is at hand, so that its leaf and its CA can be issued anew."""

    def __init__(self, product: str = "GH100") -> None:
        self.device = machine("spt", 1)[0] if product == "GH100" else machine("mpt", 1)[0]
        self.product = product
        self.brom_key = new_key()
        self.ica = authority().issuers[f"{product}-ica"]

    def pem(self, *, brom: dict[str, Any] | None = None, leaf: dict[str, Any] | None = None) -> bytes:
        brom_changes, leaf_changes = dict(brom or {}), dict(leaf or {})
        key = brom_changes.pop("key", self.brom_key)
        issuer = brom_changes.pop("issuer", self.ica)
        made = certificate(self.device, 1, issuer=issuer, key=key.public_key(), **brom_changes)
        fwid = leaf_changes.pop(
            "fwid",
            fwid_extension(self.product, key.public_key(), self.device.fwid)
            if isinstance(key, ec.EllipticCurvePrivateKey)
            else None,
        )
        extensions = {x509.UnrecognizedExtension: (fwid, False), **leaf_changes.pop("extensions", {})}
        parent = leaf_changes.pop("parent", Issuer(key=key, certificate=made))
        one = certificate(self.device, 0, issuer=parent, extensions=extensions, **leaf_changes)
        return pem((one, made, *self.device.chain[2:]))
