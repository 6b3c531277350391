# SPDX-License-Identifier: Apache-2.0
"""The edges of GPU verification: sets that make no machine, measurements that nobody compares, the wire, the policy."""
# ruff: noqa: E501 - one row, one line

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from attestation import cbor
from attestation.errors import AttestationError, Malformed, PolicyInvalid
from attestation.gpu.appraise import GpuPolicy, appraise_gpus
from attestation.gpu.binding import gpu_set_digest, leaf_serial
from attestation.gpu.evidence import (
    MAX_DEVICES,
    NONCE_CLIENT,
    NONCE_EPOCH,
    GpuDeviceEvidence,
    GpuEndorsementSet,
    GpuEvidence,
)
from attestation.gpu.measure import NVDEC0_INDEX, compare
from attestation.gpu.opaque import GpuMode, decode_opaque
from attestation.gpu.rim import verify_rim
from attestation.gpu.spdm import parse_report
from attestation.gpu.topology import require_topology
from attestation.gpu.verify import VerifiedDevice, verify_set
from enclave.simulator.gpu_device import golden
from enclave.simulator.gpu_report import encode_opaque
from tests.gpu_cases import (
    CC_STATE,
    DAY,
    NONCE,
    NOW,
    GpuCase,
    anchor,
    but,
    given,
    machine,
    measurement,
    opaque,
    rims,
)


def code_of(work: Callable[[], object]) -> str:
    with pytest.raises(AttestationError) as e:
        work()
    return e.value.code


# ---- sets


def verified(mode: str, count: int = 1) -> list[VerifiedDevice]:
    return list(GpuCase(mode=mode, count=count).verified().devices)


def gpus_of(devices: list[VerifiedDevice], **changes: Any) -> list[VerifiedDevice]:
    """Change the first GPU of a verified set."""
    at = next(i for i, d in enumerate(devices) if d.kind == "gpu")
    return [replace(d, **changes) if i == at else d for i, d in enumerate(devices)]


def switches_of(devices: list[VerifiedDevice], **changes: Any) -> list[VerifiedDevice]:
    at = next(i for i, d in enumerate(devices) if d.kind == "switch")
    return [replace(d, **changes) if i == at else d for i, d in enumerate(devices)]


def without_first(devices: list[VerifiedDevice], kind: str) -> list[VerifiedDevice]:
    first = next(d for d in devices if d.kind == kind)
    return [d for d in devices if d is not first]


Bend = Callable[[list[VerifiedDevice]], list[VerifiedDevice]]
SETS: list[tuple[str, str, int, Bend, str]] = [
    ("two serials alike", "mpt", 2, lambda d: gpus_of(d, serial=d[1].serial), "GpuDuplicateDevice"),
    ("two identifiers alike", "mpt", 2, lambda d: gpus_of(d, pdi=d[1].pdi), "GpuDuplicateDevice"),
    ("two chips", "mpt", 2, lambda d: gpus_of(d, product="GH100"), "GpuTopologyInvalid"),
    ("two drivers", "mpt", 2, lambda d: gpus_of(d, driver_version="999.1.1"), "GpuTopologyInvalid"),
    ("two modes", "mpt", 2, lambda d: gpus_of(d, mode=GpuMode.SINGLE), "GpuTopologyInvalid"),
    ("two GPUs of single passthrough", "mpt", 2, lambda d: [replace(x, mode=GpuMode.SINGLE) for x in d], "GpuTopologyInvalid"),
    ("nobody", "spt", 1, lambda _: [], "GpuEvidenceMissing"),
    ("switches beside one GPU", "ppcie", 1, lambda d: [replace(x, mode=GpuMode.MULTI) if x.kind == "gpu" else x for x in d], "GpuTopologyInvalid"),
    ("seven GPUs", "ppcie", 1, lambda d: without_first(d, "gpu"), "GpuTopologyInvalid"),
    ("three switches", "ppcie", 1, lambda d: without_first(d, "switch"), "GpuTopologyInvalid"),
    ("a GPU linked to no switch", "ppcie", 1, lambda d: gpus_of(d, linked_pdis=frozenset()), "GpuTopologyInvalid"),
    ("a GPU linked to one more", "ppcie", 1, lambda d: gpus_of(d, linked_pdis=frozenset({b"x" * 8, *next(x for x in d if x.kind == "gpu").linked_pdis})), "GpuTopologyInvalid"),
    ("a switch linked to seven", "ppcie", 1, lambda d: switches_of(d, linked_pdis=frozenset(list(next(x for x in d if x.kind == "switch").linked_pdis)[1:])), "GpuTopologyInvalid"),
    ("a switch that no GPU names", "ppcie", 1, lambda d: switches_of(d, pdi=b"y" * 8), "GpuTopologyInvalid"),
]  # fmt: skip


@pytest.mark.parametrize(("mode", "count", "bend", "code"), [row[1:] for row in SETS], ids=[row[0] for row in SETS])
def test_devices_that_make_no_machine(mode: str, count: int, bend: Bend, code: str) -> None:
    devices = verified(mode, count)
    assert str(require_topology(devices)) == mode
    assert code_of(lambda: require_topology(bend(devices))) == code


def test_a_gpu_and_a_switch_of_one_identifier_are_two_devices() -> None:
    devices = verified("ppcie")
    assert len({(d.kind, d.pdi) for d in devices}) == 12


def test_a_set_is_bounded() -> None:
    device = GpuCase().evidence()[0]
    nothing = GpuEndorsementSet()
    for devices in ([], [device] * (MAX_DEVICES + 1)):
        with pytest.raises(AttestationError) as e:
            verify_set(devices, nothing, nonce=None, anchor=anchor(), now=NOW)
        assert e.value.code == "GpuEvidenceMissing"


def test_a_time_without_a_zone_is_the_callers_bug() -> None:
    with pytest.raises(ValueError, match="time zone"):
        GpuCase(now=NOW.replace(tzinfo=None)).verified()


def test_a_switch_says_its_own_identifier() -> None:
    def other(fields: Any) -> Any:
        bent = [(n, b"z" * 8 if n == 22 and len(v) == 8 else v) for n, v in fields.opaque]
        return replace(fields, opaque=tuple(bent))

    assert code_of(GpuCase(mode="ppcie", fields=other).verified) == "GpuTopologyInvalid"


def test_the_answer_holds_no_longer_than_its_shortest_part() -> None:
    found = GpuCase(mode="mpt", count=2).verified()
    assert found.window.not_after <= NOW + DAY
    assert found.window.not_before == NOW - timedelta(minutes=10)
    bare = GpuCase(ocsp=()).verified()
    assert bare.window.not_after > NOW + 20 * DAY
    assert len(found.roots_used) == 2
    assert len(GpuCase(rims=(), ocsp=()).verified().roots_used) == 1


# ---- measurements


def test_one_measurement_of_a_set_is_compared_with_its_own_golden_value() -> None:
    for index in (0, 7, 12, 40):
        (device,) = GpuCase(fields=measurement(index, bytes(48))).verified().devices
        assert device.measurements is not None
        (wrong,) = device.measurements.mismatches
        assert (wrong.index, wrong.golden, wrong.found, wrong.exempt) == (
            index,
            (golden("GH100", index),),
            bytes(48),
            False,
        )


@pytest.mark.parametrize(("status", "exempt"), [(b"\x55", True), (b"\xaa", False), (None, False)])
def test_index_35_is_excused_only_where_the_decoder_is_disabled(status: bytes | None, exempt: bool) -> None:
    def fields(f: Any) -> Any:
        kept = [(n, v) for n, v in f.opaque if n != 11] + ([] if status is None else [(11, status)])
        return measurement(NVDEC0_INDEX, bytes(48))(replace(f, opaque=tuple(kept)))

    case = GpuCase(fields=fields)
    (device,) = case.verified().devices
    assert device.measurements is not None
    assert [(m.index, m.exempt) for m in device.measurements.mismatches] == [(35, exempt)]
    assert all(f.holds for f in case.findings()) is exempt
    assert not all(f.holds for f in case.findings(disabled_decoder="required"))


def test_a_golden_value_of_a_measurement_that_the_device_has_not_is_refused() -> None:
    known = verify_rim(rims("GH100")[0], anchor=anchor())
    report = parse_report(machine("ppcie", 1)[8].report(NONCE), kind="switch")
    assert code_of(lambda: compare(report.measurements, [known], nvdec0_enabled=None)) == "RimMismatch"
    assert code_of(lambda: compare([bytes(48)] * 64, [known, known], nvdec0_enabled=None)) == "RimMismatch"


def test_what_is_measured_and_what_is_covered() -> None:
    case = GpuCase(fields=measurement(50, b"\1" * 48))
    (device,) = case.verified().devices
    assert device.measurements is not None
    assert device.measurements.uncovered == (50,)
    assert [f.code for f in case.findings() if not f.holds] == ["GpuMeasurementUncovered"]
    assert all(f.holds for f in case.findings(uncovered={"50": "a debug counter"}))
    assert not all(f.holds for f in case.findings(uncovered={"51": "another one"}))


# ---- the report's own words


def test_identifiers_that_say_nothing_are_none() -> None:
    """A disabled link is zero, an empty place is 0xff."""
    links = [bytes(8), b"\xff" * 8, bytes(range(8)), *[bytes(8)] * 15]
    fields = [(n, v) for n, v in machine("spt", 1)[0].fields(NONCE).opaque]
    found = decode_opaque(encode_opaque((*fields, (22, b"".join(links)))), kind="gpu")
    assert found.switch_pdis == frozenset({bytes(range(8))[::-1]})


@pytest.mark.parametrize(
    "bend", [(22, b"x" * 7), (22, b"x" * 9), (26, bytes(63)), (6, b"96.10"), (6, b"96.1g.00.00.01")]
)
def test_a_switch_of_other_words_is_refused(bend: tuple[int, bytes]) -> None:
    number, value = bend
    fields = machine("ppcie", 1)[8].fields(NONCE).opaque
    data = encode_opaque(tuple((n, value if n == number else v) for n, v in fields))
    assert code_of(lambda: decode_opaque(data, kind="switch")) == "MalformedOpaqueData"
    without = encode_opaque(tuple((n, v) for n, v in fields if n != 22))
    assert code_of(lambda: decode_opaque(without, kind="switch")) == "MalformedOpaqueData"


def test_64_opaque_fields_are_read_and_a_65th_is_not() -> None:
    fields = machine("spt", 1)[0].fields(NONCE).opaque
    many = (*fields, *[(100 + i, b"") for i in range(64 - len(fields))])
    assert len(decode_opaque(encode_opaque(many), kind="gpu").unknown) == 64 - len(fields)
    assert code_of(lambda: decode_opaque(encode_opaque((*many, (200, b""))), kind="gpu")) == "MalformedOpaqueData"


def test_a_kind_of_device_is_one_of_two() -> None:
    with pytest.raises(ValueError, match="kind"):
        parse_report(b"", kind="cpu")
    assert GpuCase(fields=but(slot=0)).verified().devices[0].kind == "gpu"
    assert GpuCase(fields=given(16, b"1\0")).verified().gpus


# ---- binding


def test_a_set_digest_is_of_signed_bytes_chain_and_state_in_the_order_of_serials() -> None:
    devices = GpuCase(mode="mpt", count=3).evidence()
    digest = gpu_set_digest(devices)
    assert gpu_set_digest(devices[::-1]) == digest
    assert gpu_set_digest([]) == b""
    for bent in (
        replace(devices[0], cc_state={**CC_STATE, "ready": 0}),
        replace(devices[0], chain=devices[0].chain + b"\n"),
        GpuCase(mode="mpt", count=3).evidence()[0],
    ):
        assert gpu_set_digest([bent, *devices[1:]]) != digest
    assert code_of(lambda: gpu_set_digest([devices[0], devices[0]])) == "GpuDuplicateDevice"
    assert leaf_serial(devices[0].chain) == machine("mpt", 3)[0].chain[0].serial_number


# ---- the wire


def evidence(**changes: Any) -> dict[int, Any]:
    device = GpuDeviceEvidence(kind="gpu", report=b"r", chain=b"c", cc_state={"ready": 1})
    made = GpuEvidence(
        nonce_kind=NONCE_EPOCH, devices=(device,), boot_devices=(device,), endorsements=GpuEndorsementSet(rims=(b"x",))
    )
    document: dict[int, Any] = made.to_map()
    for path, value in changes.items():
        target: Any = document
        *way, last = [int(step) for step in path.removeprefix("at_").split("_")]
        for step in way:
            target = target[step]
        target[last] = value
    return document


BENT: list[dict[str, Any]] = [
    {"at_1": 0}, {"at_1": 3}, {"at_1": 256}, {"at_1": "1"}, {"at_2": []}, {"at_2": [7]}, {"at_2": 7}, {"at_3": []},
    {"at_2_0_1": "cpu"}, {"at_2_0_1": "x" * 17}, {"at_2_0_1": 7}, {"at_2_0_2": bytes(8193)}, {"at_2_0_2": "r"},
    {"at_2_0_3": bytes(16385)}, {"at_2_0_4": []}, {"at_2_0_4": {"": 1}}, {"at_2_0_4": {"x" * 33: 1}},
    {"at_2_0_4": {"x": 2**32}}, {"at_2_0_4": {7: 1}},
    {"at_2_0_4": {str(i): 1 for i in range(17)}}, {"at_4": []}, {"at_4_1": [b"x"] * 17}, {"at_4_1": [bytes(256 * 1024 + 1)]},
    {"at_4_2": [b"x"] * 65}, {"at_4_2": [bytes(16 * 1024 + 1)]}, {"at_4_3": [b"x"] * 17}, {"at_4_3": ["x"]}, {"at_5": 1},
]  # fmt: skip


@pytest.mark.parametrize("changes", BENT, ids=[str(b)[:40] for b in BENT])
def test_evidence_of_another_form_is_refused(changes: dict[str, Any]) -> None:
    data = cbor.encode(evidence(**changes))
    value = cbor.decode(data, limit=1 << 22, what="gpu")
    with pytest.raises(Malformed) as e:
        GpuEvidence.from_map(value)
    assert e.value.code == "MalformedEvidence"


def test_too_many_devices_are_refused_on_the_wire_and_evidence_comes_back_as_it_went() -> None:
    document = evidence()
    assert GpuEvidence.from_map(cbor.decode(cbor.encode(document), limit=1 << 16, what="gpu")).to_map() == document
    one = document[2][0]
    for place in ("at_2", "at_3"):
        GpuEvidence.from_map(evidence(**{place: [one] * MAX_DEVICES}))
        many = evidence(**{place: [one] * (MAX_DEVICES + 1)})
        with pytest.raises(Malformed) as e:
            GpuEvidence.from_map(many)
        assert e.value.code == "MalformedEvidence"


# ---- the policy


def refused(case: GpuCase, **changes: Any) -> set[str]:
    return {
        f.rule.split(".")[1].split("[")[0] + "." + f.rule.split(".")[-1]
        for f in case.findings(**changes)
        if not f.holds
    }


def test_no_evidence_is_no_answer() -> None:
    policy = GpuPolicy.parse(GpuPolicy.strict_template(), "gpu")
    (finding,) = appraise_gpus(None, policy, nonce_kind=NONCE_CLIENT, now=NOW)
    assert (finding.holds, finding.code) == (False, "GpuEvidenceMissing")


@pytest.mark.parametrize(("now", "holds"), [(NOW, True), (NOW + 2 * DAY, False)])
def test_a_verdict_is_asked_for_within_its_window(now: datetime, holds: bool) -> None:
    policy = GpuPolicy.parse(GpuPolicy.strict_template(), "gpu")
    found = appraise_gpus(GpuCase().verified(), policy, nonce_kind=NONCE_CLIENT, now=now)
    assert [f.holds for f in found if f.rule == "gpu.window"] == [holds]


@pytest.mark.parametrize(("kind", "fresh", "holds"), [(NONCE_CLIENT, "client", True), (NONCE_EPOCH, "client", False),
    (NONCE_CLIENT, "epoch", True), (NONCE_EPOCH, "epoch", True), (0, "epoch", False), (None, "epoch", False),
    (None, "client", False)])  # fmt: skip
def test_which_nonces_are_fresh(kind: int | None, fresh: str, holds: bool) -> None:
    policy = GpuPolicy.parse(GpuPolicy.strict_template() | {"fresh": fresh}, "gpu")
    found = appraise_gpus(GpuCase().verified(), policy, nonce_kind=kind, now=NOW)
    assert [f.holds for f in found if f.rule == "gpu.fresh"] == [holds]


def test_every_way_of_waiving_is_told() -> None:
    why = {"waived": "for this test"}
    fields = [
        name for name, value in GpuPolicy.strict_template().items() if name not in {"fresh", "mismatch", "uncovered"}
    ]
    found = GpuCase(ocsp=()).findings(**dict.fromkeys(fields, why))
    assert all(f.holds for f in found)
    waived = {f.rule.split(".")[-1] for f in found if f.waived}
    assert {"count", "modes", "chip", "driver", "vbios", "device", "revocation", "firmware_identity"} <= waived


@pytest.mark.parametrize("missing", ["cc_feature", "dev_tools", "environment", "multi_gpu_mode"])
def test_a_state_that_nvml_did_not_tell_is_no_production(missing: str) -> None:
    state = {k: v for k, v in CC_STATE.items() if k != missing}
    assert refused(GpuCase(cc_state=state)) == {"gpu.cc_state"}


@pytest.mark.parametrize(("mode", "count", "number", "holds"), [
    ("spt", 1, 0, True), ("spt", 1, 1, False), ("spt", 1, 2, False), ("mpt", 2, 0, True), ("mpt", 2, 2, True),
    ("mpt", 2, 1, False), ("ppcie", 1, 1, True), ("ppcie", 1, 0, False)])  # fmt: skip
def test_which_multi_gpu_mode_goes_with_which_report(mode: str, count: int, number: int, holds: bool) -> None:
    case = GpuCase(mode=mode, count=count, cc_state=CC_STATE | {"multi_gpu_mode": number})
    found = case.findings(count={"waived": "x"}, modes={"waived": "x"})
    assert all(f.holds for f in found if f.rule.endswith("cc_state")) is holds


@pytest.mark.parametrize(("floor", "holds"), [("999.1.0", True), ("999.1.1", False), ("999.2", False), ("999.1", True),
    ("1000.0", False), ("99.9", True)])  # fmt: skip
def test_driver_versions_are_compared_number_by_number(floor: str, holds: bool) -> None:
    found = GpuCase().findings(min_driver=floor)
    assert all(f.holds for f in found) is holds


def test_allow_lists_accept_what_they_list() -> None:
    (device,) = GpuCase().verified().devices
    listed = {"devices": [device.ueid], "rims": [r.sha256.hex() for r in device.rims], "chips": [device.product]}
    assert all(f.holds for f in GpuCase().findings(**listed))
    assert not all(f.holds for f in GpuCase().findings(rims=[device.rims[0].sha256.hex()]))
    assert all(f.holds for f in GpuCase().findings(denied_vbios=["96.00.00.00.02"]))


INVALID: list[tuple[str, Any]] = [
    ("fresh", 1), ("fresh", {"waived": "no"}), ("count", 17), ("count", "1"), ("count", {"waived": ""}), ("chips", "GH100"),
    ("chips", ["LS10"]), ("chips", [1]), ("modes", []), ("modes", [1]), ("min_driver", "550"), ("min_driver", 550.9),
    ("min_driver", "550.90.07.1.1"), ("denied_vbios", ["96.00.9f.00.01"]), ("devices", [1]), ("devices", ["1" * 51]),
    ("devices", ["1"] * 257), ("revocation", 1), ("rims", ["0" * 63]), ("rims", ["G" * 64]), ("firmware_identity", True),
    ("disabled_decoder", "no"), ("mismatch", []), ("mismatch", {"03": "x"}), ("mismatch", {"3": "x" * 501}),
    ("mismatch", {"3": 1}), ("mismatch", {"-1": "x"}), ("uncovered", {"3": " "}), ("uncovered", {"x": "y"}),
]  # fmt: skip


@pytest.mark.parametrize(("field", "value"), INVALID, ids=[f"{f} {v}"[:40] for f, v in INVALID])
def test_a_clause_of_another_form_is_invalid(field: str, value: Any) -> None:
    with pytest.raises(PolicyInvalid):
        GpuPolicy.parse(GpuPolicy.strict_template() | {field: value}, "gpu")


def test_a_section_has_exactly_its_fields() -> None:
    others: list[object] = [{}, GpuPolicy.strict_template() | {"more": 1}, [], "strict"]
    for bent in others:
        with pytest.raises(PolicyInvalid):
            GpuPolicy.parse(bent, "gpu")


def test_opaque_changes_keep_the_rest() -> None:
    assert GpuCase(fields=opaque(lambda found: found[::-1])).verified().gpus
