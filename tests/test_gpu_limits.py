# SPDX-License-Identifier: Apache-2.0
"""The small readers of GPU evidence to the letter: the field that a refusal names, each limit from both of its sides."""
# ruff: noqa: E501 - one row, one line

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from typing import Any

import pytest

from attestation import cbor
from attestation.errors import AttestationError, Malformed, PolicyInvalid, Untrusted
from attestation.gpu import anchor, binding, evidence, measure, opaque, policy, spdm, topology
from attestation.gpu.appraise import GpuPolicy
from attestation.gpu.chip import CHIPS, chip_of, driver_rim_id, firmware_rim_id, reports_fwid
from attestation.gpu.evidence import GpuDeviceEvidence, GpuEndorsementSet, GpuEvidence
from attestation.gpu.opaque import OpaqueData, decode_opaque
from attestation.gpu.pem import split_pem
from attestation.gpu.rimxml import canonical, parse_xml
from attestation.gpu.spdm import parse_report
from enclave.simulator.gpu_report import encode_opaque, encode_report
from tests.gpu_cases import CC_STATE, NONCE, GpuCase, machine


def refused(work: Callable[[], object]) -> AttestationError:
    with pytest.raises(AttestationError) as e:
        work()
    return e.value


# ---- reports

SIGNED = encode_report(machine("spt", 1)[0].fields(NONCE))
LENGTH = len(SIGNED) + 96
FIELDS: list[tuple[int, str]] = [
    (0, "request.version"), (1, "request.code"), (2, "request.param1"), (3, "request.param2"), (36, "request.slot"),
    (37, "response.version"), (38, "response.code"), (39, "response.param1"), (40, "response.param2"),
    (41, "response.number_of_blocks"), (42, "response.record_length"), (45, "block[1].index"),
    (46, "block[1].specification"), (47, "block[1].size"), (49, "block[1].value_type"), (50, "block[1].value_size"),
    (45 + 63 * 55, "block[64].index"),
]  # fmt: skip


@pytest.mark.parametrize(("at", "field"), FIELDS, ids=[row[1] for row in FIELDS])
def test_a_report_of_unknown_layout_is_refused_by_the_name_of_its_field(at: int, field: str) -> None:
    bent = SIGNED[:at] + bytes([SIGNED[at] ^ 0x80]) + SIGNED[at + 1 :] + bytes(96)
    e = refused(lambda: parse_report(bent, kind="gpu"))
    assert (e.code, e.where) == ("UnsupportedGpuReport", f"report.{field}")


CUT: list[tuple[int, str]] = [
    *FIELDS[:4], (35, "request.nonce"), *FIELDS[4:10], (44, "response.record_length"), (51, "block[1]"), (99, "block[1]"),
    (3596, "responder_nonce"), (3598, "opaque_length"), (len(SIGNED) - 1, "opaque"), (LENGTH - 1, "signature"),
]  # fmt: skip


@pytest.mark.parametrize(("size", "field"), CUT, ids=[f"{row[1]} at {row[0]}" for row in CUT])
def test_a_report_that_is_cut_is_refused_by_the_name_of_what_is_missing(size: int, field: str) -> None:
    e = refused(lambda: parse_report((SIGNED + bytes(96))[:size], kind="gpu"))
    assert (e.code, e.where) == ("MalformedGpuReport", f"report.{field}")


def test_every_part_of_a_report() -> None:
    signature, fields = bytes(range(96)), machine("spt", 1)[0].fields(NONCE)
    data = encode_report(fields)
    for padding in range(5):
        found = parse_report(data + signature + bytes(padding), kind="gpu")
        assert (found.kind, found.nonce, found.responder_nonce) == ("gpu", NONCE, fields.responder_nonce)
        assert (found.measurements, found.opaque) == (fields.measurements, encode_opaque(fields.opaque))
        assert (found.signed, found.signature, found.padding) == (data, signature, padding)
    for more in (bytes(5), b"\0\1"):
        assert refused(lambda more=more: parse_report(data + signature + more, kind="gpu")).code == "TrailingData"  # type: ignore[misc]
    switch = next(d for d in machine("ppcie", 1) if d.kind == "switch")
    assert len(parse_report(switch.report(NONCE), kind="switch").measurements) == 31


def test_a_report_fills_nvmls_buffer_and_no_more() -> None:
    fields = machine("spt", 1)[0].fields(NONCE)
    room = evidence.MAX_REPORT_BYTES - len(encode_report(replace(fields, opaque=()))) - 96 - 4
    full = encode_report(replace(fields, opaque=((1, bytes(room)),))) + bytes(96)
    assert len(full) == 8192
    assert len(parse_report(full, kind="gpu").opaque) == room + 4
    longer = encode_report(replace(fields, opaque=((1, bytes(room + 1)),))) + bytes(96)
    e = refused(lambda: parse_report(longer, kind="gpu"))
    assert (e.code, e.where) == ("MalformedGpuReport", "report")


# ---- opaque data

GPU = dict(machine("spt", 1)[0].fields(NONCE).opaque)
SWITCH = dict(next(d for d in machine("ppcie", 1) if d.kind == "switch").fields(NONCE).opaque)


def decoded(kind: str = "gpu", **changes: Any) -> OpaqueData:
    """Decode a device's fields with some changed: `f3=b"..."`, or None to leave one out."""
    found = dict(GPU if kind == "gpu" else SWITCH)
    for name, value in changes.items():
        found.pop(int(name[1:]), None)
        if value is not None:
            found[int(name[1:])] = value
    return decode_opaque(encode_opaque(tuple(found.items())), kind=kind)


def test_every_part_of_opaque_data() -> None:
    gpu = decoded()
    assert (gpu.driver_version, gpu.vbios_version) == ("999.1.0", "96.00.00.00.01")
    assert (gpu.chip_sku, gpu.project, gpu.project_sku, gpu.chip_info) == ("882", "SIM0", "0001", "")
    assert (gpu.fwid, gpu.nvdec0_enabled, str(gpu.mode)) == (machine("spt", 1)[0].fwid, True, "spt")
    assert (gpu.device_pdi, gpu.gpu_pdis, gpu.switch_pdis, gpu.unknown) == (None, frozenset(), frozenset(), ())
    bare = decoded(f20=None, f11=None, f21=None)
    assert (bare.fwid, bare.nvdec0_enabled) == (None, None)
    assert decoded(f11=b"\x55").nvdec0_enabled is False
    assert decoded(f35=b"GB100\0").chip_info == "GB100"
    assert decoded(f35=b"Gb-1_z\0").chip_info == "Gb-1_z"
    links = decoded(f22=(b"12345678" + b"\xff" * 8).ljust(144, b"\0"))
    assert links.switch_pdis == {b"87654321"}
    switch = decoded("switch")
    assert (switch.vbios_version, switch.device_pdi) == ("96.10.00.00.01", SWITCH[22])
    assert (len(switch.gpu_pdis), switch.driver_version, switch.mode, switch.unknown) == (8, "", None, ())
    assert decoded("switch", f26=None).gpu_pdis == frozenset()
    assert decoded("switch", f26=b"12345678".ljust(64, b"\0")).gpu_pdis == {b"12345678"}


def test_fields_that_nobody_has_described_are_named() -> None:
    described = {1, 2, 4, 5, 7, 8, 9, 10, 12, 13, 14, 16, 19, 23, 24, 25, 27, 32, 33}
    for number in {*range(1, 41), 255} - {3, 6, 11, 15, 17, 18, 20, 21, 22, 34, 35, 36}:
        expected = () if number in described else (number,)
        assert decoded("gpu", **{f"f{number}": b""}).unknown == expected
    for number in {*range(1, 41), 255} - {6, 22, 26}:
        expected = () if number in described else (number,)
        assert decoded("switch", **{f"f{number}": b""}).unknown == expected


MALFORMED, UNSUPPORTED = "MalformedOpaqueData", "UnsupportedGpuReport"
OPAQUE: list[tuple[str, dict[str, Any], str, str]] = [
    ("gpu", {"f20": bytes(47)}, MALFORMED, "field[20]"), ("gpu", {"f6": bytes(7)}, MALFORMED, "field[6]"),
    ("gpu", {"f11": b""}, MALFORMED, "field[11]"), ("gpu", {"f11": b"\xab"}, UNSUPPORTED, "field[11]"),
    ("gpu", {"f21": b"\xaa\xaa"}, MALFORMED, "field[21]"), ("gpu", {"f21": b"\0"}, UNSUPPORTED, "field[21]"),
    ("gpu", {"f22": bytes(143)}, MALFORMED, "field[22]"), ("gpu", {"f36": b"\0"}, MALFORMED, "field[36]"),
    ("gpu", {"f36": b"\3\0"}, UNSUPPORTED, "feature_flag"), ("gpu", {"f36": None}, UNSUPPORTED, "feature_flag"),
    ("gpu", {"f34": b"\2\0"}, UNSUPPORTED, "opaque_data_version"), ("gpu", {"f3": b"\xff9.1"}, MALFORMED, "field[3]"),
    ("gpu", {"f6": b"\1" * 8}, UNSUPPORTED, "vbios_version"), ("gpu", {"f17": b"a\xe9"}, MALFORMED, "field[17]"),
    ("gpu", {"f15": b"X882"}, "", ""), ("gpu", {"f15": b"8\0008"}, MALFORMED, "field[15]"), ("gpu", {"f18": b"a" * 33}, MALFORMED, "field[18]"),
    ("switch", {"f22": None}, MALFORMED, "field[22]"), ("switch", {"f22": bytes(7)}, MALFORMED, "field[22]"),
    ("switch", {"f26": bytes(63)}, MALFORMED, "field[26]"), ("switch", {"f6": b"96.10.00.00.1"}, MALFORMED, "field[6]"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "changes", "code", "field"), OPAQUE)
def test_opaque_data_is_refused_by_the_name_of_its_field(
    kind: str, changes: dict[str, Any], code: str, field: str
) -> None:
    if not code:
        assert decoded(kind, **changes).chip_sku == "X882"
        return
    e = refused(lambda: decoded(kind, **changes))
    assert (e.code, e.where) == (code, f"opaque.{field}")


def test_text_is_padded_with_zeros_alone() -> None:
    assert decoded(f15=b"882X\0").chip_sku == "882X"
    assert decoded(f15=b"882\0\0\0").chip_sku == "882"


def test_opaque_data_is_cut_by_name_and_bounded() -> None:
    for data, field in ((b"\3", "type"), (b"\3\0\1", "field[3].size"), (b"\3\0\4\0abc", "field[3]")):
        e = refused(lambda data=data: decode_opaque(data, kind="gpu"))  # type: ignore[misc]
        assert (e.code, e.where) == (MALFORMED, f"opaque.{field}")
    many = dict.fromkeys(range(1000, 1000 + 64 - len(GPU)), b"")
    assert len(decoded("gpu", **{f"f{n}": b"" for n in many}).unknown) == len(many)
    e = refused(lambda: decoded("gpu", **{f"f{n}": b"" for n in [*many, 2000]}))
    assert (e.code, e.where) == (MALFORMED, "opaque")


# ---- chips and the names of their reference values


def test_which_chips_and_drivers_report_a_firmware_identity() -> None:
    hopper, blackwell, switch = (next(c for c in CHIPS if c.product == p) for p in ("GH100", "GB100", "LS10"))
    data = OpaqueData(
        vbios_version="96.00.9F.00.01", driver_version="550.1", project="a", project_sku="b", chip_sku="c"
    )
    assert [reports_fwid(chip, data) for chip in (hopper, blackwell, switch)] == [True, True, False]
    old = replace(data, driver_version="549.999")
    assert [reports_fwid(chip, old) for chip in (hopper, blackwell, switch)] == [False, True, False]
    assert firmware_rim_id(hopper, data) == "NV_GPU_VBIOS_A_B_C_96009F0001"
    assert firmware_rim_id(switch, data) == "NV_SWITCH_BIOS_5612_0002_890_96009F0001"
    assert driver_rim_id(hopper, replace(data, chip_info="X")) == "NV_GPU_DRIVER_GH100_550.1"
    assert driver_rim_id(blackwell, data) == "NV_GPU_CC_DRIVER_GB100_550.1"
    assert driver_rim_id(blackwell, replace(data, chip_info="GB102")) == "NV_GPU_CC_DRIVER_GB102_550.1"


NAMES = (
    "GH100 A01 GSP FMC LF",
    "GH100 A01 GSP BROM",
    "NVIDIA GH100 Provisioner ICA 1",
    "NVIDIA GH100 Identity",
    "NVIDIA Device Identity CA",
)


def test_a_chip_is_known_by_the_names_of_its_chain() -> None:
    assert chip_of(NAMES, kind="gpu", where="x").product == "GH100"
    for at in range(5):
        bent = (*NAMES[:at], NAMES[at].lower(), *NAMES[at + 1 :])
        e = refused(lambda bent=bent: chip_of(bent, kind="gpu", where="x"))  # type: ignore[misc]
        assert (type(e), e.code, e.where) == (Untrusted, "CertificateRoleMismatch", f"x[{at}]")
    assert refused(lambda: chip_of(NAMES, kind="switch", where="x")).code == "CertificateRoleMismatch"
    assert {c.fwid_oid for c in CHIPS} == {"2.23.133.5.4.1", "2.23.133.5.4.1.1"}
    assert {"NVIDIA", "NVIDIA Corporation"} == anchor.NVIDIA_ORGANIZATIONS


# ---- canonical XML (W3C Canonical XML 1.1, section 2.3)


def test_text_and_values_are_escaped_as_canonical_xml_says() -> None:
    read = parse_xml(b'<a b="&amp;&lt;&gt;&quot;&#x9;&#xA;&#xD;\'">&amp;&lt;&gt;"\'&#xD;&#x9;\n</a>')
    assert canonical(read) == b'<a b="&amp;&lt;>&quot;&#x9;&#xA;&#xD;\'">&amp;&lt;&gt;"\'&#xD;\t\n</a>'


def test_a_namespace_is_written_where_it_is_new_and_only_there() -> None:
    read = parse_xml(b'<a xmlns="urn:a" xmlns:p="urn:p"><p:b p:y="2" x="1"/><c xmlns:p="urn:p"><d/></c></a>')
    assert canonical(read) == b'<a xmlns="urn:a" xmlns:p="urn:p"><p:b x="1" p:y="2"></p:b><c><d></d></c></a>'
    _, second = read.elements()
    assert canonical(read, without=second) == b'<a xmlns="urn:a" xmlns:p="urn:p"><p:b x="1" p:y="2"></p:b></a>'
    assert canonical(second) == b'<c xmlns="urn:a" xmlns:p="urn:p"><d></d></c>'
    deep = read.elements()[1].elements()[0]
    assert canonical(read, without=deep).endswith(b"<c></c></a>")
    assert (parse_xml(b"<a/>").name, parse_xml(b'<a b="1"/>').attributes) == (("", "a"), {("", "b"): "1"})


@pytest.mark.parametrize(
    "data",
    [
        b'<a xmlns=""/>', b'<a xmlns:p=""/>', b'<a xmlns:xml="http://www.w3.org/XML/1998/namespace"/>', b'<a xmlns:xmlns="urn:x"/>',
        b'<a xmlns:p="urn:p"><b xmlns:p="urn:q"/></a>', b'<a xmlns="urn:p"><b xmlns="urn:q"/></a>', b"<p:a/>", b'<a p:b="1"/>',
        b'<:a xmlns:p="urn:p"/>', b'<p: xmlns:p="urn:p"/>', b'<p:q:a xmlns:p="urn:p"/>', b'<p:q:a xmlns:p="urn:p" xmlns:q="urn:q"/>',
        b'<a xml:b="1"/>', b'<a xmlns:p="urn:p" xmlns:q="urn:p" p:b="1" q:b="2"/>',
    ],
)  # fmt: skip
def test_names_and_namespaces_of_another_form_are_refused(data: bytes) -> None:
    e = refused(lambda: parse_xml(data))
    assert (e.code, e.where) == ("MalformedRim", "rim.xml")


# ---- evidence on the wire


def device(**changes: Any) -> dict[int, object]:
    made = GpuDeviceEvidence(kind="gpu", report=b"r", chain=b"c", cc_state={"a": 1})
    return replace(made, **changes).to_map()


@pytest.mark.parametrize(
    ("inside", "outside"),
    [
        ({"report": bytes(8192)}, {"report": bytes(8193)}),
        ({"chain": bytes(16384)}, {"chain": bytes(16385)}),
        ({"cc_state": {str(i): 0 for i in range(16)}}, {"cc_state": {str(i): 0 for i in range(17)}}),
        ({"cc_state": {"a": 1}}, {"cc_state": {"": 1}}),
        ({"cc_state": {"x" * 32: 1}}, {"cc_state": {"x" * 33: 1}}),
        ({"cc_state": {"\u00e9" * 16: 1}}, {"cc_state": {"\u00e9" * 17: 1}}),
        ({"cc_state": {"a": 2**32 - 1}}, {"cc_state": {"a": 2**32}}),
        ({"kind": "switch"}, {"kind": "cpu"}),
        ({"kind": "gpu"}, {"kind": "g" * 17}),
    ],
)  # fmt: skip
def test_a_device_on_the_wire_is_bounded(inside: dict[str, Any], outside: dict[str, Any]) -> None:
    assert GpuDeviceEvidence.from_map(device(**inside)).to_map() == device(**inside)  # type: ignore[arg-type]
    assert refused(lambda: GpuDeviceEvidence.from_map(device(**outside))).code == "MalformedEvidence"  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "count", "size"), [("rims", 16, 262_144), ("ocsp", 64, 16_384), ("crls", 16, 262_144)]
)
def test_endorsements_on_the_wire_are_bounded(name: str, count: int, size: int) -> None:
    def read(**changes: Any) -> GpuEndorsementSet:
        return GpuEndorsementSet.from_map(GpuEndorsementSet(**changes).to_map())  # type: ignore[arg-type]

    for items in ((b"x",) * count, (bytes(size),)):
        assert getattr(read(**{name: items}), name) == items
    for items in ((b"x",) * (count + 1), (bytes(size + 1),)):
        e = refused(lambda items=items: read(**{name: items}))  # type: ignore[misc]
        assert (e.code, f"gpu.endorsements.{name}" in e.where) == ("MalformedEvidence", True)


def test_the_kinds_of_nonces_and_the_number_of_devices_on_the_wire() -> None:
    def read(**changes: Any) -> GpuEvidence:
        one = GpuDeviceEvidence(kind="gpu", report=b"r", chain=b"c", cc_state={})
        given = {"nonce_kind": 1, "devices": (one,), "boot_devices": (one,), "endorsements": GpuEndorsementSet()}
        return GpuEvidence.from_map(GpuEvidence(**(given | changes)).to_map())  # type: ignore[arg-type]

    assert [read(nonce_kind=kind).nonce_kind for kind in (1, 2)] == [1, 2]
    for kind in (0, 3, 255, 256, 2**40):
        e = refused(lambda kind=kind: read(nonce_kind=kind))  # type: ignore[misc]
        assert (e.code, e.where) == ("MalformedEvidence", "gpu.nonce_kind")
    one = read().devices
    for name in ("devices", "boot_devices"):
        assert len(getattr(read(**{name: one * 16}), name)) == 16
        for devices in ((), one * 17):
            assert refused(lambda name=name, devices=devices: read(**{name: devices})).code == "MalformedEvidence"  # type: ignore[misc]


# ---- what is hashed


def test_nonces_and_sets_have_labels_of_their_own() -> None:
    for kind, size in ((0, 16), (1, 32), (2, 64)):
        want = sha256(b"sericin/1 gpu-nonce" + bytes([kind]) + bytes(size)).digest()
        assert binding.gpu_nonce(kind, bytes(size)) == want
    found = GpuCase(mode="mpt", count=2).evidence()
    serial = {d.chain: binding.leaf_serial(d.chain) for d in found}
    assert set(serial.values()) == {d.chain[0].serial_number for d in machine("mpt", 2)}
    listed = [[d.report[:-96], d.chain, CC_STATE] for d in sorted(found, key=lambda d: serial[d.chain])]
    want = sha256(b"sericin/1 gpu-set" + cbor.encode(listed)).digest()
    assert binding.gpu_set_digest(found) == binding.gpu_set_digest(found[::-1]) == want
    assert binding.gpu_set_digest([]) == b""


# ---- the policy


def parsed(**changes: Any) -> GpuPolicy:
    return GpuPolicy.parse(GpuPolicy.strict_template() | changes, "gpu")


@pytest.mark.parametrize(
    ("field", "inside", "outside", "where"),
    [
        ("count", 16, 17, "count"), ("count", 1, 0, "count"), ("devices", ["1"] * 256, ["1"] * 257, "devices"),
        ("mismatch", {"63": "x" * 500}, {"63": "x" * 501}, "mismatch.63"), ("mismatch", {"0": "r"}, {"64": "r"}, "mismatch"),
        ("uncovered", {str(i): "r" for i in range(64)}, {str(i): "r" for i in range(65)}, "uncovered"),
        ("fresh", "epoch", "EPOCH", "fresh"), ("fresh", "client", 7, "fresh"), ("revocation", "crl", "CRL", "revocation"),
        ("revocation", "either", "any", "revocation"), ("revocation", "both", [], "revocation"), ("revocation", "ocsp", "", "revocation"),
        ("modes", ["mpt", "ppcie"], ["spt", "x"], "modes[1]"), ("rims", ["ab" * 32], ["ab" * 31], "rims[0]"),
        ("firmware_identity", "required", True, "firmware_identity"), ("disabled_decoder", "required", "x", "disabled_decoder"),
        ("min_driver", "1.2.3.4", "1", "min_driver"), ("chips", {"waived": "why"}, {"waived": ""}, "chips"),
    ],
)  # fmt: skip
def test_a_clause_is_bounded_and_named(field: str, inside: object, outside: object, where: str) -> None:
    parsed(**{field: inside})
    with pytest.raises(PolicyInvalid) as e:
        parsed(**{field: outside})
    assert e.value.where.startswith(f"gpu.{where}")


def test_what_a_clause_becomes() -> None:
    given = parsed(firmware_identity="required", disabled_decoder="required", mismatch={"7": "r"}, rims=["ab" * 32])
    assert [getattr(getattr(given, n), "value", None) for n in ("firmware_identity", "disabled_decoder")] == [
        True,
        True,
    ]
    assert (given.mismatch, given.uncovered, given.fresh) == ({7: "r"}, {}, "client")
    assert getattr(given.rims, "value", None) == (bytes.fromhex("ab" * 32),)
    waived = {name: value for name, value in GpuPolicy.strict_template().items() if isinstance(value, dict) and value}
    assert {name: value["waived"] for name, value in waived.items()} == {
        "denied_vbios": "no firmware version is known to be unacceptable",
        "devices": "any genuine device that satisfies every other clause",
        "rims": "any reference values that the vendor signed and has not let expire",
        "disabled_decoder": "index 35 means nothing while the decoder is disabled",
    }


# ---- numbers that say what they are


def test_numbers_of_the_formats() -> None:
    assert (measure.NVDEC0_INDEX, topology.PROTECTED_GPUS, topology.PROTECTED_SWITCHES) == (35, 8, 4)
    assert (opaque.NVDEC0_STATUS, opaque.CHIP_SKU, opaque.PROJECT, opaque.FWID, opaque.CHIP_INFO) == (
        11,
        15,
        17,
        20,
        35,
    )
    assert (spdm.MAX_PADDING, spdm.BLOCKS) == (4, {"gpu": 64, "switch": 31})
    assert (evidence.NONCE_EPOCH, evidence.NONCE_CLIENT) == (1, 2)
    assert policy.REVOCATION == ("ocsp", "crl", "either", "both")


def test_a_chain_that_ends_where_it_ends() -> None:
    pem = machine("spt", 1)[0].pem
    assert len(split_pem(pem.rstrip(b"\n"), count=5, where="x")) == 5
    e = refused(lambda: split_pem(pem + b"\n-----BEGIN", count=5, where="x"))
    assert (type(e), e.code, e.where) == (Malformed, "MalformedCertificate", "x")
