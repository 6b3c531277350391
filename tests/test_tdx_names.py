# SPDX-License-Identifier: Apache-2.0
"""Names of certificates and CRLs are compared as attributes, however they are encoded; usual ones at a glance."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.name import _ASN1Type

from attestation.tdx.anchor import SIMULATED_NAMES, usual_der
from enclave.simulator.tdx_ca import TdxIssuer, intel_name
from tests.tdx_cases import Case
from tests.test_tdx_limits import code_of

PCK = "Intel SGX PCK Certificate"
CA = "Intel SGX PCK Platform CA"
FORMS = [_ASN1Type.PrintableString, _ASN1Type.T61String, _ASN1Type.UTF8String]
Bend = Callable[[Case, x509.Name], None]


def encoded(common_name: str, form: _ASN1Type, *, turned: bool = False) -> x509.Name:
    """Give Intel's name with every attribute but the country in this type of string, perhaps in another order."""
    usual = list(intel_name(common_name))
    plain = {x509.NameOID.COUNTRY_NAME: _ASN1Type.PrintableString}
    found = [x509.NameAttribute(a.oid, a.value, plain.get(a.oid, form)) for a in usual]
    return x509.Name(found[::-1] if turned else found)


def subject(case: Case, name: x509.Name) -> None:
    case.pck(subject=name)


def issuer(case: Case, name: x509.Name) -> None:
    case.pck(issuer=name)


def crl(case: Case, name: x509.Name) -> None:
    """Let the PCK CRL write its issuer so: signed by the CA's key all the same."""
    plan = case.collateral.pck_crl

    def bend(document: dict[str, str]) -> None:
        authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(plan.issuer.key.public_key())
        builder = (
            x509.CertificateRevocationListBuilder(name, plan.last_update, plan.next_update)
            .add_extension(x509.CRLNumber(1), critical=False)
            .add_extension(authority, critical=False)
        )
        document["pck_crl"] = builder.sign(plan.issuer.key, SHA256()).public_bytes(Encoding.DER).hex()

    case.document_after.append(bend)


PLACES: dict[str, tuple[Bend, str, str]] = {
    "subject": (subject, PCK, "CertificateRoleMismatch"),
    "issuer": (issuer, CA, "CertificateRoleMismatch"),
    "crl": (crl, CA, "CrlIssuerMismatch"),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("form", FORMS)
def test_the_same_name_in_another_encoding_is_the_same_name(place: str, form: _ASN1Type) -> None:
    bend, common_name, _ = PLACES[place]
    name, usual = encoded(common_name, form), SIMULATED_NAMES.pck if place == "subject" else SIMULATED_NAMES.platform_ca
    assert (name.public_bytes() == usual_der(usual)) is (form is _ASN1Type.UTF8String)
    case = Case.new(1)
    bend(case, name)
    assert case.build().ours().pck_ca == "platform"


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("form", FORMS)
def test_another_name_is_refused_in_every_encoding(place: str, form: _ASN1Type) -> None:
    bend, common_name, code = PLACES[place]
    for other in (common_name + "x", common_name[:-1], common_name.lower(), "Intel SGX Root CA"):
        case = Case.new(1)
        bend(case, encoded(other, form))
        assert code_of(case.build().ours) == code


@pytest.mark.parametrize("place", ["subject", "issuer"])
def test_attributes_of_a_certificate_s_name_may_come_in_any_order_but_not_twice_or_missing(place: str) -> None:
    bend, common_name, code = PLACES[place]
    case = Case.new(1)
    bend(case, encoded(common_name, _ASN1Type.UTF8String, turned=True))
    assert case.build().ours().pck_ca == "platform"
    usual = list(intel_name(common_name))
    for wrong in ([*usual, usual[0]], usual[:-1], [*usual, x509.NameAttribute(x509.NameOID.SURNAME, "x")]):
        case = Case.new(1)
        bend(case, x509.Name(wrong))
        assert code_of(case.build().ours) == code


def test_a_crl_of_the_other_ca_is_refused_however_its_issuer_is_written() -> None:
    for form in FORMS:
        case = Case.new(1)
        other: TdxIssuer = case.ca.processor_ca
        case.collateral.pck_crl.issuer = other
        crl(case, encoded("Intel SGX PCK Processor CA", form))
        assert code_of(case.build().ours) == "CrlIssuerMismatch"
