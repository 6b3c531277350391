# SPDX-License-Identifier: Apache-2.0
"""Answers: which is the first token that the model would not have chosen, after all the claimed ones before it?"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from llama_cpp import llama_cpp as lc

from .batch import Batch
from .native import Handle, Logits, NativeContext, NativeError, NativeModel
from .plan import Plan
from .sampling import GrammarDeadEnd, Sampler, Sampling, build_adjustments, fill_candidates, read_candidates

TOLERANCE: Final = 0.5  # logits: other kernels and batches moved them by 0.28 at most where it was measured


@dataclass(frozen=True, slots=True, kw_only=True)
class Different:
    """The first token that differs."""

    at: int  # number of the completion token, from 0
    claimed: int
    found: int
    gap: float | None = None  # logits between them, where the claim was judged by tolerance

    def __str__(self) -> str:
        gap = "" if self.gap is None else f", {self.gap:.2f} logits apart"
        return f"token {self.at}: {self.claimed} where the model has {self.found}{gap}"


class _Judge(Protocol):
    """Says whether a claimed token stands after what was decoded: the model's own choice, and the gap."""

    def judge(self, index: int, token: int) -> tuple[bool, int, float | None]: ...

    def free(self) -> None: ...


class _Exact:
    """Draws as the engine drew."""

    def __init__(self, model: NativeModel, context: NativeContext, plan: Plan, choice: int) -> None:
        self._context = context
        self._sampler = Sampler(model, plan.sampling, choice=choice, grammar=plan.grammar)

    def judge(self, index: int, token: int) -> tuple[bool, int, float | None]:
        try:
            found = self._sampler.sample(self._context, index)
        except GrammarDeadEnd:
            return False, -1, None
        return found == token, found, None

    def free(self) -> None:
        self._sampler.free()


class _Tolerant:
    """Asks whether the token could have been chosen, give or take TOLERANCE."""

    def __init__(self, model: NativeModel, context: NativeContext, plan: Plan) -> None:
        self._context = context
        self._sampling = plan.sampling
        self._candidates: Handle = (lc.llama_token_data * model.n_vocab)()
        self._adjust: Handle = build_adjustments(plan.sampling, model.n_vocab)
        self._grammar: Handle = None
        if plan.grammar:
            self._grammar = lc.llama_sampler_init_grammar(model.vocab, plan.grammar.encode(), b"root")
            if not self._grammar:
                raise NativeError("llama_sampler_init_grammar")

    def judge(self, index: int, token: int) -> tuple[bool, int, float | None]:
        fill_candidates(self._candidates, self._context.logits(index))
        array = lc.llama_token_data_array(self._candidates, len(self._candidates), -1, False)
        lc.llama_sampler_apply(self._adjust, ctypes.byref(array))
        if self._grammar is not None:
            lc.llama_sampler_apply(self._grammar, ctypes.byref(array))
        row = read_candidates(self._candidates)
        best = int(row.argmax())
        gap = beyond(row, token, self._sampling)
        if gap > TOLERANCE or not math.isfinite(row[token]):
            return False, best, float(row[best] - row[token])
        lc.llama_sampler_accept(self._adjust, token)
        if self._grammar is not None:
            lc.llama_sampler_accept(self._grammar, token)
        return True, best, gap

    def free(self) -> None:
        lc.llama_sampler_free(self._adjust)
        if self._grammar is not None:
            lc.llama_sampler_free(self._grammar)


def beyond(row: Logits, token: int, sampling: Sampling) -> float:
    """Give by how many logits `token` misses the least that top-k, min-p and top-p leave; 0 when they leave it."""
    if not math.isfinite(row[token]):
        return math.inf
    if sampling.greedy:
        return float(row.max() - row[token])
    ordered = np.sort(row.astype(np.float64))[::-1]
    least = -math.inf
    if 0 < sampling.top_k < len(ordered):
        ordered = ordered[: sampling.top_k]
        least = float(ordered[-1])
    if sampling.min_p > 0.0:
        least = max(least, float(ordered[0]) + math.log(sampling.min_p))
    if sampling.top_p < 1.0:
        weights = np.exp(ordered - ordered[0])
        # top-p keeps the first tokens whose sum reaches p, the one that reaches it included.
        kept = int(np.searchsorted(np.cumsum(weights) / weights.sum(), sampling.top_p)) + 1
        least = max(least, float(ordered[min(kept, len(ordered)) - 1]))
    return max(0.0, least - float(row[token]))


def rerun(
    model: NativeModel,
    context: NativeContext,
    plan: Plan,
    ids: Sequence[int],
    *,
    choice: int,
    exact: bool,
    progress: Callable[[int], None],
) -> Different | None:
    """Decode the prompt and `ids` in slot 0; give the first token that does not stand. Raises NativeError."""
    batch = Batch(context.batch, 1)
    judge: _Judge = _Exact(model, context, plan, choice) if exact else _Tolerant(model, context, plan)
    try:
        index, past = -1, 0
        while past < len(plan.prompt):
            batch.clear()
            part = plan.prompt[past : past + context.batch]
            index = batch.add_run(0, part, past, output=past + len(part) == len(plan.prompt))
            _decode(context, batch)
            past += len(part)
        for at, token in enumerate(ids):
            holds, found, gap = judge.judge(index, token)
            if not holds:
                return Different(at=at, claimed=token, found=found, gap=gap)
            progress(1)
            if at + 1 < len(ids):
                batch.clear()
                index = batch.add(0, token, past)
                _decode(context, batch)
                past += 1
        return None
    finally:
        judge.free()
        context.wipe()


def _decode(context: NativeContext, batch: Batch) -> None:
    if context.decode(batch.struct()) != 0:
        raise NativeError("llama_decode")
