# SPDX-License-Identifier: Apache-2.0
"""Answers: does this model compute here what it computed elsewhere, and can its answers be re-executed bit by bit?

Before a model is loaded into the engine, a child decodes a fixed text with it, alone and among others. It may die of
the build (a default build with gcc 12 does, on every CPU with AMX) without taking the enclave along. What it measured
is held against the known answers of this release, one for each (weights, release, instruction set, cache settings):

- other tokens than the known ones, rows that are no numbers, or a dead child: the model must not run;
- the known logits, bit for bit: the class that was measured with them (`exact`), which batching must not break;
- the known tokens with other logits (another compiler), or no known answer: class `unknown`, and every receipt says so.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, dataclass
from functools import cache
from importlib import resources
from typing import Any, Final

from ..models.gguf_child import child_environment
from ..models.refusal import ModelRefused
from .library import ModelConfig
from .native import PINNED

UNKNOWN: Final = "unknown"
EXACT: Final = "exact"
NO_DIGEST: Final = bytes(32)
SECONDS: Final = 900  # a large model on a slow disk


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What the child saw."""

    isa: str
    tokens: tuple[int, ...]
    digest: bytes  # 32
    together: bool  # the same bits among others


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownAnswer:
    """What a model computed when this release was made."""

    weights: bytes  # 32
    release: str
    isa: str
    flash: int
    type_k: str
    type_v: str
    tokens: tuple[int, ...]
    digest: bytes  # 32
    determinism: str


@cache
def known_answers() -> tuple[KnownAnswer, ...]:
    """Give the known answers that this release carries."""
    text = (resources.files("enclave") / "data" / "selftests.json").read_text(encoding="utf-8")
    found = []
    for item in json.loads(text)["answers"]:
        for key in ("weights", "digest"):
            item[key] = bytes.fromhex(item[key])
        item["tokens"] = tuple(item["tokens"])
        found.append(KnownAnswer(**item))
    return tuple(found)


def measure(fd: int, config: ModelConfig) -> Measured:
    """Run the child on the weights in `fd`. Raises ModelRefused(model_selftest)."""
    question = {
        "fd": fd,
        "threads": config.resolved_threads(),
        "flash": config.flash,
        "type_k": config.type_k,
        "type_v": config.type_v,
        "on_gpu": config.on_gpu,
    }
    command = [sys.executable, "-m", f"{__package__}.selftest_child", json.dumps(question)]
    try:
        done = subprocess.run(
            command, env=child_environment(), pass_fds=(fd,), capture_output=True, timeout=SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise ModelRefused("model_selftest", f"{config.name}: no answer within {SECONDS} s") from None
    if done.returncode != 0:
        how = f"died of signal {-done.returncode}" if done.returncode < 0 else "could not compute with it"
        raise ModelRefused("model_selftest", f"{config.name}: the self-test {how}; build with scripts/build-llama")
    try:
        answer: dict[str, Any] = json.loads(done.stdout)
        return Measured(
            isa=str(answer["isa"]),
            tokens=tuple(answer["tokens"]),
            digest=bytes.fromhex(answer["digest"]),
            together=answer["together"] is True,
        )
    except (ValueError, KeyError, TypeError):
        raise ModelRefused("model_selftest", f"{config.name}: the self-test gave no answer") from None


def judge(measured: Measured, config: ModelConfig, known: tuple[KnownAnswer, ...]) -> str:
    """Give the determinism class. Raises ModelRefused(model_selftest) for tokens that are not the known ones."""
    key = (config.sha256, PINNED, config.flash, config.type_k, config.type_v)
    same = [k for k in known if (k.weights, k.release, k.flash, k.type_k, k.type_v) == key]
    # A token of another instruction set may differ where two logits are close: it must be one of the known ones.
    if same and measured.tokens not in {k.tokens for k in same}:
        raise ModelRefused("model_selftest", f"{config.name}: computes other tokens here than it is known to")
    answer = next((k for k in same if k.isa == measured.isa), None)
    if answer is None or answer.digest != measured.digest:
        return UNKNOWN
    if answer.determinism == EXACT and not measured.together:
        raise ModelRefused("model_selftest", f"{config.name}: computes other numbers among others than alone")
    return answer.determinism


def entry(measured: Measured, config: ModelConfig, determinism: str) -> dict[str, object]:
    """Give the known answer to write into the table (scripts/known-answer)."""
    answer = KnownAnswer(
        weights=config.sha256,
        release=PINNED,
        isa=measured.isa,
        flash=config.flash,
        type_k=config.type_k,
        type_v=config.type_v,
        tokens=measured.tokens,
        digest=measured.digest,
        determinism=determinism,
    )
    return asdict(answer) | {"weights": answer.weights.hex(), "digest": answer.digest.hex()}
