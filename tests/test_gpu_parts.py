# SPDX-License-Identifier: Apache-2.0
"""The parts of GPU verification one by one: what is shown, what is read, and each number that bounds it."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import Encoding

from attestation.errors import AttestationError, Untrusted
from attestation.gpu import certificate, chain, eat, evidence, measure, revocation, rim, rimxml, xmldsig
from attestation.gpu.chain import verify_chain
from attestation.gpu.measure import compare
from attestation.gpu.pem import load_certificate, split_pem
from attestation.gpu.rim import verify_rim
from attestation.gpu.rimxml import parse_xml
from enclave.simulator.gpu_authority import new_key
from enclave.simulator.gpu_device import rim_fields
from tests.gpu_cases import NOW, GpuCase, anchor, authority, given, machine, measurement, ocsp_responses, rims
from tests.gpu_chains import Plan
from tests.test_gpu_eat import Token, jwk
from tests.test_gpu_endorsements import crl
from tests.test_gpu_refusals import RIM_CHAIN, answer, unsigned
from tests.test_gpu_refusals import rim as signed_rim


def refused(work: Callable[[], object]) -> tuple[str, str]:
    """Give the code and the place of what `work` raises."""
    with pytest.raises(AttestationError) as e:
        work()
    return e.value.code, e.value.where


# ---- what is shown


def test_certificates_keys_and_golden_values_are_not_shown() -> None:
    device = GpuCase().verified().devices[0]
    opened = verify_chain(machine("spt", 1)[0].pem, kind="gpu", anchor=anchor())
    for shown, hidden in (
        (repr(device), ("certificates", "golden", "links")),
        (repr(opened), ("certificates", "leaf_key", "links")),
        (repr(device.rims[0]), ("certificates", "golden", "links")),
    ):
        assert not [word for word in hidden if word in shown]


def test_findings_name_the_accepted_modes_and_the_place_of_a_disabled_decoder() -> None:
    found = GpuCase(mode="mpt", count=2).findings(count={"waived": "x"}, modes={"waived": "x"})
    states = [f.want for f in found if f.rule.endswith("cc_state")]
    assert [want.rpartition("multi_gpu_mode=")[2] for want in states] == ["0 or 2", "0 or 2"]

    def disabled(fields: Any) -> Any:
        return given(11, b"\x55")(measurement(measure.NVDEC0_INDEX, bytes(48))(fields))

    found = GpuCase(fields=disabled).findings(disabled_decoder={"waived": "no decoder"})
    (excused,) = (f for f in found if f.waived == "no decoder")
    assert excused.rule.endswith(".measurements[35]")
    assert (excused.holds, excused.got) == (True, bytes(48).hex())


# ---- numbers


def test_how_much_is_remembered_and_read() -> None:
    assert (chain._CACHED_CHAINS, rim._CACHED_RIMS) == (64, 32)
    assert (certificate._CACHED_SIGNATURES, revocation._CACHED_ANSWERS) == (128, 128)
    assert (rim.ENTRIES, rim.RIM_CHAIN_LENGTH, rim.MAX_ALTERNATIVES) == (64, 4, 16)
    assert (xmldsig.MAX_CERTIFICATES, xmldsig._SIGNATURE_SIZE) == (8, 96)
    assert (rimxml.MAX_DEPTH, rimxml.MAX_ELEMENTS, rimxml.MAX_ATTRIBUTES, rimxml.MAX_VALUE) == (8, 256, 40, 1024)
    assert (eat.MAX_KEYS, eat.MAX_TOKEN_BYTES, eat._MAX_TIME) == (64, 262_144, 253_402_300_799)
    assert (evidence.MAX_DEVICES, evidence.MAX_REPORT_BYTES, evidence.MAX_CHAIN_BYTES) == (16, 8192, 16_384)
    assert (evidence.MAX_RIMS, evidence.MAX_RIM_BYTES) == (16, 262_144)
    assert (evidence.MAX_OCSP, evidence.MAX_OCSP_BYTES) == (64, 16_384)
    assert (evidence.MAX_CRLS, evidence.MAX_CRL_BYTES) == (16, 262_144)
    assert (evidence.MAX_CC_FIELDS, evidence.MAX_CC_NAME_BYTES, evidence.MAX_CC_VALUE) == (16, 32, 4_294_967_295)
    assert (measure.NVDEC0_INDEX, measure._NOT_MEASURED.hex()) == (35, "00" * 48)


# ---- certificates

SHORT = timedelta(seconds=1)


def made(begins: datetime, ends: datetime) -> x509.Certificate:
    """Sign a certificate without extensions."""
    key, name = new_key(), x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "x")])
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, begins, ends)
    return builder.sign(key, SHA384())


def test_a_certificate_is_read_without_extensions_and_for_a_window_of_one_moment() -> None:
    for ends in (NOW, NOW + SHORT):
        der = made(NOW, ends).public_bytes(Encoding.DER)
        found = load_certificate(der, where="x")
        assert (found.not_valid_before_utc, found.not_valid_after_utc, len(found.extensions)) == (NOW, ends, 0)


def test_a_window_that_ends_before_it_begins_is_malformed() -> None:
    der = made(NOW, NOW + SHORT).public_bytes(Encoding.DER)
    begins, ends = (f"{moment:%y%m%d%H%M%SZ}".encode() for moment in (NOW, NOW + SHORT))
    assert der.count(begins) == der.count(ends) == 1
    turned = der.replace(begins, b"?" * 13).replace(ends, begins).replace(b"?" * 13, ends)
    assert refused(lambda: load_certificate(turned, where="x")) == ("MalformedCertificate", "x")


def test_a_signer_with_a_path_length_cannot_be_read() -> None:
    """So the number of CAs below means nothing for a responder, which is no CA."""
    constraints = x509.UnrecognizedExtension(x509.OID_BASIC_CONSTRAINTS, b"\x30\x03\x02\x01\x00")
    key, name = new_key(), x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "x")])
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, NOW, NOW + SHORT)
    der = builder.add_extension(constraints, critical=True).sign(key, SHA384()).public_bytes(Encoding.DER)
    assert refused(lambda: load_certificate(der, where="x")) == ("MalformedCertificate", "x")


def test_every_field_of_a_chain_that_nobody_remembers() -> None:
    plan = Plan()
    data = plan.pem()
    certs = tuple(x509.load_der_x509_certificate(der) for der in split_pem(data, count=5, where="x"))
    found = verify_chain(data, kind="gpu", anchor=anchor())
    assert (found.certificates, found.serial, found.pdi) == (certs, certs[0].serial_number, plan.device.pdi)
    assert (found.chip.product, found.hwmodel, found.fwid) == ("GH100", "GH100 A01 GSP BROM", plan.device.fwid)
    assert (found.leaf_key, {found.root_spki}) == (certs[0].public_key(), set(anchor().device_root_spki))
    assert found.window.not_before == max(c.not_valid_before_utc for c in certs)
    assert found.window.not_after == min(c.not_valid_after_utc for c in certs)
    name = f"gpu {certs[0].serial_number:x} chain"
    assert [(link.name, link.certificate, link.issuer) for link in found.links] == [
        (f"{name}[{i}]", certs[i], certs[i + 1]) for i in (1, 2, 3)
    ]
    assert [link.key for link in found.links] == [(c.serial_number, c.issuer.public_bytes()) for c in certs[1:4]]
    assert [link.publishes_crl for link in found.links] == [False] * 3


def test_a_certificate_that_says_where_its_list_is_publishes_one() -> None:
    place = x509.DistributionPoint([x509.UniformResourceIdentifier("http://crl.test/1")], None, None, None)
    points = {x509.CRLDistributionPoints: (x509.CRLDistributionPoints([place]), False)}
    found = verify_chain(Plan().pem(brom={"extensions": points}), kind="gpu", anchor=anchor())
    assert [link.publishes_crl for link in found.links] == [True, False, False]


@pytest.mark.parametrize("after", [b" ", b"\t", b" \n", b"X", b"XX", b"\0", b"\x0b"])
def test_nothing_but_line_ends_follows_a_chain(after: bytes) -> None:
    data = machine("spt", 1)[0].pem + after
    assert refused(lambda: split_pem(data, count=5, where="x")) == ("MalformedCertificate", "x")


# ---- revocation


def test_each_certificate_has_one_answer_and_each_issuer_one_list() -> None:
    answers, one, other = ocsp_responses("spt", 1), crl(), crl("rim-ca")
    assert len(GpuCase(ocsp=answers, crls=(one, other)).verified().devices) == 1
    assert refused(GpuCase(ocsp=answers + answers[:1]).verified) == ("MalformedOcsp", f"ocsp[{len(answers)}]")
    assert refused(GpuCase(ocsp=answers + answer()[:1]).verified) == ("MalformedOcsp", f"ocsp[{len(answers)}]")
    assert refused(GpuCase(crls=(one, other, one)).verified) == ("MalformedCrl", "crl[2]")
    assert refused(GpuCase(crls=(one, crl())).verified) == ("MalformedCrl", "crl[1]")


# ---- reference values


def test_versions_of_firmware_have_upper_case_digits() -> None:
    for version, accepted in (("96.00.9F.00.01", True), ("96.00.9f.00.01", False), ("FF.EE.DD.CC.BB", True)):
        data = signed_rim(which=1, version=version)[1]
        if accepted:
            found = verify_rim(data, anchor=anchor())
            assert (found.component, found.version) == ("vbios", version)
        else:
            assert refused(lambda data=data: verify_rim(data, anchor=anchor())) == ("MalformedRim", "rim.Meta")  # type: ignore[misc]


def test_every_field_of_reference_values_that_nobody_remembers() -> None:
    data, fields = signed_rim()[0], rim_fields("GH100")[0]
    found = verify_rim(data, anchor=anchor())
    certs = tuple(authority().chain(*RIM_CHAIN))
    assert (found.component, found.product, found.version) == ("driver", fields.product, fields.version)
    assert f'tagId="{found.tag_id}"'.encode() in data
    assert (dict(found.golden), found.sha256) == (dict(fields.golden), sha256(data).digest())
    assert (found.certificates, {found.root_spki}) == (certs, set(anchor().rim_root_spki))
    assert found.window.not_before == max(c.not_valid_before_utc for c in certs)
    assert found.window.not_after == min(c.not_valid_after_utc for c in certs)
    assert [(link.name, link.certificate, link.issuer) for link in found.links] == [
        (f"driver RIM chain[{i}]", certs[i], certs[i + 1]) for i in (0, 1, 2)
    ]


def bent(change: Callable[[bytes], bytes]) -> bytes:
    """Change the signature's value, which nothing but itself covers."""
    (first, _) = unsigned(lambda data: data)
    head, _, rest = first.partition(b"<ds:SignatureValue>")
    value, _, tail = rest.partition(b"</ds:SignatureValue>")
    return head + b"<ds:SignatureValue>" + change(value) + b"</ds:SignatureValue>" + tail


@pytest.mark.parametrize(
    "change",
    [
        lambda value: b"!" + value,
        lambda value: value[:9] + b"-" + value[9:],
        lambda value: value[:-1],
        lambda value: b64encode(b64decode(value)[:48] + b"\0" + b64decode(value)[48:]),
        lambda value: b64encode(b64decode(value)[:95]),
        lambda _: b"",
    ],
    ids=["a stranger before it", "a stranger in it", "cut", "a zero before s", "95 bytes", "empty"],
)
def test_a_signature_of_reference_values_has_one_form(change: Callable[[bytes], bytes]) -> None:
    assert verify_rim(bent(lambda value: value), anchor=anchor()).component == "driver"
    assert verify_rim(bent(lambda value: value[:5] + b" \t\r\n" + value[5:]), anchor=anchor()).component == "driver"
    assert refused(lambda: verify_rim(bent(change), anchor=anchor())) == ("MalformedRim", "rim.SignatureValue")


def test_a_golden_value_of_the_measurement_after_the_last_is_refused() -> None:
    driver = verify_rim(rims("GH100")[0], anchor=anchor())
    last = max(driver.golden)
    with pytest.raises(Untrusted) as e:
        compare([bytes(48)] * last, [driver], nvdec0_enabled=None)
    assert (e.value.code, e.value.where) == ("RimMismatch", f"rim.Resource[{last}]")
    found = compare([bytes(48)] * (last + 1), [driver], nvdec0_enabled=False)
    assert (found.compared, found.uncovered) == (tuple(sorted(driver.golden)), ())
    assert [m.index for m in found.mismatches if m.exempt] == [35]
    other = compare([bytes(47) + b"\1"] * (last + 2), [driver], nvdec0_enabled=True)
    assert other.uncovered == tuple(i for i in range(last + 2) if i not in driver.golden)
    assert not any(m.exempt for m in other.mismatches)


# ---- XML


def test_xml_is_read_whatever_pieces_it_comes_in() -> None:
    text = "y" * 20_000
    read = parse_xml(f"<a>{text}&amp;&#x9;{text}</a>".encode())
    assert read.text() == f"{text}&\t{text}"
    assert replace(read, children=["x", "", "y"]).text() == "xy"
    assert [e.written for e in parse_xml(b"<a> \t\r\n<b/>\n</a>").elements()] == ["b"]
    for between in (b"X", b"x", b"\xc2\xa0", b"\xe2\x80\xa8"):
        loose = parse_xml(b"<a><b/>" + between + b"</a>")
        assert refused(loose.elements) == ("MalformedRim", "rim.a")


@pytest.mark.parametrize(
    "data",
    [
        b'<p:q:a xmlns:p:q="urn:x"/>',
        b'<p:a xmlns:p="urn:p" p:q:b="1" xmlns:p:q="urn:x"/>',
        b'<p: xmlns:p="urn:p"/>',
        b'<a xmlns:p="urn:p" p:="1"/>',
        b'<a xmlns:XML="urn:x" xmlns:xml="urn:x"/>',
        b'<xmlns:a xmlns:xmlns="urn:x"/>',
    ],
)
def test_names_with_a_colon_too_many_are_refused(data: bytes) -> None:
    assert refused(lambda: parse_xml(data)) == ("MalformedRim", "rim.xml")


def test_256_elements_are_read_and_a_257th_is_not() -> None:
    assert len(parse_xml(b"<a>" + b"<b/>" * 255 + b"</a>").elements()) == 255
    assert refused(lambda: parse_xml(b"<a>" + b"<b/>" * 256 + b"</a>")) == ("MalformedRim", "rim.xml")


def test_a_declaration_of_utf_8_in_either_case_is_read_and_no_other() -> None:
    for encoding in ("UTF-8", "utf-8"):
        read = parse_xml(f'<?xml version="1.0" encoding="{encoding}"?><a>\u00e9</a>'.encode())
        assert read.text() == "\u00e9"
    for encoding in ("ISO-8859-1", "US-ASCII", "UTF-16", "x"):
        data = f'<?xml version="1.0" encoding="{encoding}"?><a/>'.encode()
        assert refused(lambda data=data: parse_xml(data)) == ("MalformedRim", "rim.xml")  # type: ignore[misc]
    assert refused(lambda: parse_xml(b"<a>\xe9</a>")) == ("MalformedRim", "rim.xml")


# ---- tokens


@pytest.mark.parametrize("text", ["A", "AAAAA", "AAAAAAAAA", "AAA=", "A+AA", "A AA"])
def test_a_token_is_in_base64url_without_padding(text: str) -> None:
    document = json.dumps({"keys": [jwk(x=text)]}).encode()
    assert refused(lambda: eat.parse_keys(document)) == ("MalformedEat", "jwks.keys[0]")
    assert refused(lambda: eat._decode(text, "x")) == ("MalformedEat", "x")


def test_base64url_of_each_length_is_read() -> None:
    for data, text in ((b"\0", "AA"), (b"\0\0", "AAA"), (b"\0\0\0", "AAAA"), (b"\xfb\xff\0\0", "-_8AAA")):
        assert eat._decode(text, "x") == data


def test_what_a_token_leaves_out_is_empty() -> None:
    for name in ("GPU-0", "SWITCH-0"):
        device = Token(name=name).verified().devices[0]
        assert (device.driver_version, device.vbios_version) == ("", "")
