# SPDX-License-Identifier: Apache-2.0
"""`sericin ask TARGET "PROMPT"`: verify, seal, stream the answer, check the receipt, keep a dossier."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from attestation.errors import AttestationError
from attestation.exchange import Delta

from ..attested import Attested, connector
from ..clock import wall_clock
from ..dossier import dossier_bytes
from ..errors import UsageFault
from ..exchange import Run, RunRequest
from ..memory import ReceiptMemory
from ..openai_shapes import CHAT
from ..output import confidentiality_line, console, print_json, reports_errors, write_file
from ..questions import chat_body, choose_model
from ..recount import recount, require_at_hand
from ..replay import NOT_RECOUNTED, Replay
from ..settings import choose_policy, state_dir
from .collateral import pccs_option


@click.command(name="ask")
@click.argument("target")
@click.argument("prompt")
@click.option("--policy", "policy_path", type=click.Path(path_type=Path), help="Policy document (sericin-policy/1).")
@pccs_option
@click.option("--model", help="Model to ask; needed only where the enclave serves several.")
@click.option("--max-tokens", type=click.IntRange(1), default=256, show_default=True, help="Longest answer.")
@click.option("--temperature", type=click.FloatRange(0, 2), help="Sampling temperature; 0 is greedy.")
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), help="Seed of the sampler.")
@click.option("--dossier", "dossier_path", type=click.Path(path_type=Path), help="Write everything an auditor needs.")
@click.option(
    "--recount",
    "model_file",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Recount the tokens with this model file; else with the pulled one, where it is the enclave's.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document at the end instead of a stream.")
@reports_errors
def command(
    target: str,
    prompt: str,
    policy_path: Path | None,
    pccs: str | None,
    model: str | None,
    max_tokens: int,
    temperature: float | None,
    seed: int | None,
    dossier_path: Path | None,
    model_file: Path | None,
    *,
    as_json: bool,
) -> None:
    """Ask the verified enclave at TARGET; "-" as PROMPT reads standard input.

    Nothing of the prompt leaves this machine before the enclave was verified and accepted. The receipt's token counts
    are recounted where the replay extra and the model are at hand; a count that differs is 4. Exit codes: 0 complete,
    3 malformed, 4 untrusted, 5 refused by the policy, 6 unreachable or outcome unknown, 7 declined by the enclave.
    """
    chosen = choose_policy(policy_path)
    connect = connector(
        target, chosen.policy, now=wall_clock, allow_unconfidential=chosen.allow_unconfidential, pccs=pccs
    )
    if dossier_path is not None and not dossier_path.parent.is_dir():
        raise UsageFault(f"{dossier_path}: its directory is not there")  # said before the question is asked and paid
    if model_file is not None:
        require_at_hand(model_file)

    attested = connect()
    name = _model_name(attested, model)
    text = sys.stdin.read() if prompt == "-" else prompt
    body = chat_body(text, model=name, max_tokens=max_tokens, temperature=temperature, seed=seed)
    memory = ReceiptMemory(state_dir() / "receipts.sqlite")
    request = RunRequest(endpoint=CHAT, openai=json.dumps(body).encode(), model=name, stream=True)
    run = Run(attested, request, reattest=connect, now=wall_clock, memory=memory)
    try:
        _stream(run, as_json=as_json)
    finally:
        run.attested.connection.close()
        memory.close()
    if dossier_path is not None:
        write_file(dossier_path, dossier_bytes(run, policy=chosen.document))  # before the recount: it is the proof
    counted = recount(run, policy=chosen.document, model=model_file)
    _conclude(run, counted, dossier_path, as_json=as_json)


def _model_name(attested: Attested, wanted: str | None) -> str:
    try:
        return choose_model([model.name for model in attested.verified.boot.models], wanted)
    except UsageFault:
        attested.connection.close()
        raise


def _stream(run: Run, *, as_json: bool) -> None:
    shown = False
    try:
        for item in run.items():
            if isinstance(item, Delta) and item.text and not as_json:
                click.echo(item.text, nl=False)
                sys.stdout.flush()
                shown = True
    except AttestationError:
        if shown:
            click.echo("\n[incomplete: what stands above was cut or is false]", err=True)
        raise
    if not as_json:
        click.echo()


def _conclude(run: Run, counted: Replay | None, dossier_path: Path | None, *, as_json: bool) -> None:
    if run.receipt is None:
        raise RuntimeError("a run that ended has a receipt")
    receipt, confidential = run.receipt.receipt, run.attested.verdict.confidential
    if as_json:
        print_json(
            {
                "ok": True,
                "code": None,
                "exit": 0,
                "text": run.answer.text(),
                "finish": run.answer.finishes.get(0),
                "confidential": confidential,
                "receipt": {"hash": receipt.hash.hex(), "serial": receipt.serial, "price": receipt.price},
                "usage": {"prompt": receipt.prompt_tokens, "completion": receipt.completion_tokens},
                "recount": NOT_RECOUNTED if counted is None else counted.to_json(),
                "dossier": str(dossier_path) if dossier_path else None,
            }
        )
        return
    out = console(stderr=True)
    out.print(
        f"receipt {receipt.hash.hex()[:16]} (serial {receipt.serial}) verified: {receipt.prompt_tokens} prompt and "
        f"{receipt.completion_tokens} completion tokens; {len(run.links)} links hold; "
        + (NOT_RECOUNTED if counted is None else "token counts recounted"),
        style="dim",
    )
    if dossier_path is not None:
        out.print(f"dossier written to {dossier_path}", style="dim")
    out.print(confidentiality_line(confidential=confidential))
