# SPDX-License-Identifier: Apache-2.0
"""What else can be tried with a report, a chain or a firmware identity: the rest of the list of attacks."""
# ruff: noqa: E501 - one row, one line

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256, SHA384
from cryptography.hazmat.primitives.serialization import Encoding

from attestation.errors import AttestationError
from attestation.gpu.binding import gpu_set_digest
from attestation.gpu.opaque import decode_opaque
from attestation.gpu.spdm import parse_report
from enclave.simulator.gpu_authority import Issuer, name_of, new_key
from enclave.simulator.gpu_device import SimulatedDevice, make_device
from enclave.simulator.gpu_report import ReportFields, encode_block, encode_opaque
from tests.gpu_cases import DAY, NONCE, NOW, GpuCase, authority, but, given, machine, opaque, pem, without
from tests.gpu_chains import Plan, certificate, usage

Chain = Callable[[SimulatedDevice], bytes]
FWID = bytes(range(48))


def code_of(**changes: Any) -> str:
    with pytest.raises(AttestationError) as e:
        GpuCase(**changes).verified()
    return e.value.code


def added(kind: int, value: bytes) -> Callable[[ReportFields], ReportFields]:
    return opaque(lambda found: [*found, (kind, value)])


def blocks(order: Callable[[dict[int, bytes]], dict[int, bytes]]) -> Callable[[ReportFields], ReportFields]:
    """Give whole blocks in another order or form."""

    def change(fields: ReportFields) -> ReportFields:
        regular = {i: encode_block(i, value) for i, value in enumerate(fields.measurements, start=1)}
        return replace(fields, blocks=order(regular))

    return change


def flip(at: int) -> Callable[[bytes], bytes]:
    return lambda data: data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


SIGNED = 3601  # of the opaque data
LAYOUT = "UnsupportedGpuReport"
LS10: dict[str, Any] = {"mode": "ppcie", "devices": lambda d: [replace(d[8], kind="gpu")]}
REPORTS: list[tuple[str, dict[str, Any], str]] = [
    ("a bit of the responder's nonce", {"after": flip(3570)}, "GpuReportSignatureInvalid"),
    ("a bit of the opaque data", {"after": flip(SIGNED + 40)}, "GpuReportSignatureInvalid"),
    ("r is n", {"signature": lambda s: b"\xff" * 48 + s[48:]}, "GpuReportSignatureInvalid"),
    ("a signature in DER", {"signature": lambda s: b"\x30\x64" + s[2:]}, "GpuReportSignatureInvalid"),
    ("param2 for one block", {"fields": but(request=(0x11, 0xE0, 1, 1))}, LAYOUT),
    ("another request code", {"fields": but(request=(0x11, 0xE1, 1, 0xFF))}, LAYOUT),
    ("another request version", {"fields": but(request=(0x10, 0xE0, 1, 0xFF))}, LAYOUT),
    ("response param1", {"fields": but(response=(0x11, 0x60, 1, 0))}, LAYOUT),
    ("response param2", {"fields": but(response=(0x11, 0x60, 0, 1))}, LAYOUT),
    ("255 blocks", {"fields": but(number_of_blocks=255)}, LAYOUT),
    ("opaque data of one byte less", {"fields": lambda f: replace(f, opaque_length=len(encode_opaque(f.opaque)) - 1)}, "TrailingData"),
    ("opaque data of one byte more", {"fields": lambda f: replace(f, opaque_length=len(encode_opaque(f.opaque)) + 1)}, "MalformedGpuReport"),
    ("a record of 2^24 - 1", {"fields": but(record_length=0xFFFFFF)}, LAYOUT),
    ("blocks out of order", {"fields": blocks(lambda b: {**b, 1: b[2], 2: b[1]})}, LAYOUT),
    ("a value of 49 bytes", {"fields": but(blocks={1: encode_block(1, bytes(49))})}, LAYOUT),
    ("a value of no bytes", {"fields": but(blocks={1: encode_block(1, b"")})}, LAYOUT),
    ("five zero bytes after it", {"after": lambda d: d + bytes(5)}, "TrailingData"),
    ("8193 bytes", {"after": lambda d: d.ljust(8193, b"\0")}, "MalformedGpuReport"),
    ("a switch offered as a GPU", LS10, LAYOUT),
    ("an opaque field that overruns", {"fields": lambda f: replace(f, opaque=(*f.opaque[:-1], (f.opaque[-1][0], b"")), opaque_length=None)}, "MalformedOpaqueData"),
    ("65 opaque fields", {"fields": opaque(lambda f: [*f, *[(100 + i, b"") for i in range(65)]])}, "MalformedOpaqueData"),
    ("no chip SKU", {"fields": without(15)}, "MalformedOpaqueData"),
    ("no project SKU", {"fields": without(18)}, "MalformedOpaqueData"),
    ("a driver version with a letter", {"fields": given(3, b"999.1.x\0")}, "MalformedOpaqueData"),
    ("a project with a slash", {"fields": given(17, b"../x\0")}, "MalformedOpaqueData"),
    ("a VBIOS of seven bytes", {"fields": given(6, bytes(7))}, "MalformedOpaqueData"),
    ("a VBIOS of another form", {"fields": given(6, bytes(7) + b"\1")}, LAYOUT),
    ("a decoder in a third state", {"fields": given(11, b"\x00")}, LAYOUT),
    ("a decoder of two bytes", {"fields": given(11, b"\xaa\xaa")}, "MalformedOpaqueData"),
    ("a firmware identity of 47 bytes", {"fields": given(20, bytes(47))}, "MalformedOpaqueData"),
    ("opaque data of version 2", {"fields": given(34, b"\2\0")}, LAYOUT),
    ("version 1 without a feature flag", {"fields": without(36)}, LAYOUT),
    ("a feature flag without a version", {"fields": without(34)}, LAYOUT),
    ("feature flag 3", {"fields": given(36, b"\3\0")}, LAYOUT),
    ("a feature flag of one byte", {"fields": given(36, b"\0")}, "MalformedOpaqueData"),
    ("protected PCIe by flag, not by status", {"fields": given(36, b"\2\0")}, "MalformedOpaqueData"),
    ("protected PCIe by status, not by flag", {"fields": given(21, b"\xaa")}, "MalformedOpaqueData"),
    ("links of 143 bytes", {"fields": added(22, bytes(143))}, "MalformedOpaqueData"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "code"), [row[1:] for row in REPORTS], ids=[row[0] for row in REPORTS])
def test_a_report_with_one_thing_wrong(changes: dict[str, Any], code: str) -> None:
    assert code_of(**changes) == code


def test_four_zero_bytes_after_a_report_are_no_part_of_it() -> None:
    case = GpuCase()
    (device,) = case.evidence()
    padded = replace(device, report=device.report + bytes(4))
    assert gpu_set_digest([padded]) == gpu_set_digest([device])
    assert GpuCase(after=lambda d: d + bytes(4)).verified().gpus


def test_a_report_cut_anywhere_is_refused() -> None:
    data = GpuCase().evidence()[0].report
    for size in [*range(0, len(data), 7), *range(len(data) - 100, len(data))]:
        with pytest.raises(AttestationError) as e:
            parse_report(data[:size], kind="gpu")
        assert e.value.code in {"MalformedGpuReport", LAYOUT}


def test_unknown_opaque_fields_are_told_and_used_for_nothing() -> None:
    (device,) = GpuCase(fields=added(200, b"x")).verified().devices
    assert device.unknown_fields == (200,)
    assert GpuCase(fields=added(23, b"x")).verified().devices[0].unknown_fields == ()


def test_a_refused_layout_names_its_field() -> None:
    for changes, field in (
        ({"slot": 1}, "report.request.slot"),
        ({"number_of_blocks": 31}, "report.response.number_of_blocks"),
    ):
        with pytest.raises(AttestationError) as e:
            GpuCase(fields=but(**changes)).verified()
        assert e.value.where == field
    for header, field in ((b"\2\1\x33\0\1\x30\0", "index"), (b"\1\2\x33\0\1\x30\0", "specification"), (b"\1\1\x32\0\1\x30\0", "size"),
                          (b"\1\1\x33\0\2\x30\0", "value_type"), (b"\1\1\x33\0\1\x31\0", "value_size")):  # fmt: skip
        with pytest.raises(AttestationError) as e:
            GpuCase(fields=but(blocks={1: header + bytes(48)})).verified()
        assert (e.value.code, e.value.where) == (LAYOUT, f"report.block[1].{field}")


def test_legacy_opaque_data_has_its_mode_from_the_protected_pcie_status() -> None:
    def legacy(status: bytes | None) -> str:
        fields = [(n, v) for n, v in machine("spt", 1)[0].fields(NONCE).opaque if n not in {21, 34, 36}]
        fields += [] if status is None else [(21, status)]
        return str(decode_opaque(encode_opaque(tuple(fields)), kind="gpu").mode)

    assert [legacy(s) for s in (None, b"\x55", b"\xaa")] == ["spt", "spt", "ppcie"]


def test_a_vbios_version_is_read_from_its_upper_end() -> None:
    value = bytes.fromhex("009f009601000000")
    fields = tuple((n, value if n == 6 else v) for n, v in machine("spt", 1)[0].fields(NONCE).opaque)
    assert decode_opaque(encode_opaque(fields), kind="gpu").vbios_version == "96.00.9F.00.01"


# ---- chains


def leaf(**changes: Any) -> dict[str, Any]:
    return {"chain": lambda _: Plan().pem(leaf=changes)}


def brom(**changes: Any) -> dict[str, Any]:
    return {"chain": lambda _: Plan().pem(brom=changes)}


def without_serial_tag() -> int:
    return machine("spt", 1)[0].chain[1].serial_number ^ (0x11 << 64)


KU, BC = x509.KeyUsage, x509.BasicConstraints
ROLE, ALGORITHM = "CertificateRoleMismatch", "CertificateAlgorithm"
OTHER_ORGANIZATION = x509.Name(
    [
        x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, "NVIDIA"),
        x509.NameAttribute(x509.NameOID.COMMON_NAME, "GH100 A01 GSP FMC LF"),
    ]
)
TWO_NAMES = x509.Name(
    [*name_of("GH100 A01 GSP FMC LF"), x509.NameAttribute(x509.NameOID.COMMON_NAME, "GH100 A01 GSP FMC LF")]
)
CHAINS: list[tuple[str, dict[str, Any], str]] = [
    ("a leaf on P-256", leaf(key=ec.generate_private_key(ec.SECP256R1()).public_key()), ALGORITHM),
    ("an RSA leaf", leaf(key=rsa.generate_private_key(65537, 2048).public_key()), ALGORITHM),
    ("a leaf signed with SHA-256", leaf(algorithm=SHA256()), ALGORITHM),
    ("a leaf without digitalSignature", leaf(extensions={KU: (usage(key_agreement=True), True)}), ROLE),
    ("a leaf that signs certificates", leaf(extensions={KU: (usage(digital_signature=True, key_cert_sign=True), True)}), ROLE),
    ("a leaf without key usage", leaf(extensions={KU: (None, True)}), ROLE),
    ("a leaf that is a CA", leaf(extensions={BC: (x509.BasicConstraints(ca=True, path_length=None), True)}), ROLE),
    ("a leaf of another organization", leaf(subject=OTHER_ORGANIZATION), ROLE),
    ("a leaf of two names", leaf(subject=TWO_NAMES), ROLE),
    ("a leaf of another role", leaf(subject=name_of("GH100 A01 GSP BROM")), ROLE),
    ("a switch's leaf", leaf(subject=name_of("LS_10 A01 FSP FMC LF")), ROLE),
    ("a leaf with an unknown critical extension", leaf(extensions={x509.TLSFeature: (x509.TLSFeature([x509.TLSFeatureType.status_request]), True)}), ROLE),
    ("a leaf that is over", leaf(ends=NOW), "CertificateExpired"),
    ("a leaf of tomorrow", leaf(begins=NOW + DAY), "CertificateNotYetValid"),
    ("a device CA that is no CA", brom(extensions={BC: (x509.BasicConstraints(ca=False, path_length=None), True)}), ROLE),
    ("a device CA without constraints", brom(extensions={BC: (None, True)}), ROLE),
    ("a device CA that signs no certificates", brom(extensions={KU: (usage(digital_signature=True), True)}), ROLE),
    ("a device CA on P-256", brom(key=ec.generate_private_key(ec.SECP256R1())), ALGORITHM),
    ("a device CA of another tag", brom(serial=without_serial_tag()), ROLE),
    ("a device CA of a long serial", brom(serial=1 << 80 | 0x41 << 64), ROLE),
    ("a genuine root over a forged CA", brom(issuer=Issuer(key=new_key(), certificate=authority().issuers["GH100-ica"].certificate)), "GpuChainInvalid"),
    ("a device CA under its grandparent", brom(issuer=authority().issuers["GH100-identity"]), "GpuChainInvalid"),
    ("the chain of another GPU", {"chain": lambda _: make_device(authority()).pem}, "GpuReportSignatureInvalid"),
    ("a switch's chain", {"chain": lambda _: machine("ppcie", 1)[8].pem}, ROLE),
    ("a Blackwell GPU's chain", {"chain": lambda _: machine("mpt", 1)[0].pem}, "GpuReportSignatureInvalid"),
    ("PEM of another label", {"chain": lambda d: d.pem.replace(b"CERTIFICATE", b"TRUSTED CERTIFICATE")}, "MalformedCertificate"),
    ("text between certificates", {"chain": lambda d: d.pem.replace(b"-----END CERTIFICATE-----\n", b"-----END CERTIFICATE-----\nx\n", 1)}, "MalformedCertificate"),
    ("base64 cut short", {"chain": lambda d: d.pem.replace(b"=\n-----END", b"\n-----END", 1) if b"=\n-----END" in d.pem else d.pem[:-60]}, "MalformedCertificate"),
    ("DER inside PEM cut short", {"chain": lambda d: d.pem.replace(b"-----BEGIN CERTIFICATE-----\n", b"-----BEGIN CERTIFICATE-----\nAAAA", 1)}, "MalformedCertificate"),
    ("no chain", {"chain": lambda _: b""}, "MalformedCertificate"),
    ("a chain in DER", {"chain": lambda d: b"".join(c.public_bytes(Encoding.DER) for c in d.chain)}, "MalformedCertificate"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "code"), [row[1:] for row in CHAINS], ids=[row[0] for row in CHAINS])
def test_a_chain_with_one_thing_wrong(changes: dict[str, Any], code: str) -> None:
    assert code_of(**changes, ocsp=()) == code


@pytest.mark.parametrize("seconds", [-1, 0])
def test_a_chain_holds_until_the_second_before_its_end(seconds: int) -> None:
    case = GpuCase(**leaf(ends=NOW + timedelta(hours=1)), ocsp=(), now=NOW + timedelta(hours=1, seconds=seconds))
    if seconds < 0:
        assert case.verified().window.not_after == NOW + timedelta(hours=1)
    else:
        assert code_of(**leaf(ends=NOW + timedelta(hours=1)), ocsp=(), now=case.now) == "CertificateExpired"


def test_the_same_root_key_in_another_certificate_is_the_same_root() -> None:
    """The vendor has two self-signed certificates for one device root key: the key is pinned, not the certificate."""
    root = authority().device_root
    twin = (
        x509.CertificateBuilder(root.certificate.subject, root.certificate.subject, root.key.public_key(), 77)
        .not_valid_before(NOW - DAY)
        .not_valid_after(NOW + 9 * DAY)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(usage(key_cert_sign=True, crl_sign=True), critical=True)
        .sign(root.key, SHA384())
    )
    found = GpuCase(chain=lambda d: pem((*d.chain[:-1], twin)), ocsp=()).verified()
    assert found.window.not_after == NOW + 9 * DAY


def test_a_path_length_is_kept() -> None:
    ica = authority().issuers["GH100-ica"].certificate
    limit = {BC: (x509.BasicConstraints(ca=True, path_length=0), True)}
    assert GpuCase(**brom(extensions=limit), ocsp=()).verified().gpus
    short = certificate(machine("spt", 1)[0], 2, issuer=authority().issuers["GH100-identity"], extensions=limit)
    assert short.subject == ica.subject
    assert code_of(chain=lambda d: pem((*d.chain[:2], short, *d.chain[3:])), ocsp=()) == ROLE
