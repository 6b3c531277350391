# SPDX-License-Identifier: Apache-2.0
"""The small readers of GPU evidence by themselves: DER, PEM, names in their places, machines of a wrong size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from cryptography import x509

from attestation.errors import AttestationError
from attestation.gpu.chain import verify_chain
from attestation.gpu.chip import driver_rim_id, firmware_rim_id
from attestation.gpu.der import SEQUENCE, children, element
from attestation.gpu.evidence import MAX_CHAIN_BYTES
from attestation.gpu.opaque import GpuMode, decode_opaque
from attestation.gpu.pem import split_pem
from attestation.gpu.spdm import parse_report
from attestation.gpu.topology import require_topology
from enclave.simulator.gpu_authority import name_of
from enclave.simulator.gpu_report import encode_opaque
from tests.gpu_cases import NONCE, GpuCase, anchor, machine
from tests.gpu_chains import Plan
from tests.test_gpu_fwid import tlv


def code_of(work: Callable[[], object]) -> str:
    with pytest.raises(AttestationError) as e:
        work()
    return e.value.code


MALFORMED = "MalformedCertificate"
NULL = b"\x05\x00"
DER: list[tuple[str, bytes]] = [
    ("seventeen elements", NULL * 17),
    ("a long tag", b"\x1f\x00"),
    ("a long tag of a sequence", b"\x3f\x00"),
    ("no length", b"\x05"),
    ("a length past the end", b"\x04\x02x"),
    ("an indefinite length", b"\x30\x80\0\0"),
    ("an indefinite length before as many bytes", b"\x30\x80" + bytes(128)),
    ("a length of three bytes", b"\x04\x83\0\1\0" + bytes(256)),
    ("a length of one byte that fits in none", b"\x04\x81\x7f" + bytes(127)),
    ("a length of two bytes that fits in one", b"\x04\x82\0\xff" + bytes(255)),
    ("a length of two bytes that are cut", b"\x04\x82\1"),
]  # fmt: skip


@pytest.mark.parametrize("data", [row[1] for row in DER], ids=[row[0] for row in DER])
def test_der_of_another_form_is_refused(data: bytes) -> None:
    assert code_of(lambda: children(data, what="x")) == MALFORMED


def test_der_is_split_into_tag_content_and_whole() -> None:
    assert children(NULL * 16, what="x") == [(5, b"", NULL)] * 16
    assert children(b"", what="x") == []
    for size in (0, 127, 128, 255, 256, 300):
        data = tlv(4, bytes(size))
        assert children(data + NULL, what="x") == [(4, bytes(size), data), (5, b"", NULL)]
    assert element(tlv(0x30, NULL), SEQUENCE, what="x") == NULL
    for other in (b"", NULL, tlv(0x30) + NULL, tlv(0x31)):
        with pytest.raises(AttestationError) as e:
            element(other, SEQUENCE, what="x")
        assert e.value.code == MALFORMED


def test_a_chain_is_bounded_though_line_ends_may_follow_it() -> None:
    pem = machine("spt", 1)[0].pem
    assert len(split_pem(pem + b"\n\r\n", count=5, where="x")) == 5
    assert len(split_pem(pem.ljust(MAX_CHAIN_BYTES, b"\n"), count=5, where="x")) == 5
    assert code_of(lambda: split_pem(pem.ljust(MAX_CHAIN_BYTES + 1, b"\n"), count=5, where="x")) == MALFORMED


@pytest.mark.parametrize("text", [b"AAAA=AAA", b"A", b"=", b"AA=A"])
def test_base64_that_is_none_is_refused(text: bytes) -> None:
    block = b"-----BEGIN CERTIFICATE-----\n" + text + b"\n-----END CERTIFICATE-----\n"
    assert code_of(lambda: split_pem(block, count=1, where="x")) == MALFORMED


def test_a_certificate_of_nobody_is_malformed() -> None:
    case = GpuCase(chain=lambda _: Plan().pem(leaf={"subject": x509.Name([])}), ocsp=())
    assert code_of(case.verified) == MALFORMED


@pytest.mark.parametrize("name", ["GH100 A01 GSP FMC LF", "LS_10 A01 FSP BROM", "GH100 A01 GSP BROM x", "x"])
def test_every_certificate_has_the_name_of_its_place(name: str) -> None:
    case = GpuCase(chain=lambda _: Plan().pem(brom={"subject": name_of(name)}), ocsp=())
    assert code_of(case.verified) == "CertificateRoleMismatch"


def test_all_gpus_are_in_one_mode_whichever_comes_first() -> None:
    devices = list(GpuCase(mode="mpt", count=2).verified().devices)
    for modes in ((GpuMode.MULTI, GpuMode.PROTECTED_PCIE), (GpuMode.MULTI, GpuMode.SINGLE)):
        mixed = [replace(d, mode=m) for d, m in zip(devices, modes, strict=True)]
        with pytest.raises(AttestationError) as e:
            require_topology(mixed)
        assert e.value.code == "GpuTopologyInvalid"


def test_a_fabric_has_eight_gpus_and_four_switches_though_its_links_agree() -> None:
    devices = GpuCase(mode="ppcie").verified().devices
    gpu = next(d for d in devices if d.kind == "gpu")
    switch = next(d for d in devices if d.kind == "switch")
    pair = [replace(gpu, linked_pdis=frozenset({switch.pdi})), replace(switch, linked_pdis=frozenset({gpu.pdi}))]
    assert code_of(lambda: require_topology(pair)) == "GpuTopologyInvalid"


@pytest.mark.parametrize(
    ("mode", "at", "driver", "firmware"),
    [
        ("spt", 0, "NV_GPU_DRIVER_GH100_999.1.0", "NV_GPU_VBIOS_SIM0_0001_882_9600000001"),
        ("mpt", 0, "NV_GPU_CC_DRIVER_GB100_999.1.0", "NV_GPU_VBIOS_SIM0_0001_882_9600000001"),
        ("ppcie", 8, "", "NV_SWITCH_BIOS_5612_0002_890_9610000001"),
    ],
)
def test_reference_values_have_names_that_follow_from_the_report(
    mode: str, at: int, driver: str, firmware: str
) -> None:
    device = machine(mode, 1)[at]
    chip = verify_chain(device.pem, kind=device.kind, anchor=anchor()).chip
    opaque = decode_opaque(parse_report(device.report(NONCE), kind=device.kind).opaque, kind=device.kind)
    assert (driver_rim_id(chip, opaque), firmware_rim_id(chip, opaque)) == (driver, firmware)


def test_opaque_data_of_a_later_version_is_refused_with_a_flag_or_without() -> None:
    fields = machine("spt", 1)[0].fields(NONCE).opaque
    for kept in ({34, 36}, {34}):
        later = tuple((n, b"\2\0" if n == 34 else v) for n, v in fields if n not in {34, 36} or n in kept)
        assert code_of_opaque(later) == "UnsupportedGpuReport"


@pytest.mark.parametrize("size", [143, 145, 0])
def test_links_are_eighteen_identifiers(size: int) -> None:
    fields = machine("spt", 1)[0].fields(NONCE).opaque
    assert code_of_opaque((*fields, (22, bytes(size)))) == "MalformedOpaqueData"


def code_of_opaque(fields: tuple[tuple[int, bytes], ...]) -> str:
    return code_of(lambda: decode_opaque(encode_opaque(fields), kind="gpu"))
