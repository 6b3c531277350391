# SPDX-License-Identifier: Apache-2.0
"""A policy that names a registry: accepted only under its proved, fresh state; no proof counts as revoked."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from attestation.appraise import appraise
from attestation.boot import BootMap
from attestation.errors import AttestationError, PolicyInvalid, Refused
from attestation.policy import Policy, RegistryRule
from attestation.registry_rule import RegistryProof, appraise_listed_image, appraise_registry
from attestation.tdx.quote import TdReport
from attestation.ton.boc import write_boc
from attestation.ton.registry import Address, Listing, RegistryState
from client.errors import ClientError, Unreachable, UsageFault
from client.ton.network import PINNED, block_json
from client.ton.policy_registry import prove_registry
from tests.forged import MODEL
from tests.image_forms import manifest
from tests.served import START, Served, served
from tests.ton_in_box import CODE, REGISTRY, InBox, in_box, registry_data

AT = int(START.timestamp())
RULE = RegistryRule(address=f"0:{REGISTRY.hex()}", max_staleness=300)


@pytest.fixture(scope="module")
def enclave(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("enclave")) as running:
        yield running


@pytest.fixture
def ton(tmp_path: Path) -> Iterator[InBox]:
    with in_box(tmp_path, None, now=AT) as made:
        yield made


def lists(boot: BootMap, **changes: Any) -> dict[str, dict[bytes, Any]]:
    """Give what a registry lists that accepts `boot`."""
    until = Listing(since=AT - 10, not_after=AT + 1000)
    found: dict[str, dict[bytes, Any]] = {
        "images": {boot.image_id: until},
        "models": {boot.models[0].weights: until},
        "revoked_images": {},
        "revoked_keys": {},
    }
    return found | changes


def proof(boot: BootMap, **changes: Any) -> RegistryProof:
    state = RegistryState(owner=None, offered=None, fee=0, enclaves={}, **lists(boot, **changes))
    return RegistryProof(address=Address(workchain=0, account=REGISTRY), state=state, gen_utime=AT - 20)


def broken(boot: BootMap, given: RegistryProof | None, *, at: int = AT) -> list[tuple[str, str]]:
    findings = appraise_registry(RULE, given, boot, now=datetime.fromtimestamp(at, UTC))
    assert findings
    return [(f.rule, f.code) for f in findings if not f.holds]


ROWS: dict[str, tuple[Callable[[BootMap], dict[str, Any]], str]] = {
    "no image": (lambda _: {"images": {}}, "registry.image"),
    "another image": (lambda _: {"images": {bytes(32): Listing(since=0, not_after=AT + 9)}}, "registry.image"),
    "image over": (lambda boot: {"images": {boot.image_id: Listing(since=0, not_after=AT)}}, "registry.image"),
    "image revoked": (lambda boot: {"revoked_images": {boot.image_id: AT - 1}}, "registry.image.revoked"),
    "key revoked": (lambda boot: {"revoked_keys": {boot.receipt_key: AT - 1}}, "registry.key.revoked"),
    "no model": (lambda _: {"models": {}}, f"registry.models.{MODEL}"),
    "model over": (
        lambda boot: {"models": {boot.models[0].weights: Listing(since=0, not_after=AT - 1)}},
        f"registry.models.{MODEL}",
    ),
}


def test_a_listed_boot_is_accepted_and_every_clause_is_shown(enclave: Served) -> None:
    boot = enclave.booted.boot
    found = appraise_registry(RULE, proof(boot), boot, now=START)
    assert all(f.holds for f in found)
    clauses = ["age", "image", "image.revoked", "key.revoked", f"models.{MODEL}"]
    assert [f.rule for f in found] == ["registry", *(f"registry.{name}" for name in clauses)]


@pytest.mark.parametrize("name", ROWS)
def test_each_clause_of_the_registry(enclave: Served, name: str) -> None:
    changes, rule = ROWS[name]
    boot = enclave.booted.boot
    assert broken(boot, proof(boot, **changes(boot))) == [(rule, "RegistryRejected")]


def test_no_proof_counts_as_revoked(enclave: Served) -> None:
    boot = enclave.booted.boot
    assert broken(boot, None) == [("registry", "RegistryRejected")]
    (finding,) = appraise_registry(RULE, None, boot, now=START)
    assert "offline, appraise under a policy that lists images" in finding.got
    other = replace(proof(boot), address=Address(workchain=0, account=bytes(32)))
    assert broken(boot, other) == [("registry", "RegistryRejected")]


def test_an_old_proof_is_stale(enclave: Served) -> None:
    boot = enclave.booted.boot
    assert broken(boot, proof(boot), at=AT + 280) == []
    assert broken(boot, proof(boot), at=AT + 281) == [("registry.age", "RegistryStale")]


@pytest.mark.parametrize(
    "address", ["", "0:12", "EQCxE6mUtQJKFnGfaROTKOt1lZbDiiX1kCixRv7Nw2Id_sDs", "0:" + "A" * 64, 7]
)
def test_a_policy_names_its_registry_in_one_form(enclave: Served, address: object) -> None:
    document = enclave.policy_document(registry={"address": address, "max_staleness_seconds": 300})
    with pytest.raises(PolicyInvalid, match=r"registry\.address"):
        Policy.parse(json.dumps(document).encode())


# ---- over the wire, before a prompt leaves


def attest(enclave: Served, ton: InBox, monkeypatch: pytest.MonkeyPatch, network: dict[str, Any] | None = None) -> None:
    path = ton.network_path
    if network is not None:
        path.write_text(json.dumps(json.loads(path.read_text()) | network))
    monkeypatch.setenv("SERICIN_NETWORK", str(path))
    enclave.attest(registry={"address": RULE.address, "max_staleness_seconds": RULE.max_staleness})


def put(enclave: Served, ton: InBox, **changes: Any) -> None:
    data = write_boc(registry_data(**lists(enclave.booted.boot, **changes)))
    ton.do(lambda: ton.box.put(REGISTRY, code=CODE, data=data, balance=10**9))
    ton.do(ton.box.block)


def test_a_client_accepts_an_enclave_that_the_registry_lists(
    enclave: Served, ton: InBox, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(enclave, ton)
    attest(enclave, ton, monkeypatch)


def test_a_policy_without_a_registry_needs_no_proof(enclave: Served) -> None:
    assert prove_registry(enclave.policy(), now=START) is None


def test_a_simulated_registry_does_not_go_with_real_roots(
    enclave: Served, ton: InBox, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(enclave, ton)
    attest(enclave, ton, monkeypatch)  # which names the network
    policy = enclave.policy(registry={"address": RULE.address, "max_staleness_seconds": RULE.max_staleness})
    assert prove_registry(policy, now=START) is not None
    with pytest.raises(UsageFault, match="a simulated TON does not go with roots"):
        prove_registry(replace(policy, roots=replace(policy.roots, kind="intel+nvidia")), now=START)


@pytest.mark.parametrize("staleness", [300, 1000])
def test_the_policy_says_how_old_a_head_may_be(
    enclave: Served, ton: InBox, monkeypatch: pytest.MonkeyPatch, staleness: int
) -> None:
    """Shorter or longer than what a client without a policy goes by; a stale head is not even appraised."""
    put(enclave, ton)
    monkeypatch.setenv("SERICIN_NETWORK", str(ton.network_path))
    policy = enclave.policy(registry={"address": RULE.address, "max_staleness_seconds": staleness})
    proved = prove_registry(policy, now=START)
    assert proved is not None
    last = proved.gen_utime + staleness
    assert prove_registry(policy, now=datetime.fromtimestamp(last, UTC)) == proved
    with pytest.raises(Refused, match="RegistryStale"):
        prove_registry(policy, now=datetime.fromtimestamp(last + 1, UTC))


def test_a_client_refuses_a_revoked_image(enclave: Served, ton: InBox, monkeypatch: pytest.MonkeyPatch) -> None:
    put(enclave, ton, revoked_images={enclave.booted.boot.image_id: AT - 5})
    with pytest.raises(Refused, match=r"RegistryRejected: registry\.image\.revoked"):
        attest(enclave, ton, monkeypatch)


def test_a_client_refuses_when_nothing_is_proved(enclave: Served, ton: InBox, monkeypatch: pytest.MonkeyPatch) -> None:
    put(enclave, ton)
    ton.await_(ton.server.stop())
    with pytest.raises(Unreachable):
        attest(enclave, ton, monkeypatch)


def test_a_client_refuses_an_old_head(enclave: Served, ton: InBox, monkeypatch: pytest.MonkeyPatch) -> None:
    put(enclave, ton)
    monkeypatch.setattr("tests.ton_in_box.TonBox.tick", lambda _: None)
    enclave.clock.forward(RULE.max_staleness + 1)
    try:
        with pytest.raises(Refused, match="RegistryStale"):
            attest(enclave, ton, monkeypatch)
    finally:
        enclave.clock.forward(-RULE.max_staleness - 1)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"registry": f"0:{'77' * 32}"}, "is not the policy's"),
        ({"schema": "sericin-network/2"}, "schema"),
    ],
)
def test_a_network_file_that_does_not_fit(
    enclave: Served, ton: InBox, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], words: str
) -> None:
    put(enclave, ton)
    with pytest.raises(UsageFault, match=words):
        attest(enclave, ton, monkeypatch, change)


def test_no_network_file_is_no_permission(enclave: Served, ton: InBox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERICIN_NETWORK", str(ton.folder / "none.json"))
    with pytest.raises(UsageFault, match="put a network file"):
        enclave.attest(registry={"address": RULE.address, "max_staleness_seconds": 300})


def test_a_real_network_s_block_leads_to_no_simulated_registry(
    enclave: Served, ton: InBox, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(enclave, ton)
    with pytest.raises((AttestationError, ClientError)):
        attest(enclave, ton, monkeypatch, {"init_block": block_json(PINNED["mainnet"])})


# ---- a registry instead of measurements: the listed image's own manifest says what it measures to


WAIVED = {"waived": "whatever image the registry lists"}


def measured(report: TdReport, **changes: bytes) -> TdReport:
    """Give `report` with the registers of the test image's first shape."""
    first = manifest().measurements[0]
    assert first.rtmr0 is not None
    found = {"mr_td": first.mr_td, "rtmr0": first.rtmr0, "rtmr1": first.rtmr1, "rtmr2": first.rtmr2} | changes
    return replace(report, mr_td=found["mr_td"], rtmr=(found["rtmr0"], found["rtmr1"], found["rtmr2"], report.rtmr[3]))


@pytest.fixture(scope="module")
def report(enclave: Served) -> TdReport:
    attested = enclave.attest()
    attested.connection.close()
    return attested.verified.quote.quote.report


def not_holding(report: TdReport, image_id: bytes, data: bytes) -> list[tuple[str, str]]:
    return [(f.rule, f.code) for f in appraise_listed_image(report, image_id, data) if not f.holds]


def test_a_listed_image_measures_to_what_its_manifest_says(report: TdReport) -> None:
    made = manifest()
    found = appraise_listed_image(measured(report), made.image_id, made.encode())
    assert [f.rule for f in found] == ["image.manifest", "image.measurements", "image.rtmr0"]
    assert all(f.holds for f in found)


@pytest.mark.parametrize(
    ("register", "broken_rule"),
    [
        ("mr_td", ("image.measurements", "ImageUnknown")),
        ("rtmr0", ("image.rtmr0", "MeasurementMismatch")),
        ("rtmr1", ("image.measurements", "ImageUnknown")),
        ("rtmr2", ("image.measurements", "ImageUnknown")),
    ],
)
def test_each_register_counts(report: TdReport, register: str, broken_rule: tuple[str, str]) -> None:
    made = manifest()
    assert broken_rule in not_holding(measured(report, **{register: bytes(48)}), made.image_id, made.encode())


def test_a_manifest_without_rtmr0_waives_it_visibly(report: TdReport) -> None:
    made = manifest()
    bare = replace(made, measurements=tuple(replace(m, rtmr0=None) for m in made.measurements))
    *_, last = appraise_listed_image(measured(report, rtmr0=bytes(48)), bare.image_id, bare.encode())
    assert (last.rule, last.holds, last.waived is not None) == ("image.rtmr0", True, True)


def test_a_manifest_of_another_image_says_nothing(report: TdReport) -> None:
    made = manifest()
    for image_id, data in ((bytes(32), made.encode()), (made.image_id, made.encode() + b" "), (made.image_id, b"")):
        assert not_holding(measured(report), image_id, data) == [("image.manifest", "ImageIdMismatch")]
    for data in (b"", b"{}", b"\xff"):
        assert not_holding(report, sha256(data).digest(), data) == [("image.manifest", "ImageUnknown")]


def test_measurements_are_left_out_for_a_registry_alone(enclave: Served) -> None:
    named = {"address": RULE.address, "max_staleness_seconds": 300}
    policy = Policy.parse(json.dumps(enclave.policy_document(image=WAIVED, registry=named)).encode())
    assert (policy.images, policy.images_waived is not None) == ((), True)
    with pytest.raises(PolicyInvalid, match=r"policy\.image"):
        Policy.parse(json.dumps(enclave.policy_document(image=WAIVED)).encode())
    with pytest.raises(PolicyInvalid):
        Policy.parse(json.dumps(enclave.policy_document(image=[], registry=named)).encode())


def test_a_client_goes_by_the_listed_image_s_manifest(
    enclave: Served, ton: InBox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The registry lists the image; its manifest, whose hash the enclave measured, is no image's: nothing is sent."""
    put(enclave, ton)
    monkeypatch.setenv("SERICIN_NETWORK", str(ton.network_path))
    named = {"address": RULE.address, "max_staleness_seconds": RULE.max_staleness}
    with pytest.raises(Refused, match=r"ImageUnknown: image\.manifest"):
        enclave.attest(image=WAIVED, registry=named)


def test_a_whole_enclave_is_accepted_by_the_registry_alone(enclave: Served) -> None:
    attested = enclave.attest()
    attested.connection.close()
    made, was = manifest(), attested.verified
    boot = replace(was.boot, image_id=made.image_id)
    quote = replace(was.quote, quote=replace(was.quote.quote, report=measured(was.quote.quote.report)))
    verified = replace(was, boot=boot, quote=quote, manifest=made.encode())
    named = {"address": RULE.address, "max_staleness_seconds": 300}
    policy = Policy.parse(json.dumps(enclave.policy_document(image=WAIVED, registry=named)).encode())
    now = datetime.fromtimestamp(AT, UTC)
    verdict = appraise(verified, policy, now=now, registry=proof(boot))
    assert verdict.accepted, [f.rule for f in verdict.findings if not f.holds]
    assert not appraise(verified, policy, now=now, registry=proof(boot, images={})).accepted
    assert not appraise(verified, policy, now=now).accepted
