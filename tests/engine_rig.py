# SPDX-License-Identifier: Apache-2.0
"""One real engine on the small real model, shared by every test file that needs one, and a way to talk to it."""

from __future__ import annotations

import atexit
import hashlib
import json
import struct
import time
from functools import cache
from pathlib import Path

import gguf

from enclave.engine.library import ModelConfig
from enclave.engine.llama import LlamaEngine
from enclave.seams import Admission, EngineEvent, EventKind, Job
from tests.small_model import NAME, SHA256, BootClock, small_model

CLOCK = BootClock()
CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"
ALICE, BOB = b"a" * 32, b"b" * 32
_LAST = 3  # LLAMA_POOLING_TYPE_LAST


def small_config(**changes: object) -> ModelConfig:
    """Give settings that leave the other core to everybody else."""
    settings = {"context": 512, "slots": 4, "ubatch": 128, "threads": 1, "queue_limit": 64, **changes}
    return ModelConfig(name=NAME, path=small_model(), sha256=SHA256, **settings)  # type: ignore[arg-type]


@cache
def shared_engine() -> LlamaEngine:
    """Load the engine once for the whole test run."""
    engine = LlamaEngine.load([small_config()], clock=CLOCK)
    atexit.register(engine.close)
    return engine


def embedding_config(folder: Path, *, name: str, **changes: object) -> ModelConfig:
    """Write the small model again with `llama.pooling_type`: keys first, then the data at its new place."""
    reader = gguf.GGUFReader(small_model())
    raw = small_model().read_bytes()
    keys = struct.unpack_from("<Q", raw, 16)[0]
    field = reader.tensors[-1].field
    table_end = int(field.offset + sum(part.nbytes for part in field.parts))
    named = b"llama.pooling_type"
    key = struct.pack("<Q", len(named)) + named + struct.pack("<II", 4, _LAST)
    head = raw[:16] + struct.pack("<Q", keys + 1) + key + raw[24:table_end]
    data = head + bytes(-len(head) % 32) + raw[reader.data_offset :]
    path = folder / "embed.gguf"
    path.write_bytes(data)
    settings = {"context": 256, "slots": 2, "ubatch": 128, "threads": 1, **changes}
    return ModelConfig(name=name, path=path, sha256=hashlib.sha256(data).digest(), **settings)  # type: ignore[arg-type]


def chat(text: str, **more: object) -> dict[str, object]:
    """Give the body of a greedy chat."""
    return {"messages": [{"role": "user", "content": text}], "temperature": 0, **more}


class Jobs:
    """Submits jobs and collects their events."""

    number = 0

    def __init__(self, engine: LlamaEngine) -> None:
        self.engine = engine
        self.seen: dict[int, list[EngineEvent]] = {}

    def submit(
        self,
        body: dict[str, object],
        *,
        endpoint: str = CHAT,
        seconds: float = 60,
        tenant: bytes = b"",
        model: str = NAME,
    ) -> tuple[int, Admission]:
        Jobs.number += 1
        raw = json.dumps({"model": model, **body}).encode()
        until = CLOCK.boot() + seconds
        job = Job(job_id=Jobs.number, model=model, endpoint=endpoint, body=raw, tenant=tenant, deadline=until)
        return job.job_id, self.engine.submit(job)

    def accept(self, body: dict[str, object], **more: object) -> int:
        job_id, answer = self.submit(body, **more)  # type: ignore[arg-type]  # passed through
        assert answer.accepted, answer
        return job_id

    def refuse(self, body: dict[str, object], **more: object) -> tuple[str, str]:
        _, answer = self.submit(body, **more)  # type: ignore[arg-type]  # passed through
        assert not answer.accepted
        return answer.code, answer.field

    def wait(self, *jobs: int) -> None:
        until = time.monotonic() + 60
        while time.monotonic() < until and not all(self.over(job) for job in jobs):
            for event in self.engine.events(0.2):
                self.seen.setdefault(event.job_id, []).append(event)
        assert all(self.over(job) for job in jobs)

    def over(self, job: int) -> bool:
        return any(e.kind in (EventKind.FINISHED, EventKind.FAILED) for e in self.seen.get(job, []))

    def text(self, job: int, choice: int = 0) -> str:
        return b"".join(e.text for e in self.seen[job] if e.choice == choice).decode()

    def ids(self, job: int, choice: int = 0) -> list[int]:
        return [t for e in self.seen[job] if e.kind == "delta" and e.choice == choice for t in e.tokens]

    def finish(self, job: int) -> list[str]:
        ends = [e for e in self.seen[job] if e.kind == "choice_end"]  # they come in the order of ending
        return [e.finish for e in sorted(ends, key=lambda e: e.choice)]

    def details(self, job: int) -> list[dict[str, object]]:
        return [json.loads(e.detail) for e in self.seen[job] if e.detail]

    def run(self, body: dict[str, object], **more: object) -> int:
        job = self.accept(body, **more)
        self.wait(job)
        return job
