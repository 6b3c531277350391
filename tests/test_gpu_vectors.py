# SPDX-License-Identifier: Apache-2.0
"""Real GPU reports, chains, reference values and answers: what must come out of each, under NVIDIA's keys."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from attestation.errors import AttestationError
from attestation.gpu.chain import verify_chain
from attestation.gpu.opaque import decode_opaque
from attestation.gpu.rim import verify_rim
from attestation.gpu.spdm import parse_report
from attestation.gpu.verify import VerifiedDevice, verify_device
from attestation.trust.nvidia import NVIDIA_ANCHOR
from tests.vectors_root import vectors

NOW = datetime(2025, 8, 1, tzinfo=UTC)


def manifest() -> dict[str, dict[str, Any]]:
    files = json.loads((vectors("gpu") / "manifest.json").read_text())["files"]
    return {entry["file"]: entry["expect"] for entry in files}


def report(name: str) -> bytes:
    return bytes.fromhex("".join((vectors("gpu") / name / "report.hex").read_text().split()))


def read(name: str) -> bytes:
    return (vectors("gpu") / name).read_bytes()


def verified(folder: str, *rims: str, kind: str = "gpu", now: datetime = NOW, **more: Any) -> VerifiedDevice:
    return verify_device(
        report(folder),
        read(f"{folder}/chain.pem"),
        kind=kind,
        nonce=more.pop("nonce", None),
        rims=[read(rim) for rim in rims],
        anchor=NVIDIA_ANCHOR,
        now=now,
        **more,
    )


@pytest.mark.parametrize(
    ("folder", "kind"),
    [("hopper_550", "gpu"), ("hopper_535", "gpu"), ("blackwell_575", "gpu"), ("switch_ls10", "switch")],
)
def test_real_reports_say_what_their_manifest_says(folder: str, kind: str) -> None:
    want = manifest()[f"{folder}/report.hex"]
    found = parse_report(report(folder), kind=kind)
    assert found.nonce.hex() == want["request_nonce"]
    opaque = decode_opaque(found.opaque, kind=kind)
    if kind == "gpu":
        assert opaque.driver_version == want["driver_version"]
        assert opaque.vbios_version == want["vbios_version"].upper()
    assert (opaque.fwid.hex() if opaque.fwid else None) == want["fwid_in_report"]
    chain = verify_chain(read(f"{folder}/chain.pem"), kind=kind, anchor=NVIDIA_ANCHOR)
    assert f"{chain.serial:#x}" == want["leaf_serial"]
    assert chain.pdi.hex() == want["brom_pdi"]


def test_a_hopper_gpu_is_verified_with_its_reference_values() -> None:
    folder = "hopper_550"
    rims = [f"{folder}/NV_GPU_DRIVER_GH100_550.90.07.xml", f"{folder}/NV_GPU_VBIOS_1010_0200_882_96009F0001.xml"]
    nonce = bytes.fromhex(manifest()[f"{folder}/report.hex"]["request_nonce"])
    device = verified(folder, *rims, nonce=nonce)
    assert device.measurements is not None
    assert not device.measurements.mismatches
    assert device.fwid_compared
    assert device.driver_rim_id == "NV_GPU_DRIVER_GH100_550.90.07"
    with pytest.raises(AttestationError, match="GpuNonceMismatch"):
        verified(folder, *rims, nonce=bytes(32))
    with pytest.raises(AttestationError, match="RimMissing"):
        verified(folder, rims[0])


def test_a_switch_is_verified_with_its_reference_values() -> None:
    rim = "switch_ls10/NV_SWITCH_BIOS_5612_0002_890_9610550001.xml"
    device = verified("switch_ls10", rim, kind="switch", now=datetime(2026, 6, 1, tzinfo=UTC))
    assert device.measurements is not None
    assert not device.measurements.mismatches


@pytest.mark.parametrize("folder", ["blackwell_575", "hopper_535"])
def test_reports_without_reference_values_are_compared_with_nothing(folder: str) -> None:
    assert verified(folder).measurements is None


def test_a_wrong_golden_value_is_a_mismatch_and_a_tampered_file_is_refused() -> None:
    with pytest.raises(AttestationError) as e:
        verify_rim(read("hopper_535/NV_GPU_DRIVER_GH100_535.86.09.tampered.xml"), anchor=NVIDIA_ANCHOR)
    assert e.value.code == "RimSignatureInvalid"


@pytest.mark.parametrize(
    ("name", "codes"),
    [
        ("rim_bad_signature_value.xml", {"RimSignatureInvalid", "MalformedRim"}),
        ("rim_debug_root_chain.xml", {"UntrustedRoot", "CertificateRoleMismatch", "RimChainInvalid"}),
    ],
)
def test_reference_values_that_nvidia_did_not_release(name: str, codes: set[str]) -> None:
    with pytest.raises(AttestationError) as e:
        verify_rim(read(f"negative/{name}"), anchor=NVIDIA_ANCHOR)
    assert e.value.code in codes


def test_real_answers_about_the_device_chain_hold_for_their_day() -> None:
    names = ("gpu_certificate_l2", "gpu_certificate_l3", "gpu_certificate_l4")
    folder: Path = vectors("gpu") / "hopper_550" / "ocsp"
    answers = [base64.b64decode((folder / f"{name}.b64").read_text()) for name in names]
    day = datetime(2025, 8, 21, 12, tzinfo=UTC)
    device = verified("hopper_550", ocsp=answers, now=day)
    assert sum(status.ocsp is not None for status in device.revocation) == 3
    with pytest.raises(AttestationError, match="OcspExpired"):
        verified("hopper_550", ocsp=answers, now=datetime(2025, 8, 23, tzinfo=UTC))
    with pytest.raises(AttestationError, match="OcspNotYetValid"):
        verified("hopper_550", ocsp=answers, now=datetime(2025, 8, 20, tzinfo=UTC))
