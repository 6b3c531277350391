# SPDX-License-Identifier: Apache-2.0
"""What strangers signed under genuine names, encodings that are not the one, and things that are too long."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from cryptography import x509

from attestation.errors import AttestationError
from attestation.tdx.certificates import split_pem
from enclave.simulator.tdx_ca import intel_name, pem_chain
from enclave.simulator.tdx_platform import sgx_extension
from tests.tdx_cases import PLATFORM, Case, authority, certificate
from tests.test_tdx_parts import CHAIN, LINE, code_of, crl_der, tlv


def forged_ca(case: Case) -> None:
    """Keep the genuine root, and let a stranger sign the CA that names it."""
    from enclave.simulator.tdx_ca import SIGNING, new_key

    stranger = replace(case.ca.root, key=new_key())
    made = certificate("Intel SGX PCK Platform CA", new_key(), stranger, usage=SIGNING, ca=True, path_length=0)
    case.pck(parent=made)
    case.collateral.pck_crl.issuer = made


def forged_leaf(case: Case) -> None:
    """Keep the genuine CA, and let a stranger sign the leaf that names it."""
    from enclave.simulator.tdx_ca import new_key

    key = new_key()
    stranger = replace(case.ca.platform_ca, key=new_key())
    leaf = certificate("Intel SGX PCK Certificate", key, stranger, extensions=(sgx_extension(PLATFORM),))
    case.quote.pck_key = key
    case.chain(leaf, case.ca.platform_ca, case.ca.root)


def forged_signer(case: Case) -> None:
    """Keep the genuine root, and let a stranger sign the TCB signer that names it."""
    from enclave.simulator.tdx_ca import new_key
    from tests.tdx_cases import use_signer

    use_signer(case, certificate("Intel SGX TCB Signing", new_key(), replace(case.ca.root, key=new_key())))


def signer_under_a_twin_of_the_root(case: Case) -> None:
    """End the signing chain in the root's key in another certificate."""
    from tests.tdx_cases import reissued_root

    case.collateral.tcb_chain = (case.ca.tcb_signer.certificate, reissued_root().certificate)


def long_quote(case: Case) -> None:
    from attestation.tdx.quote import MAX_QUOTE

    case.quote.padding = bytes(MAX_QUOTE)


FORGED: list[tuple[str, Callable[[Case], None], str]] = [
    ("a CA that a stranger signed", forged_ca, CHAIN),
    ("a leaf that a stranger signed", forged_leaf, CHAIN),
    ("a signer that a stranger signed", forged_signer, CHAIN),
    ("a signing chain under a twin of the root", signer_under_a_twin_of_the_root, "UntrustedRoot"),
    ("a quote past its bound, in zeros", long_quote, "MalformedQuote"),
]


@pytest.mark.parametrize(("change", "code"), [row[1:] for row in FORGED], ids=[row[0] for row in FORGED])
def test_what_a_stranger_signed_is_refused(change: Callable[[Case], None], code: str) -> None:
    case = Case.new(1)
    change(case)
    assert code_of(case.build().ours) == code


def test_base64_has_one_form() -> None:
    """A stray bit in the last character would give one chain two encodings."""
    from enclave.simulator.tdx_ca import new_key

    alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    body = b""
    while not body.endswith(b"="):  # two of three certificates are of such a size
        made = certificate("Intel SGX PCK Certificate", new_key(), authority().platform_ca)
        body = pem_chain(made.certificate).split(b"-----\n")[1].split(b"-----")[0].replace(b"\n", b"")
    unpadded = body.rstrip(b"=")
    stray = bytes([alphabet[alphabet.index(unpadded[-1]) ^ 1]])
    bent = b"-----BEGIN CERTIFICATE-----\n" + unpadded[:-1] + stray + body[len(unpadded) :] + b"\n" + LINE
    assert code_of(lambda: split_pem(bent, 1, "chain")) == CHAIN


def test_what_is_too_long_is_not_read() -> None:
    from attestation.tdx.certificates import MAX_PEM
    from attestation.tdx.crl import MAX_CRL
    from tests.parsers import revocation_list

    works: list[Callable[[], object]] = [lambda: revocation_list(bytes(MAX_CRL + 1))]
    works.append(lambda: split_pem(bytes(MAX_PEM + 1), 3, "chain"))
    for work in works:
        with pytest.raises(AttestationError) as e:
            work()
        assert e.value.want.startswith("at most")
    assert code_of(crl_der(lambda _: bytes(MAX_CRL + 1))) == "JsonInvalid"


def test_a_revocation_list_without_an_end_is_refused() -> None:
    from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

    from enclave.simulator.tdx_ca import sign_raw

    issuer = Case.new(1).ca.platform_ca

    def endless(der: bytes) -> bytes:
        crl = x509.load_der_x509_crl(der)
        tbs = crl.tbs_certlist_bytes
        body = tbs[4:] if tbs[1] == 0x82 else tbs[3:]
        second = body.index(b"\x17\x0d", body.index(b"\x17\x0d") + 2)
        made = tlv(0x30, body[:second] + body[second + 15 :])
        raw = sign_raw(issuer.key, made)
        signature = encode_dss_signature(int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big"))
        algorithm = tlv(0x30, tlv(6, bytes.fromhex("2a8648ce3d040302")))
        return tlv(0x30, made, algorithm, tlv(3, b"\0" + signature))

    assert (
        x509.load_der_x509_crl(endless(bytes.fromhex(Case.new(1).build().document["pck_crl"]))).next_update_utc is None
    )
    assert code_of(crl_der(endless)) == "CrlUnsupported"


def test_an_attribute_that_hides_behind_another_is_seen() -> None:
    """One RDN of two values: the common name that is wanted, and something that nobody wants."""
    usual = [x509.RelativeDistinguishedName([a]) for a in intel_name("Intel SGX PCK Certificate")]
    hidden = x509.NameAttribute(x509.NameOID.SURNAME, "x" * 60)
    two = x509.RelativeDistinguishedName([*usual[0], hidden])
    case = Case.new(1)
    case.pck(subject=x509.Name([two, *usual[1:]]))
    assert code_of(case.build().ours) == "CertificateRoleMismatch"
