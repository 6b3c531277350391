# SPDX-License-Identifier: Apache-2.0
"""Answers: how is the next token chosen?

Order of the chain, which docs/openai.md states and a replay repeats: logit bias, penalties, top-k, top-p, min-p,
temperature, draw with the seed. Temperature 0 is greedy: the first of the largest logits, after bias and penalties.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import numpy as np
from llama_cpp import llama_cpp as lc

from .native import Handle, Logits, NativeContext, NativeModel

PENALTY_WINDOW = 64
_CANDIDATE = np.dtype([("id", "<i4"), ("logit", "<f4"), ("p", "<f4")])
_NO_SEED = 0xFFFFFFFF  # llama.cpp would draw a seed of its own for this one


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """Resolved settings: what was asked for, with every default filled in."""

    temperature: float = 1.0
    top_k: int = 40
    top_p: float = 1.0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    seed: int = 0
    logit_bias: tuple[tuple[int, float], ...] = ()

    @property
    def greedy(self) -> bool:
        """True when nothing is drawn."""
        return self.temperature == 0.0 or self.top_k == 1

    @property
    def penalised(self) -> bool:
        """True when earlier tokens change the logits."""
        return bool(self.presence_penalty or self.frequency_penalty) or self.repetition_penalty != 1.0

    def seed_of(self, choice: int) -> int:
        """Give the 32-bit seed of choice number `choice`."""
        seed = (self.seed + choice) & 0xFFFFFFFF
        return 0 if seed == _NO_SEED else seed

    def params(self) -> dict[str, int | str]:
        """Give the settings as they are hashed into the receipt: integers, and decimals as text."""
        bias = ",".join(f"{token}:{value!r}" for token, value in self.logit_bias)
        return {
            "temperature": repr(self.temperature),
            "top_k": self.top_k,
            "top_p": repr(self.top_p),
            "min_p": repr(self.min_p),
            "presence_penalty": repr(self.presence_penalty),
            "frequency_penalty": repr(self.frequency_penalty),
            "repetition_penalty": repr(self.repetition_penalty),
            "seed": self.seed,
            **({"logit_bias": bias} if bias else {}),
        }


def build_adjustments(sampling: Sampling, n_vocab: int) -> Handle:
    """Build a chain of what changes logits, and chooses nothing. The caller frees it with `lc.llama_sampler_free`."""
    params = lc.llama_sampler_chain_default_params()
    params.no_perf = True
    chain: Handle = lc.llama_sampler_chain_init(params)
    if sampling.logit_bias:
        bias = (lc.llama_logit_bias * len(sampling.logit_bias))()
        for entry, (token, value) in zip(bias, sampling.logit_bias, strict=True):
            entry.token, entry.bias = token, value
        lc.llama_sampler_chain_add(chain, lc.llama_sampler_init_logit_bias(n_vocab, len(bias), bias))
    if sampling.penalised:
        penalties = lc.llama_sampler_init_penalties(
            n_vocab,
            PENALTY_WINDOW,
            sampling.repetition_penalty,
            sampling.frequency_penalty,
            sampling.presence_penalty,
        )
        lc.llama_sampler_chain_add(chain, penalties)
    return chain


def build_chain(sampling: Sampling, n_vocab: int, choice: int) -> Handle:
    """Build llama.cpp's whole chain for `sampling`. The caller frees it with `lc.llama_sampler_free`."""
    chain = build_adjustments(sampling, n_vocab)
    if sampling.greedy:
        lc.llama_sampler_chain_add(chain, lc.llama_sampler_init_greedy())
        return chain
    if sampling.top_k > 0:
        lc.llama_sampler_chain_add(chain, lc.llama_sampler_init_top_k(sampling.top_k))
    if sampling.top_p < 1.0:
        lc.llama_sampler_chain_add(chain, lc.llama_sampler_init_top_p(sampling.top_p, 1))
    if sampling.min_p > 0.0:
        lc.llama_sampler_chain_add(chain, lc.llama_sampler_init_min_p(sampling.min_p, 1))
    lc.llama_sampler_chain_add(chain, lc.llama_sampler_init_temp(sampling.temperature))
    lc.llama_sampler_chain_add(chain, lc.llama_sampler_init_dist(sampling.seed_of(choice)))
    return chain


class GrammarDeadEnd(Exception):
    """No token of the vocabulary continues what the grammar allows."""


class Sampler:
    """Chooses the tokens of one sequence, on the host. Free it when the sequence ends.

    llama.cpp could draw inside its graph, and is slower so: its argmax takes 0.2 ms of a processor for a row of 49,152
    while the other threads wait, and it lays out its graphs anew for each chain that comes or goes, 3 to 10 ms of a
    processor, 12 to 20 of an H200.
    """

    def __init__(self, model: NativeModel, sampling: Sampling, *, choice: int = 0, grammar: str = "") -> None:
        """Be ready for the first token. Raises ValueError for a grammar that does not compile."""
        self._model = model
        self.plain = sampling.greedy and not (grammar or sampling.logit_bias or sampling.penalised)
        self._candidates: Handle = None
        self._chain: Handle = None if self.plain else build_chain(sampling, model.n_vocab, choice)
        self._grammar: Handle = None
        if grammar:
            self._grammar = lc.llama_sampler_init_grammar(model.vocab, grammar.encode(), b"root")
            if not self._grammar:
                self.free()
                raise ValueError("grammar does not compile")

    def sample(self, context: NativeContext, index: int) -> int:
        """Choose from the batch's token `index`, and remember the choice. Raises GrammarDeadEnd."""
        if self.plain:
            return int(context.logits(index).argmax())
        if self._grammar is None:
            return int(lc.llama_sampler_sample(self._chain, context.handle, index))
        return self._constrained(context.logits(index))

    def _constrained(self, logits: Logits) -> int:
        """Sample freely first; only when the grammar says no, sample among what it allows."""
        if self._candidates is None:
            self._candidates = (lc.llama_token_data * self._model.n_vocab)()
        token = self._choose(logits, constrained=False)
        if not self._allows(token):
            token = self._choose(logits, constrained=True)
        # What the grammar does not allow must never be told to it: llama.cpp ends the process for that.
        if not self._allows(token):
            raise GrammarDeadEnd
        lc.llama_sampler_accept(self._grammar, token)
        lc.llama_sampler_accept(self._chain, token)
        return token

    def _allows(self, token: int) -> bool:
        one = (lc.llama_token_data * 1)(lc.llama_token_data(token, 1.0, 0.0))
        array = lc.llama_token_data_array(one, 1, -1, False)
        lc.llama_sampler_apply(self._grammar, ctypes.byref(array))
        return bool(one[0].logit > float("-inf"))

    def _choose(self, logits: Logits, *, constrained: bool) -> int:
        fill_candidates(self._candidates, logits)
        array = lc.llama_token_data_array(self._candidates, len(logits), -1, False)
        if constrained:
            lc.llama_sampler_apply(self._grammar, ctypes.byref(array))
        lc.llama_sampler_apply(self._chain, ctypes.byref(array))
        return int(array.data[array.selected].id)

    def free(self) -> None:
        """Wipe and give llama.cpp's memory back."""
        if self._candidates is not None:
            ctypes.memset(self._candidates, 0, ctypes.sizeof(self._candidates))
            self._candidates = None
        if self._chain is not None:
            lc.llama_sampler_free(self._chain)
            self._chain = None
        if self._grammar is not None:
            lc.llama_sampler_free(self._grammar)
            self._grammar = None


def fill_candidates(candidates: Handle, logits: Logits) -> None:
    """Write (id, logit, 0) for every token into llama.cpp's candidate array."""
    view = np.frombuffer(candidates, dtype=_CANDIDATE)
    view["id"] = np.arange(len(logits), dtype=np.int32)
    view["logit"] = logits
    view["p"] = 0.0


def read_candidates(candidates: Handle) -> Logits:
    """Give the logits of llama.cpp's candidate array, which must still be in the order of the ids."""
    view = np.frombuffer(candidates, dtype=_CANDIDATE)
    if (view["id"] != np.arange(len(view), dtype=np.int32)).any():
        raise ValueError("the candidates are sorted")
    return view["logit"].copy()
