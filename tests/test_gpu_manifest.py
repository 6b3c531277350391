# SPDX-License-Identifier: Apache-2.0
"""Every file of the GPU vectors, field by field as their manifest says: none is left out."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from attestation.errors import AttestationError
from attestation.gpu.chain import verify_chain
from attestation.gpu.evidence import GpuDeviceEvidence, GpuEndorsementSet
from attestation.gpu.measure import compare
from attestation.gpu.opaque import decode_opaque
from attestation.gpu.revocation import Link, verify_ocsp
from attestation.gpu.rim import verify_rim
from attestation.gpu.spdm import parse_report
from attestation.gpu.verify import verify_device, verify_set
from attestation.trust.nvidia import NVIDIA_ANCHOR
from tests.vectors_root import vectors

NOW = datetime(2025, 8, 1, tzinfo=UTC)
CHAIN_OF = {"negative/report_invalid_signature.hex": "hopper_535/chain.pem"}


def manifest() -> dict[str, dict[str, Any]]:
    files = json.loads((vectors("gpu") / "manifest.json").read_text())["files"]
    return {entry["file"]: entry["expect"] | {"sha256": entry["sha256"]} for entry in files}


def read(name: str) -> bytes:
    return (vectors("gpu") / name).read_bytes()


def report(name: str) -> bytes:
    return bytes.fromhex("".join(read(name).decode().split()))


def ending(*suffixes: str) -> dict[str, dict[str, Any]]:
    return {name: expect for name, expect in manifest().items() if name.endswith(suffixes)}


def when(text: str) -> datetime:
    return datetime.fromisoformat(text)


def test_every_file_is_one_of_a_kind_that_a_test_here_reads() -> None:
    by_hand = {"nras/hopper_detached_eat_v3.json", "nras/hopper_claims_v3_decoded.json"}  # test_gpu_eat
    evidence = {"ppcie_570/gpu_evidence.json", "ppcie_570/switch_evidence.json"}
    kinds = [ending("report.hex", "signature.hex"), ending(".xml"), ending(".b64"), ending(".pem")]
    read_here = {name for kind in kinds for name in kind} | evidence | by_hand
    assert read_here == set(manifest())
    assert len(read_here) == 35
    for name, expect in manifest().items():
        assert sha256(read(name)).hexdigest() == expect["sha256"]


def require_report(data: bytes, chain_pem: bytes, want: dict[str, Any]) -> None:
    """Compare a report with its line of the manifest, offsets included, and verify it or see it refused."""
    kind = "gpu" if want["blocks"] == 64 else "switch"
    parsed = parse_report(data, kind=kind)
    assert len(data) == want["total_len"]
    assert (parsed.nonce.hex(), parsed.responder_nonce.hex()) == (want["request_nonce"], want["responder_nonce"])
    assert len(parsed.measurements) == want["blocks"]
    assert len(parsed.signed) == want["signature_offset"]
    assert len(parsed.signed) - len(parsed.opaque) == want["opaque_offset"]
    assert len(data) - len(parsed.signed) - 96 == want["trailing_bytes_after_signature"]
    opaque = decode_opaque(parsed.opaque, kind=kind)
    assert opaque.vbios_version == want["vbios_version"].upper()
    assert (opaque.driver_version or None) == want["driver_version"]
    assert (opaque.fwid.hex() if opaque.fwid else None) == want["fwid_in_report"]
    status = {"aa": True, "55": False, None: None}[want["nvdec0_status"]]
    assert opaque.nvdec0_enabled is status
    chain = verify_chain(chain_pem, kind=kind, anchor=NVIDIA_ANCHOR)
    assert (f"{chain.serial:#x}", chain.pdi.hex()) == (want["leaf_serial"], want["brom_pdi"])
    arguments: dict[str, Any] = {"kind": kind, "nonce": None, "rims": [], "anchor": NVIDIA_ANCHOR, "now": NOW}
    if want["signature_valid"]:
        device = verify_device(data, chain_pem, **arguments)
        assert device.ueid == str(int(want["leaf_serial"], 16))
        assert device.fwid_compared is bool(want["fwid_matches_leaf"])
        if want["vbios_rim_id"]:
            assert device.firmware_rim_id == want["vbios_rim_id"]
        return
    with pytest.raises(AttestationError) as e:
        verify_device(data, chain_pem, **arguments)
    assert e.value.code == "GpuReportSignatureInvalid"


def test_every_report() -> None:
    found = ending("report.hex", "signature.hex")
    assert len(found) == 5
    for name, want in found.items():
        require_report(report(name), read(CHAIN_OF.get(name, name.replace("report.hex", "chain.pem"))), want)


def test_eight_gpus_and_four_switches_one_by_one_and_together() -> None:
    devices: list[GpuDeviceEvidence] = []
    for kind in ("gpu", "switch"):
        name = f"ppcie_570/{kind}_evidence.json"
        given, wants = json.loads(read(name)), manifest()[name]["devices"]
        assert len(given) == len(wants) == {"gpu": 8, "switch": 4}[kind]
        for item, want in zip(given, wants, strict=True):
            data, pem = base64.b64decode(item["evidence"]), base64.b64decode(item["certificate"])
            require_report(data, pem, want)
            devices.append(GpuDeviceEvidence(kind=kind, report=data, chain=pem, cc_state={}))
    nothing = GpuEndorsementSet(rims=(), ocsp=(), crls=())
    assert str(verify_set(devices, nothing, nonce=None, anchor=NVIDIA_ANCHOR, now=NOW).mode) == "ppcie"


def test_every_file_of_reference_values() -> None:
    found = ending(".xml")
    assert len(found) == 12
    refused = {}
    for name, want in found.items():
        if not all(want[key] for key in ("digest_valid", "signature_value_valid", "ends_in_pinned_rim_root")):
            with pytest.raises(AttestationError) as e:
                verify_rim(read(name), anchor=NVIDIA_ANCHOR)
            refused[name.split("/")[1]] = e.value.code
            continue
        rim = verify_rim(read(name), anchor=NVIDIA_ANCHOR)
        assert (rim.product, rim.version, rim.tag_id) == (want["product"], want["version"], want["tag_id"])
        assert sorted(rim.golden) == want["active"]
        several = {str(i): len(hashes) for i, hashes in rim.golden.items() if len(hashes) > 1}
        assert several == {i: n for i, n in want["alternatives"].items() if int(i) in rim.golden}
        assert rim.certificates[0].not_valid_before_utc == when(want["leaf_not_before"])
        assert rim.window.not_after == when(want["chain_not_after"])
        for other, mismatches in want["mismatch_indices_vs"].items():
            kind = "switch" if "switch" in other else "gpu"
            compared = compare(parse_report(report(other), kind=kind).measurements, [rim], nvdec0_enabled=None)
            assert [m.index for m in compared.mismatches] == mismatches
    assert refused == {
        "NV_GPU_DRIVER_GH100_535.86.09.tampered.xml": "RimSignatureInvalid",
        "rim_bad_signature_value.xml": "RimSignatureInvalid",
        "rim_debug_root_chain.xml": "UntrustedRoot",
    }


def of_hopper_550(*rims: str, now: datetime = NOW) -> Any:
    return verify_device(
        report("hopper_550/report.hex"),
        read("hopper_550/chain.pem"),
        kind="gpu",
        nonce=None,
        rims=[read(rim) for rim in rims],
        anchor=NVIDIA_ANCHOR,
        now=now,
    )


DRIVER = "hopper_550/NV_GPU_DRIVER_GH100_550.90.07.xml"
VBIOS = "hopper_550/NV_GPU_VBIOS_1010_0200_882_96009F0001.xml"


@pytest.mark.parametrize(
    ("rims", "now", "code"),
    [
        (("negative/rim_550.144.03_other_version.xml", VBIOS), NOW, "RimMismatch"),
        (("negative/rim_driver_545_test.xml", VBIOS), datetime(2025, 6, 1, tzinfo=UTC), "RimMismatch"),
        ((DRIVER, "negative/rim_vbios_test.xml"), datetime(2025, 6, 1, tzinfo=UTC), "RimMismatch"),
        ((DRIVER, VBIOS), datetime(2026, 6, 2, tzinfo=UTC), "CertificateExpired"),
        ((DRIVER, VBIOS), datetime(2024, 5, 1, tzinfo=UTC), "CertificateNotYetValid"),
        ((VBIOS,), NOW, "RimMissing"),
    ],
)
def test_genuine_reference_values_for_another_version_or_time(rims: Sequence[str], now: datetime, code: str) -> None:
    with pytest.raises(AttestationError) as e:
        of_hopper_550(*rims, now=now)
    assert e.value.code == code


def test_reissued_reference_values_hold_when_the_first_ones_are_over() -> None:
    now = datetime(2026, 4, 1, tzinfo=UTC)
    device = of_hopper_550(DRIVER, VBIOS.replace(".xml", ".reissued2026.xml"), now=now)
    assert device.measurements is not None
    assert not device.measurements.mismatches
    assert not device.measurements.uncovered
    assert len(device.measurements.compared) == 33


def test_every_answer_about_revocation() -> None:
    found = ending(".b64")
    assert len(found) == 7
    links: list[Link] = list(verify_chain(read("hopper_550/chain.pem"), kind="gpu", anchor=NVIDIA_ANCHOR).links)
    for name in (DRIVER, VBIOS):
        links += verify_rim(read(name), anchor=NVIDIA_ANCHOR).links
    arguments: dict[str, Any] = {"organizations": NVIDIA_ANCHOR.organizations, "where": "ocsp"}
    for name, want in found.items():
        der = base64.b64decode(read(name))
        begins, ends = when(want["this_update"]), when(want["next_update"])
        link, window = verify_ocsp(der, links, now=begins, **arguments)
        assert f"{link.certificate.serial_number:#x}" == want["serial"]
        assert (window.not_before, window.not_after) == (begins, ends)
        for now, code in ((ends, "OcspExpired"), (begins - timedelta(seconds=1), "OcspNotYetValid")):
            with pytest.raises(AttestationError) as e:
                verify_ocsp(der, links, now=now, **arguments)
            assert e.value.code == code
        others = [other for other in links if other.certificate != link.certificate]
        with pytest.raises(AttestationError) as e:
            verify_ocsp(der, others, now=begins, **arguments)
        assert e.value.code == "OcspMismatch"


def test_every_root() -> None:
    for name, want in ending("root.pem", "L1B.pem").items():
        key = x509.load_pem_x509_certificate(read(name)).public_key()
        digest = sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()
        assert digest in (NVIDIA_ANCHOR.rim_root_spki if "rim" in name else NVIDIA_ANCHOR.device_root_spki)
        if "spki_sha256" in want:
            assert digest.hex() == want["spki_sha256"]


def test_the_second_certificate_of_the_device_root_is_the_same_root() -> None:
    pem = read("hopper_550/chain.pem")
    certificates = pem.split(b"-----END CERTIFICATE-----\n")[:4]
    twin = b"-----END CERTIFICATE-----\n".join([*certificates, read("roots/device_root_L1B.pem")])
    assert verify_chain(twin, kind="gpu", anchor=NVIDIA_ANCHOR).serial
