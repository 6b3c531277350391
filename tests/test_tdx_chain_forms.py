# SPDX-License-Identifier: Apache-2.0
"""Chains and quotes at their edges: the last size that fits, base64 in its one form, each role's own constraints."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import replace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from attestation.tdx import quote
from attestation.tdx.anchor import SIMULATED_NAMES, TdxTrustAnchor
from attestation.tdx.certificates import MAX_DER, MAX_PEM, split_pem, verify_pck_chain
from attestation.tdx.memory import NoMemory
from attestation.tdx.quote import MAX_QUOTE, Quote
from enclave.simulator.tdx_ca import LEAF, SIGNING, TdxIssuer, new_key
from enclave.simulator.tdx_platform import sgx_extension
from tests.tdx_cases import NOW, PLATFORM, Case, authority, certificate
from tests.test_certificate_serials import element
from tests.test_tdx_limits import code_of

CHAIN = "CertificateChainInvalid"
ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
UNKNOWN = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3"), b"\5\0")


def pem(text: bytes) -> bytes:
    return b"-----BEGIN CERTIFICATE-----\n" + text + b"\n-----END CERTIFICATE-----\n"


def test_the_limits_are_these() -> None:
    assert (MAX_PEM, MAX_DER, MAX_QUOTE) == (12_288, 4096, 16_384)
    assert quote.BODY_SIZES == {2: 584, 3: 648, 4: 885}


@pytest.mark.parametrize("size", [98, 99, 100, 1, 2, 3])
def test_base64_of_every_length_has_one_form(size: int) -> None:
    der = bytes(range(size))
    text = b64encode(der)
    assert split_pem(pem(text), 1, "chain") == (der,)
    assert split_pem(pem(text[:4] + b"\r\n" + text[4:] + b"\n"), 1, "chain") == (der,)
    core = text.rstrip(b"=")
    if size % 3:
        for other in range(1, 16 if size % 3 == 1 else 4):
            stray = ALPHABET[ALPHABET.index(core[-1]) ^ other]
            bent = core[:-1] + bytes([stray]) + text[len(core) :]
            assert code_of(lambda bent=bent: split_pem(pem(bent), 1, "chain")) == CHAIN  # type: ignore[misc]
    for bent in (text + b"=", text + b"==", text + b"A", core[:-1], b"=" + text, text + text[:4] + b"=", text + b" ",
                 text[:2] + b"=" + text[2:], text[:2] + b"\0" + text[2:], b"*" + text, text + b"\t",
                 b"****WA=="):  # fmt: skip
        assert code_of(lambda bent=bent: split_pem(pem(bent), 1, "chain")) == CHAIN  # type: ignore[misc]


def test_a_chain_fits_up_to_its_limit() -> None:
    text = pem(b64encode(b"abc"))
    full = text + b"\n" * (MAX_PEM - len(text))
    assert split_pem(full, 1, "chain") == (b"abc",)
    assert code_of(lambda: split_pem(full + b"\n", 1, "chain")) == CHAIN
    for count in (0, 2, 3):
        assert code_of(lambda count=count: split_pem(text, count, "chain")) == CHAIN  # type: ignore[misc]
    assert split_pem(text * 3, 3, "chain") == (b"abc",) * 3
    assert code_of(lambda: split_pem(text * 2 + b"x", 2, "chain")) == CHAIN


def test_a_pck_chain_fits_up_to_its_limit() -> None:
    def verify(chain: bytes) -> int:
        return len(verify_pck_chain(chain, anchor=anchor, now=NOW, memory=NoMemory()))

    anchor = TdxTrustAnchor(root_sha256=authority().root_sha256, names=SIMULATED_NAMES)
    chain = Case.new(1).quote.chain.removesuffix(b"\0")
    full = chain + b"\n" * (MAX_PEM - len(chain))
    assert verify(full) == 3
    assert code_of(lambda: verify(full + b"\n")) == CHAIN


def sized(size: int) -> Case:
    """Give a case whose PCK certificate takes `size` bytes; a signature's size varies from one to the next."""
    padding = size - 1200
    for _ in range(200):
        case = Case.new(1)
        case.pck(extensions=(sgx_extension(PLATFORM), x509.UnrecognizedExtension(UNKNOWN.oid, bytes(padding))))
        found = len(split_pem(case.quote.chain, 3, "chain")[0])
        if found == size:
            return case
        padding += size - found
    raise AssertionError("no certificate of this size")


def test_a_certificate_fits_up_to_its_limit() -> None:
    assert sized(MAX_DER).build().ours().pck_ca == "platform"
    assert code_of(sized(MAX_DER + 1).build().ours) == CHAIN


def test_a_quote_fits_up_to_its_limit_with_zeros_alone_behind_it() -> None:
    good = Case.new(1).build().signed
    assert Quote.parse(good.ljust(MAX_QUOTE, b"\0")).raw == good
    assert code_of(lambda: Quote.parse(good.ljust(MAX_QUOTE + 1, b"\0"))) == "MalformedQuote"
    for other in (b"X", b"\0X", b"X\0", b"\0\0\1"):
        assert code_of(lambda other=other: Quote.parse(good + other)) == "TrailingData"  # type: ignore[misc]


@pytest.mark.parametrize(("version", "body_type"), [(4, 2), (5, 2), (5, 3), (5, 4)])
def test_every_field_of_a_report_comes_from_its_own_place(version: int, body_type: int) -> None:
    """Intel TDX DCAP Quoting Library API, appendix A.3.2 and A.3.3: offsets in the body."""
    case = Case.new(1)
    case.quote = replace(case.quote, version=version, body_type=body_type)
    case.build()
    begin, size = (48, 584) if version == 4 else (54, quote.BODY_SIZES[body_type])
    body = bytes((7 * i + i // 256) % 251 for i in range(size))
    report = Quote.parse(case.signed[:begin] + body + case.signed[begin + size :]).report
    names = {
        "tee_tcb_svn": (0, 16), "mr_seam": (16, 48), "mr_signer_seam": (64, 48), "seam_attributes": (112, 8),
        "td_attributes": (120, 8), "xfam": (128, 8), "mr_td": (136, 48), "mr_config_id": (184, 48),
        "mr_owner": (232, 48), "mr_owner_config": (280, 48), "report_data": (520, 64), "tee_tcb_svn_2": (584, 16),
        "mr_service_td": (600, 48), "extended": (648, 237),
    }  # fmt: skip
    for name, (at, width) in names.items():
        assert getattr(report, name) == (body[at : at + width] if at < size else None)
    assert report.rtmr == tuple(body[at : at + 48] for at in (328, 376, 424, 472))
    assert report.encode() == body
    bent = case.signed[:50] + (size + 1).to_bytes(4, "little") + case.signed[54:]
    assert version == 4 or code_of(lambda: Quote.parse(bent)) == "MalformedQuote"


def with_ca(**changes: object) -> Case:
    """Give a case whose PCK CA was issued anew, with something changed."""
    case, key = Case.new(1), new_key()
    usual = {"usage": SIGNING, "ca": True, "path_length": 0}
    ca = certificate("Intel SGX PCK Platform CA", key, case.ca.root, **(usual | changes))
    case.pck(parent=ca)
    case.collateral.pck_crl = replace(case.collateral.pck_crl, issuer=ca)
    return case


def test_a_ca_with_one_more_extension_is_read_by_the_library_as_the_ca_that_it_is() -> None:
    assert with_ca().build().ours().pck_ca == "platform"
    assert with_ca(extensions=(UNKNOWN,)).build().ours().pck_ca == "platform"


@pytest.mark.parametrize("extensions", [(), (UNKNOWN,)])
def test_a_ca_that_looks_like_a_leaf_or_like_the_root_is_refused(extensions: tuple[x509.ExtensionType, ...]) -> None:
    for changes in (
        {"usage": LEAF, "ca": False, "path_length": None},
        {"usage": SIGNING, "ca": True, "path_length": 1},
        {"usage": SIGNING, "ca": True, "path_length": None},
        {"usage": LEAF, "ca": True, "path_length": 0},
    ):
        assert code_of(with_ca(extensions=extensions, **changes).build().ours) == CHAIN


@pytest.mark.parametrize("extensions", [(), (UNKNOWN,)])
def test_a_leaf_or_a_signer_that_looks_like_a_ca_is_refused(extensions: tuple[x509.ExtensionType, ...]) -> None:
    for path_length in (0, 1):
        case = Case.new(1)
        given = (sgx_extension(PLATFORM), *extensions)
        case.pck(extensions=given, usage=SIGNING, ca=True, path_length=path_length)
        assert code_of(case.build().ours) == CHAIN
        case, key = Case.new(1), new_key()
        changes = {"usage": SIGNING, "ca": True, "path_length": path_length, "extensions": extensions}
        signer = certificate("Intel SGX TCB Signing", key, case.ca.root, **changes)
        case.collateral = replace(
            case.collateral, tcb_signer=signer, tcb_chain=(signer.certificate, case.ca.root.certificate)
        )
        assert code_of(case.build().ours) == CHAIN


def test_a_certificate_of_version_1_is_refused() -> None:
    case = Case.new(1)
    old = case.ca.pck.certificate
    tbs = old.tbs_certificate_bytes
    whole = old.public_bytes(Encoding.DER)
    body = tbs[4:].removeprefix(b"\xa0\3\2\1\2")
    body = body[: body.rindex(b"\xa3\x82", 0, len(body) - 500)]
    made = element(0x30, element(0x30, body) + whole[whole.index(tbs) + len(tbs) :])
    assert x509.load_der_x509_certificate(made).version is x509.Version.v1
    leaf: TdxIssuer = replace(case.ca.pck, certificate=x509.load_der_x509_certificate(made))
    case.chain(leaf, case.ca.platform_ca, case.ca.root)
    assert code_of(case.build().ours) == CHAIN
