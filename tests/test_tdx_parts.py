# SPDX-License-Identifier: Apache-2.0
"""The small readers of TDX evidence by themselves: DER of the platform's extension, PEM chains, constraints, CRLs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256, SHA384
from cryptography.hazmat.primitives.serialization import Encoding

from attestation.errors import AttestationError
from attestation.tdx.certificates import MAX_DER, split_pem
from attestation.tdx.pck import Platform, platform_of
from enclave.simulator.tdx_ca import pem_chain
from enclave.simulator.tdx_platform import sgx_extension, sgx_fields
from tests.tdx_cases import NOW, PLATFORM, Case, authority

CHAIN, INVALID = "CertificateChainInvalid", "PckExtensionInvalid"
OID = bytes.fromhex("2a864886f84d010d01")


def code_of(work: Callable[[], object]) -> str:
    with pytest.raises(AttestationError) as e:
        work()
    return e.value.code


def tlv(tag: int, *parts: bytes, length: bytes | None = None) -> bytes:
    body = b"".join(parts)
    size = len(body)
    short = bytes([size]) if size < 128 else bytes([0x81, size]) if size < 256 else b"\x82" + size.to_bytes(2, "big")
    return bytes([tag]) + (short if length is None else length) + body


def field(number: int, value: bytes, *, oid: bytes = OID) -> bytes:
    return tlv(0x30, tlv(6, oid + bytes([number])), value)


GOOD = sgx_fields(PLATFORM)
PPID, TCB, PCEID, FMSPC, TYPE, INSTANCE, FLAGS = GOOD


def tcb(**changes: bytes | None) -> bytes:
    """Write the TCB field, one of its parts another."""
    parts: dict[str, bytes | None] = {f"c{i}": tlv(2, bytes([v])) for i, v in enumerate(PLATFORM.components, start=1)}
    parts |= {"c17": tlv(2, b"\x0b"), "c18": tlv(4, bytes(PLATFORM.components))}
    parts |= changes
    inner = [field(int(name[1:]), value, oid=OID + b"\x02") for name, value in parts.items() if value is not None]
    return field(2, tlv(0x30, *inner))


def flags(*values: bytes, first: int = 1) -> bytes:
    inner = [field(first + i, value, oid=OID + b"\x07") for i, value in enumerate(values)]
    return field(7, tlv(0x30, *inner))


def extension(*fields: bytes) -> bytes:
    return tlv(0x30, *fields)


ON, OFF = tlv(1, b"\xff"), tlv(1, b"\0")
EXTENSIONS: list[tuple[str, bytes]] = [
    ("nothing", b""),
    ("two elements", extension(*GOOD) + tlv(5)),
    ("a set", tlv(0x31, *GOOD)),
    ("no fields", extension()),
    ("an eighth field", extension(*GOOD, field(8, tlv(4, b"x")))),
    ("a field 0", extension(*GOOD, field(0, tlv(4, b"x")))),
    ("an identifier of another arc", extension(field(1, tlv(4, PLATFORM.ppid), oid=OID[:-1] + b"\x02"), *GOOD[1:])),
    ("an identifier one longer", extension(tlv(0x30, tlv(6, OID + b"\1\1"), tlv(4, PLATFORM.ppid)), *GOOD[1:])),
    ("an identifier of a long last arc", extension(*GOOD, field(0x81, tlv(4, b"x")))),
    ("an identifier that is octets", extension(tlv(0x30, tlv(4, OID + b"\1"), tlv(4, PLATFORM.ppid)), *GOOD[1:])),
    ("a pair of three", extension(tlv(0x30, tlv(6, OID + b"\1"), tlv(4, PLATFORM.ppid), tlv(5)), *GOOD[1:])),
    ("a pair that is a set", extension(tlv(0x31, tlv(6, OID + b"\1"), tlv(4, PLATFORM.ppid)), *GOOD[1:])),
    ("a PPID of 15 bytes", extension(field(1, tlv(4, bytes(15))), *GOOD[1:])),
    ("a PPID that is a text", extension(field(1, tlv(12, bytes(16))), *GOOD[1:])),
    ("a PCEID of one byte", extension(PPID, TCB, field(3, tlv(4, b"\0")), *GOOD[3:])),
    ("a type that is an integer", extension(PPID, TCB, PCEID, FMSPC, field(5, tlv(2, b"\1")), INSTANCE, FLAGS)),
    ("a type of -1", extension(PPID, TCB, PCEID, FMSPC, field(5, tlv(10, b"\xff")), INSTANCE, FLAGS)),
    ("an empty type", extension(PPID, TCB, PCEID, FMSPC, field(5, tlv(10, b"")), INSTANCE, FLAGS)),
    ("an instance of 15 bytes", extension(*GOOD[:5], field(6, tlv(4, bytes(15))), FLAGS)),
    ("a TCB of 17 fields", extension(PPID, tcb(c16=None), *GOOD[2:])),
    ("a TCB of 19 fields", extension(PPID, tcb(c19=tlv(2, b"\0")), *GOOD[2:])),
    ("a TCB that is octets", extension(PPID, field(2, tlv(4, b"x")), *GOOD[2:])),
    ("a component with a zero before it", extension(PPID, tcb(c1=tlv(2, b"\0\2")), *GOOD[2:])),
    ("a component of -1", extension(PPID, tcb(c1=tlv(2, b"\xff")), *GOOD[2:])),
    ("a component that is octets", extension(PPID, tcb(c1=tlv(4, b"\2")), *GOOD[2:])),
    ("a PCESVN of 65536", extension(PPID, tcb(c17=tlv(2, b"\1\0\0")), *GOOD[2:])),
    ("a CPUSVN of 15 bytes", extension(PPID, tcb(c18=tlv(4, bytes(15))), *GOOD[2:])),
    ("a fourth flag", extension(*GOOD[:6], flags(ON, ON, ON, ON))),
    ("a flag 0", extension(*GOOD[:6], flags(ON, first=0))),
    ("a flag of 1", extension(*GOOD[:6], flags(tlv(1, b"\1")))),
    ("a flag of two bytes", extension(*GOOD[:6], flags(tlv(1, b"\xff\xff")))),
    ("a flag that is an integer", extension(*GOOD[:6], flags(tlv(2, b"\0")))),
    ("flags that are octets", extension(*GOOD[:6], field(7, tlv(4, b"x")))),
    ("a tag alone", extension(*GOOD) + b"\x30"),
    ("a length past the end", b"\x30\x7f" + b"".join(GOOD)[:10]),
    ("a cut element inside", tlv(0x30, b"".join(GOOD)[:-1])),
    ("a length in a longer form", tlv(0x30, *GOOD[:1], length=b"\x82\0" + bytes([len(GOOD[0])]))),
    ("a short length in two bytes", tlv(0x30, *GOOD[:1], length=b"\x81" + bytes([len(GOOD[0])]))),
    ("a length of three bytes", tlv(0x30, *GOOD, length=b"\x83\0" + len(b"".join(GOOD)).to_bytes(2, "big"))),
    ("a length one past the end", tlv(0x30, *GOOD, length=b"\x82" + (len(b"".join(GOOD)) + 1).to_bytes(2, "big"))),
    ("a short length in one byte more", extension(field(1, tlv(4, PLATFORM.ppid, length=b"\x81\x10")), *GOOD[1:])),
    ("a short length in two bytes more", extension(field(1, tlv(4, PLATFORM.ppid, length=b"\x82\0\x10")), *GOOD[1:])),
    ("an indefinite length", b"\x30\x80" + b"".join(GOOD) + b"\0\0"),
    ("a length that is cut", b"\x30\x82\1"),
]  # fmt: skip


@pytest.mark.parametrize("data", [row[1] for row in EXTENSIONS], ids=[row[0] for row in EXTENSIONS])
def test_an_sgx_extension_of_another_form_is_refused(data: bytes) -> None:
    assert code_of(lambda: Platform.parse(data)) == INVALID


def test_an_sgx_extension_is_read_to_the_last_field() -> None:
    found = Platform.parse(extension(PPID, tcb(), PCEID, FMSPC, TYPE, INSTANCE, flags(ON, OFF, ON)))
    assert (found.ppid, found.pce_id, found.fmspc) == (PLATFORM.ppid, PLATFORM.pce_id, PLATFORM.fmspc)
    assert (found.tcb_components, found.pce_svn) == (PLATFORM.components, 11)
    assert (found.cpu_svn, found.sgx_type) == (bytes(PLATFORM.components), 1)
    assert found.platform_instance_id == PLATFORM.platform_instance_id
    assert (found.dynamic_platform, found.cached_keys, found.smt_enabled) == (True, False, True)
    assert Platform.parse(sgx_extension(PLATFORM).value) == replace(found, cached_keys=True)


def test_fields_that_only_some_platforms_have_are_told_as_absent() -> None:
    found = Platform.parse(extension(*GOOD[:5]))
    assert (found.platform_instance_id, found.dynamic_platform, found.cached_keys, found.smt_enabled) == (None,) * 4
    some = Platform.parse(extension(*GOOD[:5], flags(OFF, first=3)))
    assert (some.dynamic_platform, some.cached_keys, some.smt_enabled) == (None, None, False)


def test_the_largest_numbers_fit() -> None:
    high = tcb(c1=tlv(2, b"\0\xff"), c17=tlv(2, b"\0\xff\xff"), c18=tlv(4, b"\xff" + bytes(PLATFORM.components[1:])))
    found = Platform.parse(extension(PPID, high, *GOOD[2:]))
    assert (found.tcb_components[0], found.pce_svn) == (255, 65535)


def test_a_pck_names_its_platform_once() -> None:
    der = authority().pck.certificate.public_bytes(Encoding.DER)
    assert platform_of(der).ppid == PLATFORM.ppid
    assert code_of(lambda: platform_of(der[:-1])) == INVALID
    assert code_of(lambda: platform_of(authority().platform_ca.certificate.public_bytes(Encoding.DER))) == INVALID


# ---- chains


def chain_case(pem: Callable[[bytes], bytes]) -> Case:
    case = Case.new(1)
    case.quote.chain = pem(case.quote.chain)
    return case.build()


LINE = b"-----END CERTIFICATE-----\n"
PEMS: list[tuple[str, Callable[[bytes], bytes]]] = [
    ("text before", lambda c: b"x" + c),
    ("text between", lambda c: c.replace(LINE, LINE + b"x\n", 1)),
    ("text behind", lambda c: c.rstrip(b"\0") + b"x"),
    ("two zero bytes behind", lambda c: c + b"\0"),
    ("another label", lambda c: c.replace(b"CERTIFICATE", b"CERT")),
    ("no base64", lambda c: c.replace(b"MII", b"M*I", 1)),
    ("base64 that is cut", lambda c: c.replace(b"MII", b"II", 1)),
    ("DER that is cut", lambda c: c.replace(b"MII", b"AAAAMII", 1)),
    ("nothing", lambda _: b"\0"),
]  # fmt: skip


@pytest.mark.parametrize("change", [row[1] for row in PEMS], ids=[row[0] for row in PEMS])
def test_a_chain_of_another_form_is_refused(change: Callable[[bytes], bytes]) -> None:
    assert code_of(chain_case(change).ours) == CHAIN


def test_a_chain_may_end_with_a_zero_byte_or_not() -> None:
    for change in (lambda c: c, lambda c: c.rstrip(b"\0")):
        assert chain_case(change).ours().tcb.status == "UpToDate"
    assert len(split_pem(pem_chain(authority().pck.certificate), 1, "chain")) == 1


def test_a_certificate_is_bounded() -> None:
    case = Case.new(1)
    long = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3"), bytes(MAX_DER))
    case.pck(extensions=(sgx_extension(PLATFORM), long))
    assert code_of(case.build().ours) == CHAIN


def leaf_der(change: Callable[[bytes], bytes]) -> Callable[[], object]:
    """Change the PCK's bytes; nobody signs them again."""
    case = Case.new(1)
    der = change(case.ca.pck.certificate.public_bytes(Encoding.DER))
    from base64 import encodebytes

    pem = b"-----BEGIN CERTIFICATE-----\n" + encodebytes(der).replace(b"\n", b"") + b"\n" + LINE
    case.quote.chain = pem + pem_chain(case.ca.platform_ca.certificate, case.ca.root.certificate)
    return case.build().ours


def test_a_certificate_of_another_version_or_signature_is_refused() -> None:
    assert code_of(leaf_der(lambda d: d.replace(b"\xa0\3\2\1\2", b"\xa0\3\2\1\1", 1))) == CHAIN
    assert code_of(leaf_der(lambda d: d.replace(b"\xa0\3\2\1\2", b"\xa0\3\2\1\3", 1))) == CHAIN
    assert code_of(leaf_der(lambda d: d[:-1] + bytes([d[-1] ^ 1]))) == CHAIN


def other_issuer(case: Case) -> None:
    case.pck(issuer=case.ca.processor_ca.certificate.subject)


def two_keys_for_one_name(case: Case) -> None:
    """Give the leaf an issuer's name, and another issuer's signature."""
    case.pck(parent=replace(case.ca.platform_ca, key=case.ca.processor_ca.key))
    case.chain(replace(case.ca.pck, certificate=x509.load_pem_x509_certificate(case.quote.chain.split(LINE)[0] + LINE)),
               case.ca.platform_ca, case.ca.root)  # fmt: skip


def critical_extension(case: Case) -> None:
    builder = x509.CertificateBuilder(
        case.ca.platform_ca.certificate.subject, case.ca.pck.certificate.subject, case.ca.pck.key.public_key(), 77,
        case.ca.pck.certificate.not_valid_before_utc, case.ca.pck.certificate.not_valid_after_utc,
    )  # fmt: skip
    usage = case.ca.pck.certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    builder = builder.add_extension(usage, critical=True)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=False)
    builder = builder.add_extension(sgx_extension(PLATFORM), critical=False)
    made = builder.sign(case.ca.platform_ca.key, SHA256())
    case.chain(replace(case.ca.pck, certificate=made), case.ca.platform_ca, case.ca.root)


CHAINS: list[tuple[str, Callable[[Case], None], str]] = [
    ("a leaf that names another issuer", other_issuer, "CertificateRoleMismatch"),
    ("a leaf signed by another issuer", two_keys_for_one_name, CHAIN),
    ("constraints that are not critical", critical_extension, CHAIN),
]


@pytest.mark.parametrize(("change", "code"), [row[1:] for row in CHAINS], ids=[row[0] for row in CHAINS])
def test_a_chain_with_one_thing_wrong(change: Callable[[Case], None], code: str) -> None:
    case = Case.new(1)
    change(case)
    assert code_of(case.build().ours) == code


# ---- revocation lists


def crl_der(change: Callable[[bytes], bytes]) -> Callable[[], object]:
    """Change a CRL's bytes."""
    case = Case.new(1)

    def bend(document: dict[str, str]) -> None:
        document["pck_crl"] = change(bytes.fromhex(document["pck_crl"])).hex()

    case.document_after.append(bend)
    return case.build().ours


def signed_crl(**changes: Any) -> Callable[[], object]:
    """Sign a PCK CRL of another make."""
    case = Case.new(1)
    issuer = case.ca.platform_ca
    authority_key = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public_key())
    builder = x509.CertificateRevocationListBuilder(issuer.certificate.subject, NOW.replace(hour=1), NOW.replace(day=9))
    for extension, critical in changes.get("extensions", [(x509.CRLNumber(1), False), (authority_key, False)]):
        builder = builder.add_extension(extension, critical=critical)
    der = builder.sign(issuer.key, changes.get("algorithm", SHA256())).public_bytes(Encoding.DER)
    return crl_der(lambda _: der)


AUTHORITY_KEY = x509.AuthorityKeyIdentifier(b"x" * 20, None, None)
OTHER_NAME = x509.IssuerAlternativeName([x509.DNSName("x")])
USUAL = [(x509.CRLNumber(1), False), (AUTHORITY_KEY, False)]
CRLS: list[tuple[str, Callable[[], object], str]] = [
    ("rubbish", crl_der(lambda _: b"x"), "CrlUnsupported"),
    ("cut", crl_der(lambda d: d[:-1]), "CrlUnsupported"),
    ("a flipped signature", crl_der(lambda d: d[:-1] + bytes([d[-1] ^ 1])), "CrlSignatureInvalid"),
    ("a SHA-384 signature", signed_crl(algorithm=SHA384()), "CrlUnsupported"),
    ("no extensions", signed_crl(extensions=[]), "CrlUnsupported"),
    ("no number", signed_crl(extensions=[(AUTHORITY_KEY, False)]), "CrlUnsupported"),
    ("no authority key", signed_crl(extensions=[(x509.CRLNumber(1), False)]), "CrlUnsupported"),
    ("a critical number", signed_crl(extensions=[(x509.CRLNumber(1), True), (AUTHORITY_KEY, False)]), "CrlUnsupported"),
    ("another extension beside them", signed_crl(extensions=[*USUAL, (OTHER_NAME, False)]), "CrlUnsupported"),
]  # fmt: skip


@pytest.mark.parametrize(("work", "code"), [row[1:] for row in CRLS], ids=[row[0] for row in CRLS])
def test_a_revocation_list_of_another_form_is_refused(work: Callable[[], object], code: str) -> None:
    assert code_of(work) == code


def test_the_forgers_list_is_accepted() -> None:
    assert signed_crl()()
    assert signed_crl(extensions=USUAL)()
