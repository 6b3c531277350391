# SPDX-License-Identifier: Apache-2.0
"""Answers: which prompts does the next batch read, and when do those who answer have their turn?"""

from __future__ import annotations

from collections.abc import Sequence as Series
from typing import Final

from .native import NativeModel
from .sequence import Sequence

# How many batches of prompts a GPU reads one after the other before those whose answer has only begun get their second
# token: each turn that comes too early is a step of its own for a part of them.
ROW: Final = 8


class Reading:
    """Whose turn it is, from one batch to the next."""

    def __init__(self, model: NativeModel, *, ubatch: int, chunk: int) -> None:
        """Read `ubatch` tokens in a batch while nobody answers, and `chunk` in turn with answers."""
        self._model = model
        self._ubatch = ubatch
        self._chunk = chunk
        self._row = 0  # batches of prompts since the last one of answers

    def portions(self, active: Series[Sequence]) -> tuple[dict[int, int], int | None]:
        """Give how many tokens of which prompts are read now, slot to number, and the last job among them.

        Nothing when it is the turn of those who answer, or no prompt is left. `active` is in the order of admission.
        """
        answering = [sequence for sequence in active if sequence.next_token >= 0]
        if answering and not self._goes_on(answering):
            self._row = 0
            return {}, None
        share, last = self._divide(active, alone=not answering)
        self._row = self._row + 1 if share else 0
        return share, last

    def _goes_on(self, answering: Series[Sequence]) -> bool:
        """Whether prompts are read although others answer."""
        begun = self._model.on_gpu and self._row < ROW and all(sequence.stream.count == 1 for sequence in answering)
        return begun or not self._row

    def _divide(self, active: Series[Sequence], *, alone: bool) -> tuple[dict[int, int], int | None]:
        # Where nobody answers yet the first prompt is read alone, for its answer begins with it; but a GPU takes about
        # as long for one short prompt as for several.
        alone = alone and not self._model.on_gpu
        budget = self._ubatch if alone else self._chunk
        share: dict[int, int] = {}
        last = None
        for sequence in active:
            if budget and sequence.next_token < 0 and not self._waits(sequence, active):
                left = len(sequence.run.plan.prompt) - sequence.past
                size = min(budget, left)
                if share and size < left:
                    break  # a prompt that is cut to fill a batch is one more pass
                share[sequence.slot] = size
                budget = 0 if alone else budget - size
                last = sequence.run.job_id
        return share, last

    def _waits(self, sequence: Sequence, active: Series[Sequence]) -> bool:
        """Whether an earlier choice of its run is reading the prompt, of which this one gets a copy when it is read."""
        run = sequence.run
        if run.plan.choices == 1 or self._model.recurrent:
            return False
        elder = next(other for other in active if other.run is run)
        return elder is not sequence and elder.past < len(run.plan.prompt)
