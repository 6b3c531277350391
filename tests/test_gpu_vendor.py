# SPDX-License-Identifier: Apache-2.0
"""Endorsements fetched from a vendor that answers, lies, is slow or is down; what is kept and for how long."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any

import httpx2
import pytest
from cryptography.x509 import ocsp

from attestation.gpu.evidence import GpuDeviceEvidence, GpuEndorsementSet
from attestation.gpu.verify import verify_set
from enclave.gpu_vendor import NVIDIA, TOTAL_SECONDS, VendorEndorsements
from enclave.seams import GpuReport, GpuUnavailable
from enclave.simulator.gpu_ocsp import SimulatedOcsp
from tests.forged import StoppedClock
from tests.gpu_cases import CC_STATE, NONCE, NOW, anchor, authority, machine, ocsp_responses, rims

Bend = Callable[[httpx2.Request, httpx2.Response], httpx2.Response]


class Vendor:
    """A vendor that answers for the simulated hierarchy, its answers open to change."""

    def __init__(self, *, count: int = 1, capacity: int = 128) -> None:
        self.asked: list[str] = []
        self.bend: Bend = lambda _, answer: answer
        self.clock = StoppedClock(NOW)
        devices = machine("spt" if count == 1 else "mpt", count)
        self.reports = tuple(
            GpuReport(kind=d.kind, report=d.report(NONCE), chain=d.pem, cc_state=dict(CC_STATE)) for d in devices
        )
        chains = [d.chain[1:] for d in devices] + [authority().chain("rim-signer", "rim-l3", "rim-ca")]
        self._certificates = {c.serial_number: c for chain in chains for c in chain}
        self._product = devices[0].product
        self._responder = SimulatedOcsp(authority().issuers.values())
        client = httpx2.Client(transport=httpx2.MockTransport(self._answer))
        self.endorsements = VendorEndorsements(anchor=anchor(), clock=self.clock, client=client, capacity=capacity)

    @property
    def now(self) -> datetime:
        return NOW + timedelta(seconds=self.clock.now - NOW.timestamp())

    def _answer(self, request: httpx2.Request) -> httpx2.Response:
        url = str(request.url)
        self.asked.append(url)
        if url == NVIDIA.ocsp:
            serial = ocsp.load_der_ocsp_request(request.content).serial_number
            content = self._responder.answer(self._certificates[serial], now=self.now)
        else:
            document = rims(self._product)["DRIVER" not in url]
            text = base64.b64encode(document).decode()
            body = {"id": url.rsplit("/", 1)[1], "rim": text, "sha256": sha256(document).hexdigest(), "request_id": "x"}
            content = json.dumps(body).encode()
        bent = self.bend(request, httpx2.Response(200, content=content))
        try:
            return httpx2.Response(bent.status_code, headers=bent.headers, stream=httpx2.ByteStream(bent.content))
        except httpx2.ResponseNotRead:
            return bent  # a stream already

    def get(self) -> GpuEndorsementSet:
        found = self.endorsements.of(self.reports)
        return GpuEndorsementSet(rims=found.rims, ocsp=found.ocsp, crls=found.crls)

    def verified(self) -> Any:
        """Fetch, and verify with what came."""
        devices = [GpuDeviceEvidence(kind=r.kind, report=r.report, chain=r.chain, cc_state={}) for r in self.reports]
        return verify_set(devices, self.get(), nonce=NONCE, anchor=anchor(), now=self.now)


def test_what_is_fetched_lets_a_client_verify_without_the_vendor() -> None:
    vendor = Vendor()
    device = vendor.verified().devices[0]
    assert all(status.ocsp for status in device.revocation)
    assert [rim.component for rim in device.rims] == ["driver", "vbios"]
    ids = [url for url in vendor.asked if url.startswith(NVIDIA.rim)]
    assert ids == [NVIDIA.rim + device.driver_rim_id, NVIDIA.rim + device.firmware_rim_id]
    assert len(vendor.asked) == 2 + len(ocsp_responses("spt", 1))


def test_it_asks_again_only_after_half_of_an_answers_life() -> None:
    vendor = Vendor()
    vendor.get()
    first = len(vendor.asked)
    vendor.clock.forward(11 * 3600)
    vendor.get()
    assert len(vendor.asked) == first
    vendor.clock.forward(2 * 3600)
    vendor.verified()
    assert len(vendor.asked) == first + len(ocsp_responses("spt", 1))


def down(request: httpx2.Request, _: httpx2.Response) -> httpx2.Response:
    raise httpx2.ConnectError("no route", request=request)


def test_a_vendor_that_is_down_stops_nobody_before_an_answer_is_over() -> None:
    vendor = Vendor()
    vendor.get()
    vendor.bend = down
    vendor.clock.forward(23 * 3600)
    vendor.verified()
    before = len(vendor.asked)
    vendor.clock.forward(30)
    vendor.get()
    assert len(vendor.asked) == before, "a vendor that is down is not asked at every request"
    vendor.clock.forward(3600)
    with pytest.raises(GpuUnavailable, match="ConnectError"):
        vendor.get()


def test_a_refusal_of_the_vendor_counts_when_what_is_kept_is_over() -> None:
    vendor = Vendor()
    vendor.get()
    vendor.bend = lambda request, answer: (
        httpx2.Response(200, content=b"\x30\x03\x0a\x01\x06") if request.content else answer
    )
    vendor.clock.forward(24 * 3600)
    with pytest.raises(GpuUnavailable, match="UNAUTHORIZED"):
        vendor.get()


def test_the_cache_is_bounded() -> None:
    vendor = Vendor(count=4, capacity=3)
    vendor.verified()
    assert len(vendor.endorsements) == 3


def changed(**fields: Any) -> Bend:
    """Change the document of reference values."""

    def bend(request: httpx2.Request, answer: httpx2.Response) -> httpx2.Response:
        if request.content:
            return answer
        return httpx2.Response(200, content=json.dumps(json.loads(answer.content) | fields).encode())

    return bend


def endless(_: httpx2.Request, __: httpx2.Response) -> httpx2.Response:
    def drip() -> Iterator[bytes]:
        while True:
            yield bytes(65536)

    return httpx2.Response(200, content=drip())


def only_ocsp(answer: bytes) -> Bend:
    return lambda request, good: httpx2.Response(200, content=answer) if request.content else good


LIES: list[tuple[str, Bend, str]] = [
    ("not found", lambda _, __: httpx2.Response(404), "status 404"),
    ("a redirect", lambda _, __: httpx2.Response(302, headers={"Location": "https://evil.test/"}), "status 302"),
    ("no JSON", lambda _, __: httpx2.Response(200, content=b"<html>"), "no reference value document"),
    ("a list", lambda _, __: httpx2.Response(200, content=b"[]"), "no reference value document"),
    ("deep JSON", lambda _, __: httpx2.Response(200, content=b"[" * 200_000), "no reference value document"),
    ("another id", changed(id="NV_GPU_DRIVER_GH100_1.2.3"), "about another document"),
    ("another digest", changed(sha256="00" * 32), "about another document"),
    ("no base64", changed(rim="***"), "no reference value document"),
    ("a number", changed(rim=7), "no reference value document"),
    ("other XML", changed(rim="PGEvPg==", sha256=sha256(b"<a/>").hexdigest()), "MalformedRim"),
    ("without end", endless, "more than"),
    ("rubbish for an answer", only_ocsp(b"x"), "MalformedOcsp"),
    ("tryLater", only_ocsp(b"\x30\x03\x0a\x01\x03"), "OcspUnknown"),
    ("an answer about another certificate", only_ocsp(ocsp_responses("spt", 1)[-1]), "OcspMismatch"),
    ("a long answer", only_ocsp(bytes(20_000)), "more than 16384 bytes"),
]  # fmt: skip


@pytest.mark.parametrize(("bend", "words"), [row[1:] for row in LIES], ids=[row[0] for row in LIES])
def test_a_vendor_that_lies_is_named_and_nothing_of_it_is_kept(bend: Bend, words: str) -> None:
    vendor = Vendor()
    vendor.bend = bend
    with pytest.raises(GpuUnavailable, match=words):
        vendor.get()
    vendor.bend = lambda _, answer: answer
    vendor.verified()


def test_a_vendor_that_drips_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    vendor, times = Vendor(), iter([0.0, *[TOTAL_SECONDS + 1] * 50])
    monkeypatch.setattr("enclave.gpu_vendor.time.monotonic", lambda: next(times))
    with pytest.raises(GpuUnavailable, match="30 s"):
        vendor.get()


def test_reports_that_are_not_the_vendors_ask_for_nothing() -> None:
    vendor = Vendor()
    vendor.reports = (GpuReport(kind="gpu", report=b"x", chain=vendor.reports[0].chain, cc_state={}),)
    with pytest.raises(GpuUnavailable, match="UnsupportedGpuReport"):
        vendor.get()
    assert not vendor.asked
