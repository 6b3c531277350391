# SPDX-License-Identifier: Apache-2.0
"""Evidence with one thing wrong, everything around it hashed and signed anew: each is refused, by its own code."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from attestation import cbor
from attestation.appraise import appraise
from attestation.errors import AttestationError, Malformed, Refused, Untrusted
from attestation.evidence import MAX_CONFIG, MAX_EVIDENCE, Evidence
from attestation.runtime_log import Event
from attestation.verdict import Verdict
from attestation.verify import Verified, verify_evidence
from enclave.simulator.tdx_ca import SimulatedCa
from tests.forged import NONCE, NOW, Forge, config_document, policy, policy_document, registers


def verified(forge: Forge, *, nonce: bytes | None = NONCE, **policy_changes: Any) -> Verified:
    p = policy(**policy_changes)
    return verify_evidence(forge.evidence(), nonce=nonce, roots=p.roots, time=p.time, now=NOW)


def verdict(forge: Forge, **policy_changes: Any) -> Verdict:
    p = policy(**policy_changes)
    return appraise(verified(forge, **policy_changes), p, now=NOW)


def test_the_forged_machine_is_accepted_and_not_confidential() -> None:
    found = verdict(Forge())
    assert [f for f in found.findings if not f.holds] == []
    assert found.accepted
    assert not found.confidential
    found.require(allow_unconfidential=True)
    with pytest.raises(Refused) as e:
        found.require()
    assert e.value.code == "Unconfidential"
    assert e.value.verdict is found


def test_evidence_encodes_to_the_same_bytes() -> None:
    data = Forge().evidence()
    assert Evidence.decode(data).encode() == data


def without(name: str) -> Callable[[list[Event]], list[Event]]:
    return lambda events: [event for event in events if event.name != name]


def swapped(events: list[Event]) -> list[Event]:
    return [events[1], events[0], *events[2:]]


def appended(events: list[Event]) -> list[Event]:
    return [*events, Event(name="late", payload=b"")]


def changed(name: str, payload: bytes) -> Callable[[list[Event]], list[Event]]:
    return lambda events: [Event(name=e.name, payload=payload) if e.name == name else e for e in events]


OTHER_RTMRS = list(registers().values())[1:]
SHIFTED = int(NOW.timestamp())
UNTRUSTED: list[tuple[str, dict[str, Any], str]] = [
    ("another nonce", {"nonce": bytes(32)}, "NonceMismatch"),
    ("no nonce", {"nonce": None}, "NonceMismatch"),
    ("REPORTDATA of other claims", {"report": {"report_data": b"\7" * 64}}, "ReportDataMismatch"),
    ("REPORTDATA equal in its first half alone", {"after": {}, "report": {"report_data": None}}, "ReportDataMismatch"),
    ("another boot digest in the claims", {"claims": {"boot_digest": bytes(32)}}, "BootDigestMismatch"),
    ("another boot digest in the epoch", {"epoch": {"boot_digest": bytes(32)}}, "BootDigestMismatch"),
    ("another keyset in the claims", {"claims": {"keyset_digest": bytes(32)}}, "EpochDigestMismatch"),
    ("another log digest in the claims", {"claims": {"log_digest": bytes(32)}}, "RuntimeLogMismatch"),
    ("RTMR3 of another log", {"report": {"rtmr": (*OTHER_RTMRS, bytes(48))}}, "RuntimeLogMismatch"),
    ("an event dropped", {"events": without("operator")}, "MalformedRuntimeLog"),
    ("ready dropped", {"events": without("ready")}, "MalformedRuntimeLog"),
    ("two events swapped", {"events": swapped}, "MalformedRuntimeLog"),
    ("an event after ready", {"events": appended}, "MalformedRuntimeLog"),
    ("no event", {"events": lambda _: []}, "MalformedRuntimeLog"),
    ("another image id measured", {"events": changed("image-id", bytes(32))}, "RuntimeLogMismatch"),
    ("another config measured", {"events": changed("config", bytes(48))}, "RuntimeLogMismatch"),
    ("another operator measured", {"events": changed("operator", bytes(48))}, "RuntimeLogMismatch"),
    ("another model measured", {"events": changed("model", bytes(32))}, "RuntimeLogMismatch"),
    ("another boot map measured", {"events": changed("ready", bytes(32))}, "RuntimeLogMismatch"),
    ("MRCONFIGID of another config", {"report": {"mr_config_id": bytes(48)}}, "ConfigDigestMismatch"),
    ("another config shown", {"after": {"config": config_document(retention=1)}}, "ConfigDigestMismatch"),
    ("an operator document that nobody measured", {"after": {"operator": b"{}"}}, "OperatorDigestMismatch"),
    ("GPUs measured, none shown", {"events": changed("gpu", b"\1" * 32)}, "GpuEvidenceMissing"),
    ("GPUs claimed, none shown", {"claims": {"gpu_set": b"\1" * 32}}, "GpuEvidenceMissing"),
    ("an epoch of ten hours", {"epoch": {"not_after": SHIFTED + 36000}}, "EpochTooLong"),
    ("an epoch that ends before it begins", {"epoch": {"not_after": SHIFTED - 100}}, "MalformedEpoch"),
    ("an epoch that is over", {"epoch": {"not_before": SHIFTED - 4200, "not_after": SHIFTED}}, "EpochExpired"),
    (
        "an epoch that begins in six minutes",
        {"epoch": {"not_before": SHIFTED + 360, "not_after": SHIFTED + 4560}},
        "EpochNotYetValid",
    ),
    ("no collateral", {"after": {"collateral": b""}}, "CollateralMissing"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "code"), [row[1:] for row in UNTRUSTED], ids=[row[0] for row in UNTRUSTED])
def test_what_is_not_true_is_untrusted(changes: dict[str, Any], code: str) -> None:
    forge = Forge(**changes)
    if changes.get("report", {}).get("report_data", b"") is None:
        good = Evidence.decode(Forge().evidence())
        half = good.quote[48 + 520 : 48 + 552] + b"\1" * 32
        forge.report = {"report_data": half}
    with pytest.raises(Malformed if code.startswith("Malformed") else Untrusted) as e:
        verified(forge)
    assert e.value.code == code


def test_an_epoch_within_the_skew_is_accepted() -> None:
    forge = Forge(epoch={"not_before": SHIFTED + 300, "not_after": SHIFTED + 4500})
    assert verified(forge).window.holds(NOW)


def test_the_answer_holds_no_longer_than_its_epoch() -> None:
    forge = Forge()
    assert int(verified(forge).window.not_after.timestamp()) == forge.epoch_map().not_after


def test_evidence_without_a_nonce_counts_where_none_was_sent() -> None:
    assert verified(Forge(nonce=None), nonce=None).claims.nonce is None


def test_another_root_is_untrusted() -> None:
    with pytest.raises(Untrusted) as e:
        verified(Forge(authority=SimulatedCa.make(now=NOW)))
    assert e.value.code == "UntrustedRoot"


def test_a_simulated_machine_is_untrusted_under_the_roots_of_this_release() -> None:
    with pytest.raises(Untrusted) as e:
        verified(
            Forge(),
            roots={"kind": "intel+nvidia"},
            runtime=policy_document()["runtime"] | {"machine": "tdx"},
        )
    assert (e.value.code, e.value.exit_code) == ("UntrustedRoot", 4)


def test_endorsements_that_the_client_fetched_replace_the_stapled_ones() -> None:
    p, forge = policy(), Forge()
    data = Forge(after={"collateral": b"{}"}).evidence()
    fetched = forge.signed_collateral()
    found = verify_evidence(data, nonce=NONCE, collateral=fetched, roots=p.roots, time=p.time, now=NOW)
    assert found.boot == forge.boot_map()


MALFORMED: list[tuple[str, Callable[[bytes], bytes]]] = [
    ("empty", lambda _: b""),
    ("cut", lambda data: data[:-1]),
    ("a byte more", lambda data: data + b"\0"),
    ("too long", lambda data: data + bytes(MAX_EVIDENCE)),
    ("not a map", lambda _: cbor.encode([1])),
    ("an unknown field", lambda data: cbor.encode(unmapped(data) | {13: b""})),
    ("a missing field", lambda data: cbor.encode({k: v for k, v in unmapped(data).items() if k != 6})),
    ("another profile", lambda data: cbor.encode(unmapped(data) | {1: "sericin/2"})),
    ("a field of another type", lambda data: cbor.encode(unmapped(data) | {2: "quote"})),
    ("a config too long", lambda data: cbor.encode(unmapped(data) | {7: bytes(MAX_CONFIG + 1)})),
    ("claims that are no map", lambda data: cbor.encode(unmapped(data) | {3: b"\x80"})),
    ("a boot map that is none", lambda data: cbor.encode(unmapped(data) | {4: b"\xa0"})),
]


def unmapped(data: bytes) -> dict[int, Any]:
    value: Any = cbor.decode(data, limit=MAX_EVIDENCE, what="test")
    return dict(value)


@pytest.mark.parametrize("bend", [row[1] for row in MALFORMED], ids=[row[0] for row in MALFORMED])
def test_what_is_not_evidence_is_refused_with_a_typed_error(bend: Callable[[bytes], bytes]) -> None:
    p = policy()
    with pytest.raises(AttestationError) as e:
        verify_evidence(bend(Forge().evidence()), nonce=NONCE, roots=p.roots, time=p.time, now=NOW)
    assert isinstance(e.value, Malformed | Untrusted)


def test_every_flipped_byte_of_signed_parts_is_noticed() -> None:
    p = policy()
    good = Evidence.decode(Forge().evidence())
    for name in ("claims", "boot", "epoch", "runtime_log", "config", "quote"):
        data = bytearray(getattr(good, name))
        for at in range(0, len(data), max(1, len(data) // 12)):
            data[at] ^= 1
            changes: dict[str, Any] = {name: bytes(data)}
            bent = replace(good, **changes).encode()
            data[at] ^= 1
            with pytest.raises(AttestationError):
                verify_evidence(bent, nonce=NONCE, roots=p.roots, time=p.time, now=NOW)


def policy_section(section: str, **changes: Any) -> dict[str, Any]:
    document = policy_document()[section]
    return {section: [document[0] | changes]} if isinstance(document, list) else {section: document | changes}


WAIVED = {"waived": "for this test"}
REGISTRY = {"address": "0:" + "0" * 64, "max_staleness_seconds": 60}
REFUSED: list[tuple[str, dict[str, Any], dict[str, Any], str]] = [
    ("another MRTD", {"report": {"mr_td": bytes(48)}}, {}, "ImageUnknown"),
    ("another RTMR1", {}, policy_section("image", rtmr1="00" * 48), "ImageUnknown"),
    ("another RTMR2", {}, policy_section("image", rtmr2="00" * 48), "ImageUnknown"),
    ("another RTMR0", {}, policy_section("image", rtmr0=["00" * 48]), "MeasurementMismatch"),
    ("another image id", {"manifest": b"{}"}, {}, "ImageIdMismatch"),
    ("an image whose time is over", {}, policy_section("image", not_after="2026-09-30T00:00:00Z"), "ImageExpired"),
    ("another config", {"config": config_document(retention=1)}, {}, "ConfigNotAllowed"),
    ("another engine", {}, policy_section("runtime", engine=["llama"]), "ConfigNotAllowed"),
    ("an operator document", {}, policy_section("runtime", operator=["00" * 48]), "OperatorNotAllowed"),
    ("another model name", {}, policy_section("models", name="other"), "ModelNotAllowed"),
    ("other weights", {}, policy_section("models", weights="00" * 32), "ModelNotAllowed"),
    ("another template", {}, policy_section("models", template="00" * 32), "ModelNotAllowed"),
    ("another determinism class", {}, policy_section("models", determinism=["approximate"]), "ModelNotAllowed"),
    (
        "a machine that calls itself real",
        {"config": config_document(machine="tdx"), "boot": {"machine": "tdx"}},
        policy_section("runtime", config=WAIVED),
        "MachineNotAllowed",
    ),
    (
        "a boot map that calls itself real",
        {"boot": {"machine": "tdx"}},
        {},
        "MachineNotAllowed",
    ),
    ("a registry without proof", {}, {"registry": REGISTRY}, "RegistryRejected"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "policy_changes", "code"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED]
)
def test_what_the_policy_does_not_accept_is_refused(
    changes: dict[str, Any], policy_changes: dict[str, Any], code: str
) -> None:
    found = verdict(Forge(**changes), **policy_changes)
    assert not found.accepted
    assert code in {f.code for f in found.findings if not f.holds}
    with pytest.raises(AttestationError) as e:
        found.require(allow_unconfidential=True)
    assert e.value.code in {f.code for f in found.findings if not f.holds}


def test_gpus_that_a_policy_asks_for_and_nobody_shows_are_refused() -> None:
    from attestation.gpu.appraise import GpuPolicy

    found = verdict(Forge(), gpu=GpuPolicy.strict_template())
    assert [f.code for f in found.findings if not f.holds] == ["GpuEvidenceMissing"]


def test_no_findings_mean_no() -> None:
    found = replace(verdict(Forge()), findings=())
    assert not found.accepted
    with pytest.raises(Refused, match="PolicyRejected"):
        found.require(allow_unconfidential=True)


def test_a_verdict_is_no_boolean() -> None:
    with pytest.raises(TypeError):
        bool(verdict(Forge()))


def test_every_waiver_is_in_the_verdict() -> None:
    found = verdict(Forge(), **policy_section("models", determinism=WAIVED))
    assert any(f.waived == "for this test" for f in found.findings)


def test_the_window_closes_with_the_first_of_its_parts() -> None:
    def soon(plan: Any) -> None:
        plan.tcb_info["nextUpdate"] = "2026-10-01T12:10:00Z"

    assert verified(Forge(collateral=soon)).window.not_after == NOW + timedelta(minutes=10)
