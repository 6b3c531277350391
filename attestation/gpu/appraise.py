# SPDX-License-Identifier: Apache-2.0
"""Do I accept these GPUs? Every clause of a policy over a verified set, one finding each, none skipped."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Final, TypeVar

from ..findings import Finding, Given, Waived, clause, waiver
from ..window import rfc3339
from .evidence import NONCE_CLIENT, NONCE_EPOCH
from .opaque import GpuMode
from .policy import GpuPolicy
from .verify import VerifiedDevice, VerifiedGpuSet

__all__ = ["GpuPolicy", "appraise_gpus"]

T = TypeVar("T")

_PRODUCTION: Final = {"cc_feature": 1, "dev_tools": 0, "environment": 2}
_MULTI_GPU: Final = {GpuMode.SINGLE: (0,), GpuMode.MULTI: (0, 2), GpuMode.PROTECTED_PCIE: (1,)}


def appraise_gpus(
    verified: VerifiedGpuSet | None, policy: GpuPolicy, *, nonce_kind: int | None, now: datetime
) -> list[Finding]:
    """Appraise a verified set under `policy` at `now`. `nonce_kind` is 2 when the devices signed this client's nonce.

    Without evidence there is one finding, and it does not hold: a machine without GPUs is no answer to a policy that
    asks for one.
    """
    if verified is None:
        return [clause("gpu", "GpuEvidenceMissing", holds=False, want="evidence of GPUs", got="none")]
    findings = [
        clause("gpu.window", "CertificateExpired", holds=verified.window.holds(now), want="now", got=rfc3339(now)),
        _fresh(policy, nonce_kind),
        _of("gpu.count", "GpuCountRejected", policy.count, len(verified.gpus), lambda want, got: got == want),
        _of("gpu.modes", "GpuModeRejected", policy.modes, verified.mode, lambda want, got: got in want),
    ]
    for device in verified.devices:
        findings += _device(device, policy, verified.mode)
    return findings


def _fresh(policy: GpuPolicy, nonce_kind: int | None) -> Finding:
    accepted = (NONCE_CLIENT,) if policy.fresh == "client" else (NONCE_CLIENT, NONCE_EPOCH)
    got = {NONCE_CLIENT: "client", NONCE_EPOCH: "epoch"}.get(nonce_kind or 0, "neither")
    return clause("gpu.fresh", "GpuNonceMismatch", holds=nonce_kind in accepted, want=policy.fresh, got=got)


def _device(device: VerifiedDevice, policy: GpuPolicy, mode: GpuMode) -> Iterator[Finding]:
    name = f"gpu.{device.kind}[{device.serial:x}]"
    if device.kind == "gpu":
        yield _of(f"{name}.chip", "GpuNotAllowed", policy.chips, device.product, lambda want, got: got in want)
        yield _of(f"{name}.driver", "GpuDriverRejected", policy.min_driver, device.driver_version, _at_least)
        yield _confidential(name, device, mode)
        yield _firmware_identity(name, device, policy)
    yield _of(
        f"{name}.vbios", "GpuVbiosRejected", policy.denied_vbios, device.vbios_version,
        lambda denied, got: got not in denied,
    )  # fmt: skip
    yield _of(f"{name}.device", "GpuNotAllowed", policy.devices, device.ueid, lambda want, got: got in want)
    yield _revocation(name, device, policy)
    yield from _rims(name, device, policy)
    yield from _measurements(name, device, policy)


def _confidential(name: str, device: VerifiedDevice, mode: GpuMode) -> Finding:
    """Require confidential computing on, developer tools off, a production environment. There is no waiver for it."""
    state = device.cc_state
    holds = all(state.get(key) == value for key, value in _PRODUCTION.items())
    holds = holds and state.get("multi_gpu_mode") in _MULTI_GPU[mode]
    want = " ".join(f"{key}={value}" for key, value in _PRODUCTION.items())
    want += f" multi_gpu_mode={' or '.join(map(str, _MULTI_GPU[mode]))}"
    got = " ".join(f"{key}={state.get(key, 'absent')}" for key in (*_PRODUCTION, "multi_gpu_mode"))
    return clause(f"{name}.cc_state", "GpuModeRejected", holds=holds, want=want, got=got)


def _firmware_identity(name: str, device: VerifiedDevice, policy: GpuPolicy) -> Finding:
    rule, got = f"{name}.firmware_identity", "equal" if device.fwid_compared else "not reported"
    if isinstance(policy.firmware_identity, Waived):
        return waiver(rule, policy.firmware_identity, got=got)
    return clause(rule, "GpuFwidMismatch", holds=device.fwid_compared, want="equal to the certificate's", got=got)


def _revocation(name: str, device: VerifiedDevice, policy: GpuPolicy) -> Finding:
    """Require an answer for every certificate that the asked-for kind of answer exists for."""
    rule = f"{name}.revocation"
    if isinstance(policy.revocation, Waived):
        return waiver(rule, policy.revocation)
    mode = policy.revocation.value
    missing = []
    for status in device.revocation:
        by_ocsp, by_crl = status.ocsp is not None, status.crl is not None or not status.publishes_crl
        answered = {
            "ocsp": by_ocsp,
            "crl": by_crl,
            "both": by_ocsp and by_crl,
            "either": by_ocsp or status.crl is not None,
        }
        if not answered[mode]:
            missing.append(status.name)
    got = f"none for {', '.join(missing)}" if missing else f"{len(device.revocation)} certificates answered for"
    return clause(rule, "GpuRevocationRejected", holds=not missing, want=mode, got=got)


def _rims(name: str, device: VerifiedDevice, policy: GpuPolicy) -> Iterator[Finding]:
    wanted = " and ".join(rim_id for rim_id in (device.driver_rim_id, device.firmware_rim_id) if rim_id)
    got = ", ".join(f"{rim.component} {rim.version}" for rim in device.rims)
    yield clause(f"{name}.rims", "RimMissing", holds=bool(device.rims), want=wanted, got=got or "none")
    for rim in device.rims:
        rule = f"{name}.rims.{rim.component}"
        yield _of(rule, "RimMismatch", policy.rims, rim.sha256, lambda want, got: got in want)


def _measurements(name: str, device: VerifiedDevice, policy: GpuPolicy) -> Iterator[Finding]:
    """Require every golden value met and every measurement covered; each exception has its own finding."""
    compared = device.measurements
    rule = f"{name}.measurements"
    if compared is None or not compared.compared:
        want = "measurements compared with reference values"
        yield clause(rule, "GpuMeasurementUncovered", holds=False, want=want, got="none compared")
        return
    refused = []
    for mismatch in compared.mismatches:
        place = f"{rule}[{mismatch.index}]"
        reason = policy.mismatch.get(mismatch.index)
        if reason is not None:
            yield waiver(place, Waived(reason), got=mismatch.found.hex())
        elif mismatch.exempt and isinstance(policy.disabled_decoder, Waived):
            yield waiver(place, policy.disabled_decoder, got=mismatch.found.hex())
        else:
            refused.append(mismatch.index)
            golden = " or ".join(g.hex() for g in mismatch.golden)
            yield clause(place, "GpuMeasurementMismatch", holds=False, want=golden, got=mismatch.found.hex())
    for index in compared.uncovered:
        place = f"{rule}.uncovered[{index}]"
        reason = policy.uncovered.get(index)
        if reason is not None:
            yield waiver(place, Waived(reason))
        else:
            refused.append(index)
            yield clause(place, "GpuMeasurementUncovered", holds=False, want="a reference value", got="none")
    if not refused:
        got = f"{len(compared.compared)} compared"
        yield clause(rule, "GpuMeasurementMismatch", holds=True, want="golden values met", got=got)


def _of(rule: str, code: str, given: Given[T] | Waived, got: object, holds: Callable[[T, object], bool]) -> Finding:
    """Make the finding of one clause, given or waived."""
    shown = got.hex() if isinstance(got, bytes) else str(got)
    if isinstance(given, Waived):
        return waiver(rule, given, got=shown)
    return clause(rule, code, holds=holds(given.value, got), want=_shown(given.value), got=shown)


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(item.hex() if isinstance(item, bytes) else str(item) for item in value)
    return str(value)


def _at_least(floor: str, got: object) -> bool:
    return _version(str(got)) >= _version(floor)


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))
