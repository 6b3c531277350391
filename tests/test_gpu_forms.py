# SPDX-License-Identifier: Apache-2.0
"""What only one check stands against: names without their signature's fault, algorithms by word alone, forms of XML."""
# ruff: noqa: E501 - one row, one line

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha384
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from attestation.errors import AttestationError
from attestation.gpu.der import children
from enclave.simulator.gpu_authority import Issuer
from enclave.simulator.gpu_device import rim_fields
from enclave.simulator.gpu_report import sign_raw
from enclave.simulator.gpu_rim import encode_rim, encode_signature, encode_signed_info
from tests.gpu_cases import DAY, NOW, GpuCase, authority, machine, measurement, ocsp_responses, pem
from tests.gpu_chains import certificate, usage
from tests.test_gpu_endorsements import crl
from tests.test_gpu_fwid import tlv
from tests.test_gpu_refusals import RIM_CHAIN, resigned_info, rim


def code_of(**changes: Any) -> str:
    with pytest.raises(AttestationError) as e:
        GpuCase(**changes).verified()
    return e.value.code


# ---- reference values


def renamed() -> tuple[bytes, ...]:
    """Sign a document whose root has another name."""
    text = encode_rim(rim_fields("GH100")[0]).replace("SoftwareIdentity", "SoftwareThing")
    info = encode_signed_info(sha384(text.encode()).digest())
    value = sign_raw(authority().issuers["rim-signer"].key, info.encode())
    end = "</SoftwareThing>"
    whole = text.replace(end, encode_signature(info, value, authority().chain(*RIM_CHAIN)) + end)
    return whole.encode(), rim()[1]


C14N, OTHER = "http://www.w3.org/2006/12/xml-c14n11", "http://www.w3.org/2001/10/xml-exc-c14n#"
RIMS: list[tuple[str, Callable[[], tuple[bytes, ...]]]] = [
    ("a root of another name", renamed),
    ("another canonical form of SignedInfo", lambda: resigned_info(lambda i: i.replace(C14N, OTHER, 1))),
    ("another canonical form of the document", lambda: resigned_info(lambda i: OTHER.join(i.rsplit(C14N, 1)))),
    ("an element inside a digest", lambda: resigned_info(lambda i: i.replace("<ds:DigestValue>", "<ds:DigestValue><ds:x></ds:x>"))),
    ("a prefix bound anew", lambda: rim(lambda t: t.replace("<ns0:Entity name=", '<ns0:Entity xmlns:ns2="urn:x" name='))),
    ("a name that begins with a colon", lambda: rim(lambda t: t.replace('<ns0:Entity name="', '<ns0:Entity :name="'))),
]  # fmt: skip


@pytest.mark.parametrize("make", [row[1] for row in RIMS], ids=[row[0] for row in RIMS])
def test_reference_values_of_another_form_are_refused(make: Callable[[], tuple[bytes, ...]]) -> None:
    assert code_of(rims=make(), ocsp=()) == "MalformedRim"


def test_seventeen_alternatives_with_their_hashes_are_too_many() -> None:
    many = tuple(sha384(bytes([i])).digest() for i in range(17))
    assert code_of(rims=rim(golden={**rim_fields("GH100")[0].golden, 23: many}), ocsp=()) == "MalformedRim"
    assert GpuCase(rims=rim(golden={**rim_fields("GH100")[0].golden, 23: many[:16]}), ocsp=()).verified().gpus


# ---- answers


def parts(data: bytes) -> list[tuple[int, bytes, bytes]]:
    return children(data, what="der")


def answered(
    *, single: Callable[[bytes], bytes] = lambda s: s, oid: str = "2a8648ce3d040303", certs: Callable[[bytes], bytes] = lambda c: c
) -> tuple[bytes, ...]:  # fmt: skip
    """Sign an answer about the device anew, its parts open to change."""
    subject, issuer = machine("spt", 1)[0].chain[1], authority().issuers["GH100-ica"]
    responder = issuer.responder("NVIDIA OCSP Responder")
    builder = ocsp.OCSPResponseBuilder().add_response(
        subject, issuer.certificate, SHA384(), ocsp.OCSPCertStatus.GOOD, NOW - DAY, NOW + DAY, None, None
    )
    builder = builder.responder_id(ocsp.OCSPResponderEncoding.HASH, responder.certificate)
    made = builder.certificates([responder.certificate]).sign(responder.key, SHA384())
    who, when, what, *rest = parts(parts(made.tbs_response_bytes)[0][1])
    tbs = tlv(0x30, who[2], when[2], tlv(0x30, single(what[1])), *[r[2] for r in rest])
    signature = responder.key.sign(tbs, ec.ECDSA(SHA384()))
    algorithm = tlv(0x30, tlv(6, bytes.fromhex(oid)))
    listed = tlv(0xA0, tlv(0x30, certs(responder.certificate.public_bytes(Encoding.DER))))
    basic = tlv(0x30, tbs, algorithm, tlv(3, b"\0" + signature), listed)
    kind = tlv(6, bytes.fromhex("2b0601050507300101"))
    der = tlv(0x30, tlv(0x0A, b"\0"), tlv(0xA0, tlv(0x30, kind, tlv(4, basic))))
    return (der, *ocsp_responses("spt", 1)[1:])


def test_an_answer_made_by_hand_is_accepted() -> None:
    assert GpuCase(ocsp=answered()).verified().gpus


def test_an_answer_about_two_certificates_is_refused() -> None:
    assert code_of(ocsp=answered(single=lambda s: s + s)) == "OcspMismatch"


def test_an_answer_by_a_hash_that_nobody_knows_is_malformed() -> None:
    sha384_name, other = bytes.fromhex("0609608648016503040202"), bytes.fromhex("060960864801650304027f")
    assert code_of(ocsp=answered(single=lambda s: s.replace(sha384_name, other))) == "MalformedOcsp"


def test_an_answer_that_names_another_algorithm_is_refused() -> None:
    """Signed with SHA-384, called SHA-256: the name counts too."""
    assert code_of(ocsp=answered(oid="2a8648ce3d040302")) == "OcspSignatureInvalid"


def test_an_answer_whose_responder_cannot_be_read_is_malformed() -> None:
    assert code_of(ocsp=answered(certs=lambda c: c.replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x07", 1))) in {
        "MalformedOcsp",
        "MalformedCertificate",
    }


# ---- chains and lists


def test_an_issuer_that_may_sign_no_lists_is_refused() -> None:
    device = machine("spt", 1)[0]
    mute = certificate(
        device, 2, issuer=authority().issuers["GH100-identity"], extensions={x509.KeyUsage: (usage(key_cert_sign=True), True)}
    )  # fmt: skip
    changes: dict[str, Any] = {"chain": lambda d: pem((*d.chain[:2], mute, *d.chain[3:])), "ocsp": ()}
    assert GpuCase(**changes).verified().gpus
    assert code_of(crls=(crl(),), **changes) == "CrlSignatureInvalid"


def test_a_certificate_that_names_another_issuer_is_refused_though_its_signature_holds() -> None:
    device, ica = machine("spt", 1)[0], authority().issuers["GH100-ica"]
    named = Issuer(key=ica.key, certificate=authority().issuers["GH100-identity"].certificate)
    made = certificate(device, 1, issuer=named)
    assert code_of(chain=lambda d: pem((d.chain[0], made, *d.chain[2:])), ocsp=()) == "GpuChainInvalid"


def test_a_key_on_a_curve_that_nobody_reads_is_another_algorithm() -> None:
    device = machine("spt", 1)[0]
    der = (
        device.chain[0]
        .public_bytes(Encoding.DER)
        .replace(bytes.fromhex("06052b81040022"), bytes.fromhex("06052b81040001"), 1)
    )
    from base64 import encodebytes

    first = b"-----BEGIN CERTIFICATE-----\n" + encodebytes(der) + b"-----END CERTIFICATE-----\n"
    assert code_of(chain=lambda d: first + pem(d.chain[1:]), ocsp=()) == "CertificateAlgorithm"


# ---- findings


def test_measurements_hold_as_a_whole_only_where_every_one_does() -> None:
    def whole(case: GpuCase, **changes: Any) -> list[bool]:
        return [f.holds for f in case.findings(**changes) if f.rule.endswith(".measurements")]

    assert whole(GpuCase()) == [True]
    assert whole(GpuCase(fields=measurement(3, bytes(48)))) == []
    assert whole(GpuCase(fields=measurement(50, b"\1" * 48))) == []
    assert whole(GpuCase(fields=measurement(3, bytes(48))), mismatch={"3": "known"}) == [True]
    assert whole(GpuCase(fields=measurement(50, b"\1" * 48)), uncovered={"50": "known"}) == [True]
