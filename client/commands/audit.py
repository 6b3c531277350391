# SPDX-License-Identifier: Apache-2.0
"""`sericin audit DOSSIER`: check a dossier offline under the auditor's own policy."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import click

from attestation.dossier import MAX_DOSSIER
from attestation.ton.trustpath import MAX_PATH, TrustPath

from ..anchored import ANCHORED, TonTrust
from ..audit import Audit, audit
from ..clock import wall_clock
from ..errors import UsageFault
from ..output import confidentiality_line, console, parse_time, print_json, read_file, reports_errors, show_findings
from ..replay import NOT_RECOUNTED, Replay, replay
from ..settings import choose_policy
from ..ton.network import read_init_block


@click.command(name="audit")
@click.argument("dossier", type=click.Path(path_type=Path))
@click.option(
    "--policy", "policy_path", type=click.Path(path_type=Path), help="The auditor's policy, never the dossier's."
)
@click.option(
    "--trust-path",
    "path_file",
    type=click.Path(path_type=Path),
    help="Links from a trusted block of TON to the dossier's.",
)
@click.option(
    "--init-block",
    "init_file",
    type=click.Path(path_type=Path),
    help="The block of TON that you trust; else the release's.",
)
@click.option("--require-anchored", is_flag=True, help="Exit with 5 unless the receipt is proved to be anchored.")
@click.option("--replay", "replayed", is_flag=True, help="Re-execute the run with --model (docs/models.md).")
@click.option("--model", "model_file", type=click.Path(path_type=Path), help="The model file, for --replay.")
@click.option("--at", "at_text", help="Judge at this time instead of the dossier's (RFC 3339 or unix seconds).")
@click.option("--all", "every", is_flag=True, help="Print every clause with its values, not only those that fail.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@reports_errors
def command(
    dossier: Path,
    policy_path: Path | None,
    path_file: Path | None,
    init_file: Path | None,
    model_file: Path | None,
    at_text: str | None,
    *,
    replayed: bool,
    require_anchored: bool,
    every: bool,
    as_json: bool,
) -> None:
    """Check every link of DOSSIER with no network: the answer's text, the receipt, its enclave, its anchor on TON.

    The anchor counts when links lead to its block from one that you trust: --init-block takes a network file, a global
    configuration or a block of your own; --trust-path what 'sericin receipt prove' wrote.

    With --replay the model itself is asked, token by token, whether it would have said that.

    Exit codes: 0 every link holds, 3 malformed, 4 untrusted, 5 refused by the policy, 2 usage.
    """
    if replayed != (model_file is not None):
        raise UsageFault("--replay and --model FILE go together")
    chosen = choose_policy(policy_path)
    trust = TonTrust(
        init_block=None if init_file is None else read_init_block(init_file),
        path=None if path_file is None else TrustPath.decode(read_file(path_file, limit=MAX_PATH)),
    )
    at = parse_time(at_text)
    now = at or wall_clock()
    result = audit(read_file(dossier, limit=MAX_DOSSIER), chosen.policy, at=at, now=now, trust=trust)
    if not as_json:
        _show(result, every=every, now=now)
    result.require(allow_unconfidential=chosen.allow_unconfidential)
    if require_anchored:
        result.anchoring.require()
    # Only what is true is worth an hour of a model's time.
    again = None if model_file is None else replay(result.dossier, result.verified.boot, model_file)
    if not as_json:
        _show_replay(again, every=every)
    if again is not None:
        again.require()
    if as_json:
        recount = NOT_RECOUNTED if again is None else again.to_json()
        head = {"ok": True, "code": None, "exit": 0, "confidential": result.confidential}
        print_json({**head, **result.to_json(), "replay": recount})
    else:
        console().print("every link holds", style="bold green")
        console().print(confidentiality_line(confidential=result.confidential))


def _show(result: Audit, *, every: bool, now: datetime) -> None:
    out = console()
    show_findings(result.verdict.findings, title=f"evidence under policy {result.verdict.policy_name}", every=every)
    show_findings(result.links, title="\nreceipt and commitments", every=every)
    anchoring = result.anchoring
    if anchoring.links:
        show_findings(anchoring.links, title="\nanchoring", every=every)
    style = "green" if anchoring.status == ANCHORED else "bold yellow"
    out.print(f"\nanchoring: {anchoring.describe(now=now)}", style=style)


def _show_replay(again: Replay | None, *, every: bool) -> None:
    if again is None:
        console().print(f"token counts: {NOT_RECOUNTED}")
        return
    show_findings(again.links, title="\nre-execution", every=every)
    console().print(again.sentence())
