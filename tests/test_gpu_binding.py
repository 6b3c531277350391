# SPDX-License-Identifier: Apache-2.0
"""GPU evidence tied to a quote: of another key, nonce, machine or boot, incomplete, taken away: each by its name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from attestation.appraise import appraise
from attestation.errors import AttestationError
from attestation.gpu.appraise import GpuPolicy
from attestation.gpu.binding import NONCE_GATE, gpu_nonce, gpu_set_digest
from attestation.gpu.evidence import NONCE_CLIENT, NONCE_EPOCH, GpuDeviceEvidence, GpuEndorsementSet, GpuEvidence
from attestation.policy import Policy
from attestation.runtime_log import Event
from attestation.verdict import Verdict
from attestation.verify import Verified, verify_evidence
from enclave.simulator.gpu_device import SimulatedDevice
from tests.forged import NONCE, NOW, Forge, ca, policy
from tests.gpu_cases import CC_STATE, authority, machine, ocsp_responses, pem, rims

OTHER = bytes(32)
Devices = list[GpuDeviceEvidence]


def gpu_policy(**changes: Any) -> Policy:
    roots = {
        "kind": "simulated",
        "tdx_root": ca().root_pem,
        "gpu_device_root": pem([authority().device_root.certificate]).decode(),
        "gpu_rim_root": pem([authority().rim_root.certificate]).decode(),
    }
    return policy(roots=roots, gpu=GpuPolicy.strict_template() | changes)


def reports(devices: Sequence[SimulatedDevice], nonce: bytes) -> Devices:
    return [
        GpuDeviceEvidence(kind=d.kind, report=d.report(nonce), chain=d.pem, cc_state=dict(CC_STATE)) for d in devices
    ]


@dataclass(kw_only=True)
class Bound:
    """One machine's whole evidence with GPUs; everything follows from the rest unless bent."""

    mode: str = "spt"
    count: int = 1
    kind: int = NONCE_CLIENT
    keyset: bytes | None = None  # of the GPU nonce
    nonce: bytes = NONCE  # in the GPU nonce
    gate: Callable[[Devices], Devices] = lambda found: found
    current: Callable[[Devices], Devices] = lambda found: found
    instance: bytes = bytes(range(16))  # in the gate's nonce
    claimed: bytes | None = None  # set digest in the claims
    measured: bytes | None = None  # set digest in the runtime log
    shown: bool = True
    afterwards: Callable[[GpuEvidence], GpuEvidence] = lambda gpu: gpu  # nobody signs again
    forge: dict[str, Any] = field(default_factory=dict)

    def evidence(self) -> bytes:
        devices = machine(self.mode, self.count)
        keyset = Forge(**self.forge).epoch_map().digest if self.keyset is None else self.keyset
        body = keyset + self.nonce if self.kind == NONCE_CLIENT else keyset
        gate = self.gate(reports(devices, gpu_nonce(NONCE_GATE, self.instance)))
        current = self.current(reports(devices, gpu_nonce(self.kind, body)))
        gate_digest = gpu_set_digest(gate) if self.measured is None else self.measured
        set_digest = gpu_set_digest(current) if self.claimed is None else self.claimed
        endorsed = GpuEndorsementSet(rims=rims(devices[0].product), ocsp=ocsp_responses(self.mode, self.count), crls=())
        made = GpuEvidence(
            nonce_kind=self.kind, devices=tuple(current), boot_devices=tuple(gate), endorsements=endorsed
        )

        def events(found: list[Event]) -> list[Event]:
            return [Event(name="gpu", payload=gate_digest) if e.name == "gpu" else e for e in found]

        forge = Forge(
            events=events,
            claims={"gpu_set": set_digest},
            after={"gpu": self.afterwards(made) if self.shown else None},
            **self.forge,
        )
        return forge.evidence()

    def verified(self, *, nonce: bytes | None = NONCE) -> Verified:
        p = gpu_policy()
        return verify_evidence(self.evidence(), nonce=nonce, roots=p.roots, time=p.time, now=NOW)

    def verdict(self, **changes: Any) -> Verdict:
        p = gpu_policy(**changes)
        found = verify_evidence(self.evidence(), nonce=NONCE, roots=p.roots, time=p.time, now=NOW)
        return appraise(found, p, now=NOW)


@pytest.mark.parametrize("kind", [NONCE_CLIENT, NONCE_EPOCH])
def test_gpus_that_are_bound_are_verified(kind: int) -> None:
    found = Bound(kind=kind).verified()
    assert found.gpus is not None
    assert found.gpu_nonce_kind == kind


def test_the_strict_policy_accepts_fresh_evidence_and_an_epochs_only_where_it_says_so() -> None:
    assert Bound().verdict().accepted
    stale = Bound(kind=NONCE_EPOCH)
    assert {f.code for f in stale.verdict().findings if not f.holds} == {"GpuNonceMismatch"}
    assert stale.verdict(fresh="epoch").accepted


def stranger(found: Devices) -> Devices:
    """Another genuine device of the same kind, over the same nonce."""
    return reports(machine("spt", 1) if len(found) > 1 else machine_of_another_host(), nonce_of(found))


def nonce_of(found: Devices) -> bytes:
    return found[0].report[4:36]


def machine_of_another_host() -> tuple[SimulatedDevice, ...]:
    from enclave.simulator.gpu_device import make_device

    return (make_device(authority()),)


def unsigned(found: Devices) -> Devices:
    bent = found[0].report
    return [replace(found[0], report=bent[:60] + bytes([bent[60] ^ 1]) + bent[61:]), *found[1:]]


def another_signature(gpu: GpuEvidence) -> GpuEvidence:
    """Exchange the current reports for others of the same devices over the same nonce."""
    fresh = reports(machine("spt", 1), gpu.devices[0].report[4:36])
    return replace(gpu, devices=tuple(fresh))


def called_epochs(gpu: GpuEvidence) -> GpuEvidence:
    return replace(gpu, nonce_kind=NONCE_EPOCH)


EIGHT: dict[str, Any] = {"mode": "mpt", "count": 8}
ROWS: list[tuple[str, dict[str, Any], str]] = [
    ("evidence of another key", {"keyset": OTHER}, "GpuNonceMismatch"),
    ("evidence over an old client nonce", {"nonce": OTHER}, "GpuNonceMismatch"),
    ("fresh evidence called an epoch's", {"afterwards": called_epochs}, "GpuNonceMismatch"),
    ("the gate of another boot", {"instance": bytes(16)}, "GpuNonceMismatch"),
    ("GPUs taken away", {"shown": False}, "GpuEvidenceMissing"),
    ("GPUs taken away, the claims say none", {"shown": False, "claimed": b""}, "GpuEvidenceMissing"),
    ("GPUs claimed, none measured at boot", {"shown": False, "measured": b""}, "GpuEvidenceMissing"),
    ("another set than the claims name", {"claimed": OTHER}, "GpuSetMismatch"),
    ("another set than was measured at boot", {"measured": OTHER}, "GpuSetMismatch"),
    ("no set measured at boot", {"measured": b""}, "GpuSetMismatch"),
    ("reports exchanged afterwards", {"afterwards": another_signature}, "GpuSetMismatch"),
    ("a GPU of another machine", {"current": stranger}, "GpuSetMismatch"),
    ("a gate passed by a GPU of another machine", {"gate": stranger}, "GpuSetMismatch"),
    ("one GPU twice", {"afterwards": lambda g: replace(g, devices=g.devices * 2)}, "GpuDuplicateDevice"),
    ("seven of eight", EIGHT | {"current": lambda d: d[:7]}, "GpuSetMismatch"),
    ("seven of eight at the gate", EIGHT | {"gate": lambda d: d[:7]}, "GpuSetMismatch"),
    ("seven and another machine's", EIGHT | {"current": lambda d: [*d[:7], *stranger(d[:1])]}, "GpuSetMismatch"),
    ("a report that nobody signed", {"current": unsigned}, "GpuReportSignatureInvalid"),
    ("a gate that nobody signed", {"gate": unsigned}, "GpuReportSignatureInvalid"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "code"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
def test_gpus_that_are_not_bound_are_refused_by_name(changes: dict[str, Any], code: str) -> None:
    with pytest.raises(AttestationError) as e:
        Bound(**changes).verified()
    assert e.value.code == code


def test_client_fresh_evidence_counts_for_nobody_who_sent_no_nonce() -> None:
    with pytest.raises(AttestationError) as e:
        Bound(forge={"nonce": None}).verified(nonce=None)
    assert e.value.code == "GpuNonceMismatch"
    assert Bound(kind=NONCE_EPOCH, forge={"nonce": None}).verified(nonce=None).gpus is not None


def test_what_nvml_said_is_part_of_the_set() -> None:
    """Nobody signed it but the enclave, whose quote covers it: another word afterwards is another set."""

    def tidied(gpu: GpuEvidence) -> GpuEvidence:
        return replace(gpu, devices=tuple(replace(d, cc_state=CC_STATE) for d in gpu.devices))

    def developer(found: Devices) -> Devices:
        return [replace(d, cc_state=CC_STATE | {"dev_tools": 1}) for d in found]

    assert {f.code for f in Bound(current=developer).verdict().findings if not f.holds} == {"GpuModeRejected"}
    with pytest.raises(AttestationError) as e:
        Bound(current=developer, afterwards=tidied).verified()
    assert e.value.code == "GpuSetMismatch"


def test_the_twin_of_a_signature_is_the_same_evidence() -> None:
    from tests.test_gpu_refusals import ORDER

    def twin(gpu: GpuEvidence) -> GpuEvidence:
        device = gpu.devices[0]
        s = (ORDER - int.from_bytes(device.report[-48:], "big")).to_bytes(48, "big")
        return replace(gpu, devices=(replace(device, report=device.report[:-48] + s),))

    assert Bound(afterwards=twin).verified().gpus is not None
