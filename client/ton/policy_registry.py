# SPDX-License-Identifier: Apache-2.0
"""Prove the registry that a policy names, over the user's own network file. Without one there is no proof."""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path
from typing import Final

from attestation.findings import Waived
from attestation.policy import Policy
from attestation.registry_rule import RegistryProof

from ..errors import UsageFault
from ..settings import config_dir, state_dir
from .chain import with_chain
from .network import PUBLIC_IDS, SIMULATED_ID, Network
from .registry_view import view_registry

VARIABLE: Final = "SERICIN_NETWORK"


def prove_registry(policy: Policy, *, now: datetime) -> RegistryProof | None:
    """Read and prove the registry of `policy`; None when it names none.

    Raises UsageFault without a network file, and what reading a registry raises: no proof is no permission.
    """
    rule = policy.registry
    if isinstance(rule, Waived):
        return None
    path = Path(os.environ.get(VARIABLE) or config_dir() / "network.json")
    if not path.is_file():
        raise UsageFault(
            f"the policy names registry {rule.address}: put a network file at {path}, or name it in {VARIABLE}"
        )
    network = Network.read(path)
    if str(network.registry) != rule.address:
        raise UsageFault(f"{path}: registry {network.registry} is not the policy's {rule.address}")
    view = with_chain(
        network,
        lambda chain: view_registry(chain, network.registry, now=now, max_age=rule.max_staleness),
        remember=state_dir() / "ton",
    )
    simulated = view.global_id == SIMULATED_ID
    if simulated != policy.roots.simulated:
        kind = "a simulated TON" if simulated else PUBLIC_IDS.get(view.global_id, "another TON")
        raise UsageFault(f"{path}: {kind} does not go with roots of kind {policy.roots.kind}")
    return RegistryProof(address=view.address, state=view.state, gen_utime=view.gen_utime)
