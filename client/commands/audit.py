# SPDX-License-Identifier: Apache-2.0
"""`sericin audit DOSSIER`: check a dossier offline under the auditor's own policy."""

from __future__ import annotations

from pathlib import Path

import click

from attestation.dossier import MAX_DOSSIER

from ..audit import Audit, audit
from ..output import confidentiality_line, console, parse_time, print_json, read_file, reports_errors, show_findings
from ..settings import choose_policy


@click.command(name="audit")
@click.argument("dossier", type=click.Path(path_type=Path))
@click.option(
    "--policy", "policy_path", type=click.Path(path_type=Path), help="The auditor's policy, never the dossier's."
)
@click.option("--at", "at_text", help="Judge at this time instead of the dossier's (RFC 3339 or unix seconds).")
@click.option("--all", "every", is_flag=True, help="Print every clause with its values, not only those that fail.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@reports_errors
def command(dossier: Path, policy_path: Path | None, at_text: str | None, *, every: bool, as_json: bool) -> None:
    """Check every link of DOSSIER, from the answer's text to the receipt and its enclave, with no network.

    Exit codes: 0 every link holds, 3 malformed, 4 untrusted, 5 refused by the policy, 2 usage.
    """
    chosen = choose_policy(policy_path)
    result = audit(read_file(dossier, limit=MAX_DOSSIER), chosen.policy, at=parse_time(at_text))
    if not as_json:
        _show(result, every=every)
    result.require(allow_unconfidential=chosen.allow_unconfidential)
    if as_json:
        print_json({"ok": True, "code": None, "exit": 0, "confidential": result.confidential, **result.to_json()})
    else:
        console().print("every link holds", style="bold green")
        console().print(confidentiality_line(confidential=result.confidential))


def _show(result: Audit, *, every: bool) -> None:
    out = console()
    show_findings(result.verdict.findings, title=f"evidence under policy {result.verdict.policy_name}", every=every)
    show_findings(result.links, title="\nreceipt and commitments", every=every)
    out.print(f"\nanchoring: {result.anchoring}; token counts: not recounted")
