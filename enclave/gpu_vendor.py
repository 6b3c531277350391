# SPDX-License-Identifier: Apache-2.0
"""Fetch what a verifier needs beside GPU reports from the vendor: reference values, OCSP responses, CRLs.

They are stapled into the evidence, so that no client asks the vendor. The cache is bounded and holds only what verified
under the release's roots; each entry is used within its own window and asked for anew after half of what was left of
it, so that a vendor that is down stops nobody before an answer is over. Nothing is decided here: every verifier checks
everything.
"""

from __future__ import annotations

import base64
import json
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Final
from urllib.parse import urlsplit

import httpx2
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from attestation.errors import AttestationError
from attestation.gpu.anchor import GpuTrustAnchor
from attestation.gpu.chain import verify_chain
from attestation.gpu.chip import driver_rim_id, firmware_rim_id
from attestation.gpu.evidence import MAX_CRL_BYTES, MAX_OCSP_BYTES, MAX_RIM_BYTES
from attestation.gpu.opaque import decode_opaque
from attestation.gpu.revocation import Link, check_revocation, verify_ocsp
from attestation.gpu.rim import VerifiedRim, verify_rim
from attestation.gpu.spdm import parse_report
from attestation.window import Window

from .seams import Clock, GpuEndorsements, GpuReport, GpuUnavailable
from .times import utc

CAPACITY: Final = 128  # entries of the cache: two RIMs and some seven certificates for each kind of device
TIMEOUT: Final = 10.0  # seconds of silence
TOTAL_SECONDS: Final = 30.0  # for one request
RETRY: Final = timedelta(minutes=1)  # between two requests for what is still good
MAX_REQUESTS: Final = 96  # for one set of reports
_REVOKED: Final = ("OcspRevoked", "CertificateRevoked")  # errors about answers whose signature held


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """Where the vendor answers."""

    rim: str  # the id of the reference values is appended
    ocsp: str
    crl_host: str  # the one host that a certificate's CRL may be fetched from


NVIDIA: Final = Services(
    rim="https://rim.attestation.nvidia.com/v1/rim/",
    ocsp="https://ocsp.ndis.nvidia.com/",
    crl_host="crl.ndis.nvidia.com",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kept:
    data: bytes
    window: Window
    renew: datetime  # from then on the vendor is asked first


class _Revoked(GpuUnavailable):
    """The vendor signed that a certificate is revoked: no older answer and no other kind of answer changes that."""


class VendorEndorsements:
    """Gives the endorsements of reports, from the cache or the vendor. One caller at a time."""

    def __init__(
        self,
        *,
        anchor: GpuTrustAnchor,
        clock: Clock,
        services: Services = NVIDIA,
        client: httpx2.Client | None = None,
        capacity: int = CAPACITY,
    ) -> None:
        self._anchor, self._clock, self._services, self._capacity = anchor, clock, services, capacity
        self._client = client or httpx2.Client(timeout=TIMEOUT, follow_redirects=False)
        self._kept: OrderedDict[tuple[str, str], _Kept] = OrderedDict()  # the one used last is last
        self._requests = 0

    def __len__(self) -> int:
        return len(self._kept)

    def of(self, reports: Sequence[GpuReport]) -> GpuEndorsements:
        """Give RIMs, OCSP responses and CRLs. Raises GpuUnavailable when the vendor gives none that hold now."""
        self._requests, now = 0, utc(self._clock)
        rims: dict[str, bytes] = {}
        links: dict[object, Link] = {}
        try:
            for report in reports:
                chain = verify_chain(report.chain, kind=report.kind, anchor=self._anchor)
                opaque = decode_opaque(parse_report(report.report, kind=report.kind).opaque, kind=report.kind)
                for rim_id in (driver_rim_id(chain.chip, opaque), firmware_rim_id(chain.chip, opaque)):
                    if rim_id and rim_id not in rims:
                        rims[rim_id] = self._keep("rim", rim_id, now, lambda rim_id=rim_id: self._rim(rim_id))  # type: ignore[misc]
                links |= {link.key: link for link in chain.links}
            for data in rims.values():
                links |= {link.key: link for link in self._verified(data).links}
        except AttestationError as e:
            raise GpuUnavailable(f"no endorsements for these GPUs: {e}") from None
        answers, crls = [], {}
        for link in links.values():
            name = f"{link.certificate.serial_number:x} {link.issuer.subject.rfc4514_string()}"
            try:
                answers.append(self._keep("ocsp", name, now, lambda link=link: self._ocsp(link, now)))  # type: ignore[misc]
            except _Revoked:
                raise
            except GpuUnavailable:
                url = self._crl_url(link.certificate)
                if url is None:
                    raise
                crls[url] = self._keep("crl", url, now, lambda link=link, url=url: self._crl(link, url, now))  # type: ignore[misc]
        return GpuEndorsements(rims=tuple(rims.values()), ocsp=tuple(answers), crls=tuple(crls.values()))

    def _keep(self, kind: str, name: str, now: datetime, fetch: Callable[[], tuple[bytes, Window]]) -> bytes:
        """Give what is kept while it is young; else what the vendor has now; else what is kept while it holds."""
        known = self._kept.pop((kind, name), None)
        if known and not known.window.holds(now):
            known = None
        if not known or now >= known.renew:
            try:
                data, window = fetch()
                if not window.holds(now):
                    raise GpuUnavailable(f"{kind} {name}: what the vendor gave does not hold now")
                known = _Kept(data=data, window=window, renew=now + max((window.not_after - now) / 2, RETRY))
            except (GpuUnavailable, AttestationError) as e:
                if isinstance(e, AttestationError) and e.code in _REVOKED:
                    raise _Revoked(str(e)) from None
                if not known:
                    raise GpuUnavailable(str(e)) from None
                known = replace(known, renew=now + RETRY)
        self._kept[kind, name] = known
        while len(self._kept) > self._capacity:
            self._kept.popitem(last=False)
        return known.data

    def _verified(self, data: bytes) -> VerifiedRim:
        return verify_rim(data, anchor=self._anchor)

    def _rim(self, rim_id: str) -> tuple[bytes, Window]:
        url = self._services.rim + rim_id
        body = self._body("GET", url, limit=2 * MAX_RIM_BYTES)
        try:
            document = json.loads(body)
            data = base64.b64decode(document["rim"], validate=True)
            named = (document["id"], document["sha256"])
        except (ValueError, KeyError, TypeError, RecursionError):
            raise GpuUnavailable(f"{url}: the answer is no reference value document") from None
        digests = {sha256(content).hexdigest() for content in (data, document["rim"].encode())}
        if named[0] != rim_id or str(named[1]).lower() not in digests:
            raise GpuUnavailable(f"{url}: the answer is about another document")
        return data, self._verified(data).window

    def _ocsp(self, link: Link, now: datetime) -> tuple[bytes, Window]:
        request = ocsp.OCSPRequestBuilder().add_certificate(link.certificate, link.issuer, SHA384()).build()
        data = self._body("POST", self._services.ocsp, limit=MAX_OCSP_BYTES, content=request.public_bytes(Encoding.DER))
        organizations = self._anchor.organizations
        return data, verify_ocsp(data, [link], organizations=organizations, now=now, where="ocsp")[1]

    def _crl_url(self, certificate: x509.Certificate) -> str | None:
        try:
            points = certificate.extensions.get_extension_for_class(x509.CRLDistributionPoints).value
        except x509.ExtensionNotFound:
            return None
        for point in points:
            for name in point.full_name or ():
                parts = urlsplit(str(name.value))
                if parts.scheme in {"http", "https"} and parts.netloc == self._services.crl_host:
                    return str(name.value)
        return None

    def _crl(self, link: Link, url: str, now: datetime) -> tuple[bytes, Window]:
        data = self._body("GET", url, limit=MAX_CRL_BYTES)
        found = check_revocation([link], responses=(), crls=[data], organizations=self._anchor.organizations, now=now)
        window = found[link.key].crl
        if window is None:
            raise GpuUnavailable(f"{url}: a CRL of another issuer")
        return data, window

    def _body(self, method: str, url: str, *, limit: int, content: bytes | None = None) -> bytes:
        """Make one bounded request. Raises GpuUnavailable."""
        self._requests += 1
        if self._requests > MAX_REQUESTS:
            raise GpuUnavailable(f"more than {MAX_REQUESTS} requests to the vendor for one set of GPUs")
        headers = {"Accept-Encoding": "identity"} | ({"Content-Type": "application/ocsp-request"} if content else {})
        ends = time.monotonic() + TOTAL_SECONDS
        try:
            with self._client.stream(method, url, headers=headers, content=content) as answer:
                if answer.status_code != 200:
                    raise GpuUnavailable(f"{url}: status {answer.status_code}")
                data = bytearray()
                for portion in answer.iter_raw():
                    data += portion
                    if len(data) > limit or time.monotonic() > ends:
                        raise GpuUnavailable(f"{url}: more than {limit} bytes, or {TOTAL_SECONDS:.0f} s")
                return bytes(data)
        except httpx2.HTTPError as e:
            raise GpuUnavailable(f"{url}: {type(e).__name__}") from None
