# SPDX-License-Identifier: Apache-2.0
"""The edges of TDX verification: first and last seconds, single bits, what the answer's window is made of."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from attestation.binding import require_report_data
from attestation.errors import AttestationError
from attestation.tdx.anchor import SIMULATED_NAMES, TdxTrustAnchor
from attestation.tdx.appraise import TdxPolicy, appraise_quote
from attestation.tdx.collateral import Collateral
from attestation.tdx.verify import verify_quote
from enclave.simulator.tdx_ca import SIGNING, TdxIssuer, certify, intel_name, issue, issue_pck, new_key
from enclave.simulator.tdx_collateral import CollateralPlan, moment
from enclave.simulator.tdx_quote import QuotePlan, ReportPlan
from tests.tdx_cases import NOW, PLATFORM, Case, Pick, authority, certificate, signer, use_signer, window
from tests.tdx_rows import ROWS
from tests.tdx_tcb_rows import STATUSES, TCB_ROWS

HOUR = timedelta(hours=1)
SECOND = timedelta(seconds=1)
Change = Callable[[Case, datetime, datetime], None]


def code_of(case: Case) -> str:
    with pytest.raises(AttestationError) as e:
        case.build().ours()
    return e.value.code


# ---- windows


def of_pck(case: Case, begins: datetime, ends: datetime) -> None:
    case.pck(window=(begins, ends))


def of_ca(case: Case, begins: datetime, ends: datetime) -> None:
    made = certificate(
        "Intel SGX PCK Platform CA", new_key(), case.ca.root, usage=SIGNING, ca=True, path_length=0,
        window=(begins, ends),
    )  # fmt: skip
    case.pck(parent=made)
    case.collateral.pck_crl.issuer = made


def of_signer(case: Case, begins: datetime, ends: datetime) -> None:
    key = new_key()
    made = certificate("Intel SGX TCB Signing", key, case.ca.root, window=(begins, ends))
    use_signer(case, made)


def of_second_signer(case: Case, begins: datetime, ends: datetime) -> None:
    made = certificate("Intel SGX TCB Signing", new_key(), case.ca.root, window=(begins, ends))
    case.collateral.qe_signer = made
    case.collateral.qe_chain = (made.certificate, case.ca.root.certificate)


def of_crl(name: str) -> Change:
    def change(case: Case, begins: datetime, ends: datetime) -> None:
        plan = getattr(case.collateral, name)
        plan.last_update, plan.next_update = begins, ends

    return change


def of_document(name: str) -> Change:
    def change(case: Case, begins: datetime, ends: datetime) -> None:
        getattr(case.collateral, name).update(issueDate=moment(begins), nextUpdate=moment(ends))

    return change


PARTS: list[tuple[str, Change, str, str]] = [
    ("PCK", of_pck, "CertificateNotYetValid", "CertificateExpired"),
    ("PCK CA", of_ca, "CertificateNotYetValid", "CertificateExpired"),
    ("TCB signer", of_signer, "CertificateNotYetValid", "CertificateExpired"),
    ("second TCB signer", of_second_signer, "CertificateNotYetValid", "CertificateExpired"),
    ("root CRL", of_crl("root_crl"), "CrlNotYetValid", "CrlExpired"),
    ("PCK CRL", of_crl("pck_crl"), "CrlNotYetValid", "CrlExpired"),
    ("TCB info", of_document("tcb_info"), "CollateralNotYetValid", "CollateralExpired"),
    ("QE identity", of_document("qe_identity"), "CollateralNotYetValid", "CollateralExpired"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "early", "late"), [row[1:] for row in PARTS], ids=[row[0] for row in PARTS])
def test_every_part_holds_from_its_first_second_to_the_one_before_its_end(
    change: Change, early: str, late: str
) -> None:
    """And the answer's window is no wider than any part: N93."""
    begins, ends = NOW - HOUR, NOW + HOUR
    case = Case.new(1)
    change(case, begins, ends)
    case.build()
    for now in (begins, ends - SECOND):
        case.now = now
        window = case.ours().window
        assert (window.not_before, window.not_after) == (begins, ends)
    for now, code in ((begins - SECOND, early), (ends, late)):
        case.now = now
        assert code_of(case) == code


def test_the_answer_holds_no_longer_than_its_root() -> None:
    begins, ends = NOW - HOUR, NOW + HOUR
    name, key = intel_name("Intel SGX Root CA"), new_key()
    made = certify(
        name, key.public_key(), issuer=name, key=key, usage=SIGNING, ca=True, path_length=1, window=(begins, ends)
    )
    root = TdxIssuer(key=key, certificate=made)
    platform_ca = issue(root, "Intel SGX PCK Platform CA", ca=True, window=window())
    world = replace(
        authority(), root=root, platform_ca=platform_ca, tcb_signer=signer(parent=root),
        pck=issue_pck(platform_ca, PLATFORM, window=window()),
    )  # fmt: skip
    case = Case(
        ca=world, pick=Pick(1), quote=QuotePlan.of(world, ReportPlan(report_data=bytes(64))),
        collateral=CollateralPlan.of(world, now=NOW),
    ).build()  # fmt: skip
    anchor = TdxTrustAnchor(root_sha256=world.root_sha256, names=SIMULATED_NAMES)
    found = verify_quote(case.signed, Collateral.from_json(case.text), anchor=anchor, now=NOW).window
    assert (found.not_before, found.not_after) == (begins, ends)


def test_the_age_of_collateral_counts_from_its_older_document() -> None:
    for name in ("tcb_info", "qe_identity"):
        case = Case.new(1)
        getattr(case.collateral, name)["issueDate"] = moment(NOW - 2 * HOUR)
        other = "qe_identity" if name == "tcb_info" else "tcb_info"
        getattr(case.collateral, other)["issueDate"] = moment(NOW - HOUR)
        assert case.build().ours().collateral_issued == NOW - 2 * HOUR


def test_a_time_without_a_zone_is_the_callers_bug() -> None:
    case = Case.new(1).build()
    case.now = NOW.replace(tzinfo=None)
    with pytest.raises(ValueError, match="time zone"):
        case.ours()


# ---- who speaks


@pytest.mark.parametrize(("name", "word"), [("Platform", "platform"), ("Processor", "processor")])
def test_both_pck_authorities_are_known_by_name(name: str, word: str) -> None:
    case = Case.new(1)
    made = certificate(f"Intel SGX PCK {name} CA", new_key(), case.ca.root, usage=SIGNING, ca=True, path_length=0)
    case.pck(parent=made)
    case.collateral.pck_crl.issuer = made
    assert case.build().ours().pck_ca == word


def test_the_two_documents_may_have_signers_of_their_own() -> None:
    case = Case.new(1)
    made = signer()
    case.collateral.qe_signer = made
    case.collateral.qe_chain = (made.certificate, case.ca.root.certificate)
    assert case.build().ours().tcb.status == "UpToDate"
    case.collateral.root_crl.revoked.append(made.certificate.serial_number)
    assert code_of(case) == "CertificateRevoked"
    case = Case.new(1)
    case.collateral.qe_signer = made
    assert code_of(case) == "CollateralSignatureInvalid"


def test_names_are_sets_of_attributes_each_once() -> None:
    case = Case.new(1)
    case.pck(subject=intel_name("Intel SGX PCK Certificate"))
    assert case.build().ours().platform.ppid == PLATFORM.ppid


# ---- single bits


@pytest.mark.parametrize("bit", range(64))
def test_every_bit_of_xfam(bit: int) -> None:
    """Bits 0 and 1 must be set; what the TDX module allows beside them may be; nothing else may."""
    allowed = 0x6DBE7
    case = Case.new(1)
    case.quote.report.xfam = (0x3 ^ 1 << bit).to_bytes(8, "little")
    if bit in {0, 1} or not allowed >> bit & 1:
        assert code_of(case) == "XfamInvalid"
    else:
        assert case.build().ours().tcb.status == "UpToDate"


@pytest.mark.parametrize("bit", range(64))
def test_every_bit_of_the_td_attributes(bit: int) -> None:
    sept = 1 << 28
    case = Case.new(1)
    case.bits(sept ^ 1 << bit)
    known = {0: "DebugTd", 28: "SeptVeDisableRequired", 29: "MigratableTd"}
    if bit in {27, 30, 31, 62, 63}:
        assert case.build().ours().tcb.status == "UpToDate"
    else:
        assert code_of(case) == known.get(bit, "TdAttributesReserved")


def test_a_debug_enclave_is_none_of_intels_whatever_the_mask_says() -> None:
    case = Case.new(1)
    case.identity["attributesMask"] = "00" * 16
    case.identity["attributes"] = "00" * 16
    assert case.build().ours().tcb.status == "UpToDate"
    case.quote.qe.attributes = bytes.fromhex("13" + "00" * 15)
    assert code_of(case) == "QeIdentityMismatch"


@pytest.mark.parametrize("mask", ["00000000", "FFFFFFFE"])
def test_only_masked_bits_of_miscselect_count(mask: str) -> None:
    case = Case.new(1)
    case.identity["miscselectMask"] = mask
    case.quote.qe.misc_select = 1
    if mask == "00000000":
        assert case.build().ours().tcb.status == "UpToDate"
    else:
        case.quote.qe.misc_select = 1 << 31
        assert code_of(case) == "QeIdentityMismatch"


# ---- rows of the list of attacks that are not about signed evidence alone


def test_n07_a_v5_quote_of_body_type_4_is_read_and_refused_unless_a_policy_allows_it() -> None:
    case = Case.new(1, version=5)
    case.quote.body_type = 4
    found = case.build().ours()
    assert found.quote.body_type == 4
    assert found.quote.encode() == case.signed

    def refused(**changes: Any) -> set[str]:
        policy = TdxPolicy.parse(TdxPolicy.strict_template() | changes, "tdx")
        return {f.code for f in appraise_quote(found, policy, now=NOW) if not f.holds}

    assert refused() == {"QuoteFormNotAllowed"}
    assert refused(body_types=[2, 3, 4]) == set()


def test_n90_n91_the_report_data_must_be_the_whole_hash_of_the_claims() -> None:
    """A nonce, or a channel's key, of somebody else is another hash; half of it right is not enough."""
    from hashlib import sha256

    claims = b"claims over this key and this nonce"
    want = sha256(claims).digest() + bytes(32)
    require_report_data(want, claims)
    others = [sha256(b"claims over another key").digest() + bytes(32), want[:32] + b"\1" + bytes(31), bytes(64)]
    others += [want[:16] + bytes(48), want[:32]]
    for other in others:
        with pytest.raises(AttestationError) as e:
            require_report_data(other, claims)
        assert e.value.code == "ReportDataMismatch"


LISTED = (
    *(f"N{n:02}" for n in range(1, 28)), *(f"N{n}" for n in range(30, 47)), *(f"N{n}" for n in range(50, 55)),
    *(f"N{n}" for n in range(60, 74)), "N71b", *(f"N{n}" for n in range(80, 86)), *(f"N{n}" for n in range(90, 95)),
)  # fmt: skip


def test_every_row_of_the_list_of_attacks_has_a_test_named_after_it() -> None:
    assert len(LISTED) == 75
    named = {row.name.split()[0] for row in ROWS + TCB_ROWS} | {row[0].split()[0] for row in STATUSES}
    for path in Path(__file__).parent.glob("test_tdx_*.py"):
        named |= {f"N{number}" for number in re.findall(r"(?<![A-Za-z0-9])[Nn](\d\d)(?![0-9])", path.read_text())}
    assert set(LISTED) - named == set()
