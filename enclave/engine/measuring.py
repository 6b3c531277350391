# SPDX-License-Identifier: Apache-2.0
"""Answers: which numbers does this model make on this machine, alone and among others?

What a start-up self-test and a known answer measure alike: greedy continuations of fixed texts, every row of logits
hashed as it is (float32, little-endian).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from llama_cpp import llama_cpp as lc

from .batch import Batch
from .native import NativeContext, NativeError

LABEL = b"sericin/1 self-test"


@dataclass(frozen=True, slots=True, kw_only=True)
class Continuation:
    """What greedy decoding made of one prompt."""

    tokens: tuple[int, ...]
    digest: bytes  # 32, over the label and every row of logits in order


def instruction_set() -> str:
    """Give what this build computes with on this machine, as llama.cpp says it: backends and their features, sorted."""
    text: str = lc.llama_print_system_info().decode("ascii", "replace")
    parts = []
    for section in text.split(" : ")[1:] or [text]:
        parts += [item.split("=")[0].strip() for item in section.split("|") if item.strip().endswith("= 1")]
    backends = [piece.rsplit("|", 1)[-1].strip() for piece in text.split(" : ")[:-1]]
    # How many threads there are, and who starts them, changes nothing that is computed.
    return " ".join(sorted(backends) + sorted(set(parts) - {"OPENMP"}))


def continue_all(context: NativeContext, prompts: Sequence[Sequence[int]], count: int) -> list[Continuation]:
    """Decode `prompts` together, one slot each, greedily for `count` tokens. Raises NativeError, also for a NaN."""
    batch = Batch(max(map(len, prompts)) + len(prompts), len(prompts))
    totals = [hashlib.sha256(LABEL) for _ in prompts]
    tokens: list[list[int]] = [[] for _ in prompts]

    def take(slot: int, index: int) -> None:
        row = context.logits(index)
        if not np.isfinite(row).all():
            raise NativeError("the model computes no numbers")
        totals[slot].update(row.tobytes())
        tokens[slot].append(int(row.argmax()))

    for slot, prompt in enumerate(prompts):
        batch.clear()
        index = batch.add_run(slot, prompt, 0, output=True)
        _decode(context, batch)
        take(slot, index)
    for step in range(count - 1):
        batch.clear()
        indices = [batch.add(slot, tokens[slot][-1], len(prompt) + step) for slot, prompt in enumerate(prompts)]
        _decode(context, batch)
        for slot, index in enumerate(indices):
            take(slot, index)
    context.wipe()
    return [Continuation(tokens=tuple(ids), digest=t.digest()) for ids, t in zip(tokens, totals, strict=True)]


def embed_one(context: NativeContext, prompt: Sequence[int]) -> Continuation:
    """Compute the pooled vector of one prompt. Raises NativeError, also for a NaN."""
    batch = Batch(len(prompt), 1)
    batch.add_run(0, prompt, 0, output=True)
    _decode(context, batch)
    vector = np.asarray(context.embedding(0), "<f4")
    context.wipe()
    if not np.isfinite(vector).all():
        raise NativeError("the model computes no numbers")
    return Continuation(tokens=(), digest=hashlib.sha256(LABEL + vector.tobytes()).digest())


def _decode(context: NativeContext, batch: Batch) -> None:
    if context.decode(batch.struct()) != 0:
        raise NativeError("llama_decode")
