# SPDX-License-Identifier: Apache-2.0
"""Where the readers of TDX evidence draw the line: every limit by its number, the last that fits, nothing twice."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from attestation.errors import AttestationError
from attestation.tdx import authdata, certificates, collateral, crl, eventlog, memory, qeidentity, quote, tcbinfo
from attestation.tdx.anchor import SIMULATED_ORGANIZATION
from attestation.tdx.appraise import TdxPolicy, appraise_quote
from attestation.tdx.authdata import AuthData, QeReport
from attestation.tdx.collateral import Collateral
from attestation.tdx.eventlog import MAX_EVENTS, parse_event_log
from attestation.tdx.pck import SGX_TYPES, Platform
from attestation.tdx.qeidentity import QeIdentity
from attestation.tdx.quote import Quote
from attestation.tdx.signed_json import Fields, Names
from attestation.tdx.tcbinfo import TcbInfo
from tests.tdx_cases import NOW, PLATFORM, Case
from tests.test_tdx_eventlog import SPEC, binary, record
from tests.test_tdx_parts import FLAGS, GOOD, INVALID, OFF, ON, PPID, TCB, extension, field, flags, tcb, tlv

CODE = "TcbInfoInvalid"
AGE = int((NOW - datetime(2025, 8, 13, tzinfo=UTC)).total_seconds())


def code_of(work: Callable[[], object]) -> str:
    with pytest.raises(AttestationError) as e:
        work()
    return e.value.code


def test_the_limits_are_these() -> None:
    """A limit that moved is a change of what we accept; docs and other implementations name them."""
    assert (eventlog.MAX_LOG, eventlog.MAX_EVENTS, eventlog.MAX_PAYLOAD) == (524_288, 4096, 65_536)
    assert (crl.MAX_CRL, qeidentity.MAX_QE_IDENTITY, collateral.MAX_COLLATERAL) == (262_144, 65_536, 1_048_576)
    assert (tcbinfo.MAX_TCB_INFO, tcbinfo.MAX_LEVELS, tcbinfo.MAX_MODULES) == (262_144, 64, 32)
    assert (tcbinfo.MAX_ADVISORIES, tcbinfo.COMPONENTS, memory.CAPACITY) == (256, 16, 4096)
    assert (authdata.MAX_CHAIN, authdata.QE_AUTH_SIZE, authdata.SGX_REPORT_SIZE) == (12_288, 32, 384)
    assert certificates.MAX_PEM >= certificates.MAX_DER > 0
    assert sorted(quote.BODY_SIZES) == [2, 3, 4]
    assert SIMULATED_ORGANIZATION == "SIMULATED - NOT CONFIDENTIAL"


# ---- clauses: what is just enough, and what is just too little


ENOUGH: list[tuple[str, Any, Any]] = [  # field, what the machine just meets, what it just misses
    ("max_tcb_age_seconds", AGE, AGE - 1),
    ("min_evaluation_data_number", 18, 19),
    ("max_collateral_age_seconds", 43_200, 43_199),
    ("min_tee_tcb_svn", "070103" + "00" * 13, "070104" + "00" * 13),
    ("min_tee_tcb_svn", "070003" + "00" * 13, "070103" + "00" * 12 + "01"),
    ("min_module_isvsvn", {"TDX_01": 7}, {"TDX_01": 8}),
    ("min_module_isvsvn", {"TDX_01": 1, "TDX_03": 9}, {"TDX_03": 1}),
    ("xfam", "e702060000000000", "e602060000000000"),
    ("td_attributes", {"value": "0000001000000000", "mask": "ff" * 8}, {"value": "0000001000000001", "mask": "ff" * 8}),
]  # fmt: skip


@pytest.mark.parametrize(("field", "just", "missed"), ENOUGH, ids=[f"{row[0]} {row[2]}"[:50] for row in ENOUGH])
def test_a_clause_holds_up_to_its_edge(field: str, just: Any, missed: Any) -> None:
    verified = Case.new(1, version=5).build().ours()
    for value, holds in ((just, True), (missed, False)):
        policy = TdxPolicy.parse(TdxPolicy.strict_template() | {field: value}, "tdx")
        refused = {f.rule for f in appraise_quote(verified, policy, now=NOW) if not f.holds}
        assert refused == (set() if holds else {f"tdx.{field}"})


def test_a_flag_that_is_off_is_accepted_where_it_must_be_off() -> None:
    case = Case.new(1)
    case.pck(replace(PLATFORM, flags=(False, False, False)))
    names = ("dynamic_platform", "cached_keys", "smt")
    policy = TdxPolicy.parse(TdxPolicy.strict_template() | dict.fromkeys(names, "forbidden"), "tdx")
    assert all(f.holds is True for f in appraise_quote(case.build().ours(), policy, now=NOW))


def test_a_module_without_a_number_is_shown_as_base() -> None:
    case = Case.new(1)
    case.quote.report.tee_tcb_svn = bytes([case.quote.report.tee_tcb_svn[0], 0, *case.quote.report.tee_tcb_svn[2:]])
    verified = case.build().ours()
    policy = TdxPolicy.parse(TdxPolicy.strict_template(), "tdx")
    found = {f.rule: f.got for f in appraise_quote(verified, policy, now=NOW)}
    assert found["tdx.min_module_isvsvn"] == "base 7"


# ---- authentication data


def test_authentication_data_has_one_form() -> None:
    parts = AuthData.parse(Quote.parse(Case.new(1).build().signed).auth.encode())
    whole = parts.encode()
    qe = whole[134:]
    assert AuthData.parse(whole) == parts

    def with_qe(changed: bytes) -> bytes:
        return whole[:130] + len(changed).to_bytes(4, "little") + changed

    for size in (0, 31, 33, 0xFFFF):
        assert code_of(lambda size=size: AuthData.parse(with_qe(qe[:448] + size.to_bytes(2, "little") + qe[450:]))) == (  # type: ignore[misc]
            "MalformedQuote"
        )
    assert code_of(lambda: AuthData.parse(whole + b"\0")) == "TrailingData"
    assert code_of(lambda: AuthData.parse(with_qe(qe + b"\0"))) == "TrailingData"
    for size in (0, 63, 127, 129, 133, len(whole) - 1):
        assert code_of(lambda size=size: AuthData.parse(whole[:size])) == "MalformedQuote"  # type: ignore[misc]
    for kind in (0, 4, 5, 7):
        bent = whole[:128] + kind.to_bytes(2, "little") + whole[130:]
        assert code_of(lambda bent=bent: AuthData.parse(bent)) == "UnsupportedCertificationData"  # type: ignore[misc]
    for kind in (0, 4, 6, 7):
        bent = with_qe(qe[:482] + kind.to_bytes(2, "little") + qe[484:])
        assert code_of(lambda bent=bent: AuthData.parse(bent)) == "UnsupportedCertificationData"  # type: ignore[misc]
    assert code_of(lambda: AuthData.parse(with_qe(qe[:400]))) == "MalformedQuote"
    bent = whole[:130] + b"\xff" * 4 + whole[134:]
    assert code_of(lambda: AuthData.parse(bent)) == "MalformedQuote", "sizes have no sign"


def test_a_report_of_the_quoting_enclave_is_384_bytes() -> None:
    """Intel SDM volume 3D, REPORT: each field from its own place."""
    raw = bytes(range(256)) + bytes(range(128))
    found = QeReport.parse(raw)
    assert (found.raw, found.cpu_svn, found.misc_select, found.attributes) == (raw, raw[:16], raw[16:20], raw[48:64])
    assert (found.mr_enclave, found.mr_signer, found.report_data) == (raw[64:96], raw[128:160], raw[320:384])
    assert (found.isv_prod_id, found.isv_svn) == (0x0100, 0x0302)
    found = QeReport.parse(b"\xff" * 384)
    assert (found.isv_prod_id, found.isv_svn) == (0xFFFF, 0xFFFF)
    for other in (raw[:-1], raw + b"\0", b""):
        assert code_of(lambda other=other: QeReport.parse(other)) == "MalformedQuote"  # type: ignore[misc]


# ---- fields of signed JSON


def fields(**values: Any) -> Fields:
    return Fields(values, "doc", Names(*values), code=CODE)


READS: list[tuple[str, Callable[[Fields], object], list[Any], list[Any]]] = [  # what fits, what does not
    ("uint", lambda f: f.uint("a", 5), [0, 1, 5], [-1, 6, True, False, 1.0, "5", None]),
    ("text", lambda f: f.text("a"), ["", "x" * 64], ["x" * 65, 5, None, ["x"]]),
    ("short text", lambda f: f.text("a", 2), ["", "xx"], ["xxx"]),
    ("hexa", lambda f: f.hexa("a", 2).hex().upper(), ["0AFF"], ["0AF", "0AFF0", "0AFF00", "0AFG", " AFF", "", 5]),
    ("time", lambda f: f.time("a").strftime("%Y-%m-%dT%H:%M:%SZ"), ["2025-06-19T10:16:03Z"],
     ["2025-06-31T10:16:03Z", "2025-06-19T10:16:03", "2025-06-19T10:16:03+00:00", "2025-06-19 10:16:03Z", "", 5,
      "2025-06-19T24:16:03Z", "x2025-06-19T10:16:03Z", "2025-06-19T10:16:03Zx"]),
    ("items", lambda f: f.items("a", least=1, most=3), [[1], [1, 2, 3]], [[], [1, 2, 3, 4], {"0": 1}, "abc", None]),
    ("texts", lambda f: list(f.texts("a", most=2)), [[], ["x" * 64, ""]], [["x"] * 3, ["x" * 65], ["x", 5], "xx"]),
]  # fmt: skip


@pytest.mark.parametrize(("read", "good", "bad"), [row[1:] for row in READS], ids=[row[0] for row in READS])
def test_a_field_fits_or_is_refused_by_its_place(
    read: Callable[[Fields], object], good: list[Any], bad: list[Any]
) -> None:
    for value in good:
        assert read(fields(a=value)) == value
    for value in bad:
        with pytest.raises(AttestationError) as e:
            read(fields(a=value))
        assert (e.value.code, e.value.where) == (CODE, "doc.a")


def test_absent_and_unknown_fields_are_told_apart() -> None:
    def read(value: object) -> Fields:
        return Fields(value, "doc", Names("issueDate", optional=("type",)), code=CODE)

    assert code_of(lambda: read([])) == CODE
    with pytest.raises(AttestationError) as e:
        read({"type": 1})
    assert (e.value.code, e.value.where) == (CODE, "doc.issueDate")
    for near in ("issuedate", "ISSUEDATE", "Type"):
        assert code_of(lambda near=near: read({"issueDate": 1, near: 1})) == "JsonUnexpectedKey"  # type: ignore[misc]
    f = read({"issueDate": 1, "more": 2, "other": 3})
    assert f.unknown == {"more", "other"}
    assert ("type" in f, "issueDate" in f, f.raw("issueDate")) == (False, True, 1)
    assert f.texts("type", most=1) == ()
    assert read({"issueDate": 1, "type": 2}).unknown == frozenset()


def test_a_required_value_is_required_with_its_type() -> None:
    f = fields(a=3, b="x", c=True)
    f.require("a", 3, code="TcbInfoUnsupported")
    f.require("b", "x", code="TcbInfoUnsupported")
    for name, want in (("a", 4), ("b", "y"), ("c", 1)):
        with pytest.raises(AttestationError) as e:
            f.require(name, want, code="TcbInfoUnsupported")
        assert (e.value.code, e.value.where) == ("TcbInfoUnsupported", f"doc.{name}")
    assert (f.refuse("a", want=1, got="x" * 99).code, len(f.refuse("a", want=1, got="x" * 99).got)) == (CODE, 64)


# ---- Intel's two documents


def document(name: str) -> dict[str, Any]:
    case = Case.new(1).build()
    read: dict[str, Any] = json.loads(case.document[name])
    return read


def parse(name: str, value: dict[str, Any]) -> Any:
    reader: Any = TcbInfo if name == "tcb_info" else QeIdentity
    return reader.parse(json.dumps(value).encode())


NUMBERS: list[tuple[str, tuple[Any, ...], int]] = [  # document, path, the largest that fits
    ("tcb_info", ("tcbEvaluationDataNumber",), 2**31),
    ("tcb_info", ("tcbLevels", 0, "tcb", "pcesvn"), 65535),
    ("tcb_info", ("tcbLevels", 0, "tcb", "sgxtcbcomponents", 3, "svn"), 255),
    ("tcb_info", ("tcbLevels", 0, "tcb", "tdxtcbcomponents", 15, "svn"), 255),
    ("tcb_info", ("tdxModuleIdentities", 0, "tcbLevels", 0, "tcb", "isvsvn"), 255),
    ("qe_identity", ("tcbEvaluationDataNumber",), 2**31),
    ("qe_identity", ("isvprodid",), 65535),
    ("qe_identity", ("tcbLevels", 0, "tcb", "isvsvn"), 65535),
]


@pytest.mark.parametrize(("name", "path", "most"), NUMBERS, ids=[f"{row[0]} {row[1][-1]} {row[2]}" for row in NUMBERS])
def test_every_number_has_its_bounds(name: str, path: tuple[Any, ...], most: int) -> None:
    for value, fits in ((most, True), (0, True), (most + 1, False), (-1, False)):
        changed = document(name)
        place: Any = changed
        for step in path[:-1]:
            place = place[step]
        place[path[-1]] = value
        if fits:
            parse(name, changed)
        else:
            assert code_of(lambda changed=changed: parse(name, changed)) == (  # type: ignore[misc]
                CODE if name == "tcb_info" else "QeIdentityInvalid"
            )


def test_lists_are_bounded_and_have_nothing_twice() -> None:
    def levels(count: int, level: Any, step: Callable[[Any, int], None]) -> list[Any]:
        made = []
        for i in range(count):
            one = json.loads(json.dumps(level))
            step(one, i)
            made.append(one)
        return made

    info = document("tcb_info")
    module = info["tdxModuleIdentities"][0]
    for count, fits in ((64, True), (65, False), (1, True), (0, False)):
        info["tcbLevels"] = levels(count, document("tcb_info")["tcbLevels"][0], lambda v, i: v["tcb"].update(pcesvn=i))
        if fits:
            assert [level.pce_svn for level in parse("tcb_info", info).levels] == list(range(count))[::-1]
        else:
            assert code_of(lambda: parse("tcb_info", info)) == CODE
    info = document("tcb_info")
    for count, fits in ((32, True), (33, False), (0, True)):
        info["tdxModuleIdentities"] = levels(count, module, lambda v, i: v.update(id=f"TDX_{i:02x}"))
        if fits:
            assert [m.id for m in parse("tcb_info", info).modules] == [f"TDX_{i:02X}" for i in range(count)]
        else:
            assert code_of(lambda: parse("tcb_info", info)) == CODE
    info["tdxModuleIdentities"] = [module, module]
    assert code_of(lambda: parse("tcb_info", info)) == CODE
    del info["tdxModuleIdentities"]
    assert parse("tcb_info", info).modules == ()
    info["tcbLevels"][0]["advisoryIDs"] = ["INTEL-SA-00001"] * 256
    assert max(len(level.standing.advisories) for level in parse("tcb_info", info).levels) == 256
    info["tcbLevels"][0]["advisoryIDs"] = ["INTEL-SA-00001"] * 257
    assert code_of(lambda: parse("tcb_info", info)) == CODE


def test_levels_are_sorted_by_every_part() -> None:
    """SGX components first, then TDX components, then the PCE; the same three twice is a fault."""
    info = document("tcb_info")
    level = info["tcbLevels"][0]

    def one(sgx: int, tdx: int, pce: int) -> Any:
        made = json.loads(json.dumps(level))
        made["tcb"]["sgxtcbcomponents"][0]["svn"] = sgx
        made["tcb"]["tdxtcbcomponents"][0]["svn"] = tdx
        made["tcb"]["pcesvn"] = pce
        return made

    keys = [(1, 9, 1), (2, 1, 9), (2, 3, 1), (1, 9, 5), (2, 1, 3)]
    info["tcbLevels"] = [one(*key) for key in keys]
    found = [(v.sgx[0], v.tdx[0], v.pce_svn) for v in parse("tcb_info", info).levels]
    assert found == sorted(keys, reverse=True)
    info["tcbLevels"] = [one(*key) for key in [*keys, keys[0]]]
    assert code_of(lambda: parse("tcb_info", info)) == CODE


def test_a_component_says_what_it_is() -> None:
    """The type, else the category, else nothing; texts of 64 characters, and the long way round for other keys."""
    info = document("tcb_info")
    parts = info["tcbLevels"][0]["tcb"]["sgxtcbcomponents"]
    rows: list[tuple[dict[str, Any], str]] = [
        ({}, ""), ({"category": "c"}, "c"), ({"type": "t"}, "t"), ({"category": "c", "type": "t"}, "t"),
        ({"type": "t" * 64}, "t" * 64), ({"category": "c" * 64}, "c" * 64), ({"category": "c", "note": 1}, "c"),
        ({"type": "t", "category": "c", "note": 1}, "t"), ({"note": 1}, ""),
    ]  # fmt: skip
    for number, (extra, want) in enumerate(rows):
        parts[number] = {"svn": 255 - number, **extra}
        info["tcbLevels"] = info["tcbLevels"][:1]
        read = parse("tcb_info", info).levels[0]
        assert (read.sgx[number], read.kinds[number]) == (255 - number, want)
    for bad in ({"type": "t" * 65}, {"category": "c" * 65}, {"type": 1}, {"category": None}, {"Type": "t"}):
        parts[0] = {"svn": 1} | bad
        assert code_of(lambda: parse("tcb_info", info)) in {CODE, "JsonUnexpectedKey"}


# ---- the platform's extension


def test_types_of_platforms_have_their_names() -> None:
    assert SGX_TYPES == {0: "standard", 1: "scalable", 2: "scalable with integrity"}
    for kind in (0, 1, 2):
        assert Platform.parse(extension(*GOOD[:4], field(5, tlv(10, bytes([kind]))))).sgx_type == kind
    assert code_of(lambda: Platform.parse(extension(*GOOD[:4], field(5, tlv(10, b"\3"))))) == INVALID


TWICE: list[tuple[str, bytes]] = [
    ("a PPID twice", extension(*GOOD, PPID)),
    ("a TCB twice", extension(*GOOD[:5], TCB)),
    ("flags twice", extension(*GOOD, FLAGS)),
    ("a flag twice", extension(*GOOD[:6], field(7, tlv(0x30, *[field(1, ON, oid=PPID[4:13] + b"\x07")] * 2)))),
    ("a component of 256", extension(PPID, tcb(c1=tlv(2, b"\1\0")), *GOOD[2:])),
    ("a CPUSVN that is not the components", extension(PPID, tcb(c18=tlv(4, bytes(16))), *GOOD[2:])),
    ("a component that is not in the CPUSVN", extension(PPID, tcb(c1=tlv(2, b"\7")), *GOOD[2:])),
]


@pytest.mark.parametrize("data", [row[1] for row in TWICE], ids=[row[0] for row in TWICE])
def test_a_field_comes_once_and_agrees_with_the_others(data: bytes) -> None:
    assert code_of(lambda: Platform.parse(data)) == INVALID


def test_a_configuration_without_flags_says_nothing() -> None:
    found = Platform.parse(extension(*GOOD[:6], flags()))
    assert (found.dynamic_platform, found.cached_keys, found.smt_enabled) == (None, None, None)
    assert found.tcb_components == PLATFORM.components
    assert Platform.parse(extension(*GOOD[:6], flags(OFF, ON))).cached_keys is True


# ---- event logs


def test_as_many_events_in_json_as_in_binary() -> None:
    listed = [{"imr": 3, "digest": "00" * 48}] * MAX_EVENTS
    assert len(parse_event_log(json.dumps(listed, separators=(",", ":")).encode())) == MAX_EVENTS


def test_a_head_alone_is_no_event_and_no_padding() -> None:
    head = record(1, 4, bytes(48))[:8]
    assert code_of(lambda: parse_event_log(binary() + head)) == "MalformedEventLog"
    assert code_of(lambda: parse_event_log(binary() + head[:7])) == "TrailingData"
    assert code_of(lambda: parse_event_log(binary() + b"XX")) == "TrailingData"
    assert parse_event_log(SPEC) == ()
    assert code_of(lambda: parse_event_log(b"{")) == "JsonInvalid"


# ---- names of Intel's documents


def test_statuses_have_intels_names() -> None:
    platform = {
        "UpToDate", "SWHardeningNeeded", "ConfigurationNeeded", "ConfigurationAndSWHardeningNeeded", "OutOfDate",
        "OutOfDateConfigurationNeeded", "Revoked",
    }  # fmt: skip
    assert {str(status) for status in tcbinfo.PLATFORM_STATUSES} == platform
    assert {str(status) for status in tcbinfo.ENCLAVE_STATUSES} == {"UpToDate", "OutOfDate", "Revoked"}
    derived = {"TDRelaunchAdvised", "TDRelaunchAdvisedConfigurationNeeded"}
    assert {str(status) for status in tcbinfo.TcbStatus} == platform | derived


def test_near_misses_of_optional_names_are_refused() -> None:
    info = document("tcb_info")
    info["tdxModuleIdentities"][0]["tcbLevels"][0]["advisoryids"] = []
    assert code_of(lambda: parse("tcb_info", info)) == "JsonUnexpectedKey"
    given = json.loads(Case.new(1).build().text)
    Collateral.from_json(json.dumps(given | {"pck_certificate_chain": "x"}).encode())
    for name in ("PCK_certificate_chain", "TCB_INFO"):
        changed = json.dumps(given | {name: "x"}).encode()
        assert code_of(lambda changed=changed: Collateral.from_json(changed)) == "JsonUnexpectedKey"  # type: ignore[misc]


def test_a_document_that_is_no_text_is_kept_for_its_signature_to_refuse() -> None:
    given = json.loads(Case.new(1).build().text)
    read = Collateral.from_json(json.dumps(given | {"tcb_info": "\ud800"}).encode())
    assert read.tcb_info == b"\xed\xa0\x80"
    assert Collateral.from_json(read.to_json()) == read
