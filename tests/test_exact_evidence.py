# SPDX-License-Identifier: Apache-2.0
"""Evidence holds exact bytes: what a host or a driver leaves behind is cut off by the attester, and refused in it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from attestation.errors import Malformed
from attestation.evidence import Evidence
from attestation.gpu.evidence import GpuEndorsementSet, GpuEvidence
from attestation.gpu.spdm import MAX_PADDING, parse_report
from attestation.tdx.quote import Quote
from attestation.verify import verify_evidence
from enclave.seams import GpuReport, GpuUnavailable
from enclave.simulator.gpu_source import SimulatedGpuSource
from tests.forged import NONCE, NOW, Forge, policy
from tests.gpu_cases import GpuCase
from tests.served import served
from tests.test_gpu_binding import Bound
from tests.test_gpu_endorsements import crl

ZEROS = [1, MAX_PADDING]


@pytest.mark.parametrize("count", [1, 4096])
def test_zeros_behind_a_quote_are_refused_in_evidence(count: int) -> None:
    evidence = Evidence.decode(Forge().evidence())
    data = replace(evidence, quote=evidence.quote + bytes(count)).encode()
    p = policy()
    with pytest.raises(Malformed) as e:
        verify_evidence(data, nonce=NONCE, roots=p.roots, time=p.time, now=NOW)
    assert (e.value.code, e.value.where) == ("TrailingData", "evidence.quote")
    assert Quote.parse(evidence.quote + bytes(count)).padding == count  # a file of its own may have them


@pytest.mark.parametrize("count", ZEROS)
@pytest.mark.parametrize("which", ["devices", "boot_devices"])
def test_zeros_behind_a_report_are_refused_in_evidence(which: str, count: int) -> None:
    def padded(gpu: GpuEvidence) -> GpuEvidence:
        devices = tuple(replace(d, report=d.report + bytes(count)) for d in getattr(gpu, which))
        changed: dict[str, Any] = {which: devices}
        return replace(gpu, **changed)

    with pytest.raises(Malformed) as e:
        Bound(afterwards=padded).verified()
    assert (e.value.code, e.value.where) == ("TrailingData", "evidence.gpu.report")
    assert GpuCase(after=lambda data: data + bytes(count)).verified().gpus  # of a driver, with no enclave between


def again(endorsed: GpuEndorsementSet) -> GpuEndorsementSet:
    return replace(endorsed, ocsp=endorsed.ocsp + endorsed.ocsp[-1:])


def two_lists(endorsed: GpuEndorsementSet) -> GpuEndorsementSet:
    return replace(endorsed, crls=(crl(), crl()))


@pytest.mark.parametrize(("more", "code"), [(again, "MalformedOcsp"), (two_lists, "MalformedCrl")])
def test_what_was_said_is_not_said_again(more: Callable[[GpuEndorsementSet], GpuEndorsementSet], code: str) -> None:
    with pytest.raises(Malformed) as e:
        Bound(afterwards=lambda gpu: replace(gpu, endorsements=more(gpu.endorsements))).verified()
    assert e.value.code == code


def test_an_attester_cuts_a_driver_s_zeros_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    collect = SimulatedGpuSource.collect

    def padded(self: SimulatedGpuSource, nonce: bytes) -> tuple[GpuReport, ...]:
        return tuple(replace(report, report=report.report + bytes(MAX_PADDING)) for report in collect(self, nonce))

    monkeypatch.setattr(SimulatedGpuSource, "collect", padded)
    with served(tmp_path, gpu={"mode": "simulated", "count": 1}) as enclave:
        gpu = Evidence.decode(enclave.attest().evidence).gpu
    assert gpu is not None
    for device in (*gpu.devices, *gpu.boot_devices):
        assert parse_report(device.report, kind=device.kind).padding == 0


def test_what_is_no_report_starts_no_enclave(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    collect = SimulatedGpuSource.collect

    def cut(self: SimulatedGpuSource, nonce: bytes) -> tuple[GpuReport, ...]:
        return tuple(replace(report, report=report.report[:-1]) for report in collect(self, nonce))

    monkeypatch.setattr(SimulatedGpuSource, "collect", cut)
    with pytest.raises(GpuUnavailable, match="the driver gave no report: MalformedGpuReport"):
        served(tmp_path, gpu={"mode": "simulated", "count": 1}).__enter__()
