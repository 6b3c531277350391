# SPDX-License-Identifier: Apache-2.0
"""Answers: when is it worth asking again? An estimate from what this machine really did, never a guess in a config."""

from __future__ import annotations

import math

_MEMORY = 0.1  # weight of the newest step in the moving averages


class Speed:
    """Moving averages of seconds per token. One thread notes; who asks meanwhile gets the answer of before or after."""

    def __init__(self) -> None:
        self._prompt = 0.0  # seconds per prompt token
        self._step = 0.0  # seconds per step that only decodes
        self._width = 1.0  # sequences in such a step

    def note(self, prompt: int, decoded: int, seconds: float) -> None:
        """Learn from one step of `prompt` tokens read and `decoded` tokens generated."""
        if prompt:
            self._prompt = _blend(self._prompt, seconds / (prompt + decoded))
        elif decoded:
            self._step = _blend(self._step, seconds)
            self._width = _blend(self._width, decoded)

    def retry_after(self, waiting: int, prompt: int, limit: int) -> int:
        """Give whole seconds until a queue of `waiting` runs like this one has moved by one, between 1 and 600."""
        decode = self._step / max(self._width, 1.0) * min(limit, 256)
        seconds = self._prompt * prompt + decode
        return max(1, min(600, math.ceil(seconds * max(1, waiting) / 2)))


def _blend(old: float, new: float) -> float:
    return new if old == 0.0 else old + _MEMORY * (new - old)
