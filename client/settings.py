# SPDX-License-Identifier: Apache-2.0
"""Where a policy comes from: --policy, else the user's own file. Never from a server, never on first use."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from attestation.policy import MAX_POLICY, Policy

from .errors import UsageFault
from .output import read_file


def config_dir() -> Path:
    """Give the user's configuration directory."""
    base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(base) / "sericin"


def state_dir() -> Path:
    """Give the user's state directory: remembered receipts."""
    base = os.environ.get("SERICIN_STATE") or os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "sericin"


def cache_dir() -> Path:
    """Give the user's cache directory: fetched collateral, which can be fetched again."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sericin"


@dataclass(frozen=True, slots=True, kw_only=True)
class ChosenPolicy:
    """A policy, its exact bytes, and whether it was named on the command line."""

    policy: Policy
    document: bytes
    named: bool

    @property
    def allow_unconfidential(self) -> bool:
        """Only a file given on the command line, whose roots are a simulator's, lets a simulated machine through."""
        return self.named and self.policy.roots.simulated


def choose_policy(path: Path | None) -> ChosenPolicy:
    """Read the policy. Raises UsageFault without one, PolicyInvalid for a wrong one."""
    own = config_dir() / "policy.json"
    if path is None and not own.is_file():
        raise UsageFault(
            f"no policy: name one with --policy FILE or put one at {own}; "
            "'sericin policy init -o policy.json' makes a strict one to start from"
        )
    document = read_file(path or own, limit=MAX_POLICY)
    return ChosenPolicy(policy=Policy.parse(document), document=document, named=path is not None)
