# SPDX-License-Identifier: Apache-2.0
"""Do I accept this quote? One finding per clause of the policy's section `tdx`."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import TypeVar

from ..findings import Finding, Given, Waived, clause, waiver
from ..window import rfc3339
from .policy import MaskedValue, TdxPolicy
from .tcb import Evaluation
from .verify import VerifiedQuote

__all__ = ["TdxPolicy", "appraise_quote"]

T = TypeVar("T")


def appraise_quote(verified: VerifiedQuote, policy: TdxPolicy, *, now: datetime) -> list[Finding]:
    """Appraise a verified quote under `policy` at `now`: every clause, none skipped."""
    return [
        *_form(verified, policy),
        *_status(verified, policy),
        *_age(verified, policy, now=now),
        *_module(verified, policy),
        *_td(verified, policy),
        *_platform(verified, policy),
    ]


def _form(v: VerifiedQuote, policy: TdxPolicy) -> list[Finding]:
    code = "QuoteFormNotAllowed"
    return [
        _among("tdx.quote_versions", code, policy.quote_versions, v.quote.version),
        _among("tdx.body_types", code, policy.body_types, v.quote.body_type),
    ]


def _status(v: VerifiedQuote, policy: TdxPolicy) -> list[Finding]:
    """Require the merged status; and, where there are two, those at launch and now, each by itself."""
    wants = ", ".join(policy.tcb_status)
    got = v.tcb.status + _short(v.tcb.launch)
    accepted = v.tcb.status in policy.tcb_status
    found = [clause("tdx.tcb_status", "TcbStatusRejected", holds=accepted, want=wants, got=got)]
    if v.tcb.current is not None:
        accepted = v.tcb.current.status in policy.tcb_status
        got = v.tcb.current.status + _short(v.tcb.current)
        found.append(clause("tdx.tcb_status.current", "TcbStatusRejected", holds=accepted, want=wants, got=got))
    if isinstance(policy.rejected_advisories, Waived):
        return [*found, waiver("tdx.rejected_advisories", policy.rejected_advisories, got=", ".join(v.tcb.advisories))]
    open_to = sorted(set(policy.rejected_advisories.value) & set(v.tcb.advisories))
    want = "none of " + ", ".join(policy.rejected_advisories.value)
    got = ", ".join(open_to) or "none"
    return [*found, clause("tdx.rejected_advisories", "AdvisoryRejected", holds=not open_to, want=want, got=got)]


def _short(evaluation: Evaluation) -> str:
    if not evaluation.shortfalls:
        return ""
    return " (" + ", ".join(f"{s.component} {s.have}, highest level {s.need}" for s in evaluation.shortfalls[:6]) + ")"


def _age(v: VerifiedQuote, policy: TdxPolicy, *, now: datetime) -> list[Finding]:
    number = v.tcb.evaluation_data_number
    tcb_age, age = (int((now - when).total_seconds()) for when in (v.tcb.date, v.collateral_issued))
    return [
        _check("tdx.max_tcb_age_seconds", "TcbTooOld", policy.max_tcb_age, rfc3339(v.tcb.date), lambda m: tcb_age <= m),
        _check(
            "tdx.min_evaluation_data_number", "TcbEvaluationDataNumberTooLow", policy.min_evaluation_data_number,
            number, lambda least: number >= least,
        ),
        _check(
            "tdx.max_collateral_age_seconds", "CollateralTooOld", policy.max_collateral_age, age, lambda m: age <= m
        ),
    ]  # fmt: skip


def _module(v: VerifiedQuote, policy: TdxPolicy) -> list[Finding]:
    report = v.quote.report
    svns = [e for e in (v.tcb.launch, v.tcb.current) if e is not None]
    shown = ", ".join(f"{e.module_id or 'base'} {e.svn[0]}" for e in svns)

    def high_enough(least: bytes) -> bool:
        return all(a >= b for e in svns for a, b in zip(e.svn, least, strict=True))

    return [
        _among("tdx.mr_seam", "ModuleNotAllowed", policy.mr_seam, report.mr_seam),
        _check(
            "tdx.min_tee_tcb_svn", "ModuleNotAllowed", policy.min_tee_tcb_svn, report.tee_tcb_svn.hex(), high_enough
        ),
        _check(
            "tdx.min_module_isvsvn", "ModuleNotAllowed", policy.min_module_isvsvn, shown,
            lambda least: all(e.module_id in least and e.svn[0] >= least[e.module_id] for e in svns),
        ),
    ]  # fmt: skip


def _td(v: VerifiedQuote, policy: TdxPolicy) -> list[Finding]:
    report = v.quote.report
    attributes, xfam = policy.td_attributes, policy.xfam
    return [
        _check(
            "tdx.td_attributes", "TdAttributesNotAllowed", attributes, report.td_attributes.hex(),
            lambda rule: rule.holds(report.td_attributes),
        ),
        _check(
            "tdx.xfam", "XfamInvalid", xfam, report.xfam.hex(),
            lambda allowed: not any(a & ~b for a, b in zip(report.xfam, allowed, strict=True)),
        ),
        _among("tdx.mr_owner", "MeasurementMismatch", policy.mr_owner, report.mr_owner),
        _among("tdx.mr_owner_config", "MeasurementMismatch", policy.mr_owner_config, report.mr_owner_config),
    ]  # fmt: skip


def _platform(v: VerifiedQuote, policy: TdxPolicy) -> list[Finding]:
    code, p = "PlatformNotAllowed", v.platform
    return [
        _among("tdx.fmspc", code, policy.fmspc, p.fmspc),
        _among("tdx.ppid", code, policy.ppid, p.ppid),
        _among("tdx.platform_instance_id", code, policy.platform_instance_id, p.platform_instance_id or b""),
        _among("tdx.sgx_type", code, policy.sgx_type, p.sgx_type),
        _off("tdx.dynamic_platform", policy.dynamic_platform, p.dynamic_platform),
        _off("tdx.cached_keys", policy.cached_keys, p.cached_keys),
        _off("tdx.smt", policy.smt, p.smt_enabled),
    ]


def _off(rule: str, given: Given[bool] | Waived, flag: bool | None) -> Finding:
    """Require a flag to be off; a platform that does not say counts as one that has it on."""
    if isinstance(given, Waived):
        return waiver(rule, given, got=flag)
    return clause(rule, "PlatformNotAllowed", holds=flag is False, want="off", got=flag)


def _check(rule: str, code: str, given: Given[T] | Waived, got: object, holds: Callable[[T], bool]) -> Finding:
    if isinstance(given, Waived):
        return waiver(rule, given, got=got)
    return clause(rule, code, holds=holds(given.value), want=_shown(given.value), got=got)


def _among(rule: str, code: str, allowed: Given[tuple[T, ...]] | Waived, got: T) -> Finding:
    return _check(rule, code, allowed, _shown(got), lambda values: got in values)


def _shown(value: object) -> str:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, tuple):
        return ", ".join(_shown(item) for item in value)
    if isinstance(value, MaskedValue):
        return f"{value.value.hex()} under mask {value.mask.hex()}"
    return str(value)
