# SPDX-License-Identifier: Apache-2.0
"""What the small rooms of TDX give to the letter: findings, the places in a policy, the last item that still fits."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import asdict
from hashlib import sha384
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

from attestation.errors import AttestationError, PolicyInvalid
from attestation.findings import Finding
from attestation.tdx.anchor import (
    INTEL_NAMES,
    SIMULATED_NAMES,
    SIMULATED_ORGANIZATION,
    CertificateNames,
    TdxTrustAnchor,
)
from attestation.tdx.appraise import TdxPolicy, appraise_quote
from attestation.tdx.certificates import verify_pck_chain
from attestation.tdx.crl import MAX_CRL, verify_crl
from attestation.tdx.eventlog import MAX_EVENTS, MAX_LOG, MAX_PAYLOAD, LogEvent, compare, parse_event_log
from attestation.tdx.memory import NoMemory
from attestation.tdx.quote import Quote
from tests.tdx_cases import NOW, Case, authority
from tests.tdx_rows import qe
from tests.tdx_tcb_rows import OLD, report
from tests.test_tdx_eventlog import EVENTS, SPEC, binary, record
from tests.test_tdx_memory import Held

ZERO, PPID, INSTANCE = "00" * 48, bytes(range(16)).hex(), bytes(range(16, 32)).hex()


def code_of(work: Callable[[], object]) -> str:
    with pytest.raises(AttestationError) as e:
        work()
    return e.value.code


# ---- findings


def findings(case: Case, **changes: Any) -> list[Finding]:
    policy = TdxPolicy.parse(TdxPolicy.strict_template() | changes, "tdx")
    return appraise_quote(case.build().ours(), policy, now=NOW)


TEMPLATE: list[tuple[str, str, str, str]] = [
    ("quote_versions", "QuoteFormNotAllowed", "4, 5", "5"),
    ("body_types", "QuoteFormNotAllowed", "2, 3", "3"),
    ("tcb_status", "TcbStatusRejected", "UpToDate", "UpToDate"),
    ("tcb_status.current", "TcbStatusRejected", "UpToDate", "UpToDate"),
    ("rejected_advisories", "", "waived", ""),
    ("max_tcb_age_seconds", "", "waived", "2025-08-13T00:00:00Z"),
    ("min_evaluation_data_number", "TcbEvaluationDataNumberTooLow", "17", "18"),
    ("max_collateral_age_seconds", "CollateralTooOld", "2592000", "43200"),
    ("mr_seam", "", "waived", "8ed08885b5dbea2da49f3e9371188514757c7c2c2ae19beba750f61c33b814aa" + "00" * 16),
    ("min_tee_tcb_svn", "", "waived", "070103" + "00" * 13),
    ("min_module_isvsvn", "", "waived", "TDX_01 7, TDX_01 7"),
    ("td_attributes", "TdAttributesNotAllowed", "0000001000000000 under mask ffffffffffffffff", "0000001000000000"),
    ("xfam", "XfamInvalid", "e7db060000000000", "e702060000000000"),
    ("mr_owner", "MeasurementMismatch", ZERO, ZERO),
    ("mr_owner_config", "MeasurementMismatch", ZERO, ZERO),
    ("fmspc", "", "waived", "51f0c0de0000"),
    ("ppid", "", "waived", PPID),
    ("platform_instance_id", "", "waived", INSTANCE),
    ("sgx_type", "PlatformNotAllowed", "1, 2", "1"),
    ("dynamic_platform", "", "waived", "True"),
    ("cached_keys", "", "waived", "True"),
    ("smt", "", "waived", "True"),
]


def test_the_findings_of_the_template_are_these() -> None:
    found = findings(Case.new(1, version=5))
    rows = [(f.rule, f.code, f.want, f.got) for f in found]
    assert rows == [(f"tdx.{rule}", *rest) for rule, *rest in TEMPLATE]
    waived = {f"tdx.{k}": v["waived"] for k, v in TdxPolicy.strict_template().items() if isinstance(v, dict) and
              "waived" in v}  # fmt: skip
    assert {f.rule: f.waived for f in found if f.waived} == waived
    assert all(f.holds for f in found)


def test_the_template_is_as_strict_as_this() -> None:
    """What is waived in it has a reason that a reader can judge; what is given is stated here once more."""
    template = TdxPolicy.strict_template()
    assert {k for k, v in template.items() if isinstance(v, dict) and "waived" in v} == {
        "max_tcb_age_seconds", "rejected_advisories", "min_tee_tcb_svn", "min_module_isvsvn", "mr_seam", "fmspc",
        "ppid", "platform_instance_id", "dynamic_platform", "cached_keys", "smt",
    }  # fmt: skip
    words = [v["waived"] for v in template.values() if isinstance(v, dict) and "waived" in v]
    assert all(re.fullmatch(r"[A-Za-z][A-Za-z' ;]{10,}[a-z]", word) and "XX" not in word for word in words)
    assert {word[0].isupper() for word in words} == {True, False}  # "Intel's levels decide", and plain sentences


def test_flags_that_must_be_off_say_what_they_are() -> None:
    found = {f.rule: f for f in findings(Case.new(1), dynamic_platform="forbidden", smt="forbidden")}
    assert (found["tdx.smt"].want, found["tdx.smt"].got) == ("off", "True")
    assert found["tdx.dynamic_platform"].code == "PlatformNotAllowed"


def test_a_status_says_what_falls_short() -> None:
    case = Case.new(2, version=5)
    report(tee_tcb_svn=OLD, tee_tcb_svn_2=OLD)(case)
    found = {f.rule: f for f in findings(case)}
    for rule in ("tdx.tcb_status", "tdx.tcb_status.current"):
        assert not found[rule].holds
        assert re.fullmatch(
            r"OutOfDate \((\S+.* \d+, highest level \d+)(, \S+.* \d+, highest level \d+)*\)", found[rule].got
        )


def test_advisories_are_named() -> None:
    case = Case.new(1)
    qe(isv_svn=3)(case)
    advisories = case.build().ours().tcb.advisories
    assert len(advisories) >= 1
    waived = {f.rule: f for f in findings(case, tcb_status=["OutOfDate"])}
    assert waived["tdx.rejected_advisories"].got == ", ".join(advisories)
    given = {"tcb_status": ["OutOfDate"], "rejected_advisories": ["INTEL-SA-00001", "INTEL-SA-90004"]}
    found = {f.rule: f for f in findings(case, **given)}["tdx.rejected_advisories"]
    assert (found.want, found.got) == ("none of INTEL-SA-00001, INTEL-SA-90004", "INTEL-SA-90004")
    given["rejected_advisories"] = ["INTEL-SA-00001"]
    found = {f.rule: f for f in findings(case, **given)}["tdx.rejected_advisories"]
    assert (found.holds, found.code, found.got) == (True, "AdvisoryRejected", "none")


# ---- the least and the most that a clause takes


FITS: list[tuple[str, Any, Any]] = [  # field, the last value that fits, the first that does not
    ("max_tcb_age_seconds", 10 * 366 * 86400, 10 * 366 * 86400 + 1),
    ("max_collateral_age_seconds", 10 * 366 * 86400, 10 * 366 * 86400 + 1),
    ("max_collateral_age_seconds", 0, -1),
    ("min_evaluation_data_number", 2**31, 2**31 + 1),
    ("min_evaluation_data_number", 0, True),
    ("min_module_isvsvn", {"TDX_0F": 255}, {"TDX_0F": 256}),
    ("min_module_isvsvn", {"TDX_00": 0}, {"TDX_00": -1}),
    ("min_module_isvsvn", {"TDX_A9": 1}, {"TDX_A9 ": 1}),
    ("min_module_isvsvn", {"TDX_A9": 1}, {"TDX_a9": 1}),
    ("min_module_isvsvn", {"TDX_A9": 1}, {"xTDX_A9": 1}),
    ("min_module_isvsvn", {"TDX_A9": 1}, ["TDX_A9"]),
    ("mr_seam", ["ab" * 48] * 256, ["ab" * 48] * 257),
    ("mr_seam", ["ab" * 48], [48]),
    ("mr_seam", ["ab" * 48], {"0": "ab" * 48}),
    ("mr_owner", ["ab" * 48], ["ab" * 49]),
    ("mr_owner_config", ["ab" * 48], ["ab" * 47]),
    ("fmspc", ["0123456789ab"], ["0123456789ab00"]),
    ("fmspc", ["0123456789ab"], ["0123456789AB"]),
    ("ppid", ["ab" * 16], ["ab" * 17]),
    ("platform_instance_id", ["ab" * 16], ["ab" * 15]),
    ("rejected_advisories", ["INTEL-SA-00001"], ["INTEL-SA-0001"]),
    ("rejected_advisories", ["INTEL-SA-99999"], ["intel-sa-99999"]),
    ("rejected_advisories", ["INTEL-SA-99999"], ["INTEL-SA-999999"]),
    ("quote_versions", [4, 5], [4, 6]),
    ("body_types", [2, 3, 4], [2, 5]),
    ("body_types", [2], [2.0]),
    ("sgx_type", [0, 1, 2], [-1]),
    ("xfam", "ff" * 8, "ff" * 9),
    ("min_tee_tcb_svn", "ff" * 16, "ff" * 17),
    ("td_attributes", {"value": "ff" * 8, "mask": "00" * 8}, {"value": "ff" * 8, "mask": "00" * 7}),
    ("td_attributes", {"value": "ff" * 8, "mask": "00" * 8}, {"value": "ff" * 7, "mask": "00" * 8}),
    ("td_attributes", {"value": "ff" * 8, "mask": "00" * 8}, {"mask": "00" * 8}),
    ("smt", "forbidden", "FORBIDDEN"),
    ("tcb_status", ["UpToDate", "OutOfDate"], ["uptodate"]),
    ("tcb_status", ["UpToDate"], [None]),
]


@pytest.mark.parametrize(("field", "good", "bad"), FITS, ids=[f"{row[0]} {str(row[2])[:30]}" for row in FITS])
def test_the_last_value_that_fits_and_the_first_that_does_not(field: str, good: Any, bad: Any) -> None:
    template = TdxPolicy.strict_template()
    TdxPolicy.parse(template | {field: good}, "tdx")
    with pytest.raises(PolicyInvalid) as e:
        TdxPolicy.parse(template | {field: bad}, "tdx")
    assert e.value.where.startswith(f"tdx.{field}")


PLACES: list[tuple[str, Any, str]] = [
    ("mr_owner", [ZERO, "00"], "tdx.mr_owner[1]"),
    ("quote_versions", [4, 5, 6], "tdx.quote_versions[2]"),
    ("tcb_status", ["UpToDate", "Revoked"], "tdx.tcb_status[1]"),
    ("min_module_isvsvn", {"TDX_01": 300}, "tdx.min_module_isvsvn.TDX_01"),
    ("min_module_isvsvn", {"TDX": 3}, "tdx.min_module_isvsvn"),
    ("td_attributes", {"value": "00" * 8, "mask": ""}, "tdx.td_attributes.mask"),
    ("td_attributes", {"value": "", "mask": "00" * 8}, "tdx.td_attributes.value"),
    ("smt", {"waived": " "}, "tdx.smt.waived"),
    *[(field, 1.5, f"tdx.{field}") for field in TdxPolicy.strict_template()],
]  # fmt: skip


@pytest.mark.parametrize(("field", "value", "where"), PLACES, ids=[f"{row[0]} {row[1]}"[:40] for row in PLACES])
def test_an_author_is_told_the_place(field: str, value: Any, where: str) -> None:
    with pytest.raises(PolicyInvalid) as e:
        TdxPolicy.parse(TdxPolicy.strict_template() | {field: value}, "tdx")
    assert (e.value.code, e.value.where) == ("PolicyInvalid", where)


def test_every_field_is_read_into_its_own() -> None:
    """Each field gets a value of its own, so that none is taken for another."""
    values: dict[str, Any] = {
        "quote_versions": [5], "body_types": [4], "tcb_status": ["OutOfDate"], "max_tcb_age_seconds": 11,
        "min_evaluation_data_number": 12, "max_collateral_age_seconds": 13, "rejected_advisories": ["INTEL-SA-00014"],
        "min_tee_tcb_svn": "15" * 16, "min_module_isvsvn": {"TDX_16": 16}, "mr_seam": ["17" * 48],
        "td_attributes": {"value": "18" * 8, "mask": "19" * 8}, "xfam": "20" * 8, "mr_owner": ["21" * 48],
        "mr_owner_config": ["22" * 48], "fmspc": ["23" * 6], "ppid": ["24" * 16], "platform_instance_id": ["25" * 16],
        "sgx_type": [2], "dynamic_platform": "forbidden", "cached_keys": "forbidden", "smt": "forbidden",
    }  # fmt: skip
    read = asdict(TdxPolicy.parse(values, "tdx"))
    assert {name.removesuffix("_seconds") for name in values} == set(read)
    for name, want in values.items():
        given = read[name.removesuffix("_seconds")]
        got = given if name == "tcb_status" else given["value"]
        if name in {"dynamic_platform", "cached_keys", "smt"}:
            assert got is True
        elif name == "td_attributes":
            assert {k: v.hex() for k, v in got.items()} == want
        else:
            plain = [v.hex() if isinstance(v, bytes) else v for v in (got if isinstance(got, tuple) else [got])]
            assert plain == (want if isinstance(want, list) else [want])


# ---- names


def test_intels_names_are_these() -> None:
    """Intel SGX PCK Certificate and CRL Profile, section 1.3."""
    where = [("2.5.4.6", "US"), ("2.5.4.7", "Santa Clara"), ("2.5.4.8", "CA")]
    for names, organization in ((INTEL_NAMES, "Intel Corporation"), (SIMULATED_NAMES, "SIMULATED - NOT CONFIDENTIAL")):
        given = {role: set(getattr(names, role)) for role in names.__slots__}
        assert given == {
            role: {("2.5.4.3", f"Intel SGX {name}"), ("2.5.4.10", organization), *where}
            for role, name in [
                ("root", "Root CA"), ("platform_ca", "PCK Platform CA"), ("processor_ca", "PCK Processor CA"),
                ("pck", "PCK Certificate"), ("tcb_signing", "TCB Signing"),
            ]
        }  # fmt: skip


# ---- event logs


DIGEST = "00" * 48
IMR = {"imr": 0, "event_type": 4, "digest": DIGEST, "event_payload": ""}
BAD_LOGS: list[tuple[str, bytes, str]] = [
    ("junk behind", binary() + bytes(8) + b"junk", "TrailingData"),
    ("one byte behind", binary() + b"\1", "TrailingData"),
    ("half a padding", binary() + b"\xff" * 4 + bytes(4) + b"junk", "MalformedEventLog"),
    ("cut in the first event", SPEC[:-1], "MalformedEventLog"),
    ("two algorithms", SPEC.replace(b"\1\0\0\0\x0c\0", b"\2\0\0\0\x0c\0"), "MalformedEventLog"),
    ("no algorithm", SPEC.replace(b"\1\0\0\0\x0c\0", b"\0\0\0\0\x0c\0"), "MalformedEventLog"),
    ("another algorithm", SPEC.replace(b"\x0c\0\x30\0", b"\x0b\0\x30\0"), "MalformedEventLog"),
    ("another size", SPEC.replace(b"\x0c\0\x30\0", b"\x0c\0\x20\0"), "MalformedEventLog"),
    ("two digests", SPEC + record(1, 4, bytes(48)).replace(b"\4\0\0\0\1", b"\4\0\0\0\2", 1), "MalformedEventLog"),
    ("register 5", binary() + record(5, 4, bytes(48)), "MalformedEventLog"),
    ("too many", SPEC + record(1, 4, bytes(48), b"") * (MAX_EVENTS + 1), "MalformedEventLog"),
    ("too long", bytes(MAX_LOG + 1), "MalformedEventLog"),
    ("a JSON object", b"{}", "MalformedEventLog"),
    ("too many in JSON", json.dumps([{"imr": 0, "digest": DIGEST}] * (MAX_EVENTS + 1)).encode(), "MalformedEventLog"),
    ("an event that is no object", b"[[]]", "MalformedEventLog"),
    ("a cut JSON list", b"[", "JsonInvalid"),
    *[
        (f"{name} {str(value)[:12]}", json.dumps([IMR | {name: value}]).encode(), "MalformedEventLog")
        for name, value in [
            ("imr", -1), ("imr", 4), ("imr", None), ("imr", 0.0), ("event_type", -1), ("event_type", 2**32),
            ("event_type", True), ("digest", "00" * 47), ("digest", "00" * 49), ("digest", ""), ("digest", 5),
            ("digest", "0" * 95), ("digest", "0x" + "00" * 47), ("event_payload", "0"), ("event_payload", ["00"]),
            ("event_payload", "zz"), ("event_payload", "00" * (MAX_PAYLOAD + 1)), ("event_payload", "00\n"),
        ]
    ],
]  # fmt: skip


@pytest.mark.parametrize(("data", "code"), [row[1:] for row in BAD_LOGS], ids=[row[0] for row in BAD_LOGS])
def test_what_is_no_log_has_its_code(data: bytes, code: str) -> None:
    assert code_of(lambda: parse_event_log(data)) == code


def test_the_largest_logs_fit() -> None:
    assert len(parse_event_log(SPEC + record(1, 4, bytes(48), b"") * MAX_EVENTS)) == MAX_EVENTS
    whole = SPEC + record(1, 4, bytes(48), b"") * MAX_EVENTS
    assert len(parse_event_log(whole + bytes(8))) == MAX_EVENTS
    assert len(parse_event_log(binary().ljust(MAX_LOG, b"\xff"))) == len(EVENTS)
    assert len(parse_event_log(json.dumps([{"imr": 3, "digest": DIGEST}] * 3000).encode())) == 3000
    most = IMR | {"imr": 3, "event_type": 2**32 - 1, "event_payload": "aB" * MAX_PAYLOAD, "digest": "Ff" * 48}
    found = parse_event_log(b" \n" + json.dumps([most]).encode())[0]
    assert found == LogEvent(register=3, type=2**32 - 1, digest=b"\xff" * 48, payload=b"\xab" * MAX_PAYLOAD)


def test_what_a_json_event_leaves_out_is_nothing() -> None:
    found = parse_event_log(json.dumps([{"imr": 0, "digest": DIGEST}]).encode())
    assert found == (LogEvent(register=0, type=0, digest=bytes(48), payload=b""),)


def test_an_event_may_say_anything_short_of_the_padding() -> None:
    """Register 0 with type 0, and all ones, end a log; each half alone does not."""
    for end in (bytes(8), b"\xff" * 8):
        assert parse_event_log(binary() + end + bytes(56)) == tuple(EVENTS)
    for index, kind in ((0, 1), (1, 0), (1, 0xFFFFFFFF), (4, 0)):
        found = parse_event_log(SPEC + record(index, kind, bytes(48)))
        assert [(e.register, e.type) for e in found] == ([(index - 1, kind)] if index else [])
    assert parse_event_log(binary() + bytes(7)) == tuple(EVENTS) == parse_event_log(binary() + b"\xff" * 3)


def test_a_vendor_may_speak_in_the_first_event() -> None:
    size = int.from_bytes(SPEC[28:32], "little") + 3
    spec = SPEC[:28] + size.to_bytes(4, "little") + SPEC[32:-1] + b"\3abc"
    assert parse_event_log(spec + binary()[len(SPEC) :]) == tuple(EVENTS)


def test_event_types_have_their_names() -> None:
    """TCG PC Client Platform Firmware Profile, table of event types; a number where it has none."""

    def named(kind: int) -> str:
        return LogEvent(register=0, type=kind, digest=bytes(48), payload=b"").name

    low = {1: "POST_CODE", 4: "SEPARATOR", 5: "ACTION", 6: "EVENT_TAG", 10: "PLATFORM_CONFIG_FLAGS", 13: "IPL"}
    high = {
        1: "VARIABLE_DRIVER_CONFIG", 2: "VARIABLE_BOOT", 3: "BOOT_SERVICES_APPLICATION", 4: "BOOT_SERVICES_DRIVER",
        6: "GPT_EVENT", 7: "ACTION", 8: "PLATFORM_FIRMWARE_BLOB", 9: "HANDOFF_TABLES", 10: "PLATFORM_FIRMWARE_BLOB2",
        11: "HANDOFF_TABLES2", 12: "VARIABLE_BOOT2", 0xE0: "VARIABLE_AUTHORITY",
    }  # fmt: skip
    for kind in range(0x100):
        assert named(kind) == (f"EV_{low[kind]}" if kind in low else f"0x{kind:08x}")
        assert named(1 << 31 | kind) == (f"EV_EFI_{high[kind]}" if kind in high else f"0x8{kind:07x}")


def test_where_log_and_register_part_is_said_to_the_letter() -> None:
    value = bytes(48)
    for event in EVENTS[::3]:
        value = sha384(value + event.digest).digest()
    rows = compare([*EVENTS, EVENTS[0]], [value, b"\1" * 48, bytes(48), bytes(48)])
    assert [(r.index, r.events, r.matches_after, r.equal) for r in rows] == [
        (0, 4, 3, False), (1, 3, None, False), (2, 3, 0, False), (3, 0, 0, True),
    ]  # fmt: skip
    assert [r.explanation() for r in rows] == [
        "event 3 of this register is the first that the register does not hold",
        "no beginning of its 3 events comes to the quoted value: an early event differs or is missing",
        "event 0 of this register is the first that the register does not hold",
        "0 events",
    ]


# ---- CRLs and memories


def test_a_revocation_list_is_bounded() -> None:
    issuer = authority().platform_ca

    def signed(size: int) -> bytes:
        key = x509.AuthorityKeyIdentifier(b"x" * size, None, None)
        dates = NOW.replace(hour=1), NOW.replace(day=9)
        builder = x509.CertificateRevocationListBuilder(issuer.certificate.subject, *dates)
        builder = builder.add_extension(x509.CRLNumber(1), critical=False).add_extension(key, critical=False)
        return builder.sign(issuer.key, SHA256()).public_bytes(Encoding.DER)

    def of_size(want: int) -> bytes:
        """A signature is now and then a byte shorter or longer: sign again until the whole has the size."""
        size = want - len(signed(0)) - 12
        for _ in range(500):
            der = signed(size)
            if len(der) == want:
                return der
            size += max(-1, min(1, want - len(der))) if abs(want - len(der)) < 4 else want - len(der)
        raise ValueError(want)

    chain = Quote.parse(Case.new(1).build().signed).auth.chain
    anchor = TdxTrustAnchor(root_sha256=authority().root_sha256, names=SIMULATED_NAMES)
    _, role, _ = verify_pck_chain(chain, anchor=anchor, now=NOW, memory=NoMemory())
    assert verify_crl(of_size(MAX_CRL), role, name="pck_crl", now=NOW).name == "pck_crl"
    assert code_of(lambda: verify_crl(of_size(MAX_CRL + 1), role, name="pck_crl", now=NOW)) == "CrlUnsupported"


def test_a_memory_of_nothing_makes_everything_anew() -> None:
    memory = NoMemory()
    assert memory.recall("k", (b"",), now=NOW, make=Held) is not memory.recall("k", (b"",), now=NOW, make=Held)
    assert len(memory) == 0


# ---- words that Intel's documents and certificates use


def test_names_are_made_of_these_attributes() -> None:
    assert CertificateNames.of_organization("Intel Corporation") == INTEL_NAMES
    assert CertificateNames.of_organization(SIMULATED_ORGANIZATION) == SIMULATED_NAMES
