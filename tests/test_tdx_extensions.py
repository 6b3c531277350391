# SPDX-License-Identifier: Apache-2.0
"""Extensions of certificates, recognised as bytes: never taken for a role's where the library would say otherwise."""

from __future__ import annotations

from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

from attestation.certificate import UNREADABLE, load_der
from attestation.der import elements_and_rest, first_elements
from attestation.tdx import crl
from attestation.tdx.certificates import _require_constraints
from attestation.tdx.extensions import ordinary_extensions
from attestation.tdx.pck import SGX_EXTENSION
from enclave.simulator.tdx_ca import intel_name, new_key
from enclave.simulator.tdx_platform import sgx_extension
from tests.tdx_cases import NOW, PLATFORM, Case, authority

URL = "https://certificates.example.org/sgx/certification/v4/pckcrl?ca=platform"
SGX = sgx_extension(PLATFORM)


def pck_with_point(url: str = URL, *more: x509.ExtensionType) -> bytes:
    """Make a certificate with all extensions of Intel's PCK certificates, in their order."""
    key = new_key()
    point = x509.DistributionPoint([x509.UniformResourceIdentifier(url)], None, None, None)
    usage = x509.KeyUsage(True, True, False, False, False, False, False, False, False)
    builder = x509.CertificateBuilder(
        intel_name("A"), intel_name("B"), key.public_key(), 5, NOW, NOW + timedelta(days=1)
    )
    for extension, critical in (
        (x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), False),
        (x509.CRLDistributionPoints([point]), False),
        (x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False),
        (usage, True),
        (x509.BasicConstraints(ca=False, path_length=None), True),
        *((extension, False) for extension in more),
    ):
        builder = builder.add_extension(extension, critical=critical)
    return builder.sign(key, SHA256()).public_bytes(Encoding.DER)


CERTIFICATES: dict[str, tuple[bytes, int | None]] = {
    "pck": (authority().pck.der, None),
    "platform_ca": (authority().platform_ca.der, 0),
    "root": (authority().root.der, 1),
    "tcb_signer": (authority().tcb_signer.der, None),
    "with a distribution point": (pck_with_point(URL, SGX), None),
    "with a long one": (pck_with_point("https://" + "a" * 102), None),
}


def block(der: bytes) -> bytes:
    return elements_and_rest(first_elements(der, 1)[0], 7)[1]


def read_by_the_library(der: bytes, path_length: int | None) -> bytes:
    """Give the SGX extension, once the library has found everything else as the role wants it."""
    extensions = load_der(der).extensions
    _require_constraints(extensions, "role", path_length)
    found = [e.value.public_bytes() for e in extensions if e.oid.dotted_string == SGX_EXTENSION]
    return found[0] if found else b""


@pytest.mark.parametrize("name", CERTIFICATES)
def test_what_intel_writes_is_recognised_for_its_role_alone(name: str) -> None:
    der, role = CERTIFICATES[name]
    assert ordinary_extensions(block(der), role) == read_by_the_library(der, role)
    for other in {None, 0, 1, 2} - {role}:
        assert ordinary_extensions(block(der), other) is None


@pytest.mark.parametrize("name", CERTIFICATES)
def test_a_byte_changed_is_never_taken_for_what_the_library_reads_otherwise(name: str) -> None:
    der, role = CERTIFICATES[name]
    start = der.index(block(der))
    recognised = 0
    for at in range(start, start + len(block(der))):
        for value in {0, 1, 0x7F, 0xFF, der[at] ^ 1, der[at] ^ 0x80, (der[at] + 1) % 256} - {der[at]}:
            changed = der[:at] + bytes([value]) + der[at + 1 :]
            found = ordinary_extensions(changed[start : start + len(block(der))], role)
            try:
                load_der(changed)
            except UNREADABLE:
                continue  # never asked about
            if found is not None:
                assert found == read_by_the_library(changed, role)
                recognised += 1
    assert recognised > 100  # key identifiers, at least


def test_other_extensions_are_left_to_the_library() -> None:
    plain = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), bytes(300))
    for der in (
        pck_with_point(URL, plain),
        pck_with_point(URL, SGX, plain),
        pck_with_point(URL, plain, SGX),
        pck_with_point("https://" + "a" * 103),
        pck_with_point("https://a\x01"),
    ):
        assert ordinary_extensions(block(der), None) is None
    good = block(pck_with_point(URL, SGX))
    assert ordinary_extensions(good, None) == SGX.value
    for size in (0, 1, len(good) - 1):
        assert ordinary_extensions(good[:size], None) is None
    assert ordinary_extensions(good + b"\0", None) is None


def test_what_follows_the_sgx_extension_is_never_read_as_part_of_it() -> None:
    """The pattern ends where the block does: the lengths inside must say so, too."""
    good = block(pck_with_point(URL, SGX))
    at = good.index(bytes.fromhex("06092a864886f84d010d01"))
    for place in (at - 2, at + 13):
        size = int.from_bytes(good[place : place + 2], "big")
        for wrong in (size - 1, size + 1, size - 20):
            assert ordinary_extensions(good[:place] + wrong.to_bytes(2, "big") + good[place + 2 :], None) is None


def crl_block(der: bytes, at: int) -> bytes:
    return elements_and_rest(first_elements(der, 1)[0], at)[1]


@pytest.mark.parametrize("name", ["root_ca_crl", "pck_crl"])
def test_a_byte_of_a_crl_s_extensions_changed_is_never_taken_for_what_the_library_reads_otherwise(name: str) -> None:
    case = Case.new(1)
    case.collateral.pck_crl.revoked.append(77)
    der = bytes.fromhex(case.build().document[name])
    good = crl_block(der, 6 if name == "pck_crl" else 5)
    assert crl._ORDINARY.fullmatch(good)
    start = der.index(good)
    recognised = 0
    for at in range(start, start + len(good)):
        for value in {0, 1, 0x7F, 0xFF, der[at] ^ 1, der[at] ^ 0x80, (der[at] + 1) % 256} - {der[at]}:
            changed = der[:at] + bytes([value]) + der[at + 1 :]
            if crl._ORDINARY.fullmatch(changed[start : start + len(good)]):
                crl._require_complete(x509.load_der_x509_crl(changed).extensions, name)
                recognised += 1
    assert recognised > 100
    for other in (b"", good[:-1], good + b"\0", good[1:], b"\0" + good):
        assert crl._ORDINARY.fullmatch(other) is None


def test_fewer_elements_than_asked_for_are_an_error() -> None:
    assert elements_and_rest(b"\x30\x04\x05\x00\x05\x00", 1) == ([b"\x05\x00"], b"\x05\x00")
    assert elements_and_rest(b"\x30\x04\x05\x00\x05\x00", 2) == ([b"\x05\x00"] * 2, b"")
    with pytest.raises(ValueError, match="fewer"):
        elements_and_rest(b"\x30\x04\x05\x00\x05\x00", 3)
