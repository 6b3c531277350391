# SPDX-License-Identifier: Apache-2.0
"""What is sliced out of certificates and CRLs is what the X.509 library reads, byte for byte."""

from __future__ import annotations

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from attestation.der import first_elements
from attestation.tdx.anchor import SIMULATED_NAMES, usual_der
from attestation.tdx.certificates import split_pem
from attestation.tdx.collateral import Collateral
from attestation.tdx.quote import Quote
from tests.tdx_cases import Case
from tests.test_tdx_limits import code_of


def test_the_signed_part_and_both_names_of_every_certificate() -> None:
    case = Case.new(1).build()
    chain = split_pem(Quote.parse(case.signed).auth.chain, 3, "pck_chain")
    for der, name in zip(chain, (SIMULATED_NAMES.pck, SIMULATED_NAMES.platform_ca, SIMULATED_NAMES.root), strict=True):
        certificate = x509.load_der_x509_certificate(der)
        signed, _ = first_elements(der, 2)
        parts = first_elements(signed, 6)
        assert signed == certificate.tbs_certificate_bytes
        assert (parts[3], parts[5]) == (certificate.issuer.public_bytes(), certificate.subject.public_bytes())
        assert parts[5] == usual_der(name)


def test_the_signed_part_and_the_issuer_of_every_crl() -> None:
    collateral = Collateral.from_json(Case.new(1).build().text)
    for der in (collateral.root_ca_crl, collateral.pck_crl):
        crl = x509.load_der_x509_crl(der)
        (signed,) = first_elements(der, 1)
        assert signed == crl.tbs_certlist_bytes
        assert first_elements(signed, 3)[2] == crl.issuer.public_bytes()


def test_lengths_of_every_width() -> None:
    for size, header in ((3, "0403"), (200, "0481c8"), (300, "0482012c"), (70_000, "0483011170")):
        element = bytes.fromhex(header) + bytes(size)
        sequence = b"\x30\x84" + (len(element) + 2).to_bytes(4, "big") + element + b"\x05\0"
        assert first_elements(sequence, 2) == [element, b"\x05\0"]


def test_a_certificate_for_another_curve_of_the_same_size_is_refused() -> None:
    case = Case.new(1)
    case.pck(key=ec.generate_private_key(ec.SECP256K1()))
    assert code_of(case.build().ours) == "CertificateAlgorithm"
