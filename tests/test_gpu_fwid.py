# SPDX-License-Identifier: Apache-2.0
"""The firmware identity in a leaf's extension: read as DER, the first alone, under the chip family's own name."""
# ruff: noqa: E501 - one row, one line

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from cryptography import x509

from attestation.errors import AttestationError
from enclave.simulator.gpu_authority import spki
from enclave.simulator.gpu_device import SimulatedDevice
from enclave.simulator.gpu_report import ReportFields
from tests.gpu_cases import GpuCase, given, machine, without
from tests.gpu_chains import Plan

FWID = bytes(range(48))


def code_of(**changes: Any) -> str:
    with pytest.raises(AttestationError) as e:
        GpuCase(**changes).verified()
    return e.value.code


def tlv(tag: int, *content: bytes) -> bytes:
    body = b"".join(content)
    size = (
        bytes([len(body)])
        if len(body) < 128
        else b"\x81" + bytes([len(body)])
        if len(body) < 256
        else b"\x82" + len(body).to_bytes(2, "big")
    )
    return bytes([tag]) + size + body


OID_SHA384 = tlv(6, bytes.fromhex("608648016503040202"))
DICE, COMPOSITE = "2.23.133.5.4.1.1", "2.23.133.5.4.1"


def extension(oid: str, value: bytes) -> x509.UnrecognizedExtension:
    return x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), value)


def digest_of(value: bytes, oid: bytes = OID_SHA384) -> bytes:
    return tlv(0x30, oid, tlv(4, value))


def dice(*digests: bytes, more: tuple[bytes, ...] = ()) -> x509.UnrecognizedExtension:
    return extension(DICE, tlv(0x30, tlv(0x83, b"\1"), tlv(0xA6, *digests), *more))


def blackwell(fwid: x509.UnrecognizedExtension | None) -> dict[str, Any]:
    return {"mode": "mpt", "ocsp": (), "chain": lambda _: Plan("GB100").pem(leaf={"fwid": fwid})}


def hopper(make: Callable[[bytes, bytes], bytes]) -> dict[str, Any]:
    """Build the Hopper extension from the key of the leaf's issuer and the identity."""

    def chain(_: SimulatedDevice) -> bytes:
        plan = Plan()
        return plan.pem(leaf={"fwid": extension(COMPOSITE, make(spki(plan.brom_key.public_key()), plan.device.fwid))})

    return {"chain": chain, "ocsp": ()}


GOOD = machine("mpt", 1)[0].fwid
MALFORMED, MISMATCH = "MalformedCertificate", "GpuFwidMismatch"
FWIDS: list[tuple[str, dict[str, Any], str]] = [
    ("none in a Blackwell leaf", blackwell(None), MISMATCH),
    ("the second identity is the reported one", blackwell(dice(digest_of(FWID), digest_of(GOOD))), MISMATCH),
    ("only contained, under another tag", blackwell(dice(digest_of(FWID), more=(tlv(0x87, GOOD),))), MISMATCH),
    ("of Hopper's extension", blackwell(extension(COMPOSITE, tlv(0x30, digest_of(GOOD)))), MISMATCH),
    ("under another extension's name", blackwell(extension("2.23.133.5.4.2", tlv(0x30, digest_of(GOOD)))), MISMATCH),
    ("by SHA-256's name", blackwell(dice(digest_of(GOOD, tlv(6, bytes.fromhex("608648016503040201"))))), MALFORMED),
    ("of 47 bytes", blackwell(dice(digest_of(GOOD[:47]))), MALFORMED),
    ("no list of identities", blackwell(extension(DICE, tlv(0x30, tlv(0x83, b"\1")))), MALFORMED),
    ("two lists of identities", blackwell(extension(DICE, tlv(0x30, tlv(0xA6, digest_of(GOOD)), tlv(0xA6, digest_of(GOOD))))), MALFORMED),
    ("an empty list", blackwell(dice()), MALFORMED),
    ("an identity that is no sequence", blackwell(dice(tlv(0x31, OID_SHA384, tlv(4, GOOD)))), MALFORMED),
    ("an identity of three parts", blackwell(dice(tlv(0x30, OID_SHA384, tlv(4, GOOD), tlv(4, GOOD)))), MALFORMED),
    ("a length in a longer form", blackwell(extension(DICE, tlv(0x30, tlv(0xA6, b"\x30\x81" + digest_of(GOOD)[1:])))), MALFORMED),
    ("a length of three bytes", blackwell(extension(DICE, b"\x30\x83\x00\x00\x05" + bytes(5))), MALFORMED),
    ("an indefinite length", blackwell(extension(DICE, b"\x30\x80" + digest_of(GOOD) + b"\0\0")), MALFORMED),
    ("a length past the end", blackwell(extension(DICE, b"\x30\x7f" + digest_of(GOOD))), MALFORMED),
    ("bytes after the sequence", blackwell(extension(DICE, tlv(0x30, tlv(0xA6, digest_of(GOOD))) + b"\5\0")), MALFORMED),
    ("a long tag", blackwell(extension(DICE, tlv(0x30, b"\x1f\x01\x00"))), MALFORMED),
    ("seventeen elements", blackwell(extension(DICE, tlv(0x30, *[tlv(5)] * 17))), MALFORMED),
    ("a set in place of a sequence", blackwell(extension(DICE, tlv(0x31, tlv(0xA6, digest_of(GOOD))))), MALFORMED),
    ("Hopper: of another key", hopper(lambda _, fwid: tlv(0x30, tlv(2, b"\1"), tlv(0x30, b"\5\0"), digest_of(fwid))), MISMATCH),
    ("Hopper: another identity", hopper(lambda key, _: tlv(0x30, tlv(2, b"\1"), key, digest_of(FWID))), MISMATCH),
    ("Hopper: no version", hopper(lambda key, fwid: tlv(0x30, key, digest_of(fwid))), MALFORMED),
    ("Hopper: the identity alone", hopper(lambda _, fwid: tlv(0x30, digest_of(fwid))), MALFORMED),
    ("Hopper: an identity as it is", hopper(lambda key, fwid: tlv(0x30, tlv(2, b"\1"), key, tlv(0x30, tlv(4, fwid)))), MALFORMED),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "code"), [row[1:] for row in FWIDS], ids=[row[0] for row in FWIDS])
def test_a_firmware_identity_with_one_thing_wrong(changes: dict[str, Any], code: str) -> None:
    assert code_of(**changes) == code


def old_driver(version: bytes) -> Callable[[ReportFields], ReportFields]:
    return lambda fields: given(3, version)(without(20)(fields))


def test_a_driver_before_550_reports_no_firmware_identity_and_a_policy_says_whether_that_will_do() -> None:
    fields = old_driver(b"535.86.09\0")
    assert code_of(fields=old_driver(b"550.54.14\0"), rims=(), ocsp=()) == MISMATCH
    case = GpuCase(fields=fields, rims=(), ocsp=())
    assert case.verified().devices[0].fwid_compared is False
    assert "GpuFwidMismatch" in {f.code for f in case.findings() if not f.holds}
    waived = {f.rule.split(".")[-1] for f in case.findings(firmware_identity={"waived": "drivers of 2023"}) if f.holds}
    assert "firmware_identity" in waived


def test_a_report_names_the_identity_of_a_leaf_that_has_none() -> None:
    assert code_of(chain=lambda _: Plan().pem(leaf={"fwid": None}), ocsp=()) == MISMATCH
