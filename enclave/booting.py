# SPDX-License-Identifier: Apache-2.0
"""From two documents to a booted enclave, in the one order of docs/protocol.md. The only wiring of the parts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from attestation.boot import BootMap, ModelRecord
from attestation.config import EnclaveConfig
from attestation.operator import Listen, OperatorDocument

from .admission import Admission
from .attester import Attester, BootMismatch, Documents, Machine
from .engine_pump import EnginePump
from .epochs import EpochTable
from .exchanges import Floor
from .gate import NoGpus, gate_judge
from .journal import Journal
from .keys import BootKeys
from .ledger import DiskLedger, FileLedger, MemoryLedger, open_ledger
from .machines import Hardware, open_hardware
from .metrics import Metrics
from .receipt_book import ReceiptBook
from .replay import CAPACITY
from .routes import Desk
from .runs import RunTable
from .seams import Clock, Engine, GpuEvidenceSource

DEFAULT_STATE: Final = Path(".state")
DEFAULT_LISTEN: Final = Listen(http=("127.0.0.1", 8480))
LoadEngine = Callable[[EnclaveConfig, "OperatorDocument | None", Clock], Engine]
Step = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Booted:
    """One boot, ready to listen."""

    documents: Documents
    config: EnclaveConfig
    operator: OperatorDocument | None
    machine: Machine
    hardware: Hardware
    boot: BootMap
    attester: Attester
    engine: Engine
    ledger: FileLedger | DiskLedger | MemoryLedger
    floor: Floor
    desk: Desk

    @property
    def listen(self) -> Listen:
        """Where to listen."""
        return self.operator.listen if self.operator is not None else DEFAULT_LISTEN

    @property
    def state(self) -> Path:
        """The directory of a simulated machine's authorities."""
        return Path(self.operator.state) if self.operator is not None else DEFAULT_STATE


def boot(
    documents: Documents,
    *,
    clock: Clock,
    load_engine: LoadEngine,
    step: Step,
    journal: Journal | None = None,
    replay_capacity: int = CAPACITY,
) -> Booted:
    """Boot an enclave. Raises AttestationError for a bad document, and what machine, GPUs, models and ledger raise."""
    config = EnclaveConfig.parse(documents.config)
    operator = OperatorDocument.parse(documents.operator) if documents.operator else None
    state = Path(operator.state) if operator is not None else DEFAULT_STATE
    step("opening the machine")
    hardware = open_hardware(config, state=state, config_document=documents.config, clock=clock)
    gpus: GpuEvidenceSource = hardware.gpus if hardware.gpus is not None else NoGpus()
    attester = Attester(
        machine=hardware.machine,
        gpus=gpus,
        judge=gate_judge(hardware.gpu_anchor, count=max(config.gpu.count, 1), clock=clock),
        config=config,
        documents=documents,
        clock=clock,
        replay_capacity=replay_capacity,
    )
    step("measuring documents, models and GPUs")
    attester.measure()
    ledger = open_ledger(Path(operator.ledger)) if operator is not None and operator.ledger else MemoryLedger()
    engine: Engine | None = None
    try:
        step("loading models")
        engine = load_engine(config, operator, clock)
        records = [ModelRecord.decode(record) for record in engine.model_records()]
        keys = BootKeys()
        boot_map = attester.boot(records, keys)
        step("making the first epoch")
        epochs = EpochTable()
        epochs.publish(attester.new_epoch(1))
    except BaseException:
        ledger.close()
        if engine is not None:
            engine.close()
        raise
    floor = _floor(
        config, operator, boot_map, keys, engine, ledger, epochs, clock=clock, journal=journal or Journal(clock)
    )
    return Booted(
        documents=documents,
        config=config,
        operator=operator,
        machine=hardware.machine,
        hardware=hardware,
        boot=boot_map,
        attester=attester,
        engine=engine,
        ledger=ledger,
        floor=floor,
        desk=Desk(floor=floor, attester=attester, identity=keys.identity),
    )


def _floor(
    config: EnclaveConfig,
    operator: OperatorDocument | None,
    boot_map: BootMap,
    keys: BootKeys,
    engine: Engine,
    ledger: FileLedger | DiskLedger | MemoryLedger,
    epochs: EpochTable,
    *,
    clock: Clock,
    journal: Journal,
) -> Floor:
    metrics, runs = Metrics(), RunTable()
    models = frozenset(record.name for record in boot_map.models)
    return Floor(
        boot=boot_map,
        epochs=epochs,
        admission=Admission(runs=runs, models=models, limits=config.limits),
        runs=runs,
        pump=EnginePump(engine, clock=clock),
        book=ReceiptBook(
            signer=keys.receipt, boot=boot_map, ledger=ledger, clock=clock, journal=journal, metrics=metrics
        ),
        prices=operator.prices if operator is not None else None,
        clock=clock,
        journal=journal,
        metrics=metrics,
    )


def load_engine(config: EnclaveConfig, operator: OperatorDocument | None, clock: Clock) -> Engine:
    """Load what the config names: the echo engine, or llama.cpp with models checked by digest.

    Raises BootMismatch and enclave.models.refusal.ModelRefused.
    """
    if config.engine.kind == "echo":
        from .engine.echo import EchoEngine  # noqa: PLC0415 - an engine is imported when it is chosen

        if len(config.models) != 1:
            raise BootMismatch("the echo engine serves exactly one model")
        return EchoEngine(
            clock=clock,
            name=config.models[0].name,
            context=config.engine.n_ctx,
            queue_limit=config.limits.queue_length,
        )
    try:
        from .engine.library import ModelConfig  # noqa: PLC0415
        from .engine.llama import LlamaEngine  # noqa: PLC0415
    except ImportError as error:
        raise BootMismatch(f"{error.name} is missing: install sericin[enclave]") from error
    from .models.catalogue import model_folder  # noqa: PLC0415

    folder = Path(operator.model_dir) if operator is not None and operator.model_dir else model_folder()
    models = [
        ModelConfig(
            name=model.name,
            path=folder / f"{model.name}.gguf",
            sha256=model.sha256,
            context=config.engine.n_ctx,
            slots=config.engine.n_seq,
            ubatch=config.engine.n_ubatch,
            threads=config.engine.threads,
            on_gpu=config.gpu.mode == "nvml",
            queue_limit=config.limits.queue_length,
            max_tokens=config.limits.max_completion_tokens,
        )
        for model in config.models
    ]
    return LlamaEngine.load(models, clock=clock)
