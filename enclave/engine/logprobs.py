# SPDX-License-Identifier: Apache-2.0
"""Answers: how likely was each token, before any setting of the request bent the distribution? In OpenAI's shapes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .native import Logits, NativeModel

_FLOOR = -9999.0  # OpenAI's number for a probability of zero: JSON has no infinity


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class TokenLogprobs:
    """One chosen token and the likeliest alternatives, as (id, natural logarithm of the probability)."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...]


def measure(logits: Logits, token: int, top: int) -> TokenLogprobs:
    """Measure `token` and the `top` likeliest tokens; of equal ones the lower id first."""
    row = logits.astype(np.float64)
    shifted = row - row.max()
    logs = np.maximum(shifted - np.log(np.exp(shifted).sum()), _FLOOR)
    best = np.argsort(-logs, kind="stable")[:top] if top else np.empty(0, np.int64)
    return TokenLogprobs(
        token=token, logprob=float(logs[token]), top=tuple((int(index), float(logs[index])) for index in best)
    )


def chat_document(entries: Sequence[TokenLogprobs], model: NativeModel) -> dict[str, object]:
    """Give the `logprobs` of a chat choice."""

    def one(token: int, logprob: float) -> dict[str, object]:
        raw = model.text_of(token)
        return {"token": raw.decode("utf-8", "replace"), "logprob": logprob, "bytes": list(raw)}

    return {
        "content": [
            one(entry.token, entry.logprob) | {"top_logprobs": [one(*item) for item in entry.top]} for entry in entries
        ],
        "refusal": None,
    }


def text_document(entries: Sequence[TokenLogprobs], model: NativeModel, offset: int) -> dict[str, object]:
    """Give the `logprobs` of a completion choice whose first token stands at character `offset`."""
    texts = [model.text_of(entry.token).decode("utf-8", "replace") for entry in entries]
    offsets = [offset + sum(map(len, texts[:at])) for at in range(len(texts))]
    return {
        "tokens": texts,
        "token_logprobs": [entry.logprob for entry in entries],
        "top_logprobs": [
            {model.text_of(token).decode("utf-8", "replace"): logprob for token, logprob in entry.top}
            for entry in entries
        ],
        "text_offset": offsets,
    }
