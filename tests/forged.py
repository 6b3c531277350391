# SPDX-License-Identifier: Apache-2.0
"""Evidence of a simulated machine, made field by field: everything hashed and signed anew but what a test bends."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from hashlib import sha256, sha384
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from attestation import cbor, runtime_log
from attestation.binding import Claims, report_data, spki_claim
from attestation.boot import BootMap, EpochMap, Limits, ModelRecord
from attestation.evidence import Evidence
from attestation.policy import Policy
from attestation.runtime_log import Event
from attestation.tdx.appraise import TdxPolicy
from attestation.window import rfc3339
from enclave.engine.echo import EchoEngine
from enclave.simulator.machine import pseudo_manifest
from enclave.simulator.tdx_ca import SimulatedCa
from enclave.simulator.tdx_collateral import CollateralPlan
from enclave.simulator.tdx_quote import QuotePlan, ReportPlan
from tests.seals import make_pair

NOW = datetime(2026, 10, 1, 12, tzinfo=UTC)
NONCE = bytes(range(100, 132))
MODEL = "echo"
ECHO_WEIGHTS = sha256(b"sericin/1 echo").digest()
ROOTS = Path(__file__).parent


class StoppedClock:
    """A clock that tests move."""

    def __init__(self, now: datetime = NOW) -> None:
        self.now = now.timestamp()
        self.since_boot = 1000.0

    def wall(self) -> int:
        return int(self.now)

    def boot(self) -> float:
        return self.since_boot

    def forward(self, seconds: float) -> None:
        """Let both times pass."""
        self.now += seconds
        self.since_boot += seconds


@cache
def ca() -> SimulatedCa:
    """Give one authority for the whole test run."""
    return SimulatedCa.make(now=NOW)


def config_document(**changes: Any) -> bytes:
    """Write a config document for the echo engine on a simulated machine without GPUs."""
    document = {
        "schema": "sericin-config/1",
        "machine": "simulated",
        "gpu": {"mode": "none", "count": 0},
        "engine": {"kind": "echo", "n_ctx": 4096, "n_seq": 1, "n_ubatch": 512, "threads": 0},
        "models": [{"name": MODEL, "sha256": ECHO_WEIGHTS.hex()}],
        "limits": {"max_request_bytes": 262144, "max_completion_tokens": 512, "queue_length": 8},
        "anchor_within": 86400,
        "retention": 3600,
        "logging": "codes",
    }
    return json.dumps(document | changes).encode()


def registers() -> dict[str, bytes]:
    """Give the simulated image's registers."""
    document = json.loads(pseudo_manifest())
    return {name: bytes.fromhex(document[name]) for name in ("mr_td", "rtmr0", "rtmr1", "rtmr2")}


def echo_record() -> ModelRecord:
    """Give the model record of the echo engine."""
    engine = EchoEngine(clock=StoppedClock(), name=MODEL)
    try:
        return ModelRecord.decode(engine.model_records()[0])
    finally:
        engine.close()


def policy_document(**changes: Any) -> dict[str, Any]:
    """Write the strict policy that accepts the forged machine and nothing else."""
    image = {name: value.hex() for name, value in registers().items()}
    root = ca().root_pem
    record = _record()
    waived = {"waived": "not what this test is about"}
    document: dict[str, Any] = {
        "schema": "sericin-policy/1",
        "name": "test",
        "roots": {"kind": "simulated", "tdx_root": root, "gpu_device_root": root, "gpu_rim_root": root},
        "tdx": TdxPolicy.strict_template(),
        "image": [
            {
                "name": "simulated",
                "image_id": sha256(pseudo_manifest()).hexdigest(),
                **image,
                "rtmr0": [image["rtmr0"]],
                "not_after": rfc3339(NOW + timedelta(days=30)),
            }
        ],
        "runtime": {
            "machine": "simulated",
            "config": [sha384(config_document()).hexdigest()],
            "operator": waived,
            "engine": ["echo"],
            "logging": ["codes"],
        },
        "gpu": {"waived": "a machine without GPUs"},
        "models": [
            {
                "name": record.name,
                "weights": record.weights.hex(),
                "template": record.template.hex(),
                "determinism": ["exact"],
            }
        ],
        "channel": {"mode": "sealed", "strict": False},
        "registry": waived,
        "time": {"max_skew_seconds": 300, "max_epoch_seconds": 5400},
    }
    return document | changes


def policy(**changes: Any) -> Policy:
    """Give the parsed policy."""
    return Policy.parse(json.dumps(policy_document(**changes)).encode())


@cache
def _record() -> ModelRecord:
    return echo_record()


@cache
def _tls_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def tls_spki() -> bytes:
    """Give the SubjectPublicKeyInfo that the claims name."""
    return _tls_key().public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


@dataclass(kw_only=True)
class Forge:
    """Everything of one machine's evidence. Change fields, then `evidence()`: hashes follow unless overridden."""

    now: datetime = NOW
    nonce: bytes | None = NONCE
    config: bytes = field(default_factory=config_document)
    operator: bytes = b""
    manifest: bytes = field(default_factory=pseudo_manifest)
    boot: dict[str, Any] = field(default_factory=dict)  # fields of the boot map
    epoch: dict[str, Any] = field(default_factory=dict)  # fields of the epoch map
    claims: dict[str, Any] = field(default_factory=dict)  # fields of the claims
    report: dict[str, Any] = field(default_factory=dict)  # fields of the TD report
    events: Callable[[list[Event]], list[Event]] = lambda events: events
    collateral: Callable[[CollateralPlan], None] = lambda _: None
    quote: dict[str, Any] = field(default_factory=dict)  # fields of the quote
    authority: SimulatedCa = field(default_factory=ca)
    after: dict[str, Any] = field(default_factory=dict)  # fields of the evidence, changed after everything is signed

    def boot_map(self) -> BootMap:
        """Give the boot map."""
        record = _record()
        fields: dict[str, Any] = {
            "machine": "simulated",
            "instance_id": bytes(range(16)),
            "receipt_key": b"\x01" * 32,
            "identity_key": b"\x02" * 32,
            "net_key": b"\x03" * 32,
            "image_id": sha256(self.manifest).digest(),
            "config_digest": sha384(self.config).digest(),
            "operator_digest": sha384(self.operator).digest(),
            "models": (record,),
            "limits": Limits(max_request_bytes=262144, max_completion_tokens=512, queue_length=8),
            "anchor_within": 86400,
            "retention": 3600,
        }
        return BootMap(**(fields | self.boot))

    def epoch_map(self) -> EpochMap:
        """Give the epoch map."""
        start = int(self.now.timestamp()) - 60
        fields: dict[str, Any] = {
            "boot_digest": self.boot_map().digest,
            "number": 1,
            "seal_keys": (make_pair().public,),
            "not_before": start,
            "not_after": start + 4200,
        }
        return EpochMap(**(fields | self.epoch))

    def log(self) -> list[Event]:
        """Give the runtime log."""
        boot = self.boot_map()
        models = sha256(cbor.encode([model.weights for model in boot.models])).digest()
        events = [
            Event(name="image-id", payload=boot.image_id),
            Event(name="config", payload=boot.config_digest),
            Event(name="operator", payload=boot.operator_digest),
            Event(name="model", payload=models),
            Event(name="gpu", payload=b""),
            Event(name="ready", payload=boot.digest),
        ]
        return self.events(events)

    def evidence(self) -> bytes:
        """Give the encoded evidence."""
        events, boot, epoch = self.log(), self.boot_map(), self.epoch_map()
        log = runtime_log.encode(events)
        fields: dict[str, Any] = {
            "pubkey_hash": spki_claim(tls_spki()),
            "boot_digest": boot.digest,
            "keyset_digest": epoch.digest,
            "gpu_set": b"",
            "log_digest": sha256(log).digest(),
            "nonce": self.nonce,
        }
        claims = Claims(**(fields | self.claims)).encode()
        evidence = Evidence(
            quote=self.signed_quote(report_data(claims), runtime_log.replay(events)),
            claims=claims,
            boot=boot.encode(),
            epoch=epoch.encode(),
            runtime_log=log,
            config=self.config,
            operator=self.operator,
            collateral=self.signed_collateral(),
            manifest=self.manifest,
        )
        return replace(evidence, **self.after).encode()

    def signed_quote(self, data: bytes, rtmr3: bytes) -> bytes:
        """Give the quote over `data`."""
        r = registers()
        fields: dict[str, Any] = {
            "mr_td": r["mr_td"],
            "mr_config_id": sha384(self.config).digest(),
            "rtmr": (r["rtmr0"], r["rtmr1"], r["rtmr2"], rtmr3),
            "report_data": data,
        }
        plan = QuotePlan.of(self.authority, ReportPlan(**(fields | self.report)))
        return plan.but(**self.quote).sign()

    def signed_collateral(self) -> bytes:
        """Give the collateral."""
        plan = CollateralPlan.of(self.authority, now=self.now)
        self.collateral(plan)
        return plan.document()
