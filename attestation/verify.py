# SPDX-License-Identifier: Apache-2.0
"""Is the evidence true? One numbered chain from bytes to `Verified`; no opinion about whether it is acceptable.

What the caller must still do: appraise the result under a policy, compare the live peer's key with `Verified.claims`,
and ask for liveness when the evidence carries no nonce of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256, sha384
from typing import Final

from . import cbor, runtime_log
from .binding import Claims, require_report_data
from .boot import BootMap, EpochMap
from .config import EnclaveConfig
from .errors import Malformed, Untrusted
from .evidence import Evidence
from .gpu.binding import NONCE_CLIENT, NONCE_EPOCH, NONCE_GATE, gpu_nonce, gpu_set_digest, leaf_serial
from .gpu.evidence import GpuEvidence
from .gpu.spdm import parse_report
from .gpu.verify import VerifiedGpuSet, verify_set
from .operator import OperatorDocument
from .policy import TimeRule
from .roots import PolicyRoots, used_roots
from .runtime_log import Event
from .tdx.collateral import Collateral
from .tdx.verify import VerifiedQuote, verify_quote
from .verdict import Root
from .window import Window, require_aware

_ZERO_48: Final = bytes(48)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """True, as far as roots and time go. Made by `verify_evidence` alone."""

    claims: Claims
    boot: BootMap
    epoch: EpochMap
    quote: VerifiedQuote
    gpus: VerifiedGpuSet | None
    gpu_nonce_kind: int | None
    config: EnclaveConfig
    operator: OperatorDocument | None
    events: tuple[Event, ...]
    roots: tuple[Root, ...]
    window: Window
    evidence_sha256: bytes
    manifest: bytes  # of the image, as it came: only its hash can make it mean anything


def verify_evidence(
    data: bytes,
    *,
    nonce: bytes | None,
    collateral: bytes | None = None,
    roots: PolicyRoots,
    time: TimeRule,
    now: datetime,
) -> Verified:
    """Verify encoded evidence against `roots` at `now`. Raises Malformed or Untrusted, at the first link that breaks.

    `nonce` is the one this caller sent, or None for evidence without one (which then needs a liveness proof).
    `collateral` replaces the stapled endorsements; every signature in them is checked either way.

    1. bounded parse; no byte that nothing covers, such as zeros after a quote or a report
    2. PCK chain, collateral, TCB, quote signature
    3. REPORTDATA is the hash of the claims
    4. the nonce is ours
    5. boot digest and keyset digest
    6. the runtime log replays to RTMR3 and names this boot, config, operator, image and models
    7. GPU set: digest, nonce, devices, the boot gate's devices
    8. the epoch's window
    """
    now = require_aware(now)
    evidence = Evidence.decode(data)  # 1
    quote = _verify_quote(evidence, collateral, roots, now)  # 2
    require_report_data(quote.quote.report.report_data, evidence.claims)  # 3
    claims = Claims.decode(evidence.claims)
    _require(claims.nonce == nonce, "NonceMismatch", "claims.nonce", nonce, claims.nonce)  # 4
    boot, epoch = _verify_maps(evidence, claims)  # 5
    events = _verify_log(evidence, claims, boot, quote)  # 6
    gpus = _verify_gpus(evidence.gpu, claims, boot, events, nonce, roots, now)  # 7
    epoch_window = _verify_epoch(epoch, time, now)  # 8
    windows = [epoch_window] + ([gpus.window] if gpus else [])
    return Verified(
        claims=claims,
        boot=boot,
        epoch=epoch,
        quote=quote,
        gpus=gpus,
        gpu_nonce_kind=evidence.gpu.nonce_kind if evidence.gpu else None,
        config=EnclaveConfig.parse(evidence.config),
        operator=OperatorDocument.parse(evidence.operator) if evidence.operator else None,
        events=events,
        roots=used_roots(tdx=quote.root_sha256, gpu=gpus.roots_used if gpus else ()),
        window=quote.window.meet(*windows),
        evidence_sha256=sha256(data).digest(),
        manifest=evidence.manifest,
    )


def _require(holds: bool, code: str, where: str, want: bytes | None, got: bytes | None) -> None:
    if not holds:
        shown = [value.hex() if value is not None else "none" for value in (want, got)]
        raise Untrusted(code, where, want=shown[0], got=shown[1])


def _require_exact(where: str, padding: int) -> None:
    """Refuse zeros that a host or a driver left behind: its attester cuts them off, and no signature covers them."""
    if padding:
        raise Malformed("TrailingData", where, want="nothing behind it", got=f"{padding} zero bytes")


def _verify_quote(evidence: Evidence, collateral: bytes | None, roots: PolicyRoots, now: datetime) -> VerifiedQuote:
    endorsements = evidence.collateral if collateral is None else collateral
    if not endorsements:
        raise Untrusted("CollateralMissing", "evidence.collateral", want="stapled or fetched", got="none")
    verified = verify_quote(evidence.quote, Collateral.from_json(endorsements), anchor=roots.tdx, now=now)
    _require_exact("evidence.quote", verified.quote.padding)
    return verified


def _verify_maps(evidence: Evidence, claims: Claims) -> tuple[BootMap, EpochMap]:
    boot_digest, keyset_digest = sha256(evidence.boot).digest(), sha256(evidence.epoch).digest()
    _require(boot_digest == claims.boot_digest, "BootDigestMismatch", "boot", claims.boot_digest, boot_digest)
    _require(keyset_digest == claims.keyset_digest, "EpochDigestMismatch", "epoch", claims.keyset_digest, keyset_digest)
    boot, epoch = BootMap.decode(evidence.boot), EpochMap.decode(evidence.epoch)
    _require(epoch.boot_digest == boot_digest, "BootDigestMismatch", "epoch.boot", boot_digest, epoch.boot_digest)
    return boot, epoch


def _verify_log(evidence: Evidence, claims: Claims, boot: BootMap, quote: VerifiedQuote) -> tuple[Event, ...]:
    log_digest = sha256(evidence.runtime_log).digest()
    _require(log_digest == claims.log_digest, "RuntimeLogMismatch", "runtime_log", claims.log_digest, log_digest)
    events = runtime_log.parse_boot(evidence.runtime_log)
    report = quote.quote.report
    rtmr3 = runtime_log.replay(events)
    _require(rtmr3 == report.rtmr[3], "RuntimeLogMismatch", "quote.rtmr3", report.rtmr[3], rtmr3)
    config, operator = sha384(evidence.config).digest(), sha384(evidence.operator).digest()
    models = sha256(cbor.encode([model.weights for model in boot.models])).digest()
    wants = (boot.image_id, boot.config_digest, boot.operator_digest, models, None, claims.boot_digest)
    for event, want in zip(events, wants, strict=True):
        if want is not None:
            _require(event.payload == want, "RuntimeLogMismatch", f"runtime_log.{event.name}", want, event.payload)
    _require(config == boot.config_digest, "ConfigDigestMismatch", "config", boot.config_digest, config)
    _require(operator == boot.operator_digest, "OperatorDigestMismatch", "operator", boot.operator_digest, operator)
    _require(report.mr_config_id == config, "ConfigDigestMismatch", "quote.mr_config_id", config, report.mr_config_id)
    return events


def _verify_gpus(
    gpu: GpuEvidence | None,
    claims: Claims,
    boot: BootMap,
    events: tuple[Event, ...],
    nonce: bytes | None,
    roots: PolicyRoots,
    now: datetime,
) -> VerifiedGpuSet | None:
    gate_digest = events[runtime_log.BOOT_EVENTS.index("gpu")].payload
    if gpu is None:
        if claims.gpu_set or gate_digest:
            raise Untrusted("GpuEvidenceMissing", "evidence.gpu", want="the set that the claims name", got="none")
        return None
    for device in (*gpu.devices, *gpu.boot_devices):
        _require_exact("evidence.gpu.report", parse_report(device.report, kind=device.kind).padding)
    set_digest, gate_set = gpu_set_digest(gpu.devices), gpu_set_digest(gpu.boot_devices)
    _require(set_digest == claims.gpu_set, "GpuSetMismatch", "claims.sericin-gpu", claims.gpu_set, set_digest)
    _require(gate_set == gate_digest, "GpuSetMismatch", "runtime_log.gpu", gate_digest, gate_set)
    # By name before anything is verified: the chains below are these very bytes.
    if sorted(leaf_serial(d.chain) for d in gpu.devices) != sorted(leaf_serial(d.chain) for d in gpu.boot_devices):
        raise Untrusted("GpuSetMismatch", "evidence.gpu", want="exactly the boot gate's devices", got="others")
    if gpu.nonce_kind == NONCE_CLIENT and nonce is None:
        raise Untrusted("GpuNonceMismatch", "evidence.gpu.nonce_kind", want="epoch", got="client, without a nonce")
    body = claims.keyset_digest + (nonce or b"") if gpu.nonce_kind == NONCE_CLIENT else claims.keyset_digest
    kind = NONCE_CLIENT if gpu.nonce_kind == NONCE_CLIENT else NONCE_EPOCH
    gate_nonce = gpu_nonce(NONCE_GATE, boot.instance_id)
    verify_set(gpu.boot_devices, gpu.endorsements, nonce=gate_nonce, anchor=roots.gpu, now=now)
    return verify_set(gpu.devices, gpu.endorsements, nonce=gpu_nonce(kind, body), anchor=roots.gpu, now=now)


def _verify_epoch(epoch: EpochMap, time: TimeRule, now: datetime) -> Window:
    window = Window(
        datetime.fromtimestamp(epoch.not_before, now.tzinfo), datetime.fromtimestamp(epoch.not_after, now.tzinfo)
    )
    length = epoch.not_after - epoch.not_before
    if not 0 < length <= time.max_epoch:
        raise Untrusted("EpochTooLong", "epoch", want=f"up to {time.max_epoch} s", got=f"{length} s")
    ahead = epoch.not_before - int(now.timestamp())
    if ahead > time.max_skew:
        raise Untrusted(
            "EpochNotYetValid", "epoch.not_before", want=f"at most {time.max_skew} s ahead", got=f"{ahead} s"
        )
    if now >= window.not_after:
        raise Untrusted(
            "EpochExpired",
            "epoch.not_after",
            want="later than now",
            got=f"{-(epoch.not_after - int(now.timestamp()))} s ago",
        )
    return Window(min(window.not_before, now), window.not_after)
