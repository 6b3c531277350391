# SPDX-License-Identifier: Apache-2.0
"""Intel's two signed documents, read strictly: every field of its exact type, and each bound by itself."""
# ruff: noqa: E501 - one row, one line

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from attestation.errors import AttestationError, Malformed
from attestation.tdx.qeidentity import QeIdentity
from attestation.tdx.tcbinfo import MAX_ADVISORIES, MAX_LEVELS, MAX_MODULES, TcbInfo
from enclave.simulator.tdx_collateral import svn_level
from tests.tdx_cases import Case

INFO, IDENTITY, KEY = "TcbInfoInvalid", "QeIdentityInvalid", "JsonUnexpectedKey"


def info() -> Any:
    return json.loads(json.dumps(Case.new(1).collateral.tcb_info))


def identity() -> Any:
    return json.loads(json.dumps(Case.new(1).collateral.qe_identity))


def put(document: Any, path: str, value: object) -> Any:
    """Set one place of a document, or take it away with ...."""
    target = document
    *way, last = [int(step) if step.isdigit() else step for step in path.split(".")]
    for step in way:
        target = target[step]
    if value is ...:
        del target[last]
    else:
        target[last] = value
    return document


LEVEL, TCB, MODULE = "tcbLevels.0", "tcbLevels.0.tcb", "tdxModuleIdentities.0"
SGX = f"{TCB}.sgxtcbcomponents"
PLACES: list[tuple[str, object, str]] = [
    ("tcbLevels", {}, INFO), ("tcbLevels", [7], INFO), ("tcbLevels", ["x"] * (MAX_LEVELS + 1), INFO), ("tcbLevels", ..., INFO),
    (LEVEL, [], INFO), (TCB, 7, INFO), (TCB, [], INFO), (f"{TCB}.pcesvn", "11", INFO), (f"{TCB}.pcesvn", 65536, INFO),
    (f"{TCB}.pcesvn", ..., INFO), (f"{TCB}.PceSvn", 1, KEY), (SGX, {}, INFO), (f"{SGX}.0", 7, INFO), (f"{SGX}.0", [], INFO),
    (f"{SGX}.0", {}, INFO), (f"{SGX}.0.SVN", 1, KEY), (f"{SGX}.0.category", 7, INFO), (f"{SGX}.0.category", "x" * 65, INFO),
    (f"{SGX}.0.type", 7, INFO), (f"{SGX}.0.type", "x" * 65, INFO), (f"{SGX}.0.svn", 1.0, INFO), (f"{SGX}.0.svn", None, INFO),
    (f"{LEVEL}.tcbStatus", 7, INFO), (f"{LEVEL}.tcbStatus", ..., INFO), (f"{LEVEL}.tcbDate", 7, INFO),
    (f"{LEVEL}.tcbDate", "2025-08-13", INFO), (f"{LEVEL}.tcbDate", "2025-13-13T00:00:00Z", INFO),
    (f"{LEVEL}.tcbDate", "2025-08-13T00:00:60Z", INFO), (f"{LEVEL}.tcbDate", "2025-08-13T00:00:00+00:00", INFO),
    (f"{LEVEL}.tcbDate", "\u0662025-08-13T00:00:00Z", INFO), (f"{LEVEL}.advisoryIDs", "INTEL-SA-00001", INFO),
    (f"{LEVEL}.advisoryIDs", [7], INFO), (f"{LEVEL}.advisoryIDs", ["x" * 65], INFO),
    (f"{LEVEL}.advisoryIDs", ["x"] * (MAX_ADVISORIES + 1), INFO), (f"{LEVEL}.advisoryids", [], KEY),
    ("issueDate", ..., INFO), ("nextUpdate", None, INFO), ("fmspc", "51f0c0de00", INFO), ("fmspc", "51f0c0de000g", INFO),
    ("fmspc", "51f0c0de000000", INFO), ("fmspc", 7, INFO), ("pceId", "00 00", INFO), ("pceId", " 000", INFO),
    ("tcbEvaluationDataNumber", "17", INFO), ("tcbEvaluationDataNumber", -1, INFO), ("tcbEvaluationDataNumber", 2**31 + 1, INFO),
    ("tdxModule", [], INFO), ("tdxModule.mrsigner", "00" * 47, INFO), ("tdxModule.attributes", ..., INFO),
    ("tdxModule.attributesMask", "F" * 17, INFO), ("tdxModule.AttributesMask", "F" * 16, KEY),
    ("tdxModuleIdentities", {}, INFO), ("tdxModuleIdentities", [{}] * (MAX_MODULES + 1), INFO), (MODULE, [], INFO),
    (f"{MODULE}.id", "TDX_1", INFO), (f"{MODULE}.id", "TDX_0G", INFO), (f"{MODULE}.id", 1, INFO), (f"{MODULE}.tcbLevels", [], INFO),
    (f"{MODULE}.tcbLevels", [7], INFO), (f"{MODULE}.tcbLevels.0.tcb", 7, INFO), (f"{MODULE}.tcbLevels.0.tcb.isvsvn", True, INFO),
    (f"{MODULE}.tcbLevels.0.tcbStatus", "SWHardeningNeeded", INFO), ("id", ["TDX"], "TcbInfoUnsupported"),
    ("version", True, "TcbInfoUnsupported"), ("tcbType", False, "TcbInfoUnsupported"), ("ID", "TDX", KEY),
]  # fmt: skip


@pytest.mark.parametrize(("path", "value", "code"), PLACES, ids=[f"{p} {str(v)[:20]}" for p, v, _ in PLACES])
def test_tcb_info_of_another_form_is_refused(path: str, value: object, code: str) -> None:
    data = json.dumps(put(info(), path, value)).encode()
    with pytest.raises(Malformed) as e:
        TcbInfo.parse(data)
    assert e.value.code == code


OURS: list[tuple[str, object, str]] = [
    ("id", "QE", "QeIdentityUnsupported"), ("id", 7, "QeIdentityUnsupported"), ("version", 3, "QeIdentityUnsupported"),
    ("version", 2.0, "QeIdentityUnsupported"), ("issueDate", ..., IDENTITY), ("nextUpdate", "tomorrow", IDENTITY),
    ("tcbEvaluationDataNumber", None, IDENTITY), ("miscselect", "0" * 7, IDENTITY), ("miscselectMask", "x" * 8, IDENTITY),
    ("attributes", "0" * 31, IDENTITY), ("attributesMask", 7, IDENTITY), ("mrsigner", "0" * 63, IDENTITY),
    ("isvprodid", 65536, IDENTITY), ("isvprodid", "2", IDENTITY), ("tcbLevels", {}, IDENTITY), ("tcbLevels", [7], IDENTITY),
    ("tcbLevels.0.tcb.isvsvn", 65536, IDENTITY), ("tcbLevels.0.tcbStatus", "Fine", IDENTITY), ("MrSigner", "00", KEY),
]  # fmt: skip


@pytest.mark.parametrize(("path", "value", "code"), OURS, ids=[f"{p} {str(v)[:20]}" for p, v, _ in OURS])
def test_a_qe_identity_of_another_form_is_refused(path: str, value: object, code: str) -> None:
    data = json.dumps(put(identity(), path, value)).encode()
    with pytest.raises(Malformed) as e:
        QeIdentity.parse(data)
    assert e.value.code == code


OPTIONAL = {"tdxModuleIdentities", "advisoryIDs", "category", "type"}


def fields(value: Any, path: str = "") -> list[str]:
    """List every field of a document, the first of each list standing for all."""
    if isinstance(value, list):
        return fields(value[0], f"{path}.0") if value else []
    found = [] if not isinstance(value, dict) else [(f"{path}.{name}".lstrip("."), name) for name in value]
    return [where for where, _ in found] + [inner for where, name in found for inner in fields(value[name], where)]


@pytest.mark.parametrize("make", [info, identity])
def test_a_field_that_is_not_there_is_missed_by_name(make: Callable[[], Any]) -> None:
    read: Callable[[bytes], object] = TcbInfo.parse if make is info else QeIdentity.parse
    for path in fields(make()):
        data, name = json.dumps(put(make(), path, ...)).encode(), path.rpartition(".")[2]
        if name in OPTIONAL:
            read(data)
            continue
        with pytest.raises(Malformed, match="absent") as e:
            read(data)
        assert e.value.code == (INFO if make is info else IDENTITY)
        assert e.value.where.endswith(f".{name}")


@pytest.mark.parametrize("data", [b"[]", b"7", b'"x"', b"null", b"{}"])
@pytest.mark.parametrize("read", [TcbInfo.parse, QeIdentity.parse])
def test_a_document_is_an_object_with_every_field(read: Callable[[bytes], object], data: bytes) -> None:
    with pytest.raises(AttestationError) as e:
        read(data)
    assert e.value.code in {INFO, IDENTITY}


def test_levels_are_each_once() -> None:
    twice = put(identity(), "tcbLevels", [svn_level(4, "UpToDate"), svn_level(4, "OutOfDate")])
    with pytest.raises(Malformed) as e:
        QeIdentity.parse(json.dumps(twice).encode())
    assert e.value.code == IDENTITY
    modules = info()
    modules["tdxModuleIdentities"] *= 2
    with pytest.raises(Malformed) as e:
        TcbInfo.parse(json.dumps(modules).encode())
    assert e.value.code == INFO


def test_what_is_read_is_what_stands_there() -> None:
    document = put(info(), "newThing", 1)
    put(document, f"{SGX}.3", {"svn": 2, "category": "BIOS"})
    put(document, f"{SGX}.4", {"svn": 3, "category": "BIOS", "type": "New", "unknown": 1})
    found = TcbInfo.parse(json.dumps(document).encode())
    assert found.unknown_fields == frozenset({"newThing"})
    assert found.levels[0].kinds[:5] == (
        "Early Microcode Update",
        "SGX Late Microcode Update",
        "TXT SINIT",
        "BIOS",
        "New",
    )
    assert len(found.levels[0].kinds) == 32
    assert (found.fmspc.hex().upper(), found.pce_id) == (document["fmspc"], bytes(2))
    assert found.evaluation_data_number == document["tcbEvaluationDataNumber"]
    assert [module.id for module in found.modules] == ["TDX_01"]
    assert found.module.levels == ()
    lower = put(info(), f"{MODULE}.id", "tdx_01")
    assert TcbInfo.parse(json.dumps(lower).encode()).modules[0].id == "TDX_01"
    without = put(info(), "tdxModuleIdentities", ...)
    assert TcbInfo.parse(json.dumps(without).encode()).modules == ()


def test_levels_are_read_from_the_highest_down() -> None:
    document = info()
    document["tcbLevels"].reverse()
    document["tdxModuleIdentities"][0]["tcbLevels"].reverse()
    found, usual = (TcbInfo.parse(json.dumps(d).encode()) for d in (document, info()))
    assert (found.levels, found.modules) == (usual.levels, usual.modules)
