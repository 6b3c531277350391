# SPDX-License-Identifier: Apache-2.0
"""`sericin anchor`: publish the heads of a ledger's batches in a registry contract on TON."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, TypeVar

import click

from attestation.window import rfc3339

from ..clock import wall_clock
from ..ledger_file import KeyChain, read_chains
from ..ledger_source import opened_ledger
from ..output import console, print_json, reports_errors
from ..settings import state_dir
from ..ton.amounts import gram
from ..ton.anchor_plan import Plan, require_machines
from ..ton.chain import JOB_SECONDS, ChainView, with_chain
from ..ton.network import PUBLIC_IDS, Network, block_json
from ..ton.outbox import held_outbox
from ..ton.publishing import Publisher, Report, Seen
from ..ton.wallet import Wallet, read_wallet

RUN_SECONDS: Final = 3600.0
T = TypeVar("T")
BLOCKED: Final = "RegistryRejected"  # a key cannot go on; the others did


@click.command(name="anchor")
@click.option(
    "--wallet",
    "wallet_path",
    required=True,
    type=click.Path(path_type=Path),
    help="Wallet that pays (sericin-wallet/1).",
)
@click.option(
    "--network",
    "network_path",
    required=True,
    type=click.Path(path_type=Path),
    help="Network file (sericin-network/1).",
)
@click.option("--ledger", metavar="FILE|URL", help="The enclave's ledger; else the network file names it.")
@click.option("--dry-run", is_flag=True, help="Show what would be sent and what it costs, and send nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@reports_errors
def command(wallet_path: Path, network_path: Path, ledger: str | None, *, dry_run: bool, as_json: bool) -> None:
    """Register receipt keys and move their heads in the registry to the newest batch of the ledger.

    Run it as often as you like: what is anchored is left alone, and a run that was cut off goes on where it stopped.
    Exit codes: 0 everything anchored, 2 usage, 4 untrusted, 5 refused, 6 not confirmed: run it again.
    """
    network, wallet = Network.read(network_path), read_wallet(wallet_path)
    with opened_ledger(ledger, network) as opened:
        chains = read_chains(opened)
    require_machines(network, chains.values(), global_id=None)
    plan, seen = _over(network, wallet, lambda publisher: publisher.plan(chains), seconds=JOB_SECONDS)
    if not as_json:
        _show_plan(plan, seen, network, wallet, chains)
    report = None
    if not dry_run:
        global_id = seen.view.global_id
        with held_outbox(state_dir() / "anchor", wallet.address(global_id), global_id) as outbox:
            report = _over(network, wallet, lambda publisher: publisher.run(chains, outbox), seconds=RUN_SECONDS)
    blocked = plan.blocked if report is None else report.blocked
    if as_json:
        outcome = {"ok": not blocked, "code": BLOCKED if blocked else None, "exit": 5 if blocked else 0}
        print_json({**outcome, "network": network.name, **describe(plan, seen, wallet, report)})
    elif report is not None and (report.done or report.resumed):
        _show_report(report)
    if blocked:
        raise SystemExit(5)


def _over(network: Network, wallet: Wallet, job: Callable[[Publisher], Awaitable[T]], *, seconds: float) -> T:
    """Run `job` over a lite server, and show on a terminal how far it is."""
    with console(stderr=True).status(f"reading the registry on {network.name}") as status:

        def publish(chain: ChainView) -> Awaitable[T]:
            return job(Publisher(chain, network=network, wallet=wallet, now=wall_clock, step=status.update))

        return with_chain(network, publish, seconds=seconds, remember=state_dir() / "ton", step=status.update)


def describe(plan: Plan, seen: Seen, wallet: Wallet, report: Report | None) -> dict[str, object]:
    """Give plan and outcome as the documented JSON object."""
    items = plan.items if report is None else report.done
    view = seen.view if report is None else report.view
    blocked = plan.blocked if report is None else report.blocked
    return {
        "dry_run": report is None,
        "registry": str(view.address),
        "block": {**block_json(view.block), "time": view.gen_utime},
        "wallet": str(wallet.address(view.global_id)),
        "balance_nanogram": seen.balance,
        "estimate_nanogram": plan.estimate,
        "attached_nanogram": plan.attached,
        "messages": [
            {"operation": item.message.what, "key": item.key.hex(), "seqno": item.seqno, "receipts": item.receipts}
            for item in items
        ],
        "resumed": {} if report is None else {key.hex(): seqno for key, seqno in report.resumed.items()},
        "blocked": {key.hex(): reason for key, reason in blocked.items()},
        "paid_nanogram": None if report is None else report.paid,
    }


def _show_plan(plan: Plan, seen: Seen, network: Network, wallet: Wallet, chains: Mapping[bytes, KeyChain]) -> None:
    out, view = console(), seen.view
    place = PUBLIC_IDS.get(view.global_id, "no public network")
    out.print(f"registry {view.address} on {network.name} ({place})", style="bold")
    out.print(f"wallet {wallet.address(view.global_id)} has {gram(seen.balance)}")
    for item in plan.items:
        batch = f"batch {item.seqno} of {_count(item.receipts, 'receipt')}, "
        what = f"anchor {batch}" if item.message.what == "anchor" else "register "
        out.print(f"  {what}key {item.key.hex()[:16]}: about {gram(item.estimate)}")
    for key, reason in plan.blocked.items():
        out.print(f"  key {key.hex()[:16]} cannot go on: {reason}", style="bold yellow")
    if plan.items:
        attached = f"{gram(plan.attached)} attached, what is not used comes back"
        out.print(f"{_count(len(plan.items), 'message')}, about {gram(plan.estimate)} in all; {attached}")
    else:
        batches = _count(sum(len(chain.statements) for chain in chains.values()), "batch")
        out.print(f"nothing to send: the ledger has {batches}")


def _count(number: int, what: str) -> str:
    """Give a number with its noun: `1 batch`, `2 batches`."""
    plural = "es" if what.endswith("ch") else "s"
    return f"{number} {what}{plural if number != 1 else ''}"


def _show_report(report: Report) -> None:
    out = console()
    for key, seqno in report.resumed.items():
        out.print(f"key {key.hex()[:16]}: batch {seqno}, sent by an earlier run, is anchored")
    anchored = _count(sum(item.message.what == "anchor" for item in report.done), "batch")
    when = rfc3339(datetime.fromtimestamp(report.view.gen_utime, UTC))
    line = f"{anchored} anchored, proved at block {report.view.block.seqno} of {when}; paid {gram(report.paid)} so far"
    out.print(line, style="bold green")
