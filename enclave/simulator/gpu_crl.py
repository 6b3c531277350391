# SPDX-License-Identifier: Apache-2.0
"""The simulated vendor's certificate revocation lists, signed by the issuer itself."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256, SHA384
from cryptography.hazmat.primitives.serialization import Encoding

from .gpu_authority import Issuer


def sign_crl(
    issuer: Issuer,
    *,
    window: tuple[datetime, datetime],
    revoked: Iterable[int] = (),
    reason: x509.ReasonFlags | None = None,
    critical: Iterable[x509.ExtensionType] = (),
    algorithm: SHA256 | SHA384 | None = None,
) -> bytes:
    """Sign a list of the serial numbers in `revoked` that holds within `window`; with SHA-384 unless told otherwise."""
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.certificate.subject)
        .last_update(window[0])
        .next_update(window[1])
    )
    for serial in revoked:
        entry = x509.RevokedCertificateBuilder(serial, window[0])
        if reason is not None:
            entry = entry.add_extension(x509.CRLReason(reason), critical=False)
        builder = builder.add_revoked_certificate(entry.build())
    for extension in critical:
        builder = builder.add_extension(extension, critical=True)
    return builder.sign(issuer.key, algorithm or SHA384()).public_bytes(Encoding.DER)
