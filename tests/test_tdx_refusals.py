# SPDX-License-Identifier: Apache-2.0
"""Quotes and collateral with one thing wrong, signed anew around it: each refused by its own code."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from attestation.errors import AttestationError
from tests.tdx_cases import Case
from tests.tdx_rows import ROWS, Row
from tests.tdx_tcb_rows import OLD, STATUSES, TCB_ROWS

ALL = ROWS + TCB_ROWS


@pytest.mark.parametrize("version", [4, 5])
def test_both_verifiers_accept_what_is_right(version: int) -> None:
    case = Case.new(1, version=version).build()
    assert case.ours().tcb.status == "UpToDate"
    assert case.theirs().status == "UpToDate"
    assert case.ours().quote.encode() == case.signed


@pytest.mark.parametrize("row", ALL, ids=[row.name for row in ALL])
def test_one_thing_wrong(row: Row) -> None:
    case = Case.new(7, version=row.version)
    row.change(case)
    case.build()
    if row.code is None:
        assert case.ours().tcb.status == "UpToDate"
        return
    with pytest.raises(AttestationError) as e:
        case.ours()
    assert e.value.code == row.code


@pytest.mark.parametrize("row", ALL, ids=[row.name for row in ALL])
def test_the_oracle_accepts_nothing_more_but_what_is_marked(row: Row) -> None:
    case = Case.new(7, version=row.version)
    row.change(case)
    case.build()
    try:
        case.theirs()
        accepted = True
    except BaseException as e:
        if isinstance(e, KeyboardInterrupt | SystemExit):
            raise
        accepted = False
    if row.code is None:
        assert accepted
    elif not row.accepts:
        assert not accepted


@pytest.mark.parametrize(
    ("status", "change", "version"), [row[1:] for row in STATUSES], ids=[row[0] for row in STATUSES]
)
def test_both_verifiers_come_to_the_same_status(status: str, change: Callable[[Case], None], version: int) -> None:
    case = Case.new(3, version=version)
    change(case)
    case.build()
    ours, theirs = case.ours().tcb, case.theirs()
    assert ours.status == status == theirs.status
    assert sorted(theirs.advisory_ids) == list(ours.advisories)


def test_launch_and_current_are_each_told() -> None:
    """N71: an old module now is no reason to be quiet because the launch was in order."""
    case = Case.new(4, version=5)
    case.quote.report.tee_tcb_svn = OLD
    tcb = case.build().ours().tcb
    assert (tcb.launch.status, tcb.current.status if tcb.current else None) == ("OutOfDate", "UpToDate")
    assert [s.component for s in tcb.launch.shortfalls] == ["module TDX_01"]
    assert "INTEL-SA-90001" in tcb.advisories
