# SPDX-License-Identifier: Apache-2.0
"""A certificate or a CRL signed anew by its issuer, its signed part naming another algorithm than the signature has."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256

from tests.tdx_cases import Case
from tests.test_certificate_serials import element

SHA256_INSIDE, SHA384_INSIDE = (bytes.fromhex(f"300a06082a8648ce3d0403{last}") for last in ("02", "03"))


def leaf(case: Case, change: Callable[[bytes], bytes], beside: bytes = SHA256_INSIDE) -> None:
    """Give the case a PCK certificate whose signed part was changed and signed again by its CA."""
    signed = change(case.ca.pck.certificate.tbs_certificate_bytes)
    signature = case.ca.platform_ca.key.sign(signed, ec.ECDSA(SHA256()))
    der = element(0x30, signed + beside + element(3, b"\0" + signature))
    made = replace(case.ca.pck, certificate=x509.load_der_x509_certificate(der))
    case.chain(made, case.ca.platform_ca, case.ca.root)


def crl(name: str, inside: bytes) -> Callable[[Case], None]:
    """Give the case a CRL, signed with SHA-256, whose signed part names the algorithm `inside`."""

    def change(case: Case) -> None:
        issuer = case.ca.root if name == "root_ca_crl" else case.ca.platform_ca

        def bend(document: dict[str, str]) -> None:
            signed = x509.load_der_x509_crl(bytes.fromhex(document[name])).tbs_certlist_bytes
            signed = signed.replace(SHA256_INSIDE, inside, 1)
            signature = issuer.key.sign(signed, ec.ECDSA(SHA256()))
            document[name] = element(0x30, signed + SHA256_INSIDE + element(3, b"\0" + signature)).hex()

        case.document_after.append(bend)

    return change


def two_algorithms(case: Case) -> None:
    """Give the case a PCK certificate that says SHA-384 where it is signed, and SHA-256 beside the signature."""
    leaf(case, lambda signed: signed.replace(SHA256_INSIDE, SHA384_INSIDE, 1))
