# SPDX-License-Identifier: Apache-2.0
"""GPU verification to the letter: every field, every finding, the last second of each window, each bound by one."""
# ruff: noqa: E501 - one row, one line

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.x509 import ocsp

from attestation.errors import AttestationError
from attestation.findings import Finding
from attestation.gpu import certificate, chain, revocation, rim
from attestation.gpu.appraise import GpuPolicy, appraise_gpus
from attestation.gpu.evidence import NONCE_CLIENT, NONCE_EPOCH
from attestation.gpu.opaque import GpuMode
from attestation.gpu.rimxml import parse_xml
from attestation.gpu.verify import VerifiedGpuSet, verify_device
from enclave.simulator.gpu_crl import sign_crl
from enclave.simulator.gpu_device import golden, rim_fields
from enclave.simulator.gpu_ocsp import respond
from enclave.simulator.gpu_rim import encode_rim, sign_rim
from tests.gpu_cases import (
    CC_STATE,
    DAY,
    NONCE,
    NOW,
    GpuCase,
    anchor,
    authority,
    machine,
    measurement,
    ocsp_responses,
    rims,
)
from tests.gpu_chains import Plan
from tests.test_gpu_endorsements import signer
from tests.test_gpu_refusals import RIM_CHAIN, answer, unsigned
from tests.test_gpu_refusals import rim as signed_rim

HOUR = timedelta(hours=1)


def code_of(work: Callable[[], object]) -> str:
    with pytest.raises(AttestationError) as e:
        work()
    return e.value.code


# ---- what a verified device says


def test_every_field_of_a_device() -> None:
    (device,), made = GpuCase().verified().devices, machine("spt", 1)[0]
    assert (device.kind, device.product, device.architecture) == ("gpu", "GH100", "HOPPER")
    assert (device.hwmodel, device.serial) == ("GH100 A01 GSP BROM", made.chain[0].serial_number)
    assert (device.ueid, device.pdi, device.nonce) == (str(device.serial), made.pdi, NONCE)
    assert (device.driver_version, device.vbios_version) == ("999.1.0", "96.00.00.00.01")
    assert (device.mode, device.linked_pdis, device.unknown_fields) == (GpuMode.SINGLE, frozenset(), ())
    assert (device.fwid, device.fwid_compared, device.cc_state) == (made.fwid, True, CC_STATE)
    assert device.driver_rim_id == "NV_GPU_DRIVER_GH100_999.1.0"
    assert device.firmware_rim_id == "NV_GPU_VBIOS_SIM0_0001_882_9600000001"
    assert device.certificates == made.chain
    assert device.roots_used == anchor().device_root_spki | anchor().rim_root_spki
    assert GpuCase(rims=(), ocsp=()).verified().roots_used == anchor().device_root_spki


def test_every_field_of_reference_values() -> None:
    driver, vbios = GpuCase().verified().devices[0].rims
    assert (driver.component, driver.product, driver.version) == ("driver", "GH100", "999.1.0")
    assert (vbios.component, vbios.product, vbios.version) == ("vbios", "GH100", "96.00.00.00.01")
    assert all(len(r.tag_id) == 96 for r in (driver, vbios))
    assert [c.subject for c in driver.certificates] == [c.subject for c in authority().chain(*RIM_CHAIN)]
    assert [link.name for link in driver.links] == [f"driver RIM chain[{i}]" for i in range(3)]
    (switch,) = next(d for d in GpuCase(mode="ppcie").verified().devices if d.kind == "switch").rims
    assert (switch.component, switch.product, switch.version) == ("switch", "LS10", "96.10.00.00.01")


def test_every_field_of_a_certificates_status() -> None:
    device = GpuCase().verified().devices[0]
    named = f"gpu {device.serial:x} chain"
    assert [s.name for s in device.revocation[:3]] == [f"{named}[{i}]" for i in (1, 2, 3)]
    assert [s.serial for s in device.revocation[:3]] == [c.serial_number for c in machine("spt", 1)[0].chain[1:4]]
    assert len(device.revocation) == 9
    assert all(s.ocsp and s.crl is None and s.publishes_crl is False for s in device.revocation)


def verified_alone(**changes: Any) -> Any:
    evidence = GpuCase().evidence()[0]
    given: dict[str, Any] = {"kind": "gpu", "nonce": NONCE, "rims": (), "anchor": anchor(), "now": NOW}
    return verify_device(evidence.report, evidence.chain, **(given | changes))


def test_one_device_is_verified_with_everything_that_is_given() -> None:
    crl = sign_crl(authority().issuers["GH100-ica"], window=(NOW - DAY, NOW + HOUR))
    found = verified_alone(rims=rims("GH100"), ocsp=ocsp_responses("spt", 1), crls=(crl,), cc_state=CC_STATE)
    assert (len(found.rims), found.cc_state) == (2, CC_STATE)
    assert [s.crl is not None for s in found.revocation[:3]] == [True, False, False]
    assert all(s.ocsp for s in found.revocation)
    assert found.window.not_after == NOW + HOUR
    alone = verified_alone()
    assert (alone.rims, alone.measurements, alone.cc_state) == ((), None, {})


# ---- windows


def test_the_first_second_of_the_certificates_and_the_one_after_their_last() -> None:
    root = authority().device_root.certificate
    begins, ends = root.not_valid_before_utc, root.not_valid_after_utc
    for moment in (begins, ends - timedelta(seconds=1)):
        assert verified_alone(now=moment).window.holds(moment)
    assert code_of(lambda: verified_alone(now=begins - timedelta(seconds=1))) == "CertificateNotYetValid"
    assert code_of(lambda: verified_alone(now=ends)) == "CertificateExpired"


def test_the_narrowest_window_counts_whoever_has_it() -> None:
    ends = NOW + HOUR
    for changed in ("brom", "leaf"):
        case = GpuCase(chain=lambda _, changed=changed: Plan().pem(**{changed: {"ends": ends}}), ocsp=())  # type: ignore[misc]
        assert case.verified().window.not_after == ends
    short = signer(window=(NOW - DAY, ends))
    assert GpuCase(rims=short, ocsp=()).verified().window.not_after == ends
    assert GpuCase(rims=short, ocsp=ocsp_responses("spt", 1)[:1]).verified().window.not_after == ends


def test_the_window_of_a_set_is_that_of_all_its_devices() -> None:
    devices = GpuCase(mode="mpt", count=2).verified().devices
    for device in devices:
        about = next(d for d in machine("mpt", 2) if d.chain[0].serial_number == device.serial)
        issuer = authority().issuers["GB100-ica"]
        one = respond(about.chain[1], issuer.certificate, issuer.responder("R"), window=(NOW - HOUR, NOW + HOUR))
        assert GpuCase(mode="mpt", count=2, ocsp=(one,)).verified().window.not_after == NOW + HOUR


# ---- bounds


def test_a_set_of_sixteen_is_a_set() -> None:
    assert len(GpuCase(mode="mpt", count=16, ocsp=()).verified().devices) == 16


@pytest.mark.parametrize(
    ("remembered", "size"),
    [
        (chain.verify_chain, chain._CACHED_CHAINS),
        (rim.verify_rim, rim._CACHED_RIMS),
        (revocation.verified_answer, revocation._CACHED_ANSWERS),
        (certificate._check_signature, certificate._CACHED_SIGNATURES),
    ],
    ids=["chains", "reference values", "answers", "signatures"],
)
def test_what_is_remembered_is_bounded(remembered: Any, size: int) -> None:
    assert remembered.cache_parameters() == {"maxsize": size, "typed": False}
    assert 1 <= size <= 128


def alternatives(count: int) -> tuple[bytes, ...]:
    values = (*(golden("GH100", 100 + i) for i in range(count - 1)), golden("GH100", 23))
    return signed_rim(golden={**rim_fields("GH100")[0].golden, 23: values})


def test_a_measurement_has_at_most_sixteen_alternatives() -> None:
    (device,) = GpuCase(rims=alternatives(16)).verified().devices
    assert device.measurements is not None
    assert device.measurements.mismatches == ()
    assert code_of(GpuCase(rims=alternatives(17)).verified) == "MalformedRim"


@pytest.mark.parametrize(("count", "code"), [(1, "RimChainInvalid"), (8, "RimChainInvalid"), (9, "MalformedRim")])
def test_a_list_of_so_many_certificates(count: int, code: str) -> None:
    roles = ("rim-signer", *["rim-root"] * (count - 1)) if count > 1 else ("rim-root",)
    key, listed = authority().issuers["rim-signer"].key, authority().chain(*roles)
    made = tuple(sign_rim(encode_rim(values), key, listed) for values in rim_fields("GH100"))
    assert code_of(GpuCase(rims=made, ocsp=()).verified) == code


# ---- reference values that leave something out


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (' ns1:FirmwareManufacturerId="5703"', ""),
        (' colloquialVersion="999.1.0"', ""),
        (' edition="GPU"', ""),
        (' alternatives="1"', ""),
        (' product="GH100"', ""),
        ("<ns0:Payload>\n", "<ns0:Payload>\nX"),
        ("<ns0:Payload>\n", "<ns0:Payload>\n\u00a0"),
        ('colloquialVersion="999.1.0"', 'colloquialVersion="96.00.00.00.0a"'),
    ],
)  # fmt: skip
def test_reference_values_with_one_thing_left_out_or_put_in(old: str, new: str) -> None:
    made = signed_rim(lambda text: text.replace(old, new, 1))
    assert code_of(GpuCase(rims=made, ocsp=()).verified) == "MalformedRim"


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-16"])
def test_xml_in_utf_16_is_refused_whatever_it_declares(encoding: str) -> None:
    for text in ('<?xml version="1.0" encoding="UTF-16"?><a/>', "<a/>"):
        with pytest.raises(AttestationError) as e:
            parse_xml(text.encode(encoding))
        assert e.value.code == "MalformedRim"
    case = GpuCase(rims=unsigned(lambda data: data.decode().encode(encoding)), ocsp=())
    assert code_of(case.verified) == "MalformedRim"


# ---- answers that cannot be read


def test_a_revocation_for_a_reason_that_does_not_exist_is_malformed() -> None:
    given = answer(status=ocsp.OCSPCertStatus.REVOKED, reason=x509.ReasonFlags.key_compromise)[0]
    assert given.count(b"\xa0\x03\x0a\x01\x01") == 1
    bent = given.replace(b"\xa0\x03\x0a\x01\x01", b"\xa0\x03\x0a\x01\x07")
    assert code_of(GpuCase(ocsp=(given,)).verified) == "OcspRevoked"
    assert code_of(GpuCase(ocsp=(bent,)).verified) == "MalformedOcsp"


# ---- findings


def findings(
    verified: VerifiedGpuSet | None, *, kind: int | None = NONCE_CLIENT, now: Any = NOW, **changes: Any
) -> list[Finding]:
    policy = GpuPolicy.parse(GpuPolicy.strict_template() | changes, "gpu")
    return appraise_gpus(verified, policy, nonce_kind=kind, now=now)


def rows(found: list[Finding]) -> list[tuple[str, bool, str, str, str, str | None]]:
    """Give findings with the device's name left out."""
    return [
        ("gpu." + f.rule.partition("].")[2] if "]" in f.rule else f.rule, f.holds, f.code, f.want, f.got, f.waived)
        for f in found
    ]


def test_every_finding_of_a_gpu_that_is_accepted() -> None:
    device = GpuCase().verified().devices[0]
    production = "cc_feature=1 dev_tools=0 environment=2 multi_gpu_mode=0"
    driver, vbios = (r.sha256.hex() for r in device.rims)
    template = GpuPolicy.strict_template()
    reasons = {
        name: value["waived"] for name, value in template.items() if isinstance(value, dict) and "waived" in value
    }
    found = findings(GpuCase().verified())
    name = f"gpu.gpu[{device.serial:x}]."
    assert all(f.rule.startswith(name) for f in found[4:])
    assert [(f.rule.replace(name, ""), f.holds, f.code, f.want, f.got, f.waived) for f in found] == [
        ("gpu.window", True, "CertificateExpired", "now", "2026-10-01T12:00:00Z", None),
        ("gpu.fresh", True, "GpuNonceMismatch", "client", "client", None),
        ("gpu.count", True, "GpuCountRejected", "1", "1", None),
        ("gpu.modes", True, "GpuModeRejected", "spt", "spt", None),
        ("chip", True, "GpuNotAllowed", "GH100, GB100", "GH100", None),
        ("driver", True, "GpuDriverRejected", "550.90.07", "999.1.0", None),
        ("cc_state", True, "GpuModeRejected", production, production, None),
        ("firmware_identity", True, "GpuFwidMismatch", "equal to the certificate's", "equal", None),
        ("vbios", True, "", "waived", "96.00.00.00.01", reasons["denied_vbios"]),
        ("device", True, "", "waived", device.ueid, reasons["devices"]),
        ("revocation", True, "GpuRevocationRejected", "ocsp", "9 certificates answered for", None),
        ("rims", True, "RimMissing", f"{device.driver_rim_id} and {device.firmware_rim_id}", "driver 999.1.0, vbios 96.00.00.00.01", None),
        ("rims.driver", True, "", "waived", driver, reasons["rims"]),
        ("rims.vbios", True, "", "waived", vbios, reasons["rims"]),
        ("measurements", True, "GpuMeasurementMismatch", "golden values met", "33 compared", None),
    ]  # fmt: skip


def only(found: list[Finding], rule: str) -> tuple[str, bool, str, str, str, str | None]:
    (row,) = (row for row in rows(found) if row[0] == f"gpu.{rule}")
    return row


def test_findings_about_nothing_and_about_what_is_over() -> None:
    assert rows(findings(None)) == [("gpu", False, "GpuEvidenceMissing", "evidence of GPUs", "none", None)]
    later = NOW + 2 * DAY
    assert only(findings(GpuCase().verified(), now=later), "window") == (
        "gpu.window", False, "CertificateExpired", "now", "2026-10-03T12:00:00Z", None
    )  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "fresh", "holds", "got"),
    [
        (NONCE_CLIENT, "client", True, "client"), (NONCE_EPOCH, "client", False, "epoch"), (None, "client", False, "neither"),
        (NONCE_CLIENT, "epoch", True, "client"), (NONCE_EPOCH, "epoch", True, "epoch"), (None, "epoch", False, "neither"),
    ],
)  # fmt: skip
def test_findings_about_freshness(kind: int | None, fresh: str, holds: bool, got: str) -> None:
    found = findings(GpuCase().verified(), kind=kind, fresh=fresh)
    assert only(found, "fresh") == ("gpu.fresh", holds, "GpuNonceMismatch", fresh, got, None)


def test_findings_about_values_that_are_listed() -> None:
    verified = GpuCase().verified()
    driver = verified.devices[0].rims[0].sha256.hex()
    found = findings(verified, rims=[driver, "00" * 32], denied_vbios=["96.00.00.00.01"], devices=["1", "2"])
    want = f"{driver}, {'00' * 32}"
    assert only(found, "rims.driver") == ("gpu.rims.driver", True, "RimMismatch", want, driver, None)
    assert only(found, "rims.vbios")[1:4] == (False, "RimMismatch", want)
    assert only(found, "vbios") == ("gpu.vbios", False, "GpuVbiosRejected", "96.00.00.00.01", "96.00.00.00.01", None)
    assert only(found, "device") == ("gpu.device", False, "GpuNotAllowed", "1, 2", verified.devices[0].ueid, None)


def test_findings_about_a_firmware_identity() -> None:
    verified = GpuCase().verified()
    without = replace(verified, devices=(replace(verified.devices[0], fwid_compared=False),))
    want = "equal to the certificate's"
    assert only(findings(without), "firmware_identity")[1:] == (False, "GpuFwidMismatch", want, "not reported", None)
    waived = findings(without, firmware_identity={"waived": "old"})
    assert only(waived, "firmware_identity")[1:] == (True, "", "waived", "not reported", "old")


def test_findings_without_reference_values() -> None:
    found = findings(GpuCase(rims=(), ocsp=()).verified(), revocation={"waived": "none asked"})
    ids = "NV_GPU_DRIVER_GH100_999.1.0 and NV_GPU_VBIOS_SIM0_0001_882_9600000001"
    assert rows(found)[-3:] == [
        ("gpu.revocation", True, "", "waived", "", "none asked"),
        ("gpu.rims", False, "RimMissing", ids, "none", None),
        ("gpu.measurements", False, "GpuMeasurementUncovered", "measurements compared with reference values", "none compared", None),
    ]  # fmt: skip


def test_findings_about_measurements_that_differ_and_that_nobody_covers() -> None:
    other, zero = golden("GH100", 50), bytes(48)
    verified = GpuCase(fields=measurement(23, other)).verified()
    wide = GpuCase(fields=measurement(23, zero), rims=alternatives(2)).verified()
    mine, second = golden("GH100", 23).hex(), golden("GH100", 100).hex()
    row = ("gpu.measurements[23]", False, "GpuMeasurementMismatch", mine, other.hex(), None)
    assert rows_of_measurements(findings(verified)) == [row]
    assert rows_of_measurements(findings(wide))[0][3] == f"{second} or {mine}"
    excused = rows_of_measurements(findings(verified, mismatch={"23": "known"}))
    assert excused[0] == ("gpu.measurements[23]", True, "", "waived", other.hex(), "known")
    assert excused[1][:3] == ("gpu.measurements", True, "GpuMeasurementMismatch")
    bare = GpuCase(fields=measurement(50, other)).verified()
    place = "gpu.measurements.uncovered[50]"
    assert rows_of_measurements(findings(bare)) == [
        (place, False, "GpuMeasurementUncovered", "a reference value", "none", None)
    ]
    assert rows_of_measurements(findings(bare, uncovered={"50": "new"}))[0] == (place, True, "", "waived", "", "new")


def rows_of_measurements(found: list[Finding]) -> list[tuple[str, bool, str, str, str, str | None]]:
    return [
        (f"gpu.{f.rule.partition('].')[2]}", f.holds, f.code, f.want, f.got, f.waived)
        for f in found
        if ".measurements" in f.rule
    ]


@pytest.mark.parametrize(
    ("mode", "by_ocsp", "by_crl", "publishes", "holds"),
    [
        ("crl", False, True, True, True), ("crl", True, False, True, False), ("crl", True, False, False, True),
        ("crl", False, False, False, True), ("ocsp", False, True, True, False), ("ocsp", True, False, True, True),
        ("both", True, True, True, True), ("both", True, False, True, False), ("both", False, True, True, False),
        ("both", True, False, False, True), ("either", False, True, True, True), ("either", True, False, True, True),
        ("either", False, False, False, False), ("either", False, False, True, False),
    ],
)  # fmt: skip
def test_findings_about_revocation(mode: str, by_ocsp: bool, by_crl: bool, publishes: bool, holds: bool) -> None:
    verified = GpuCase().verified()
    device = verified.devices[0]
    good = device.revocation[0].ocsp
    status = replace(
        device.revocation[0], ocsp=good if by_ocsp else None, crl=good if by_crl else None, publishes_crl=publishes
    )
    found = findings(replace(verified, devices=(replace(device, revocation=(status,)),)), revocation=mode)
    got = "1 certificates answered for" if holds else f"none for {status.name}"
    assert only(found, "revocation") == ("gpu.revocation", holds, "GpuRevocationRejected", mode, got, None)
