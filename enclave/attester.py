# SPDX-License-Identifier: Apache-2.0
"""Attester: from an instance id to a boot map, from each epoch to its quote, from each nonce to its evidence.

The order is docs/protocol.md's: four events, the GPU gate and its event, then (elsewhere) the engine, then keys and
boot map, `ready`, log closed; from then on epochs, each with its quote.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256, sha384
from typing import Final, Protocol

from attestation import cbor
from attestation.binding import Claims, report_data, spki_claim
from attestation.boot import EPOCH_SECONDS, BootMap, EpochMap, ModelRecord
from attestation.config import EnclaveConfig
from attestation.errors import Malformed
from attestation.evidence import MAX_COLLATERAL, Evidence
from attestation.gpu.binding import NONCE_CLIENT, NONCE_EPOCH, NONCE_GATE, gpu_nonce, gpu_set_digest
from attestation.gpu.evidence import GpuDeviceEvidence, GpuEndorsementSet, GpuEvidence
from attestation.gpu.spdm import parse_report
from attestation.ratls import make_certificate, spki_of

from .epochs import Epoch
from .keys import BootKeys, SealKey, new_tls_key
from .replay import CAPACITY, ReplaySet
from .seams import Clock, GpuEvidenceSource, GpuReport, GpuUnavailable, QuoteSource, RuntimeLog

INSTANCE_ID_SIZE: Final = 16
FRESH_CLIENT: Final = "client"
FRESH_EPOCH: Final = "epoch"
GpuJudge = Callable[[Sequence[GpuDeviceEvidence], GpuEndorsementSet, bytes], None]


class Machine(Protocol):
    """The TDX machine under this process, real or simulated."""

    @property
    def name(self) -> str:
        """`tdx` or `simulated`."""
        ...

    @property
    def manifest(self) -> bytes:
        """The image manifest: shown to clients, never believed. Its SHA-256 is the image id."""
        ...

    @property
    def firmware_log(self) -> bytes:
        """The firmware's event log, or empty."""
        ...

    @property
    def quotes(self) -> QuoteSource:
        """Where quotes come from."""
        ...

    @property
    def runtime_log(self) -> RuntimeLog:
        """RTMR3."""
        ...


class BootMismatch(Exception):
    """What was loaded is not what the config names. The message names the model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Documents:
    """The two documents, exactly as they are hashed."""

    config: bytes
    operator: bytes  # empty without one

    @property
    def config_digest(self) -> bytes:
        """SHA-384 of the config file."""
        return sha384(self.config).digest()

    @property
    def operator_digest(self) -> bytes:
        """SHA-384 of the operator file."""
        return sha384(self.operator).digest()


class Attester:
    """Speaks for one boot. Call `measure`, then `boot`, then `new_epoch`; `evidence` any time after."""

    def __init__(
        self,
        *,
        machine: Machine,
        gpus: GpuEvidenceSource,
        judge: GpuJudge,
        config: EnclaveConfig,
        documents: Documents,
        clock: Clock,
        replay_capacity: int = CAPACITY,
    ) -> None:
        if machine.name != config.machine:
            raise BootMismatch(f"config says machine {config.machine}, this is {machine.name}")
        self.instance_id = secrets.token_bytes(INSTANCE_ID_SIZE)
        self._machine = machine
        self._gpus = gpus
        self._judge = judge
        self._config = config
        self._documents = documents
        self._clock = clock
        self._replay_capacity = replay_capacity
        self._gate: tuple[GpuDeviceEvidence, ...] = ()
        self._boot: BootMap | None = None
        self._encoded_boot = b""
        self._log = b""

    @property
    def boot_map(self) -> BootMap:
        """The boot map. Raises LookupError before `boot`."""
        if self._boot is None:
            raise LookupError("not booted")
        return self._boot

    def measure(self) -> None:
        """Extend image id, documents and models; run the GPU gate and extend its set. Raises GpuUnavailable."""
        log, documents = self._machine.runtime_log, self._documents
        log.extend("image-id", sha256(self._machine.manifest).digest())
        log.extend("config", documents.config_digest)
        log.extend("operator", documents.operator_digest)
        log.extend("model", sha256(cbor.encode([model.sha256 for model in self._config.models])).digest())
        nonce = gpu_nonce(NONCE_GATE, self.instance_id)
        self._gate, endorsements = self._collect(nonce)
        if self._gate:
            self._judge(self._gate, endorsements, nonce)
            self._gpus.ready()
        log.extend("gpu", gpu_set_digest(self._gate))

    def boot(self, records: Sequence[ModelRecord], keys: BootKeys) -> BootMap:
        """Make the boot map, extend `ready` and close the log. Raises BootMismatch."""
        loaded = [(record.name, record.weights) for record in records]
        named = [(model.name, model.sha256) for model in self._config.models]
        if loaded != named:
            raise BootMismatch(f"the config names {[n for n, _ in named]}; loaded are other models or other weights")
        boot = BootMap(
            machine=self._machine.name,
            instance_id=self.instance_id,
            receipt_key=keys.receipt.public,
            identity_key=keys.identity.public,
            net_key=keys.net.public,
            image_id=sha256(self._machine.manifest).digest(),
            config_digest=self._documents.config_digest,
            operator_digest=self._documents.operator_digest,
            models=tuple(records),
            limits=self._config.limits,
            anchor_within=self._config.anchor_within,
            retention=self._config.retention,
        )
        self._machine.runtime_log.extend("ready", boot.digest)
        self._machine.runtime_log.close()
        self._log = self._machine.runtime_log.bytes()
        self._boot, self._encoded_boot = boot, boot.encode()
        return boot

    def new_epoch(self, number: int) -> Epoch:
        """Make an epoch: seal key, GPU evidence, TLS key, quote, certificate. Slow. Raises QuoteUnavailable."""
        born, wall = self._clock.boot(), self._clock.wall()
        seal, tls_key = SealKey(), new_tls_key()
        epoch_map = EpochMap(
            boot_digest=self.boot_map.digest,
            number=number,
            seal_keys=(seal.public,),
            not_before=wall,
            not_after=wall + EPOCH_SECONDS,
        )
        encoded, digest = epoch_map.encode(), epoch_map.digest
        gpu = self._gpu_evidence(NONCE_EPOCH, digest)
        evidence = self._quote(encoded, digest, spki_of(tls_key), gpu, nonce=None)
        certificate = make_certificate(
            tls_key,
            quote=evidence.quote,
            claims=evidence.claims,
            serial=int.from_bytes(secrets.token_bytes(16), "big") | 1,
            not_before=datetime.fromtimestamp(wall, UTC),
            not_after=datetime.fromtimestamp(wall + EPOCH_SECONDS, UTC),
        )
        return Epoch(
            map=epoch_map,
            encoded=encoded,
            digest=digest,
            born=born,
            seal=seal,
            replay=ReplaySet(capacity=self._replay_capacity),
            tls_key=tls_key,
            certificate=certificate,
            evidence=evidence,
            encoded_evidence=evidence.encode(),
        )

    def evidence(self, epoch: Epoch, nonce: bytes, *, fresh: str) -> bytes:
        """Make evidence over a client's nonce, with a quote of its own. Raises QuoteUnavailable, GpuUnavailable."""
        gpu = epoch.evidence.gpu
        if fresh == FRESH_CLIENT and gpu is not None:
            gpu = self._gpu_evidence(NONCE_CLIENT, epoch.digest + nonce)
        return self._quote(epoch.encoded, epoch.digest, spki_of(epoch.tls_key), gpu, nonce=nonce).encode()

    def recheck_gpus(self, epoch: Epoch) -> None:
        """Judge the GPUs again, over a nonce that never leaves this process. Raises GpuUnavailable.

        A driver reloaded, a GPU reset, replaced or put into developer mode since the boot gate shows here.
        """
        if not self._gate:
            return
        nonce = gpu_nonce(NONCE_CLIENT, epoch.digest + secrets.token_bytes(32))
        devices, endorsements = self._collect(nonce)
        if sorted(d.chain for d in devices) != sorted(d.chain for d in self._gate):
            raise GpuUnavailable("other devices answer than passed the boot gate: start the enclave again")
        self._judge(devices, endorsements, nonce)

    def _quote(
        self, epoch: bytes, keyset: bytes, spki: bytes, gpu: GpuEvidence | None, *, nonce: bytes | None
    ) -> Evidence:
        claims = Claims(
            pubkey_hash=spki_claim(spki),
            boot_digest=self.boot_map.digest,
            keyset_digest=keyset,
            gpu_set=gpu_set_digest(gpu.devices) if gpu else b"",
            log_digest=sha256(self._log).digest(),
            nonce=nonce,
        ).encode()
        quote = self._machine.quotes.quote(report_data(claims))
        collateral = self._machine.quotes.collateral(quote)
        return Evidence(
            quote=quote,
            claims=claims,
            boot=self._encoded_boot,
            epoch=epoch,
            runtime_log=self._log,
            config=self._documents.config,
            operator=self._documents.operator,
            collateral=collateral if len(collateral) <= MAX_COLLATERAL else b"",
            manifest=self._machine.manifest,
            firmware_log=self._machine.firmware_log,
            gpu=gpu,
        )

    def _gpu_evidence(self, kind: int, body: bytes) -> GpuEvidence | None:
        if not self._gate:
            return None
        devices, endorsements = self._collect(gpu_nonce(kind, body))
        return GpuEvidence(nonce_kind=kind, devices=devices, boot_devices=self._gate, endorsements=endorsements)

    def _collect(self, nonce: bytes) -> tuple[tuple[GpuDeviceEvidence, ...], GpuEndorsementSet]:
        reports = self._gpus.collect(nonce)
        found = sum(report.kind == "gpu" for report in reports)
        if found != self._config.gpu.count:
            raise GpuUnavailable(f"the config demands {self._config.gpu.count} GPUs, {found} gave evidence")
        given = self._gpus.endorsements(reports)
        return (
            tuple(_device(report) for report in reports),
            GpuEndorsementSet(rims=given.rims, ocsp=given.ocsp, crls=given.crls),
        )


def _device(report: GpuReport) -> GpuDeviceEvidence:
    """Give a driver's report as evidence: exact bytes, without the zeros that drivers leave behind the signature."""
    try:
        parsed = parse_report(report.report, kind=report.kind)
    except Malformed as e:
        raise GpuUnavailable(f"the driver gave no report: {e}") from None
    exact = parsed.signed + parsed.signature
    return GpuDeviceEvidence(kind=report.kind, report=exact, chain=report.chain, cc_state=report.cc_state)
