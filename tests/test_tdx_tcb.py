# SPDX-License-Identifier: Apache-2.0
"""Intel's TCB evaluation component by component, and what a platform is told that it lacks."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from attestation.errors import AttestationError
from attestation.tdx.pck import SGX_TYPES
from attestation.tdx.tcb import Tcb
from enclave.simulator.tdx_collateral import svn_level
from tests.tdx_cases import PLATFORM, Case

TDX_01 = bytes.fromhex("070103" + "00" * 13)
BASE = bytes.fromhex("050002" + "00" * 13)
OLD = bytes.fromhex("050103" + "00" * 13)


def evaluated(case: Case) -> Tcb:
    return case.build().ours().tcb


def code_of(case: Case) -> str:
    with pytest.raises(AttestationError) as e:
        case.build().ours()
    return e.value.code


def alone(case: Case, **tcb: Any) -> None:
    """Leave one level, with some components of its own."""
    del case.levels[1:]
    for name, values in tcb.items():
        for index, svn in values.items():
            case.levels[0]["tcb"][name][index]["svn"] = svn


@pytest.mark.parametrize("index", range(16))
def test_every_sgx_component_counts(index: int) -> None:
    have = PLATFORM.components[index]
    for need, fits in ((have, True), (have + 1, False)):
        case = Case.new(1)
        alone(case, sgxtcbcomponents={index: need})
        if fits:
            assert evaluated(case).status == "UpToDate"
        else:
            assert code_of(case) == "TcbNotSupported"


@pytest.mark.parametrize("svn", [TDX_01, BASE], ids=["TDX_01", "base module"])
@pytest.mark.parametrize("index", range(16))
def test_every_tdx_component_counts_but_the_two_that_a_numbered_modules_identity_judges(index: int, svn: bytes) -> None:
    """N65, N66: only where TEE_TCB_SVN[1] is not 0 are components 0 and 1 left to the module's own levels."""
    for need, fits in ((svn[index], True), (svn[index] + 1, svn is TDX_01 and index < 2)):
        case = Case.new(1)
        case.quote.report.tee_tcb_svn = svn
        alone(case, tdxtcbcomponents={i: svn[i] for i in range(16)} | {index: need})
        if fits:
            assert evaluated(case).status == "UpToDate"
        else:
            assert code_of(case) == "TcbNotSupported"


def test_pcesvn_counts() -> None:
    for need, code in ((11, None), (12, "TcbNotSupported")):
        case = Case.new(1)
        alone(case)
        case.levels[0]["tcb"]["pcesvn"] = need
        assert code is None or code_of(case) == code
        assert code or evaluated(case).status == "UpToDate"


def told(tcb: Tcb) -> list[tuple[str, int, int]]:
    return [(s.component, s.have, s.need) for s in tcb.launch.shortfalls]


def test_a_platform_is_told_everything_that_it_lacks() -> None:
    case = Case.new(1)
    case.pck(replace(PLATFORM, components=(1, 2, 1, 2, 2, *PLATFORM.components[5:]), pce_svn=6))
    case.quote.report.tee_tcb_svn = bytes.fromhex("060101" + "00" * 13)
    found = evaluated(case)
    assert found.status == "OutOfDate"
    assert told(found) == [
        ("sgx[0] (Early Microcode Update)", 1, 2),
        ("sgx[2] (TXT SINIT)", 1, 2),
        ("sgx[4]", 2, 3),
        ("pcesvn", 6, 11),
        ("tdx[2] (TDX Late Microcode Update)", 1, 2),
        ("module TDX_01", 6, 7),
    ]


def test_a_numbered_module_is_not_told_of_components_that_its_identity_judges() -> None:
    case = Case.new(1)
    case.levels[0]["tcb"]["tdxtcbcomponents"][0]["svn"] = 9
    case.pck(replace(PLATFORM, pce_svn=6))
    assert told(evaluated(case)) == [("pcesvn", 6, 11)]


def test_a_base_module_is_told_of_its_first_components_too() -> None:
    case = Case.new(1)
    case.quote.report.tee_tcb_svn = bytes.fromhex("030001" + "00" * 13)
    case.pck(replace(PLATFORM, pce_svn=5))
    found = evaluated(case)
    assert told(found) == [
        ("pcesvn", 5, 11),
        ("tdx[0] (TDX Module)", 3, 5),
        ("tdx[2] (TDX Late Microcode Update)", 1, 2),
    ]
    assert (found.launch.module, found.launch.module_id) == (None, "")


def test_an_up_to_date_platform_lacks_nothing_though_a_module_component_is_below_the_levels() -> None:
    case = Case.new(1)
    alone(case, tdxtcbcomponents={0: 9})
    found = evaluated(case)
    assert told(found) == []
    assert found.launch.module_id == "TDX_01"
    assert found.launch.svn == TDX_01
    assert found.launch.module is not None
    case = Case.new(1)
    case.module["tcbLevels"] = [svn_level(8, "UpToDate"), svn_level(7, "OutOfDate")]
    assert told(evaluated(case)) == [("module TDX_01", 7, 8)]


def test_both_evaluations_give_dates_and_advisories() -> None:
    case = Case.new(1, version=5)
    case.quote.report.tee_tcb_svn = OLD
    case.module["tcbLevels"] = [
        svn_level(7, "UpToDate", advisories=["INTEL-SA-90077"]) | {"tcbDate": "2024-01-01T00:00:00Z"},
        svn_level(5, "OutOfDate", advisories=["INTEL-SA-90001"]),
    ]
    found = evaluated(case)
    assert found.advisories == ("INTEL-SA-90001", "INTEL-SA-90077")
    assert found.date == datetime(2024, 1, 1, tzinfo=UTC)
    assert found.current is not None
    assert (found.launch.svn, found.current.svn) == (OLD, TDX_01)
    assert found.launch.platform.status == "UpToDate"


def test_the_quoting_enclave_counts_for_launch_and_for_now() -> None:
    case = Case.new(1, version=5)
    case.quote.qe.isv_svn = 3
    found = evaluated(case)
    assert found.current is not None
    assert (found.launch.status, found.current.status) == ("OutOfDate", "OutOfDate")
    assert (found.status, found.qe.status) == ("OutOfDate", "OutOfDate")
    assert "INTEL-SA-90004" in found.advisories


@pytest.mark.parametrize(("attributes", "seam"), [("01", 0), ("01", 1), ("00", 1), ("00", 1 << 63)])
def test_seam_attributes_are_zero_and_what_the_identity_says(attributes: str, seam: int) -> None:
    case = Case.new(1)
    case.module.update(attributes=attributes + "00" * 7, attributesMask="FF" * 8)
    case.quote.report.seam_attributes = seam.to_bytes(8, "little")
    assert code_of(case) == "TdxModuleMismatch"


@pytest.mark.parametrize("mask", ["00" * 8, "FF" * 8])
def test_seam_attributes_outside_the_mask_must_be_zero_too(mask: str) -> None:
    case = Case.new(1)
    case.module.update(attributesMask=mask)
    case.quote.report.seam_attributes = bytes(7) + b"\x01"
    assert code_of(case) == "TdxModuleMismatch"


@pytest.mark.parametrize("byte", range(16))
def test_no_component_of_now_is_below_launch(byte: int) -> None:
    """N71b."""
    case = Case.new(1, version=5)
    launch = bytes([5, 1, 3, *[2] * 13])
    alone(case, tdxtcbcomponents={2: 0})
    case.quote.report.tee_tcb_svn = launch
    case.quote.report.tee_tcb_svn_2 = launch
    assert evaluated(case).launch.svn == launch
    below = bytearray(launch)
    below[byte] -= 1
    case.quote.report.tee_tcb_svn_2 = bytes(below)
    assert code_of(case) == "MalformedTcb"


def test_an_unknown_module_is_named_beside_the_known_ones() -> None:
    case = Case.new(1)
    case.quote.report.tee_tcb_svn = bytes.fromhex("070A03" + "00" * 13)
    with pytest.raises(AttestationError) as e:
        case.build().ours()
    assert (e.value.code, e.value.want, e.value.got) == ("TdxModuleUnknown", "TDX_01", "TDX_0A")


def test_a_module_is_found_by_its_number_in_upper_case_hex() -> None:
    case = Case.new(1)
    case.module["id"] = "TDX_0A"
    case.quote.report.tee_tcb_svn = bytes.fromhex("070A03" + "00" * 13)
    assert evaluated(case).launch.module_id == "TDX_0A"


def test_what_kinds_of_platform_there_are() -> None:
    assert SGX_TYPES == {0: "standard", 1: "scalable", 2: "scalable with integrity"}
    for number in SGX_TYPES:
        case = Case.new(1)
        case.pck(replace(PLATFORM, sgx_type=number))
        assert case.build().ours().platform.sgx_type == number
