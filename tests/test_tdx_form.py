# SPDX-License-Identifier: Apache-2.0
"""Certificates recognised as bytes: never taken for a role's where the library would say otherwise."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from attestation.certificate import UNREADABLE, load_der, require_one_algorithm
from attestation.tdx.anchor import SIMULATED_NAMES, DistinguishedName
from attestation.tdx.certificates import _key, _require_role, split_pem
from attestation.tdx.form import Form, _pattern, usual_form
from attestation.tdx.pck import SGX_EXTENSION
from enclave.simulator.tdx_platform import sgx_extension
from tests.tdx_algorithms import SHA256_INSIDE, SHA384_INSIDE, crl, leaf
from tests.tdx_cases import NOW, PLATFORM, Case, authority, certificate
from tests.test_certificate_serials import element
from tests.test_tdx_limits import code_of

NAMES = SIMULATED_NAMES
CAS = (NAMES.platform_ca, NAMES.processor_ca)
ROLES: dict[str, tuple[Any, ...]] = {
    "pck": (authority().pck, (NAMES.pck,), NAMES.platform_ca, None),
    "platform_ca": (authority().platform_ca, CAS, NAMES.root, 0),
    "processor_ca": (authority().processor_ca, CAS, NAMES.root, 0),
    "tcb_signer": (authority().tcb_signer, (NAMES.tcb_signing,), NAMES.root, None),
    "root": (authority().root, (NAMES.root,), NAMES.root, 1),
}


def point(key: object) -> bytes:
    assert isinstance(key, ec.EllipticCurvePublicKey)
    return key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


def read_by_the_library(
    der: bytes, subjects: tuple[DistinguishedName, ...], issuer: DistinguishedName, path_length: int | None
) -> Form:
    """Read a certificate without a look at its bytes. Raises what the library raises, and AttestationError."""
    found = load_der(der)
    subject = _require_role(found, "role", subjects, issuer, path_length)
    require_one_algorithm(der)
    sgx = [e.value.public_bytes() for e in found.extensions if e.oid.dotted_string == SGX_EXTENSION]
    return Form(found.tbs_certificate_bytes, subject, point(found.public_key()), sgx[0] if sgx else b"")


@pytest.mark.parametrize("name", ROLES)
def test_what_intel_writes_is_recognised_for_its_role_alone(name: str) -> None:
    _pattern.cache_clear()  # so that it is this test that makes it
    issued, *role = ROLES[name]
    assert usual_form(issued.der, *role) == read_by_the_library(issued.der, *role)
    for other, (_, *others) in ROLES.items():
        if others != role:
            assert usual_form(issued.der, *others) is None, other
    assert usual_form(issued.der, (), *role[1:]) is None
    for path_length in {None, 0, 1, 2} - {role[2]}:
        assert usual_form(issued.der, role[0], role[1], path_length) is None


@pytest.mark.parametrize("name", ROLES)
def test_a_byte_changed_is_never_taken_for_what_the_library_reads_otherwise(name: str) -> None:
    issued, *role = ROLES[name]
    der, recognised = issued.der, 0
    for at in range(len(der)):
        for value in {0, 1, 0x7F, der[at] ^ 1, der[at] ^ 0x80} - {der[at]}:
            changed = der[:at] + bytes([value]) + der[at + 1 :]
            try:
                load_der(changed)
            except UNREADABLE:
                continue  # never asked about
            found = usual_form(changed, *role)
            if found is None:
                continue
            recognised += 1
            try:
                assert found == read_by_the_library(changed, *role)
            except ValueError:  # the key is no point of the curve
                assert code_of(lambda found=found: _key(issued.certificate, found.point, "role")) == (  # type: ignore[misc]
                    "CertificateAlgorithm"
                )
    assert recognised > 400  # serial number, key and signature, at least


@pytest.mark.parametrize("cut", [0, 1, 4, 8, 9, 100, 300, 400])
def test_a_certificate_cut_short_is_not_recognised(cut: int) -> None:
    issued, *role = ROLES["platform_ca"]
    assert usual_form(issued.der[:cut], *role) is None


def test_the_algorithm_is_the_same_inside_and_beside_the_signature() -> None:
    case = Case.new(1)
    leaf(case, lambda signed: signed)
    assert case.build().ours().pck_ca == "platform"
    for inside, beside in (
        (SHA384_INSIDE, SHA256_INSIDE),
        (SHA256_INSIDE, SHA384_INSIDE),
    ):
        case = Case.new(1)
        leaf(case, lambda signed, inside=inside: signed.replace(SHA256_INSIDE, inside, 1), beside)  # type: ignore[misc]
        assert code_of(case.build().ours) in {"CertificateChainInvalid", "CertificateAlgorithm"}
        with pytest.raises(Exception, match="parse"):
            case.theirs()


@pytest.mark.parametrize("name", ["root_ca_crl", "pck_crl"])
def test_the_algorithm_of_a_crl_is_the_same_inside_and_beside_the_signature(name: str) -> None:
    case = Case.new(1)
    crl(name, SHA256_INSIDE)(case)
    assert case.build().ours().pck_ca == "platform"
    case = Case.new(1)
    crl(name, SHA384_INSIDE)(case)
    assert code_of(case.build().ours) == "CrlUnsupported"


def printable(name: x509.Name) -> x509.Name:
    """Write a name's attributes in another type of string, which says the same."""
    kind = x509.name._ASN1Type.PrintableString
    return x509.Name([x509.NameAttribute(a.oid, a.value, kind) for a in name])


def other_order(name: x509.Name) -> x509.Name:
    return x509.Name(list(name)[::-1])


FORMS: list[tuple[dict[str, Any], bool]] = [  # whether it is the usual one
    ({}, True),
    ({"serial": 2**159 - 1}, True),
    ({"serial": 2**152}, True),
    ({"serial": 2**151 - 1}, False),
    ({"serial": 5}, False),
    ({"window": (datetime(1950, 1, 1, tzinfo=UTC), NOW + timedelta(days=1))}, True),
    ({"window": (NOW - timedelta(days=1), datetime(2050, 1, 1, tzinfo=UTC))}, False),
    ({"subject": printable(authority().pck.certificate.subject)}, False),
    ({"subject": other_order(authority().pck.certificate.subject)}, False),
    ({"issuer": other_order(authority().platform_ca.certificate.subject)}, False),
]


@pytest.mark.parametrize(("changes", "usual"), FORMS, ids=str)
def test_another_form_of_the_same_is_the_library_s_to_read(changes: dict[str, Any], usual: bool) -> None:
    given = {"extensions": (sgx_extension(PLATFORM),)} | changes
    made = certificate("Intel SGX PCK Certificate", authority().pck.key, authority().platform_ca, **given)
    _, *role = ROLES["pck"]
    assert usual_form(made.der, *role) == (read_by_the_library(made.der, *role) if usual else None)
    case = Case.new(1)
    case.pck(**changes)
    assert case.build().ours().pck_ca == "platform"


def test_a_serial_number_of_twenty_octets_and_their_sign_is_usual() -> None:
    case, old = Case.new(1), authority().pck.certificate
    twenty = element(2, old.serial_number.to_bytes(20, "big"))

    def longer(signed: bytes) -> bytes:
        body = signed[4:].replace(twenty, element(2, b"\0\xff" + twenty[3:]), 1)
        return element(0x30, body)

    leaf(case, longer)
    assert case.build().ours().pck_ca == "platform"
    der = split_pem(case.quote.chain, 3, "chain")[0]
    _, *role = ROLES["pck"]
    assert usual_form(der, *role) == read_by_the_library(der, *role)


@pytest.mark.parametrize(
    "changes",
    [
        {"subject": x509.Name([*list(authority().pck.certificate.subject)[:-1]])},
        {"subject": x509.Name([*authority().pck.certificate.subject, x509.NameAttribute(NameOID.TITLE, "x")])},
        {"issuer": authority().root.certificate.subject},
        {"issuer": authority().processor_ca.certificate.subject},
    ],
    ids=str,
)
def test_another_name_is_refused(changes: dict[str, Any]) -> None:
    case = Case.new(1)
    case.pck(**changes)
    assert code_of(case.build().ours) == "CertificateRoleMismatch"


def test_a_key_that_is_no_point_of_p256_is_refused() -> None:
    found = authority().pck.certificate
    assert point(_key(found, None, "role")) == point(_key(found, point(found.public_key()), "role"))
    for other in (bytes(64), bytes(63) + b"\1", b"\xff" * 64):
        assert code_of(lambda other=other: _key(found, b"\4" + other, "role")) == "CertificateAlgorithm"  # type: ignore[misc]
    case = Case.new(1)
    leaf(case, lambda signed: signed.replace(point(found.public_key()), b"\4" + b"\1" * 64))
    assert code_of(case.build().ours) == "CertificateAlgorithm"
