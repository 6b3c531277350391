# SPDX-License-Identifier: Apache-2.0
"""Forms of Intel's documents that differ in one thing, and by which code each is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from attestation.tdx.collateral import Collateral
from attestation.tdx.crl import MAX_CRL
from attestation.tdx.eventlog import parse_event_log
from attestation.tdx.memory import Memory
from attestation.tdx.tcbinfo import TcbInfo
from tests.tdx_cases import NOW, Case
from tests.test_tdx_eventlog import SPEC, binary
from tests.test_tdx_limits import code_of, document, parse
from tests.test_tdx_memory import Held


@pytest.mark.parametrize("extra", [{"type": 1, "category": 1}, {"svn": 256, "note": 1}, {"svn": -1, "note": 1}])
def test_a_component_of_another_form_is_refused_by_either_way_of_reading_it(extra: dict[str, Any]) -> None:
    info = document("tcb_info")
    info["tcbLevels"][0]["tcb"]["sgxtcbcomponents"][0] = {"svn": 1} | extra
    assert code_of(lambda: parse("tcb_info", info)) == "TcbInfoInvalid"


ORDERS = [
    {"svn": 7, "category": "BIOS", "type": "Late Microcode"},
    {"type": "Late Microcode", "svn": 7, "category": "BIOS"},
    {"svn": 7, "type": "Late Microcode"},
]


@pytest.mark.parametrize("component", [*ORDERS, {"svn": 7}, {"svn": 7, "category": "BIOS"}, ORDERS[0] | {"note": {}}])
def test_a_component_says_the_same_in_any_order_of_its_fields(component: dict[str, Any]) -> None:
    info = document("tcb_info")
    usual = parse("tcb_info", info).levels[0]
    for name, at, first in (("sgxtcbcomponents", 0, 0), ("sgxtcbcomponents", 15, 0), ("tdxtcbcomponents", 9, 16)):
        changed = document("tcb_info")
        changed["tcbLevels"][0]["tcb"][name][at] = component
        level = parse("tcb_info", changed).levels[0]
        kinds = list(usual.kinds)
        kinds[first + at] = str(component.get("type") or component.get("category") or "")
        assert (level.sgx if first == 0 else level.tdx)[at] == 7
        assert level.kinds == tuple(kinds)


@pytest.mark.parametrize(
    ("component", "code"),
    [
        ({"svm": 7}, "TcbInfoInvalid"),
        ({"SVN": 7}, "TcbInfoInvalid"),
        ({"svm": 7, "category": "BIOS", "type": "x"}, "TcbInfoInvalid"),
        ({"SVN": 7, "category": "BIOS", "type": "x"}, "TcbInfoInvalid"),
        ({"svn": 7, "Category": "BIOS", "type": "x"}, "JsonUnexpectedKey"),
        ({"svn": 7, "CATEGORY": "BIOS", "type": "x"}, "JsonUnexpectedKey"),
        ({"svn": 7, "category": "BIOS", "Type": "x"}, "JsonUnexpectedKey"),
        ({"svn": 7, "category": "BIOS", "TYPE": "x"}, "JsonUnexpectedKey"),
        ({"svn": 7, "category": [], "type": []}, "TcbInfoInvalid"),
    ],
)
def test_a_component_has_names_of_its_own_case_and_texts(component: dict[str, Any], code: str) -> None:
    info = document("tcb_info")
    info["tcbLevels"][0]["tcb"]["sgxtcbcomponents"][1] = component
    assert code_of(lambda: parse("tcb_info", info)) == code


@pytest.mark.parametrize("value", [True, 7.0, "7", None, 256, -1, 2**70, [7], {"svn": 7}])
@pytest.mark.parametrize("more", [{}, {"category": "BIOS", "type": "x"}])
def test_a_component_s_svn_is_an_integer_of_one_byte(value: object, more: dict[str, str]) -> None:
    info = document("tcb_info")
    info["tcbLevels"][0]["tcb"]["tdxtcbcomponents"][3] = {"svn": value} | more
    want = "JsonInvalid" if value == 2**70 else "TcbInfoInvalid"
    assert code_of(lambda: parse("tcb_info", info)) == want


def test_a_component_s_kind_is_a_short_text() -> None:
    info = document("tcb_info")
    for field in ("category", "type"):
        component = {"svn": 7, "category": "BIOS", "type": "x"}
        info["tcbLevels"][0]["tcb"]["tdxtcbcomponents"][3] = component
        component[field] = "y" * 64
        parse("tcb_info", info)
        for wrong in ("y" * 65, 5, None, ["y"]):
            info["tcbLevels"][0]["tcb"]["tdxtcbcomponents"][3] = component | {field: wrong}
            assert code_of(lambda: parse("tcb_info", info)) == "TcbInfoInvalid"


def test_what_looks_like_a_component_elsewhere_is_none() -> None:
    for place in ("tdxModule", "tcbLevels", "tdxModuleIdentities", "fmspc"):
        assert code_of(lambda place=place: parse("tcb_info", document("tcb_info") | {place: {"svn": 1}})) == (  # type: ignore[misc]
            "TcbInfoInvalid"
        )
    info = document("tcb_info")
    info["tcbLevels"][0] = {"svn": 1}
    assert code_of(lambda: parse("tcb_info", info)) == "TcbInfoInvalid"
    assert parse("tcb_info", document("tcb_info") | {"note": {"svn": 1}}).unknown_fields == {"note"}


def test_a_component_that_says_something_twice_is_refused() -> None:
    text = json.dumps(document("tcb_info"))
    for good, twice in (('{"svn": 2}', '{"svn": 2, "svn": 2}'), ('"category": "BIOS"', '"svn": 2, "category": "BIOS"')):
        assert good in text
        bent = text.replace(good, twice, 1).encode()
        assert code_of(lambda bent=bent: TcbInfo.parse(bent)) == "JsonDuplicateKey"  # type: ignore[misc]


def test_a_module_has_a_level_and_a_quoting_enclave_may_have_none() -> None:
    info = document("tcb_info")
    module = info["tdxModuleIdentities"][0]
    module["tcbLevels"] = module["tcbLevels"][:1]
    assert len(parse("tcb_info", info).modules[0].levels) == 1
    module["tcbLevels"] = []
    assert code_of(lambda: parse("tcb_info", info)) == "TcbInfoInvalid"
    assert parse("qe_identity", document("qe_identity") | {"tcbLevels": []}).levels == ()


@pytest.mark.parametrize(
    "name", ["TDX_\ufb00", "TDX_\uff11\uff12", "T\u00d0X_01", "TDX_1", "TDX_0G", "TDX-01", "TDX_001"]
)
def test_a_module_s_id_is_three_letters_and_two_hex_digits_in_either_case(name: str) -> None:
    info = document("tcb_info")
    module = info["tdxModuleIdentities"][0]
    for good in ("TDX_0F", "tdx_0f", "TdX_0f"):
        module["id"] = good
        assert parse("tcb_info", info).modules[0].id == "TDX_0F"
    module["id"] = name
    assert code_of(lambda: parse("tcb_info", info)) == "TcbInfoInvalid"


@pytest.mark.parametrize("text", ["zzzzzzzz", "00" * (MAX_CRL + 1), "0" * 7, 5])
def test_a_crl_that_is_no_hex_or_too_long_is_refused_as_a_document(text: object) -> None:
    given = json.loads(Case.new(1).build().text)
    Collateral.from_json(json.dumps(given | {"pck_crl": "00" * MAX_CRL}).encode())
    for name in ("pck_crl", "root_ca_crl"):
        changed = json.dumps(given | {name: text}).encode()
        assert code_of(lambda changed=changed: Collateral.from_json(changed)) == "JsonInvalid"  # type: ignore[misc]
    assert code_of(lambda: Collateral.from_json(b"[]")) == "JsonInvalid"


def test_the_first_event_of_a_log_may_not_be_cut_inside() -> None:
    for size in (0, 15, 20, 28, 32):
        cut = SPEC[:28] + size.to_bytes(4, "little") + SPEC[32 : 32 + size]
        assert code_of(lambda cut=cut: parse_event_log(cut + binary()[len(SPEC) :])) == "MalformedEventLog"  # type: ignore[misc]


def test_a_memory_of_one_holds_the_last() -> None:
    memory = Memory(capacity=1)
    first = memory.recall("k", (b"a",), now=NOW, make=Held)
    assert memory.recall("k", (b"a",), now=NOW, make=Held) is first
    memory.recall("k", (b"b",), now=NOW, make=Held)
    assert memory.recall("k", (b"a",), now=NOW, make=Held) is not first
    assert len(memory) == 1
