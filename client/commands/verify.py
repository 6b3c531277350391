# SPDX-License-Identifier: Apache-2.0
"""`sericin verify TARGET`: verify an enclave against a policy, and send nothing."""

from __future__ import annotations

from pathlib import Path

import click

from attestation.window import rfc3339

from ..attested import Attested, connector
from ..clock import wall_clock
from ..output import confidentiality_line, console, print_json, reports_errors, show_findings
from ..settings import choose_policy
from .collateral import pccs_option


@click.command(name="verify")
@click.argument("target")
@click.option("--policy", "policy_path", type=click.Path(path_type=Path), help="Policy document (sericin-policy/1).")
@pccs_option
@click.option("--all", "every", is_flag=True, help="Print every clause with its values, not only those that fail.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@reports_errors
def command(target: str, policy_path: Path | None, pccs: str | None, *, every: bool, as_json: bool) -> None:
    """Verify the enclave at TARGET (https://host:port, http://host:port or unix:PATH) and send nothing.

    Exit codes: 0 accepted, 3 malformed, 4 untrusted, 5 refused by the policy, 6 unreachable, 2 usage.
    """
    chosen = choose_policy(policy_path)
    connect = connector(
        target, chosen.policy, now=wall_clock, allow_unconfidential=chosen.allow_unconfidential, pccs=pccs
    )
    attested = connect()
    attested.connection.close()
    if as_json:
        print_json({"ok": True, "code": None, "exit": 0, **describe(attested)})
    else:
        show(attested, every=every)


def describe(attested: Attested) -> dict[str, object]:
    """Give what was verified as the documented JSON object."""
    boot, epoch = attested.verified.boot, attested.verified.epoch
    return {
        "target": str(attested.target),
        "verdict": attested.verdict.to_json(),
        "confidential": attested.verdict.confidential,
        "machine": boot.machine,
        "boot_digest": boot.digest.hex(),
        "image_id": boot.image_id.hex(),
        "epoch": {"number": epoch.number, "not_after": epoch.not_after, "keyset_digest": epoch.digest.hex()},
        "models": [{"name": m.name, "weights": m.weights.hex(), "determinism": m.determinism} for m in boot.models],
        "gpus": len(attested.verified.gpus.devices) if attested.verified.gpus else 0,
    }


def show(attested: Attested, *, every: bool) -> None:
    """Print the verdict for a person."""
    out = console()
    boot = attested.verified.boot
    title = f"{attested.target} under policy {attested.policy.name}"
    show_findings(attested.verdict.findings, title=title, every=every)
    gpus = len(attested.verified.gpus.devices) if attested.verified.gpus else 0
    models = ", ".join(model.name for model in boot.models)
    out.print(f"\nmodels {models}; GPUs {gpus}; boot {boot.digest.hex()[:16]}; epoch {attested.verified.epoch.number}")
    out.print(f"holds until {rfc3339(attested.verified.window.not_after)}")
    out.print("ACCEPTED by the policy", style="bold green")
    out.print(confidentiality_line(confidential=attested.verdict.confidential))
