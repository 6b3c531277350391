# SPDX-License-Identifier: Apache-2.0
"""A certificate's serial number is positive and of at most 20 octets (RFC 5280, 4.1.2.2), whoever signed it."""

from __future__ import annotations

from ssl import DER_cert_to_PEM_cert
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256, SHA384
from cryptography.hazmat.primitives.serialization import Encoding

from attestation.certificate import InvalidSerialNumber, load_der
from attestation.errors import AttestationError
from attestation.gpu.chain import verify_chain
from attestation.ratls import read_certificate
from attestation.tdx.pck import platform_of
from tests.gpu_cases import anchor, machine, pem
from tests.gpu_chains import Plan
from tests.tdx_cases import Case, authority

REFUSED = {
    "zero": b"\x00",
    "minus one": b"\xff",
    "negative, of 16 octets": b"\x80" + bytes(15),
    "negative, of 20 octets": b"\xff\x00" + bytes(18),
    "one octet too long": b"\x01" + bytes(20),
    "one octet too long, with its sign": b"\x00\x80" + bytes(20),
    "of 64 octets": b"\x7f" * 64,
    "no octet": b"",
}
TAKEN = {
    "one": b"\x01",
    "of 16 octets": b"\x7f" * 16,
    "of 20 octets": b"\x7f" + b"\xff" * 19,
    "of 20 octets and their sign": b"\x00" + b"\xff" * 20,
}


def element(tag: int, content: bytes) -> bytes:
    size = len(content)
    length = bytes([size]) if size < 128 else b"\x82" + size.to_bytes(2, "big") if size > 255 else bytes([0x81, size])
    return bytes([tag]) + length + content


def with_serial(old: x509.Certificate, serial: bytes, key: ec.EllipticCurvePrivateKey, algorithm: Any) -> bytes:
    """Sign a certificate anew, its serial number these octets, which the library would not write."""
    tbs = old.tbs_certificate_bytes
    size = (old.serial_number.bit_length() + 8) // 8
    at = tbs.index(element(2, old.serial_number.to_bytes(size, "big", signed=True)))
    body = tbs[at - 5 : at] + element(2, serial) + tbs[at + 2 + size :]
    assert body.startswith(b"\xa0\x03\x02\x01")
    signed = element(0x30, body)
    whole = old.public_bytes(Encoding.DER)
    after = whole.index(tbs) + len(tbs)
    signing = whole[after : after + 2 + whole[after + 1]]
    return element(0x30, signed + signing + element(3, b"\0" + key.sign(signed, ec.ECDSA(algorithm))))


def pck(serial: bytes) -> bytes:
    return with_serial(authority().pck.certificate, serial, authority().platform_ca.key, SHA256())


class TestTdx:
    def verify(self, serial: bytes) -> None:
        case = Case.new()
        rest = [issuer.certificate.public_bytes(Encoding.PEM) for issuer in (case.ca.platform_ca, case.ca.root)]
        case.quote.chain = b"".join([DER_cert_to_PEM_cert(pck(serial)).encode(), *rest])
        case.build().ours()

    @pytest.mark.parametrize("serial", TAKEN.values(), ids=TAKEN)
    def test_taken(self, serial: bytes) -> None:
        self.verify(serial)

    @pytest.mark.parametrize("serial", REFUSED.values(), ids=REFUSED)
    def test_refused(self, serial: bytes) -> None:
        with pytest.raises(AttestationError, match="InvalidSerialNumber") as refused:
            self.verify(serial)
        assert refused.value.code == "CertificateChainInvalid"
        with pytest.raises(AttestationError) as unread:
            platform_of(pck(serial))
        assert unread.value.code == "PckExtensionInvalid"


class TestGpu:
    def verify(self, serial: bytes) -> None:
        plan = Plan()
        leaf, issued, *rest = x509.load_pem_x509_certificates(plan.pem())
        changed = DER_cert_to_PEM_cert(with_serial(issued, serial, plan.ica.key, SHA384())).encode()
        verify_chain(pem([leaf]) + changed + pem(rest), kind="gpu", anchor=anchor())

    def test_taken(self) -> None:
        self.verify(machine("spt", 1)[0].chain[1].serial_number.to_bytes(9, "big"))

    @pytest.mark.parametrize("serial", REFUSED.values(), ids=REFUSED)
    def test_refused(self, serial: bytes) -> None:
        with pytest.raises(AttestationError, match="InvalidSerialNumber") as refused:
            self.verify(serial)
        assert refused.value.code == "MalformedCertificate"


@pytest.mark.parametrize("serial", REFUSED.values(), ids=REFUSED)
def test_a_peer_has_none_either(serial: bytes) -> None:
    with pytest.raises(InvalidSerialNumber):
        load_der(pck(serial))
    with pytest.raises(AttestationError, match="InvalidSerialNumber"):
        read_certificate(pck(serial))
