# SPDX-License-Identifier: Apache-2.0
"""A GPU's certificates and CRLs name one algorithm inside and beside their signature (RFC 5280, 4.1.1.2, 5.1.1.2)."""

from __future__ import annotations

from collections.abc import Callable
from ssl import DER_cert_to_PEM_cert
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA384

from attestation.errors import AttestationError
from attestation.gpu.chain import verify_chain
from tests.gpu_cases import GpuCase, anchor, authority, pem
from tests.gpu_chains import Plan
from tests.tdx_algorithms import SHA256_INSIDE, SHA384_INSIDE
from tests.test_certificate_serials import element
from tests.test_gpu_endorsements import crl


def signed_anew(signed: bytes, inside: bytes, key: Any) -> bytes:
    """Sign with SHA-384 and say so beside the signature, whatever the signed part says."""
    changed = signed.replace(SHA384_INSIDE, inside, 1)
    return element(0x30, changed + SHA384_INSIDE + element(3, b"\0" + key.sign(changed, ec.ECDSA(SHA384()))))


def chain(inside: bytes) -> object:
    plan = Plan()
    leaf, issued, *rest = x509.load_pem_x509_certificates(plan.pem())
    changed = DER_cert_to_PEM_cert(signed_anew(issued.tbs_certificate_bytes, inside, plan.ica.key)).encode()
    return verify_chain(pem([leaf]) + changed + pem(rest), kind="gpu", anchor=anchor())


def listed(inside: bytes) -> object:
    signed = x509.load_der_x509_crl(crl()).tbs_certlist_bytes
    return GpuCase(crls=(signed_anew(signed, inside, authority().issuers["GH100-ica"].key),)).verified()


@pytest.mark.parametrize(
    ("verify", "code", "got"),
    [(chain, "MalformedCertificate", "AlgorithmMismatch"), (listed, "MalformedCrl", "other data")],
)
def test_the_algorithm_is_the_same_inside_and_beside_the_signature(
    verify: Callable[[bytes], object], code: str, got: str
) -> None:
    verify(SHA384_INSIDE)
    with pytest.raises(AttestationError, match=got) as refused:
        verify(SHA256_INSIDE)
    assert refused.value.code == code
