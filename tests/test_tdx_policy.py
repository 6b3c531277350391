# SPDX-License-Identifier: Apache-2.0
"""The section `tdx` of a policy: every clause refuses what it is about, and none is skipped."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from attestation.errors import PolicyInvalid
from attestation.findings import Finding
from attestation.tdx.appraise import TdxPolicy, appraise_quote
from attestation.tdx.tcbinfo import TcbStatus
from tests.tdx_cases import NOW, PLATFORM, Case
from tests.tdx_rows import platform, qe
from tests.tdx_tcb_rows import OLD, bits, report

WAIVED = {"waived": "for this test"}


def appraised(case: Case, **changes: Any) -> list[Finding]:
    policy = TdxPolicy.parse(TdxPolicy.strict_template() | changes, "tdx")
    return appraise_quote(case.build().ours(), policy, now=NOW)


def refused(findings: list[Finding]) -> set[tuple[str, str]]:
    return {(f.rule, f.code) for f in findings if not f.holds}


@pytest.mark.parametrize("version", [4, 5])
def test_the_strict_template_accepts_an_up_to_date_machine(version: int) -> None:
    findings = appraised(Case.new(1, version=version))
    assert not refused(findings)
    clauses = {f.rule.removeprefix("tdx.").split(".")[0] for f in findings}
    assert clauses == set(TdxPolicy.strict_template())


CLAUSES: list[tuple[str, Any, str]] = [
    ("quote_versions", [5], "QuoteFormNotAllowed"),
    ("body_types", [3], "QuoteFormNotAllowed"),
    ("tcb_status", ["OutOfDate"], "TcbStatusRejected"),
    ("max_tcb_age_seconds", 1, "TcbTooOld"),
    ("min_evaluation_data_number", 19, "TcbEvaluationDataNumberTooLow"),
    ("max_collateral_age_seconds", 1, "CollateralTooOld"),
    ("min_tee_tcb_svn", "080103" + "00" * 13, "ModuleNotAllowed"),
    ("min_module_isvsvn", {"TDX_01": 8}, "ModuleNotAllowed"),
    ("min_module_isvsvn", {"TDX_03": 1}, "ModuleNotAllowed"),
    ("mr_seam", ["00" * 48], "ModuleNotAllowed"),
    ("td_attributes", {"value": "00" * 8, "mask": "ff" * 8}, "TdAttributesNotAllowed"),
    ("xfam", "0300000000000000", "XfamInvalid"),
    ("mr_owner", ["11" * 48], "MeasurementMismatch"),
    ("mr_owner_config", ["11" * 48], "MeasurementMismatch"),
    ("fmspc", ["00" * 6], "PlatformNotAllowed"),
    ("ppid", ["00" * 16], "PlatformNotAllowed"),
    ("platform_instance_id", ["00" * 16], "PlatformNotAllowed"),
    ("sgx_type", [0], "PlatformNotAllowed"),
    ("dynamic_platform", "forbidden", "PlatformNotAllowed"),
    ("cached_keys", "forbidden", "PlatformNotAllowed"),
    ("smt", "forbidden", "PlatformNotAllowed"),
]


@pytest.mark.parametrize(("field", "value", "code"), CLAUSES, ids=[f"{row[0]} {row[1]}"[:40] for row in CLAUSES])
def test_every_clause_refuses(field: str, value: Any, code: str) -> None:
    assert refused(appraised(Case.new(1), **{field: value})) == {(f"tdx.{field}", code)}


def test_advisories_are_refused_by_name() -> None:
    case = Case.new(1)
    qe(isv_svn=3)(case)
    found = appraised(case, tcb_status=["OutOfDate"], rejected_advisories=["INTEL-SA-90004"])
    assert refused(found) == {("tdx.rejected_advisories", "AdvisoryRejected")}
    case = Case.new(1)
    qe(isv_svn=3)(case)
    assert not refused(appraised(case, tcb_status=["OutOfDate"], rejected_advisories=["INTEL-SA-00001"]))


def test_launch_and_now_must_both_be_accepted() -> None:
    """N71: nothing is UpToDate whose module of now is not, even where the launch was."""
    case = Case.new(2, version=5)
    report(tee_tcb_svn=OLD, tee_tcb_svn_2=OLD)(case)
    found = refused(appraised(case))
    assert ("tdx.tcb_status.current", "TcbStatusRejected") in found
    case = Case.new(2, version=5)
    report(tee_tcb_svn=OLD)(case)
    assert not refused(appraised(case, tcb_status=["TDRelaunchAdvised", "UpToDate"]))
    assert refused(appraised(Case.new(2, version=5), tcb_status=["TDRelaunchAdvised"]))


def test_attribute_bits_outside_the_policy_are_refused() -> None:
    """N84: LASS, PKS, KL, TPA and PERFMON are known bits; the policy decides."""
    for bit in (27, 30, 31, 62, 63):
        case = Case.new(3)
        bits(1 << 28 | 1 << bit)(case)
        assert refused(appraised(case)) == {("tdx.td_attributes", "TdAttributesNotAllowed")}
        case = Case.new(3)
        bits(1 << 28 | 1 << bit)(case)
        mask = (~(1 << bit) & (1 << 64) - 1).to_bytes(8, "little").hex()
        allowed = {"value": "0000001000000000", "mask": mask}
        assert not refused(appraised(case, td_attributes=allowed))


def test_a_platform_that_does_not_say_is_refused_where_it_matters() -> None:
    """A processor-CA platform has no configuration field: forbidden means known to be off."""
    case = Case.new(4)
    platform(platform_instance_id=None)(case)
    found = refused(appraised(case, smt="forbidden", platform_instance_id=[PLATFORM.ppid.hex()]))
    assert found == {("tdx.smt", "PlatformNotAllowed"), ("tdx.platform_instance_id", "PlatformNotAllowed")}


def test_old_genuine_collateral_with_the_clock_set_back_is_refused() -> None:
    """N38."""
    case = Case.new(5)
    case.collateral.tcb_info["tcbEvaluationDataNumber"] = case.collateral.qe_identity["tcbEvaluationDataNumber"] = 15
    assert refused(appraised(case)) == {("tdx.min_evaluation_data_number", "TcbEvaluationDataNumberTooLow")}


INVALID: list[tuple[str, Any]] = [
    ("quote_versions", []),
    ("quote_versions", [3]),
    ("quote_versions", [True]),
    ("body_types", [1]),
    ("tcb_status", []),
    ("tcb_status", ["Revoked"]),
    ("tcb_status", ["Fine"]),
    ("tcb_status", WAIVED),
    ("max_tcb_age_seconds", -1),
    ("min_evaluation_data_number", "17"),
    ("rejected_advisories", ["SA-1"]),
    ("min_tee_tcb_svn", "00" * 15),
    ("min_module_isvsvn", {}),
    ("min_module_isvsvn", {"TDX_1": 3}),
    ("min_module_isvsvn", {"TDX_01": 256}),
    ("mr_seam", ["00" * 47]),
    ("mr_seam", ["AA" * 48]),
    ("td_attributes", {"value": "00" * 8}),
    ("td_attributes", {"value": "00" * 8, "mask": "ff" * 8, "more": 1}),
    ("xfam", "0x3"),
    ("mr_owner", []),
    ("fmspc", ["b0c06f00000"]),
    ("ppid", "00" * 16),
    ("sgx_type", [3]),
    ("smt", True),
    ("smt", "allowed"),
    ("cached_keys", {"waived": ""}),
    ("cached_keys", {"waived": "why", "more": 1}),
]


@pytest.mark.parametrize(("field", "value"), INVALID, ids=[f"{row[0]} {row[1]}"[:40] for row in INVALID])
def test_a_clause_of_another_form_is_invalid(field: str, value: Any) -> None:
    with pytest.raises(PolicyInvalid, match=f"tdx.{field}"):
        TdxPolicy.parse(TdxPolicy.strict_template() | {field: value}, "tdx")


def test_no_field_may_be_absent_or_unknown() -> None:
    template = TdxPolicy.strict_template()
    for field in template:
        with pytest.raises(PolicyInvalid):
            TdxPolicy.parse({k: v for k, v in template.items() if k != field}, "tdx")
    with pytest.raises(PolicyInvalid):
        TdxPolicy.parse(template | {"tcb_statuses": ["UpToDate"]}, "tdx")


def test_revoked_is_the_only_status_that_no_policy_may_name() -> None:
    legal = [str(status) for status in TcbStatus if status is not TcbStatus.REVOKED]
    policy = TdxPolicy.parse(TdxPolicy.strict_template() | {"tcb_status": legal}, "tdx")
    assert len(policy.tcb_status) == len(TcbStatus) - 1


def test_collateral_ages() -> None:
    case = Case.new(6)
    assert not refused(appraised(case, max_collateral_age_seconds=12 * 3600))
    case.now = NOW + timedelta(seconds=1)
    policy = TdxPolicy.parse(TdxPolicy.strict_template() | {"max_collateral_age_seconds": 12 * 3600}, "tdx")
    assert refused(appraise_quote(case.ours(), policy, now=case.now)) == {
        ("tdx.max_collateral_age_seconds", "CollateralTooOld")
    }
