# SPDX-License-Identifier: Apache-2.0
"""Answers: what goes into the next llama_decode? A batch in memory of our own, so that it can be wiped."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import numpy as np
from llama_cpp import llama_cpp as lc

from .native import Handle


class Batch:
    """Up to `capacity` tokens, each of one sequence. Add runs in the order of their slots (see `lane`)."""

    def __init__(self, capacity: int, slots: int) -> None:
        self.capacity = capacity
        self._token = np.zeros(capacity, np.int32)
        self._pos = np.zeros(capacity, np.int32)
        self._count = np.ones(capacity, np.int32)
        self._output = np.zeros(capacity, np.int8)
        # One int per slot, and one pointer per token to the int of its slot.
        self._slot = np.arange(slots, dtype=np.int32)
        self._address = [int(self._slot.ctypes.data) + 4 * slot for slot in range(slots)]
        self._seq = np.zeros(capacity, np.uintp)
        struct: Handle = lc.llama_batch()
        struct.token = ctypes.cast(self._token.ctypes.data, ctypes.POINTER(lc.llama_token))
        struct.pos = ctypes.cast(self._pos.ctypes.data, ctypes.POINTER(lc.llama_pos))
        struct.n_seq_id = ctypes.cast(self._count.ctypes.data, ctypes.POINTER(ctypes.c_int32))
        struct.seq_id = ctypes.cast(self._seq.ctypes.data, ctypes.POINTER(ctypes.POINTER(lc.llama_seq_id)))
        struct.logits = ctypes.cast(self._output.ctypes.data, ctypes.POINTER(ctypes.c_int8))
        self._struct = struct
        # Written one by one, past numpy, whose way to sixteen numbers is long when the processor's caches are empty.
        self.tokens, self.positions = self._token.data, self._pos.data
        self.clear()

    def clear(self) -> None:
        """Start an empty batch."""
        self._tokens: list[int] = []
        self._positions: list[int] = []
        self._slots: list[int] = []
        self._outputs: list[int] = []

    def __len__(self) -> int:
        return len(self._tokens)

    def add(self, slot: int, token: int, position: int, output: int = 1) -> int:
        """Append one token of `slot`; give its index in the batch."""
        self._tokens.append(token)
        self._positions.append(position)
        self._slots.append(self._address[slot])
        self._outputs.append(output)
        return len(self._tokens) - 1

    def add_run(self, slot: int, tokens: Sequence[int], position: int, *, output: bool) -> int:
        """Append `tokens` of `slot` from `position` on; give the index of the last, whose logits `output` asks for."""
        count = len(tokens)
        self._tokens += tokens
        self._positions += range(position, position + count)
        self._slots += [self._address[slot]] * count
        self._outputs += [0] * (count - 1) + [int(output)]
        return len(self._tokens) - 1

    def advance(self, size: int) -> Handle:
        """Give the last batch again, whose `tokens` and `positions`, `size` of each, the caller has written anew."""
        if size != self._struct.n_tokens:
            raise ValueError("not the batch of before")
        return self._struct

    def struct(self) -> Handle:
        """Give what llama_decode takes. Raises ValueError when more was added than fits."""
        size = len(self._tokens)
        if size > self.capacity:
            raise ValueError("batch is full")
        self._token[:size] = self._tokens
        self._pos[:size] = self._positions
        self._seq[:size] = self._slots
        self._output[:size] = self._outputs
        self._struct.n_tokens = size
        return self._struct

    def wipe(self) -> None:
        """Zero the tokens that went through."""
        self._token.fill(0)
        self._pos.fill(0)
        self.clear()
