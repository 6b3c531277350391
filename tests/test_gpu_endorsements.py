# SPDX-License-Identifier: Apache-2.0
"""What else can be tried with reference values, OCSP answers and CRLs: the rest of the list of attacks."""
# ruff: noqa: E501 - one row, one line

from __future__ import annotations

import re
import time
from base64 import b64encode
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA1, SHA256, SHA384
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID

from attestation.errors import AttestationError
from attestation.gpu.revocation import verify_ocsp
from attestation.gpu.rim import verify_rim
from attestation.gpu.rimxml import MAX_ATTRIBUTES, MAX_DEPTH, MAX_ELEMENTS, MAX_VALUE, parse_xml
from enclave.simulator.gpu_authority import Issuer, new_key
from enclave.simulator.gpu_crl import sign_crl
from enclave.simulator.gpu_device import golden, rim_fields
from enclave.simulator.gpu_ocsp import respond
from enclave.simulator.gpu_report import sign_raw
from enclave.simulator.gpu_rim import encode_rim, encode_signature, sign_rim
from tests.gpu_cases import DAY, NONCE, NOW, GpuCase, anchor, authority, machine, measurement, ocsp_responses
from tests.test_gpu_refusals import RIM_CHAIN, answer, resigned_info, rim, unsigned

Rims = Callable[[], tuple[bytes, ...]]


def code_of(**changes: Any) -> str:
    with pytest.raises(AttestationError) as e:
        GpuCase(**changes).verified()
    return e.value.code


def signer(**changes: Any) -> tuple[bytes, ...]:
    """Sign both reference values by a signer issued anew, with something changed."""
    key = changes.pop("key", None) or new_key()
    fields: dict[str, Any] = {"usage": ("digital_signature",), "ca": False}
    made = authority().issuers["rim-l3"].issue("HCC RIM L4 Signer", key.public_key(), **(fields | changes))
    chain = [made, *authority().chain("rim-l3", "rim-ca", "rim-root")]
    return tuple(sign_rim(encode_rim(values), key, chain) for values in rim_fields("GH100"))


def twice(data: bytes) -> bytes:
    """Put the whole signature in a second time."""
    start, end = data.index(b"<ds:Signature "), data.index(b"</ds:Signature>") + len(b"</ds:Signature>")
    return data[:end] + data[start:end] + data[end:]


def wrapped(data: bytes) -> bytes:
    """Keep the signed document inside an outer one that says something else."""
    inner = data.decode().replace("<SoftwareIdentity ", '<SoftwareIdentity id="x" ', 1)
    outer = encode_rim(rim_fields("GH100")[0]).replace('product="GH100"', 'product="GB100"')
    return outer.replace("</SoftwareIdentity>", inner + "</SoftwareIdentity>").encode()


def key_value(data: bytes) -> bytes:
    return data.replace(b"<ds:KeyInfo>", b"<ds:KeyInfo><ds:KeyValue></ds:KeyValue>")


def two_x509(data: bytes) -> bytes:
    start, end = data.index(b"<ds:X509Data>"), data.index(b"</ds:X509Data>") + len(b"</ds:X509Data>")
    return data[:end] + data[start:end] + data[end:]


def method(old: str, new: str) -> Rims:
    return lambda: resigned_info(lambda info: info.replace(old, new))


def text(old: str, new: str) -> Rims:
    """Change the document before it is signed."""
    return lambda: rim(lambda t: t.replace(old, new, 1))


def after(change: Callable[[bytes], bytes]) -> Rims:
    return lambda: unsigned(change)


def second_one_active() -> tuple[bytes, ...]:
    return rim(golden={**rim_fields("GH100")[0].golden, 3: (golden("GH100", 3),)})


BILLION = b'<!DOCTYPE a [<!ENTITY a "aaaaaaaaaa">' + b"".join(
    b'<!ENTITY %c "%s">' % (98 + i, b"&%c;" % (97 + i) * 10) for i in range(8)
) + b"]><a>&i;</a>"  # fmt: skip
MALFORMED, INVALID = "MalformedRim", "RimSignatureInvalid"
RIMS: list[tuple[str, Rims, str]] = [
    ("a VBIOS's values given as a driver's", lambda: (rim()[1], rim()[1]), "RimMissing"),
    ("a driver's values given as a VBIOS's", lambda: (rim()[0], rim()[0]), "RimMismatch"),
    ("one index active in both", second_one_active, "RimMismatch"),
    ("active as TRUE", text('active="True"', 'active="TRUE"'), MALFORMED),
    ("active as nothing", text('active="True"', 'active=""'), MALFORMED),
    ("alternatives -1", text('alternatives="1"', 'alternatives="-1"'), MALFORMED),
    ("alternatives 10^9", text('alternatives="1"', 'alternatives="1000000000"'), MALFORMED),
    ("alternatives 17", text('alternatives="1"', 'alternatives="17"'), MALFORMED),
    ("alternatives with a sign", text('alternatives="1"', 'alternatives="+1"'), MALFORMED),
    ("one hash more", lambda: rim(lambda t: re.sub(r'(ns2:Hash0="[0-9a-f]+")', r'\1 ns2:Hash1="00"', t, count=1)), MALFORMED),
    ("a hash of no namespace", lambda: rim(lambda t: re.sub(r'(active="True" .*?) ns2:(Hash0="[0-9a-f]+")', r'\2 \1', t, count=1)), MALFORMED),
    ("index 64", text('index="63"', 'index="64"'), MALFORMED),
    ("an index with a zero before it", text('index="7"', 'index="07"'), MALFORMED),
    ("another type", text('type="Measurement"', 'type="Measure"'), MALFORMED),
    ("an attribute that nobody knows", text('name="Measurement_0"', 'kind="x" name="Measurement_0"'), MALFORMED),
    ("a resource inside a resource", text("></ns0:Resource>", "><ns0:Resource></ns0:Resource></ns0:Resource>"), MALFORMED),
    ("text inside a resource", text("></ns0:Resource>", ">x</ns0:Resource>"), MALFORMED),
    ("a resource of another name", text("<ns0:Resource ", "<ns0:Other "), MALFORMED),
    ("a resource elsewhere", text("<ns0:Payload>", "<ns0:Resource></ns0:Resource><ns0:Payload>"), MALFORMED),
    ("text between resources", text("<ns0:Payload>\n", "<ns0:Payload>\nx"), MALFORMED),
    ("a document of another name", lambda: rim(lambda t: t.replace("SoftwareIdentity", "SoftwareIdentities")), MALFORMED),
    ("another edition", text('edition="GPU"', 'edition="CPU"'), MALFORMED),
    ("a version of another form", lambda: rim(version="1.2.3.4.5.6"), MALFORMED),
    ("a product with a space", lambda: rim(product="GH 100"), MALFORMED),
    ("no tag", text('tagId="', 'tagID="'), MALFORMED),
    ("a wrapped signature", after(wrapped), MALFORMED),
    ("two signatures", after(twice), MALFORMED),
    ("a signature before the payload", after(lambda d: d.replace(b"<ns0:Payload>", d[d.index(b"<ds:Signature ") : d.index(b"</ds:Signature>") + 15] + b"<ns0:Payload>")), MALFORMED),
    ("text after the signature", after(lambda d: d.replace(b"</ds:Signature>", b"</ds:Signature>x")), MALFORMED),
    ("two references", method("</ds:Reference>", '</ds:Reference><ds:Reference URI=""></ds:Reference>'), MALFORMED),
    ("an XPath transform", method("http://www.w3.org/2000/09/xmldsig#enveloped-signature", "http://www.w3.org/TR/1999/REC-xpath-19991116"), MALFORMED),
    ("an XSLT transform more", method("</ds:Transforms>", '<ds:Transform Algorithm="http://www.w3.org/TR/1999/REC-xslt-19991116"></ds:Transform></ds:Transforms>'), MALFORMED),
    ("no transform", method('<ds:Transform Algorithm="http://www.w3.org/2006/12/xml-c14n11"></ds:Transform></ds:Transforms>', "</ds:Transforms>"), MALFORMED),
    ("a signature with SHA-1", method("ecdsa-sha384", "ecdsa-sha1"), MALFORMED),
    ("a signature with HMAC", method("ecdsa-sha384", "hmac-sha384"), MALFORMED),
    ("a parameter inside an algorithm", method("</ds:SignatureMethod>", "<ds:HMACOutputLength>1</ds:HMACOutputLength></ds:SignatureMethod>"), MALFORMED),
    ("a type of reference", method('<ds:Reference URI="">', '<ds:Reference Type="x" URI="">'), MALFORMED),
    ("a digest that is not this document's", lambda: resigned_info(lambda i: i.replace(i[i.index("<ds:DigestValue>") + 16 : i.index("</ds:DigestValue>")], b64encode(bytes(48)).decode())), INVALID),
    ("a signature value of 95 bytes", after(lambda d: d.replace(d[d.index(b"<ds:SignatureValue>") : d.index(b"</ds:SignatureValue>")], b"<ds:SignatureValue>" + b64encode(bytes(95)))), MALFORMED),
    ("a signature value of zeros", after(lambda d: d.replace(d[d.index(b"<ds:SignatureValue>") : d.index(b"</ds:SignatureValue>")], b"<ds:SignatureValue>" + b64encode(bytes(96)))), INVALID),
    ("an id on the signature", after(lambda d: d.replace(b"<ds:Signature ", b'<ds:Signature Id="x" ')), MALFORMED),
    ("a key value before the certificates", after(key_value), MALFORMED),
    ("two lists of certificates", after(two_x509), MALFORMED),
    ("no certificate", after(lambda d: d[: d.index(b"<ds:X509Certificate>")] + d[d.rindex(b"</ds:X509Certificate>") + 21 :]), MALFORMED),
    ("nine certificates", lambda: tuple(sign_rim(encode_rim(v), authority().issuers["rim-signer"].key, authority().chain(*RIM_CHAIN, *["rim-root"] * 5)) for v in rim_fields("GH100")), MALFORMED),
    ("five certificates", lambda: tuple(sign_rim(encode_rim(v), authority().issuers["rim-signer"].key, authority().chain(*RIM_CHAIN, "rim-root")) for v in rim_fields("GH100")), "RimChainInvalid"),
    ("certificates in another order", lambda: tuple(sign_rim(encode_rim(v), authority().issuers["rim-signer"].key, authority().chain("rim-signer", "rim-ca", "rim-l3", "rim-root")) for v in rim_fields("GH100")), "RimChainInvalid"),
    ("a certificate that is none", after(lambda d: d.replace(b"<ds:X509Certificate>", b"<ds:X509Certificate>AAAA", 1)), "MalformedCertificate"),
    ("a certificate with a space of another kind", after(lambda d: d.replace(b"<ds:X509Certificate>", b"<ds:X509Certificate>\xc2\xa0", 1)), MALFORMED),
    ("a signer that is over", lambda: signer(window=(NOW - 2 * DAY, NOW - DAY)), "CertificateExpired"),
    ("a signer of tomorrow", lambda: signer(window=(NOW + DAY, NOW + 2 * DAY)), "CertificateNotYetValid"),
    ("a signer that is a CA", lambda: signer(ca=True, usage=("key_cert_sign",)), "CertificateRoleMismatch"),
    ("a billion laughs", after(lambda _: BILLION), MALFORMED),
    ("an external entity", after(lambda d: b'<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]>' + d), MALFORMED),
    ("a CDATA section", text("<ns0:Payload>\n", "<ns0:Payload><![CDATA[\n]]>"), MALFORMED),
    ("an instruction", after(lambda d: d.replace(b"<ns0:Payload>", b"<?x y?><ns0:Payload>")), MALFORMED),
    ("another encoding", after(lambda d: b'<?xml version="1.0" encoding="ISO-8859-1"?>' + d), MALFORMED),
    ("XML 1.1", after(lambda d: b'<?xml version="1.1"?>' + d), MALFORMED),
    ("a byte order mark", after(lambda d: b"\xef\xbb\xbf" + d), MALFORMED),
    ("a prefix bound anew", text("<ns0:Payload>", '<ns0:Payload xmlns:ns2="urn:x">'), MALFORMED),
    ("a prefix unbound", text("<ns0:Payload>", '<nope:x xmlns=""/><ns0:Payload>'), MALFORMED),
    ("an attribute of xml:", text("<ns0:Payload>", '<ns0:Payload xml:space="preserve">'), MALFORMED),
    ("an attribute twice under two prefixes", text('<ns0:Resource active="', '<ns0:Resource xmlns:a="urn:y" xmlns:b="urn:y" a:z="1" b:z="2" active="'), MALFORMED),
    ("two roots", after(lambda d: d + b"<a/>"), MALFORMED),
    ("cut", after(lambda d: d[:-1]), MALFORMED),
    ("empty", after(lambda _: b""), MALFORMED),
    ("10 MB", after(lambda d: d + b" " * 10_000_000), MALFORMED),
    ("10,000 deep", after(lambda _: b"<a>" * 10_000), MALFORMED),
]  # fmt: skip


@pytest.mark.parametrize(("make", "code"), [row[1:] for row in RIMS], ids=[row[0] for row in RIMS])
def test_reference_values_with_one_thing_wrong(make: Rims, code: str) -> None:
    assert code_of(rims=make(), ocsp=()) == code


def test_alternatives_are_all_acceptable_and_nothing_else_is() -> None:
    other = golden("GH100", 50)
    wide = rim(golden={**rim_fields("GH100")[0].golden, 23: (other, golden("GH100", 23))})
    for value, mismatches in ((golden("GH100", 23), ()), (other, ()), (golden("GH100", 51), (23,))):
        (device,) = GpuCase(fields=measurement(23, value), rims=wide).verified().devices
        assert device.measurements is not None
        assert tuple(m.index for m in device.measurements.mismatches) == mismatches


def test_canonical_forms_of_one_document_are_one_document() -> None:
    """White space inside tags, attribute order and a declaration change no signed byte."""
    (data, _), expected = rim(), verify_rim(rim()[0], anchor=anchor()).golden
    changes: list[Callable[[bytes], bytes]] = [
        lambda d: b'<?xml version="1.0" encoding="utf-8"?>\n' + d,
        lambda d: d.replace(b' size="48" type="Measurement"', b'\n  type="Measurement"   size="48"'),
        lambda d: d.replace(b"</ns0:Entity>", b"</ns0:Entity  >"),
    ]
    for change in changes:
        assert change(data) != data
        assert verify_rim(change(data), anchor=anchor()).golden == expected


@pytest.mark.parametrize(
    ("inside", "outside"),
    [
        (b"<a>" * MAX_DEPTH + b"</a>" * MAX_DEPTH, b"<a>" * (MAX_DEPTH + 1) + b"</a>" * (MAX_DEPTH + 1)),
        (b"<a>" + b"<b/>" * (MAX_ELEMENTS - 1) + b"</a>", b"<a>" + b"<b/>" * MAX_ELEMENTS + b"</a>"),
        (b'<a b="' + b"x" * MAX_VALUE + b'"/>', b'<a b="' + b"x" * (MAX_VALUE + 1) + b'"/>'),
        (
            b"<a " + b" ".join(b'b%d=""' % i for i in range(MAX_ATTRIBUTES)) + b"/>",
            b"<a " + b" ".join(b'b%d=""' % i for i in range(MAX_ATTRIBUTES + 1)) + b"/>",
        ),
        (b"<a>".ljust(262_140) + b"</a>", b"<a>".ljust(262_141) + b"</a>"),
    ],
    ids=["depth", "elements", "value", "attributes", "bytes"],
)
def test_xml_is_bounded_by_count(inside: bytes, outside: bytes) -> None:
    parse_xml(inside)
    with pytest.raises(AttestationError) as e:
        parse_xml(outside)
    assert e.value.code == MALFORMED


def test_ten_megabytes_are_refused_before_they_are_read() -> None:
    data, began = b"<a>" + b"<b/>" * 2_500_000, time.process_time()
    with pytest.raises(AttestationError, match="at most 262144 bytes"):
        parse_xml(data)
    assert time.process_time() - began < 0.05


# ---- OCSP


def asked() -> tuple[x509.Certificate, Issuer]:
    return machine("spt", 1)[0].chain[1], authority().issuers["GH100-ica"]


def built(
    *, algorithm: Any = None, signed_by: Issuer | None = None, hash_algorithm: Any = None, certificates: int = 1
) -> tuple[bytes, ...]:
    """Sign an answer of another make."""
    subject, issuer = asked()
    responder = issuer.responder("NVIDIA OCSP Responder")
    builder = ocsp.OCSPResponseBuilder().add_response(
        subject, issuer.certificate, algorithm or SHA384(), ocsp.OCSPCertStatus.GOOD, NOW - DAY, NOW + DAY, None, None
    )
    by = signed_by or responder
    builder = builder.responder_id(ocsp.OCSPResponderEncoding.HASH, by.certificate)
    if certificates:
        builder = builder.certificates([responder.certificate] * certificates)
    made = builder.sign(by.key, hash_algorithm or SHA384()).public_bytes(Encoding.DER)
    return (made, *ocsp_responses("spt", 1)[1:])


def responder(**changes: Any) -> tuple[bytes, ...]:
    """Answer by a responder issued anew, in one thing another."""
    key = changes.pop("key", None) or new_key()
    fields: dict[str, Any] = {
        "usage": ("digital_signature",),
        "ca": False,
        "extensions": (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.OCSP_SIGNING]),),
    }
    made = asked()[1].issue("NVIDIA OCSP Responder", key.public_key(), **(fields | changes))
    return answer(responder=Issuer(key=key, certificate=made))


OCSP: list[tuple[str, Rims, str]] = [
    ("about the same serial of another issuer", lambda: answer(issuer=authority().issuers["GB100-ica"].certificate), "OcspMismatch"),
    ("unauthorized", lambda: (b"\x30\x03\x0a\x01\x06",), "OcspUnknown"),
    ("by SHA-1", lambda: built(algorithm=SHA1()), "OcspMismatch"),
    ("without a responder's certificate", lambda: built(certificates=0), "OcspSignatureInvalid"),
    ("with two responders", lambda: built(certificates=2), "OcspSignatureInvalid"),
    ("signed by another key", lambda: built(signed_by=asked()[1].responder("NVIDIA OCSP Responder")), "OcspSignatureInvalid"),
    ("signed with SHA-256", lambda: built(hash_algorithm=SHA256()), "OcspSignatureInvalid"),
    ("by a responder that is over", lambda: responder(window=(NOW - 2 * DAY, NOW - DAY)), "CertificateExpired"),
    ("by a responder of tomorrow", lambda: responder(window=(NOW + DAY, NOW + 2 * DAY)), "CertificateNotYetValid"),
    ("by a responder for servers", lambda: responder(extensions=(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]),)), "OcspSignatureInvalid"),
    ("by a responder without purposes", lambda: responder(extensions=()), "OcspSignatureInvalid"),
    ("by a responder that is a CA", lambda: responder(ca=True, usage=("key_cert_sign", "digital_signature")), "CertificateRoleMismatch"),
    ("by a responder on P-256", lambda: responder(key=ec.generate_private_key(ec.SECP256R1())), "CertificateAlgorithm"),
    ("by the subject itself", lambda: answer(responder=Issuer(key=machine("spt", 1)[0].leaf.key, certificate=machine("spt", 1)[0].chain[0])), "OcspSignatureInvalid"),
    ("beginning in a second", lambda: answer(window=(NOW + timedelta(seconds=1), NOW + DAY)), "OcspNotYetValid"),
    ("over this second", lambda: answer(window=(NOW - DAY, NOW)), "OcspExpired"),
    ("cut", lambda: (ocsp_responses("spt", 1)[0][:-1],), "MalformedOcsp"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "code"), [row[1:] for row in OCSP], ids=[row[0] for row in OCSP])
def test_answers_with_one_thing_wrong(make: Rims, code: str) -> None:
    assert code_of(ocsp=make()) == code


def test_an_answer_holds_from_its_first_second() -> None:
    assert GpuCase(ocsp=answer(window=(NOW, NOW + timedelta(seconds=1)))).verified().window.not_before == NOW
    assert GpuCase(ocsp=built(algorithm=SHA256())).verified().gpus


def test_a_nonce_that_was_asked_for_must_be_in_the_answer() -> None:
    subject, issuer = asked()
    from attestation.gpu.chain import verify_chain

    known = verify_chain(machine("spt", 1)[0].pem, kind="gpu", anchor=anchor()).links
    window = (NOW - DAY, NOW + DAY)
    given = {
        n: respond(subject, issuer.certificate, issuer.responder("R"), window=window, nonce=n)
        for n in (NONCE, bytes(32), None)
    }
    arguments: dict[str, Any] = {"organizations": anchor().organizations, "now": NOW, "where": "ocsp"}
    assert verify_ocsp(given[NONCE], known, nonce=NONCE, **arguments)[0].certificate == subject
    for wrong in (bytes(32), None):
        with pytest.raises(AttestationError) as e:
            verify_ocsp(given[wrong], known, nonce=NONCE, **arguments)
        assert e.value.code == "OcspMismatch"


# ---- CRLs


def crl(role: str = "GH100-ica", *, key: Any = None, begins: Any = None, ends: Any = None, **changes: Any) -> bytes:
    """Sign a CRL of one of the issuers, in one thing another."""
    issuer = authority().issuers[role]
    window = (begins or NOW - DAY, ends or NOW + DAY)
    return sign_crl(replace(issuer, key=key or issuer.key), window=window, **changes)


SERIAL = machine("spt", 1)[0].chain[1].serial_number
CRLS: list[tuple[str, Callable[[], bytes], str]] = [
    ("that lists the device", lambda: crl(revoked=[SERIAL]), "CertificateRevoked"),
    ("that holds the device", lambda: crl(revoked=[SERIAL], reason=x509.ReasonFlags.certificate_hold), "CertificateRevoked"),
    ("that lists the provisioner", lambda: crl("GH100-identity", revoked=[authority().issuers["GH100-ica"].certificate.serial_number]), "CertificateRevoked"),
    ("that lists a signer of reference values", lambda: crl("rim-l3", revoked=[authority().issuers["rim-signer"].certificate.serial_number]), "CertificateRevoked"),
    ("of another key", lambda: crl(key=new_key()), "CrlSignatureInvalid"),
    ("of an issuer of other devices", lambda: crl("GB100-ica"), "CrlIssuerMismatch"),
    ("that is over", lambda: crl(ends=NOW), "CrlExpired"),
    ("of tomorrow", lambda: crl(begins=NOW + timedelta(seconds=1)), "CrlNotYetValid"),
    ("that is a delta", lambda: crl(critical=[x509.DeltaCRLIndicator(1)]), "CrlUnsupported"),
    ("that is cut", lambda: crl()[:-1], "MalformedCrl"),
    ("that is rubbish", lambda: b"x", "MalformedCrl"),
    ("of a device", lambda: sign_crl(Issuer(key=new_key(), certificate=machine("spt", 1)[0].chain[1]), window=(NOW - DAY, NOW + DAY)), "CrlIssuerMismatch"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "code"), [row[1:] for row in CRLS], ids=[row[0] for row in CRLS])
def test_a_revocation_list_with_one_thing_wrong(make: Callable[[], bytes], code: str) -> None:
    assert code_of(crls=(make(),)) == code


def test_revocation_lists_answer_for_the_certificates_of_their_issuer() -> None:
    lists = tuple(crl(role) for role in ("GH100-ica", "GH100-identity", "device-root", "rim-l3", "rim-ca", "rim-root"))
    case = GpuCase(ocsp=(), crls=lists)
    found = case.verified()
    assert all(status.crl and not status.ocsp for status in found.devices[0].revocation)
    assert found.window.not_after == NOW + DAY
    assert all(f.holds for f in case.findings(revocation="either"))
    assert all(f.holds for f in case.findings(revocation="crl"))
    assert {f.code for f in case.findings(revocation="both") if not f.holds} == {"GpuRevocationRejected"}
    assert {f.code for f in GpuCase(crls=lists[1:]).findings(revocation="both") if not f.holds} <= {
        "GpuRevocationRejected"
    }
    assert all(f.holds for f in GpuCase(crls=(crl(algorithm=SHA256()),)).findings())


def test_a_signature_by_hand_is_the_simulators() -> None:
    """The forger's pieces make the same document as its whole."""
    document, key = encode_rim(rim_fields("GH100")[0]), authority().issuers["rim-signer"].key
    assert encode_signature("", sign_raw(key, b""), authority().chain(*RIM_CHAIN)).count("X509Certificate") == 8
    assert verify_rim(sign_rim(document, key, authority().chain(*RIM_CHAIN)), anchor=anchor()).component == "driver"
