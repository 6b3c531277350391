# SPDX-License-Identifier: Apache-2.0
"""Answers: are these the weights that were promised, and what is said of them in the model record?

A file is read once, hashed while it is copied into memory of ours, and loaded from there. Nothing is mapped from a disk
that the host can still change.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from attestation.boot import ModelRecord, ModelSettings

from ..models.refusal import ModelRefused
from .native import PINNED, library_digest

_BLOCK = 8 << 20
_COPIES = 2  # ours, from which it is loaded, and llama.cpp's


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """One model to serve. `sha256` is required: what it does not match is never parsed."""

    name: str
    path: Path
    sha256: bytes  # 32
    context: int = 4096  # tokens per slot
    slots: int = 4
    ubatch: int = 512
    chunk: int = 0  # prompt tokens read per step while others are answering; 0: as many as `resolved_chunk` says
    threads: int = 0  # 0: one fewer than the CPUs, but both of two
    queue_limit: int = 64
    max_tokens: int = 1 << 20  # most that one choice may generate, whatever is asked
    type_k: str = "f16"
    type_v: str = "f16"
    flash: int = 1
    on_gpu: bool = False  # every layer on the GPUs that were attested, or none on any
    self_test: bool = True

    def resolved_threads(self) -> int:
        """Give the number of threads that compute."""
        cpus = len(os.sched_getaffinity(0))
        return self.threads or (cpus if cpus <= 2 else cpus - 1)

    def resolved_chunk(self) -> int:
        """Give the number of prompt tokens read per step while others are answering.

        A step of answers takes a GPU about as long for one as for many, so that there few long pauses cost less than
        many short ones; on a processor every token of a prompt lengthens the pause. With two micro-batches a GPU is
        kept as busy as with four, and prompts that come together get their first token from the first portion on.
        """
        return self.chunk or (2 * self.ubatch if self.on_gpu else min(256, self.ubatch))

    def settings(self) -> ModelSettings:
        """Give the settings that a re-execution needs."""
        return ModelSettings(
            n_ctx=self.context,
            n_seq=self.slots,
            kv_unified=False,
            flash_attention=self.flash,
            type_k=self.type_k,
            type_v=self.type_v,
            n_ubatch=self.ubatch,
            threads=self.resolved_threads(),
        )


class Weights:
    """A model file in sealed memory."""

    def __init__(self, path: Path, sha256: bytes) -> None:
        """Read and hash `path`. Raises ModelRefused when it is absent, does not fit, or is another than promised."""
        require_memory(path, available_memory())
        self._fd = os.memfd_create("weights", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            self._require(path, self._copy(path), sha256)
            seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
            fcntl.fcntl(self._fd, fcntl.F_ADD_SEALS, seals)
        except BaseException:
            self.close()
            raise

    @staticmethod
    def _require(path: Path, found: bytes, wanted: bytes) -> None:
        if found != wanted:
            raise ModelRefused("model_digest", f"{path.name} is {found.hex()}, wanted {wanted.hex()}")

    def _copy(self, path: Path) -> bytes:
        digest = hashlib.sha256()
        buffer = bytearray(_BLOCK)
        view = memoryview(buffer)
        try:
            with path.open("rb", buffering=0) as source:
                while size := source.readinto(buffer):
                    digest.update(view[:size])
                    written = 0
                    while written < size:
                        written += os.write(self._fd, view[written:size])
        except OSError as error:
            raise ModelRefused("model_missing", f"{path}: {error.strerror}") from error
        return digest.digest()

    @property
    def fd(self) -> int:
        """The descriptor, for a child that tests the model."""
        return self._fd

    @property
    def path(self) -> str:
        """The name under which this process can open the memory."""
        return f"/proc/self/fd/{self._fd}"

    def close(self) -> None:
        """Give the memory back, once the model is loaded."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def available_memory() -> int:
    """Give the bytes that the kernel could hand out without swapping."""
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/meminfo names no available memory")


def require_memory(path: Path, available: int) -> None:
    """Refuse a model that would not fit, before the kernel ends the process for it. Raises ModelRefused(model_load)."""
    try:
        needed = _COPIES * path.stat().st_size
    except OSError as error:
        raise ModelRefused("model_missing", f"{path}: {error.strerror}") from error
    if needed > available:
        raise ModelRefused(
            "model_load", f"{path.name} needs {needed} bytes of memory to load, {available} are available"
        )


def build_name() -> str:
    """Name the build that computes: release and digest of its libraries."""
    return f"llama-cpp-python {PINNED} sha256:{library_digest()}"


def make_record(
    config: ModelConfig, *, tokenizer: bytes, template: bytes, determinism: str, selftest: bytes
) -> ModelRecord:
    """Give the record that goes into the boot map."""
    return ModelRecord(
        name=config.name,
        weights=config.sha256,
        tokenizer=tokenizer,
        template=template,
        build=build_name(),
        settings=config.settings(),
        determinism=determinism,
        selftest=selftest,
    )
