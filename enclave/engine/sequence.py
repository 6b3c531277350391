# SPDX-License-Identifier: Apache-2.0
"""Answers: what is known of a job, and of each of its choices, while they are in the engine?"""

from __future__ import annotations

from dataclasses import dataclass

from .plan import Plan
from .sampling import Sampler
from .stream import ChoiceStream


@dataclass(slots=True, kw_only=True, repr=False)
class Run:
    """One job in the engine."""

    job_id: int
    tenant: bytes
    deadline: float
    plan: Plan
    open: int = 0  # choices not yet over
    waiting: int = 0  # choices not yet in a slot
    started: bool = False
    cached: int = 0
    completion: int = 0
    reasoning: int = 0


@dataclass(slots=True, kw_only=True, repr=False, eq=False)
class Sequence:
    """One choice of a run in a slot."""

    run: Run
    slot: int
    stream: ChoiceStream
    sampler: Sampler
    past: int = 0  # positions that the slot holds
    mark: int = 0  # the same before the current batch
    next_token: int = -1  # sampled and not yet decoded; -1 while the prompt is being read
    index: int = -1  # of its output in the current batch

    @property
    def free(self) -> bool:
        """Whether its answer ends by its length or a token that ends answers, and by nothing else."""
        return not (self.run.plan.grammar or self.stream.watched)
