# SPDX-License-Identifier: Apache-2.0
"""The simulated vendor's OCSP responders: one for each issuer, as the real vendor has them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from .gpu_authority import Issuer

LIFETIME: Final = timedelta(days=1)


class SimulatedOcsp:
    """Answers "good" about certificates of issuers whose keys it was given."""

    def __init__(self, issuers: Iterable[Issuer]) -> None:
        self._issuers = {issuer.certificate.subject: issuer for issuer in issuers}
        self._responders: dict[x509.Name, Issuer] = {}

    def answer(self, certificate: x509.Certificate, *, now: datetime) -> bytes:
        """Give a response about one certificate that holds from ten minutes before `now` for a day."""
        issuer = self._issuers[certificate.issuer]
        if certificate.issuer not in self._responders:
            self._responders[certificate.issuer] = issuer.responder("NVIDIA OCSP Responder")
        start = now - timedelta(minutes=10)
        return respond(
            certificate, issuer.certificate, self._responders[certificate.issuer], window=(start, start + LIFETIME)
        )

    def about(self, chains: Iterable[Sequence[x509.Certificate]], *, now: datetime) -> tuple[bytes, ...]:
        """Give one response for each certificate of `chains` whose issuer is known, each certificate once."""
        unique = {c.public_bytes(Encoding.DER): c for chain in chains for c in chain if c.issuer != c.subject}
        return tuple(self.answer(c, now=now) for c in unique.values() if c.issuer in self._issuers)


def respond(
    certificate: x509.Certificate,
    issuer: x509.Certificate,
    responder: Issuer,
    *,
    window: tuple[datetime, datetime | None],
    status: ocsp.OCSPCertStatus = ocsp.OCSPCertStatus.GOOD,
    reason: x509.ReasonFlags | None = None,
    nonce: bytes | None = None,
) -> bytes:
    """Sign a response about one certificate."""
    builder = ocsp.OCSPResponseBuilder().add_response(
        certificate,
        issuer,
        SHA384(),
        status,
        window[0],
        window[1],
        window[0] if status is ocsp.OCSPCertStatus.REVOKED else None,
        reason,
    )
    builder = builder.responder_id(ocsp.OCSPResponderEncoding.HASH, responder.certificate)
    builder = builder.certificates([responder.certificate])
    if nonce is not None:
        builder = builder.add_extension(x509.OCSPNonce(nonce), critical=False)
    return builder.sign(responder.key, SHA384()).public_bytes(Encoding.DER)
