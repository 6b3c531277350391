# SPDX-License-Identifier: Apache-2.0
"""Do I accept it? Every clause of a policy over verified evidence, one finding each, none skipped."""

from __future__ import annotations

from datetime import datetime

from .boot import ModelRecord
from .findings import Finding, Given, Waived, clause, waiver
from .gpu.appraise import appraise_gpus
from .policy import ImageRule, ModelRule, Policy, RuntimeRule
from .registry_rule import RegistryProof, appraise_listed_image, appraise_registry
from .tdx.appraise import appraise_quote
from .tdx.quote import TdReport
from .verdict import Verdict
from .verify import Verified
from .window import rfc3339


def appraise(verified: Verified, policy: Policy, *, now: datetime, registry: RegistryProof | None = None) -> Verdict:
    """Appraise verified evidence under `policy` at `now`. A policy that names a registry wants its proof."""
    findings = [
        *_image(verified, policy, now=now),
        *_runtime(verified, policy.runtime),
        *appraise_quote(verified.quote, policy.tdx, now=now),
        *_gpus(verified, policy, now=now),
        *_models(verified, policy),
        *_registry(verified, policy, registry, now=now),
    ]
    return Verdict(
        findings=tuple(findings),
        roots=verified.roots,
        evidence_sha256=verified.evidence_sha256,
        policy_sha256=policy.sha256,
        policy_name=policy.name,
        at=now,
        window=verified.window,
    )


def _image(verified: Verified, policy: Policy, *, now: datetime) -> list[Finding]:
    report, claimed = verified.quote.quote.report, verified.boot.image_id
    if policy.images_waived is None:
        return appraise_image(report, claimed, policy.images, now=now)
    return [waiver("image", policy.images_waived), *appraise_listed_image(report, claimed, verified.manifest)]


def appraise_image(
    report: TdReport, claimed: bytes | None, images: tuple[ImageRule, ...], *, now: datetime
) -> list[Finding]:
    """Find the image by its whole tuple; then, and only then, require the claimed image id to be that image's.

    `claimed` is None for a quote alone, which claims no image.
    """
    measured = (report.mr_td, report.rtmr[1], report.rtmr[2])
    rule = next((i for i in images if (i.mr_td, i.rtmr1, i.rtmr2) == measured), None)
    names = ", ".join(image.name for image in images)
    if rule is None:
        says = f", claims image {claimed.hex()}" if claimed is not None else ""
        got = f"MRTD {report.mr_td.hex()[:16]}...{says}"
        return [clause("image.measurements", "ImageUnknown", holds=False, want=names, got=got)]
    findings = [
        clause("image.measurements", "ImageUnknown", holds=True, want=names, got=rule.name),
        clause(
            "image.not_after", "ImageExpired", holds=now < rule.not_after, want=f"before {rfc3339(rule.not_after)}",
            got=rfc3339(now),
        ),
        _among("image.rtmr0", "MeasurementMismatch", rule.rtmr0, report.rtmr[0]),
    ]  # fmt: skip
    if claimed is not None:
        want, same = rule.image_id.hex(), claimed == rule.image_id
        findings.append(clause("image.id", "ImageIdMismatch", holds=same, want=want, got=claimed.hex()))
    return findings


def _runtime(verified: Verified, rule: RuntimeRule) -> list[Finding]:
    boot, config = verified.boot, verified.config
    declared = f"boot map {boot.machine}, config {config.machine}"
    same = boot.machine == config.machine == rule.machine
    return [
        clause("runtime.machine", "MachineNotAllowed", holds=same, want=rule.machine, got=declared),
        _among("runtime.config", "ConfigNotAllowed", rule.config_sha384, boot.config_digest),
        _among("runtime.operator", "OperatorNotAllowed", rule.operator_sha384, boot.operator_digest),
        _one_of("runtime.engine", "ConfigNotAllowed", rule.engines, config.engine.kind),
        _one_of("runtime.logging", "ConfigNotAllowed", rule.logging, config.logging),
    ]


def _gpus(verified: Verified, policy: Policy, *, now: datetime) -> list[Finding]:
    if isinstance(policy.gpu, Waived):
        got = "none" if verified.gpus is None else "present"
        return [waiver("gpu", policy.gpu, got=got)]
    return appraise_gpus(verified.gpus, policy.gpu, nonce_kind=verified.gpu_nonce_kind, now=now)


def _models(verified: Verified, policy: Policy) -> list[Finding]:
    """Require every model that the enclave serves to be one of the policy's."""
    findings = []
    for record in verified.boot.models:
        where = f"models.{record.name}"
        if isinstance(policy.models, Waived):
            findings.append(waiver(where, policy.models, got=record.weights.hex()))
            continue
        rules = policy.models.value
        rule = next((r for r in rules if (r.name, r.weights) == (record.name, record.weights)), None)
        wants = ", ".join(f"{r.name} {r.weights.hex()[:16]}" for r in rules)
        got = f"{record.name} {record.weights.hex()[:16]}"
        findings.append(clause(where, "ModelNotAllowed", holds=rule is not None, want=wants, got=got))
        if rule is not None:
            findings += _model_details(where, record, rule)
    return findings


def _model_details(where: str, record: ModelRecord, rule: ModelRule) -> list[Finding]:
    template = (
        waiver(f"{where}.template", rule.template, got=record.template.hex())
        if isinstance(rule.template, Waived)
        else clause(
            f"{where}.template", "ModelNotAllowed", holds=record.template == rule.template.value,
            want=rule.template.value.hex(), got=record.template.hex(),
        )
    )  # fmt: skip
    return [template, _one_of(f"{where}.determinism", "ModelNotAllowed", rule.determinism, record.determinism)]


def _registry(verified: Verified, policy: Policy, proof: RegistryProof | None, *, now: datetime) -> list[Finding]:
    if isinstance(policy.registry, Waived):
        return [waiver("registry", policy.registry)]
    return appraise_registry(policy.registry, proof, verified.boot, now=now)


def _among(rule: str, code: str, allowed: Given[tuple[bytes, ...]] | Waived, got: bytes) -> Finding:
    if isinstance(allowed, Waived):
        return waiver(rule, allowed, got=got.hex())
    wants = ", ".join(value.hex() for value in allowed.value)
    return clause(rule, code, holds=got in allowed.value, want=wants, got=got.hex())


def _one_of(rule: str, code: str, allowed: Given[tuple[str, ...]] | Waived, got: str) -> Finding:
    if isinstance(allowed, Waived):
        return waiver(rule, allowed, got=got)
    return clause(rule, code, holds=got in allowed.value, want=", ".join(allowed.value), got=got)
