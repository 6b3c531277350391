# SPDX-License-Identifier: Apache-2.0
"""Revocation lists in place of OCSP responses that the vendor does not give: from where, and which are believed."""

from __future__ import annotations

import base64
import itertools
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import cache
from hashlib import sha256
from typing import Any

import httpx2
import pytest
from cryptography import x509
from cryptography.x509 import ocsp

from attestation.gpu.anchor import GpuTrustAnchor
from attestation.gpu.appraise import GpuPolicy, appraise_gpus
from attestation.gpu.evidence import NONCE_CLIENT, GpuDeviceEvidence, GpuEndorsementSet
from attestation.gpu.verify import VerifiedGpuSet, verify_set
from enclave.gate import gate_judge
from enclave.gpu_vendor import NVIDIA, TOTAL_SECONDS, VendorEndorsements
from enclave.seams import GpuReport, GpuUnavailable
from enclave.simulator.gpu_authority import GpuAuthority, Issuer, new_key, spki
from enclave.simulator.gpu_crl import sign_crl
from enclave.simulator.gpu_device import SimulatedDevice, make_device, make_rims
from enclave.simulator.gpu_ocsp import SimulatedOcsp, respond
from tests.forged import StoppedClock
from tests.gpu_cases import CC_STATE, DAY, NONCE, NOW

CRLS = f"http://{NVIDIA.crl_host}/crl/"
ROLES = ("GH100-ica", "GH100-identity", "device-root", "rim-l3", "rim-ca", "rim-root")


@cache
def made(crls: str | None) -> tuple[GpuAuthority, SimulatedDevice, tuple[bytes, ...]]:
    """Make an authority that says where its lists are, a device, and its reference values."""
    authority = GpuAuthority.make(now=NOW, crls=crls)
    return authority, make_device(authority), make_rims(authority, ["GH100"])


def authority() -> GpuAuthority:
    return made(CRLS)[0]


def device() -> SimulatedDevice:
    return made(CRLS)[1]


def anchor_of(authority: GpuAuthority) -> GpuTrustAnchor:
    roots = (authority.device_root, authority.rim_root)
    device_root, rim_root = (frozenset([sha256(spki(root.key.public_key())).digest()]) for root in roots)
    return GpuTrustAnchor.of_simulator(device_root_spki=device_root, rim_root_spki=rim_root)


def unreachable(request: httpx2.Request) -> httpx2.Response:
    raise httpx2.ConnectError("no route", request=request)


def listed(role: str, **changes: Any) -> bytes:
    """Sign the list of one issuer, in one thing another."""
    return sign_crl(authority().issuers[role], **({"window": (NOW - DAY, NOW + DAY)} | changes))


def given(content: bytes | Iterator[bytes], **more: Any) -> httpx2.Response:
    stream = content if not isinstance(content, bytes) else iter([content])
    return httpx2.Response(more.pop("status_code", 200), content=stream, **more)


@dataclass(kw_only=True)
class Vendor:
    """A vendor whose OCSP does not answer. `crl` answers for the list of a role."""

    crls: str | None = CRLS
    crl: Callable[[str], httpx2.Response] = lambda role: given(listed(role))
    ocsp: Callable[[httpx2.Request], httpx2.Response] = unreachable
    asked: list[str] = field(default_factory=list)
    clock: StoppedClock = field(default_factory=lambda: StoppedClock(NOW))

    def __post_init__(self) -> None:
        authority, self._device, self._rims = made(self.crls)
        self.anchor = anchor_of(authority)
        client = httpx2.Client(transport=httpx2.MockTransport(self._answer))
        self.endorsements = VendorEndorsements(anchor=self.anchor, clock=self.clock, client=client)
        self._report = self._device.report(NONCE)

    def _answer(self, request: httpx2.Request) -> httpx2.Response:
        url = str(request.url)
        self.asked.append(url)
        if url == NVIDIA.ocsp:
            return self.ocsp(request)
        if url.startswith(NVIDIA.rim):
            document = self._rims["DRIVER" not in url]
            body = {"id": url.rsplit("/", 1)[1], "rim": base64.b64encode(document).decode()}
            return given(json.dumps(body | {"sha256": sha256(document).hexdigest()}).encode())
        return self.crl(url.rsplit("/", 1)[1].removesuffix(".crl"))

    @property
    def asked_for_lists(self) -> list[str]:
        return [url for url in self.asked if url.endswith(".crl")]

    @property
    def evidence(self) -> GpuDeviceEvidence:
        return GpuDeviceEvidence(kind="gpu", report=self._report, chain=self._device.pem, cc_state=dict(CC_STATE))

    def get(self) -> GpuEndorsementSet:
        report = GpuReport(kind="gpu", report=self._report, chain=self._device.pem, cc_state=dict(CC_STATE))
        found = self.endorsements.of([report])
        return GpuEndorsementSet(rims=found.rims, ocsp=found.ocsp, crls=found.crls)

    def verified(self) -> VerifiedGpuSet:
        """Fetch, and verify as a client does with what came."""
        now = NOW + timedelta(seconds=self.clock.now - NOW.timestamp())
        return verify_set([self.evidence], self.get(), nonce=NONCE, anchor=self.anchor, now=now)


@cache
def responder() -> SimulatedOcsp:
    return SimulatedOcsp(authority().issuers.values())


def certificate_of(request: httpx2.Request) -> x509.Certificate:
    serial = ocsp.load_der_ocsp_request(request.content).serial_number
    chain = (*device().chain, *authority().chain("rim-signer", "rim-l3", "rim-ca"))
    return next(c for c in chain if c.serial_number == serial)


def good(request: httpx2.Request) -> httpx2.Response:
    return given(responder().answer(certificate_of(request), now=NOW))


def revoked(request: httpx2.Request) -> httpx2.Response:
    """Answer that what was asked about is revoked, signed as it must be."""
    certificate = certificate_of(request)
    issuer = next(i for i in authority().issuers.values() if i.certificate.subject == certificate.issuer)
    status, window = ocsp.OCSPCertStatus.REVOKED, (NOW - DAY, NOW + DAY)
    return given(respond(certificate, issuer.certificate, issuer.responder("R"), window=window, status=status))


def test_lists_answer_where_ocsp_is_unreachable() -> None:
    vendor = Vendor()
    verified = vendor.verified()
    assert all(status.crl and not status.ocsp for status in verified.devices[0].revocation)
    assert sorted(vendor.asked_for_lists) == sorted(f"{CRLS}{role}.crl" for role in ROLES)
    for asked, refused in (("either", []), ("crl", []), ("ocsp", ["GpuRevocationRejected"])):
        policy = GpuPolicy.parse(GpuPolicy.strict_template() | {"count": 1, "revocation": asked}, "gpu")
        findings = appraise_gpus(verified, policy, nonce_kind=NONCE_CLIENT, now=NOW)
        assert [f.code for f in findings if not f.holds] == refused


def test_the_boot_gate_takes_lists_and_refuses_devices_that_nothing_answers_for() -> None:
    vendor = Vendor()
    judge = gate_judge(vendor.anchor, count=1, clock=vendor.clock)
    judge([vendor.evidence], vendor.get(), NONCE)
    with pytest.raises(GpuUnavailable, match="GpuRevocationRejected"):
        judge([vendor.evidence], replace(vendor.get(), crls=()), NONCE)


def test_no_list_is_asked_for_where_ocsp_answers() -> None:
    vendor = Vendor(ocsp=good)
    assert all(status.ocsp and not status.crl for status in vendor.verified().devices[0].revocation)
    assert not vendor.asked_for_lists


def test_one_certificate_without_an_answer_has_its_list_alone() -> None:
    ica = authority().issuers["GH100-ica"].certificate
    vendor = Vendor(ocsp=lambda r: unreachable(r) if certificate_of(r) == ica else good(r))
    vendor.verified()
    assert vendor.asked_for_lists == [f"{CRLS}GH100-identity.crl"]


def test_lists_are_kept_within_their_windows() -> None:
    vendor = Vendor(crl=lambda role: given(listed(role, window=(NOW - DAY, NOW + 10 * DAY))))
    vendor.verified()
    vendor.crl = lambda _: given(b"", status_code=503)
    vendor.clock.forward(9 * 86400)
    vendor.verified()
    vendor.clock.forward(86400)
    with pytest.raises(GpuUnavailable, match="status 503"):
        vendor.get()


def redirect(_: str) -> httpx2.Response:
    return given(b"", status_code=302, headers={"Location": "https://evil.test/a.crl"})


def long(role: str) -> httpx2.Response:
    return given(listed(role) + bytes(300_000))


def endless(_: str) -> httpx2.Response:
    def drip() -> Iterator[bytes]:
        while True:
            yield bytes(65536)

    return given(drip())


def stalled(_: str) -> httpx2.Response:
    raise httpx2.ReadTimeout("nothing came")


def stalled_within(role: str) -> httpx2.Response:
    def part() -> Iterator[bytes]:
        yield listed(role)[:100]
        raise httpx2.ReadTimeout("nothing more came")

    return given(part())


def by_another_key(role: str) -> httpx2.Response:
    forged = Issuer(key=new_key(), certificate=authority().issuers[role].certificate)
    return given(sign_crl(forged, window=(NOW - DAY, NOW + DAY)))


def every_issued(role: str) -> httpx2.Response:
    """List what the issuer of a role issued to this device and to its reference values."""
    issuer = authority().issuers[role].certificate.subject
    chain = (*device().chain, *authority().chain("rim-signer", "rim-l3", "rim-ca"))
    return given(listed(role, revoked=[c.serial_number for c in chain if c.issuer == issuer]))


ABOVE = dict(itertools.pairwise(ROLES[:3]))
LIES: list[tuple[str, Callable[[str], httpx2.Response], str]] = [
    ("that lists the certificate", every_issued, "CertificateRevoked"),
    ("that is over", lambda role: given(listed(role, window=(NOW - 2 * DAY, NOW))), "CrlExpired"),
    ("of tomorrow", lambda role: given(listed(role, window=(NOW + DAY, NOW + 2 * DAY))), "CrlNotYetValid"),
    ("of another issuer", lambda _: given(listed("GB100-ica")), "CrlIssuerMismatch"),
    ("of an issuer above", lambda role: given(listed(ABOVE.get(role, "rim-l3"))), "CrlIssuerMismatch"),
    ("by another key", by_another_key, "CrlSignatureInvalid"),
    ("that is a delta", lambda role: given(listed(role, critical=[x509.DeltaCRLIndicator(1)])), "CrlUnsupported"),
    ("that is rubbish", lambda _: given(b"x"), "MalformedCrl"),
    ("that is empty", lambda _: given(b""), "MalformedCrl"),
    ("that is too long", long, "more than 262144 bytes"),
    ("without end", endless, "more than 262144 bytes"),
    ("that never comes", stalled, "ReadTimeout"),
    ("that stops coming", stalled_within, "ReadTimeout"),
    ("elsewhere, by a redirect", redirect, "status 302"),
    ("that is not there", lambda _: given(b"", status_code=404), "status 404"),
]  # fmt: skip


@pytest.mark.parametrize(("crl", "words"), [row[1:] for row in LIES], ids=[row[0] for row in LIES])
def test_a_list(crl: Callable[[str], httpx2.Response], words: str) -> None:
    vendor = Vendor(crl=crl)
    with pytest.raises(GpuUnavailable, match=words):
        vendor.get()
    assert not any("evil" in url for url in vendor.asked)
    vendor.crl = lambda role: given(listed(role))
    vendor.verified()


def test_a_list_that_drips_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    vendor, began = Vendor(), time.monotonic()

    def drip(role: str) -> httpx2.Response:
        monkeypatch.setattr("enclave.gpu_vendor.time.monotonic", lambda: began + 10 * TOTAL_SECONDS)
        return given(listed(role))

    vendor.crl = drip
    with pytest.raises(GpuUnavailable, match="30 s"):
        vendor.get()


@pytest.mark.parametrize(
    "place",
    [
        "https://evil.test/crl/",
        f"http://{NVIDIA.crl_host}.evil.test/crl/",
        f"http://{NVIDIA.crl_host}@evil.test/crl/",
        f"http://user@{NVIDIA.crl_host}/crl/",
        f"http://{NVIDIA.crl_host}:8080/crl/",
        f"ftp://{NVIDIA.crl_host}/crl/",
        f"file://{NVIDIA.crl_host}/crl/",
        "ldap:///crl/",
    ],
)
def test_a_list_in_another_place_is_not_asked_for(place: str) -> None:
    vendor = Vendor(crls=place)
    with pytest.raises(GpuUnavailable, match="ConnectError"):
        vendor.get()
    assert not vendor.asked_for_lists


def test_certificates_that_name_no_list_have_none() -> None:
    vendor = Vendor(crls=None)
    with pytest.raises(GpuUnavailable, match="ConnectError"):
        vendor.get()
    assert not vendor.asked_for_lists


# ---- what the vendor signed outweighs what is older, and every other kind of answer


def test_a_signed_revocation_is_not_answered_by_a_list() -> None:
    vendor = Vendor(ocsp=revoked)
    with pytest.raises(GpuUnavailable, match="OcspRevoked"):
        vendor.get()
    assert not vendor.asked_for_lists


def test_a_signed_revocation_ends_what_was_kept() -> None:
    """An answer that is still within its window is asked for anew after half of it; "revoked" then counts at once."""
    vendor = Vendor(ocsp=good)
    vendor.verified()
    vendor.ocsp = revoked
    vendor.clock.forward(13 * 3600)
    with pytest.raises(GpuUnavailable, match="OcspRevoked"):
        vendor.get()
    vendor.ocsp = unreachable
    vendor.crl = lambda _: given(b"", status_code=503)
    with pytest.raises(GpuUnavailable, match="status 503"):
        vendor.get()


def test_a_list_that_came_to_name_the_certificate_ends_what_was_kept() -> None:
    vendor = Vendor()
    vendor.verified()
    vendor.crl = every_issued
    vendor.clock.forward(13 * 3600)
    with pytest.raises(GpuUnavailable, match="CertificateRevoked"):
        vendor.get()
