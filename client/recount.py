# SPDX-License-Identifier: Apache-2.0
"""Recount the tokens of a run that has just ended, where the model is at hand (docs/models.md, Recounting).

The counting is `audit --replay` without the model's computing, by the same code in the same other process.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

from attestation.errors import Untrusted

from .dossier import dossier_of
from .errors import UsageFault
from .exchange import Run
from .replay import MODEL, Replay, has_engine, question_of, read_answer

MAX_UNASKED: Final = 2 << 30  # bytes of a model that is read without being named: some seconds of hashing
SECONDS: Final = 60.0  # for a recount that nobody asked for
NAMED_SECONDS: Final = 3600.0  # for one that somebody did


def require_at_hand(model: Path) -> None:
    """Require what a recount with the file `model` needs, before anything is asked and paid. Raises UsageFault."""
    if not has_engine():
        raise UsageFault("a recount needs llama.cpp: install sericin[replay]")
    if not model.is_file():
        raise UsageFault(f"{model}: not a file")


def recount(run: Run, *, policy: bytes, model: Path | None) -> Replay | None:
    """Recount the tokens of a run whose receipt was checked, with the file `model` or with the pulled one of its name.

    None where nobody named a file and it cannot be done here: no extra, no such file, another model in it. Raises
    Untrusted(TokenCountMismatch or ReplayMismatch) for a count that differs, UsageFault when a named file cannot do.
    """
    if model is not None:
        return _count(run, policy, model, seconds=NAMED_SECONDS, told=True)
    found = _pulled(run.sealed.header.model) if run.sealed is not None and has_engine() else None
    if found is None:
        return None
    try:
        return _count(run, policy, found, seconds=SECONDS, told=False)
    except UsageFault:
        return None
    except Untrusted as e:
        if e.where == MODEL:  # whoever pulled it meant another model of this name
            return None
        raise


def _pulled(name: str) -> Path | None:
    """Give the file that `sericin model pull` keeps under a model's name. A name with a separator is none."""
    base = os.environ.get("SERICIN_CACHE")
    folder = (Path(base) if base else Path.home() / ".cache" / "sericin") / "models"
    path = folder / f"{name}.gguf"
    fits = path.parent == folder and path.is_file() and path.stat().st_size <= MAX_UNASKED
    return path if fits else None


def _count(run: Run, policy: bytes, model: Path, *, seconds: float, told: bool) -> Replay:
    question = question_of(dossier_of(run, policy=policy), run.attested.verified.boot)
    command = [sys.executable, "-m", "client", "model", "replay", "--count", str(model)]
    try:
        # Standard error is the person's where they asked: progress is shown there.
        done = subprocess.run(
            command,
            input=question,
            stdout=subprocess.PIPE,
            stderr=None if told else subprocess.DEVNULL,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise UsageFault(f"the recount took longer than {seconds:.0f} seconds") from None
    found = read_answer(done.stdout, status=done.returncode)
    found.require()
    return found
