# SPDX-License-Identifier: Apache-2.0
"""The seams of the enclave: what it asks of hardware, of the engine, of the ledger and of time.

Each is a Protocol with plain data only (ids, bytes, numbers), so that either side can become another process, and so
that a simulated machine differs from a real one in nothing but whose root signed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol


class Clock(Protocol):
    """Two times: the host's claim, and one that the host cannot set back."""

    def wall(self) -> int:
        """Unix seconds, as the host claims."""
        ...

    def boot(self) -> float:
        """Seconds of CLOCK_BOOTTIME: what epochs and timeouts count."""
        ...


class QuoteSource(Protocol):
    """Asks the TDX machine, real or simulated, for a quote."""

    def quote(self, report_data: bytes) -> bytes:
        """Give a quote whose REPORTDATA is `report_data` (64 bytes). Raises QuoteUnavailable."""
        ...

    def collateral(self, quote: bytes) -> bytes:
        """Give the endorsements for `quote` as the JSON that dcap-qvl writes, or empty when none is at hand."""
        ...


class QuoteUnavailable(Exception):
    """The machine gave no usable quote. The message says what was tried; it holds no secrets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuReport:
    """One device's evidence as the driver gave it."""

    kind: str  # "gpu" or "switch"
    report: bytes  # SPDM request || response, signature included
    chain: bytes  # PEM, leaf first
    cc_state: dict[str, int]  # what NVML said: cc_feature, dev_tools, environment, multi_gpu_mode, ready


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuEndorsements:
    """What a verifier needs beside the reports: stapled, so that clients need no access to the vendor."""

    rims: tuple[bytes, ...] = ()
    ocsp: tuple[bytes, ...] = ()
    crls: tuple[bytes, ...] = ()


class GpuEvidenceSource(Protocol):
    """Collects GPU evidence through NVML, or a simulated one. A machine without GPUs gives empty tuples."""

    def collect(self, nonce: bytes) -> tuple[GpuReport, ...]:
        """Collect one report of every device over `nonce` (32 bytes), serialised. Raises GpuUnavailable."""
        ...

    def endorsements(self, reports: Sequence[GpuReport]) -> GpuEndorsements:
        """Give RIMs, OCSP responses and CRLs for `reports`."""
        ...

    def ready(self) -> None:
        """Let the GPUs take work: only after the gate's own verification."""
        ...


class GpuUnavailable(Exception):
    """The GPUs gave no acceptable evidence. The message says what to do."""


class RuntimeLog(Protocol):
    """RTMR3: appends and extends under one lock, and keeps the log (docs/protocol.md, Runtime log)."""

    def extend(self, name: str, payload: bytes) -> None:
        """Append the event and extend RTMR3 by its digest. Raises RuntimeError once closed."""
        ...

    def close(self) -> None:
        """Accept no further event."""
        ...

    def bytes(self) -> bytes:
        """Give the log exactly as it is hashed into the claims."""
        ...


class FinishReason(StrEnum):
    """Why a choice ended, in OpenAI's words."""

    STOP = "stop"
    LENGTH = "length"
    TOOL_CALLS = "tool_calls"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Job:
    """One run for the engine: plain data, no callbacks. Has no repr: it holds the prompt."""

    job_id: int
    model: str
    endpoint: str  # "/v1/chat/completions", "/v1/completions" or "/v1/embeddings"
    body: bytes  # the OpenAI JSON body, exactly as the client sealed it
    tenant: bytes  # 32-byte key of the tenant's prefix cache; empty: no reuse
    deadline: float  # CLOCK_BOOTTIME seconds; the engine gives up then


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """The engine's answer to a submitted job: accepted, or a refusal code of docs/protocol.md with a hint."""

    accepted: bool
    code: str = ""  # "busy", "context_too_long", "invalid_request", "unsupported_field", "model_unknown"
    field: str = ""  # the name of the offending request field, never its value
    retry_after: int = 0  # seconds, from measured speed, for "busy"


class EventKind(StrEnum):
    """What an engine event tells."""

    STARTED = "started"
    DELTA = "delta"
    CHOICE_END = "choice_end"
    FINISHED = "finished"
    FAILED = "failed"


# Not frozen: one is made per token, and a frozen one takes thrice as long to make.
@dataclass(slots=True, kw_only=True, repr=False)
class EngineEvent:
    """One thing that happened to a job. A job ends with exactly one FINISHED or FAILED. Has no repr."""

    job_id: int
    kind: EventKind
    choice: int = 0
    text: bytes = b""  # DELTA: whole UTF-8 characters only
    tokens: tuple[int, ...] = ()  # STARTED: the prompt's ids; DELTA: ids sampled since the last delta
    finish: str = ""  # CHOICE_END: a FinishReason
    code: str = ""  # FAILED: as in Admission, or "engine_failed", "deadline"
    detail: bytes = b""  # DELTA: JSON object with further delta fields (logprobs, tool_calls); FINISHED: embeddings
    prompt_tokens: int = 0  # STARTED and FINISHED
    cached_tokens: int = 0
    completion_tokens: int = 0  # FINISHED
    reasoning_tokens: int = 0
    params: dict[str, int | str] = field(default_factory=dict)  # STARTED: resolved settings, hashed into the receipt


class Engine(Protocol):
    """Runs jobs. One thread of the caller's drains `events`; submit and cancel may come from another."""

    def model_records(self) -> tuple[bytes, ...]:
        """Give the deterministic CBOR of every model record (docs/protocol.md, Model record), once loaded."""
        ...

    def submit(self, job: Job) -> Admission:
        """Queue a job, or refuse it at once. Never blocks for longer than parsing the request."""
        ...

    def cancel(self, job_id: int) -> None:
        """End a job within one step. Its FINISHED event still comes, with what was generated."""
        ...

    def events(self, timeout: float) -> list[EngineEvent]:
        """Wait up to `timeout` seconds for events: everything of one step in one list."""
        ...

    def close(self) -> None:
        """Stop the engine and wipe its state."""
        ...


class Ledger(Protocol):
    """Append-only store of signed receipts and batch statements, readable by the host, never believed by us."""

    def append(self, kind: str, record: bytes) -> None:
        """Store one record durably: written whole or not at all."""
        ...

    def orphans(self) -> list[bytes]:
        """Give signed receipts of earlier boots that no batch statement covers."""
        ...
