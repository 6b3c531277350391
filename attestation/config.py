# SPDX-License-Identifier: Apache-2.0
"""The config document `sericin-config/1`: what can weaken an enclave, pinned by policies (docs/operator.md)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from . import document, strict_json
from .boot import MACHINES, MAX_MODELS, Limits
from .errors import Malformed
from .evidence import MAX_CONFIG

SCHEMA: Final = "sericin-config/1"
GPU_MODES: Final = ("none", "simulated", "nvml")
ENGINES: Final = ("llama", "echo")
LOGGING: Final = ("codes",)
MAX_REQUEST_BYTES: Final = 8 * 1024 * 1024
MAX_COMPLETION_TOKENS: Final = 1 << 20
MAX_QUEUE_LENGTH: Final = 4096
MAX_GPUS: Final = 16
MAX_DISK_BLOCKS: Final = 1 << 32  # 16 TiB
_YEAR: Final = 366 * 24 * 3600
_CODE: Final = "MalformedConfig"


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuConfig:
    """Which GPUs the boot gate demands."""

    mode: str  # one of GPU_MODES
    count: int  # exactly so many; 0 for "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """What runs the models, and on how much."""

    kind: str  # one of ENGINES
    n_ctx: int  # tokens per sequence
    n_seq: int  # sequences decoded together
    n_ubatch: int
    threads: int  # 0: chosen by the engine


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskPin:
    """The disk on which an image finds a model: dm-verity root and size of its file system (docs/image.md)."""

    root: bytes  # 32
    blocks: int  # of 4096 bytes; the hash tree follows them


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPin:
    """One model by name and the SHA-256 of its file, and inside an image by its disk."""

    name: str
    sha256: bytes  # 32
    disk: DiskPin | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EnclaveConfig:
    """A parsed config document. It says what the enclave claims to have been told, nothing more."""

    machine: str  # one of boot.MACHINES
    gpu: GpuConfig
    engine: EngineConfig
    models: tuple[ModelPin, ...]
    limits: Limits
    anchor_within: int  # seconds
    retention: int  # seconds
    logging: str  # one of LOGGING

    @classmethod
    def parse(cls, data: bytes) -> EnclaveConfig:
        """Read a config document of at most 64 KiB. Raises Malformed."""
        keys = ("schema", "machine", "gpu", "engine", "models", "limits", "anchor_within", "retention", "logging")
        m = document.fields(strict_json.loads(data, limit=MAX_CONFIG, what="config"), keys, "config")
        document.choice(m["schema"], "config.schema", (SCHEMA,))
        machine = document.choice(m["machine"], "config.machine", MACHINES)
        models = document.items(m["models"], "config.models", least=1, most=MAX_MODELS)
        config = cls(
            machine=machine,
            gpu=_gpu(m["gpu"], machine),
            engine=_engine(m["engine"]),
            models=tuple(_model(model, f"config.models[{i}]") for i, model in enumerate(models)),
            limits=_limits(m["limits"]),
            anchor_within=document.integer(m["anchor_within"], "config.anchor_within", low=60, high=_YEAR),
            retention=document.integer(m["retention"], "config.retention", low=0, high=_YEAR),
            logging=document.choice(m["logging"], "config.logging", LOGGING),
        )
        if len({model.name for model in config.models}) != len(config.models):
            raise Malformed(_CODE, "config.models", want="each name once", got="a name twice")
        return config


def _gpu(value: object, machine: str) -> GpuConfig:
    m = document.fields(value, ("mode", "count"), "config.gpu")
    mode = document.choice(m["mode"], "config.gpu.mode", GPU_MODES)
    count = document.integer(m["count"], "config.gpu.count", low=0, high=MAX_GPUS)
    if (mode == "none") != (count == 0):
        raise Malformed(_CODE, "config.gpu.count", want="0 for mode none, else at least 1", got=count)
    if mode == {"tdx": "simulated", "simulated": "nvml"}[machine]:
        raise Malformed(_CODE, "config.gpu.mode", want="machine and GPUs both real or both simulated", got=mode)
    return GpuConfig(mode=mode, count=count)


def _engine(value: object) -> EngineConfig:
    m = document.fields(value, ("kind", "n_ctx", "n_seq", "n_ubatch", "threads"), "config.engine")
    return EngineConfig(
        kind=document.choice(m["kind"], "config.engine.kind", ENGINES),
        n_ctx=document.integer(m["n_ctx"], "config.engine.n_ctx", low=16, high=1 << 20),
        n_seq=document.integer(m["n_seq"], "config.engine.n_seq", low=1, high=1024),
        n_ubatch=document.integer(m["n_ubatch"], "config.engine.n_ubatch", low=1, high=1 << 16),
        threads=document.integer(m["threads"], "config.engine.threads", low=0, high=1024),
    )


def _model(value: object, where: str) -> ModelPin:
    keys = ("name", "sha256", "disk") if isinstance(value, dict) and "disk" in value else ("name", "sha256")
    m = document.fields(value, keys, where)
    return ModelPin(
        name=document.text(m["name"], f"{where}.name", limit=64),
        sha256=document.digest(m["sha256"], f"{where}.sha256", size=32),
        disk=_disk(m["disk"], f"{where}.disk") if "disk" in m else None,
    )


def _disk(value: object, where: str) -> DiskPin:
    m = document.fields(value, ("root", "blocks"), where)
    return DiskPin(
        root=document.digest(m["root"], f"{where}.root", size=32),
        blocks=document.integer(m["blocks"], f"{where}.blocks", low=1, high=MAX_DISK_BLOCKS),
    )


def _limits(value: object) -> Limits:
    where = "config.limits"
    m = document.fields(value, ("max_request_bytes", "max_completion_tokens", "queue_length"), where)
    return Limits(
        max_request_bytes=document.integer(
            m["max_request_bytes"], f"{where}.max_request_bytes", low=4096, high=MAX_REQUEST_BYTES
        ),
        max_completion_tokens=document.integer(
            m["max_completion_tokens"], f"{where}.max_completion_tokens", low=1, high=MAX_COMPLETION_TOKENS
        ),
        queue_length=document.integer(m["queue_length"], f"{where}.queue_length", low=1, high=MAX_QUEUE_LENGTH),
    )
