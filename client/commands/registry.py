# SPDX-License-Identifier: Apache-2.0
"""`sericin registry show`: what a registry contract holds, read over a server that nobody has to trust."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import click
from rich.table import Table

from attestation.ton.registry import Listing
from attestation.window import rfc3339

from ..clock import wall_clock
from ..output import console, parse_time, print_json, reports_errors
from ..settings import state_dir
from ..ton.amounts import gram
from ..ton.chain import MAX_AGE, with_chain
from ..ton.network import PUBLIC_IDS, Network, block_json
from ..ton.registry_view import RegistryView, view_registry

SAYS: Final = "A registration proves possession of a key, not attestation. Images and models are the owner's list."
TIMES: Final = frozenset({"since", "not after", "anchored", "valid until"})


@click.group(name="registry")
def command() -> None:
    """Show a registry contract, every value proved."""


@command.command()
@click.option(
    "--network",
    "network_path",
    required=True,
    type=click.Path(path_type=Path),
    help="Network file (sericin-network/1).",
)
@click.option(
    "--max-age",
    default=MAX_AGE,
    type=click.IntRange(1),
    show_default=True,
    help="Refuse a newest block older than this many seconds.",
)
@click.option("--at", "at_text", help="Judge ages at this time instead of now (RFC 3339 or unix seconds).")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@reports_errors
def show(network_path: Path, max_age: int, at_text: str | None, *, as_json: bool) -> None:
    """Show the owner's images and models, every receipt key with its batch head, and what is revoked.

    Each value is proved from the network file's init block on; a lite server that lies is refused.
    Exit codes: 0 shown, 3 malformed, 4 untrusted, 5 too old, 6 unreachable, 2 usage.
    """
    network = Network.read(network_path)
    now = parse_time(at_text) or wall_clock()
    with console(stderr=True).status(f"reading the registry on {network.name}") as status:
        view = with_chain(
            network,
            lambda chain: view_registry(chain, network.registry, now=now, max_age=max_age),
            remember=state_dir() / "ton",
            step=status.update,
        )
    if as_json:
        print_json({"ok": True, "code": None, "exit": 0, "network": network.name, **describe(view, now=now)})
    else:
        _show(view, network, now=now)


def describe(view: RegistryView, *, now: datetime) -> dict[str, object]:
    """Give a registry as the documented JSON object."""
    state = view.state
    return {
        "registry": str(view.address),
        "proved": True,
        "block": {
            **block_json(view.block),
            "time": view.gen_utime,
            "age_seconds": int(now.timestamp()) - view.gen_utime,
        },
        "global_id": view.global_id,
        "owner": None if state.owner is None else str(state.owner),
        "offered": None if state.offered is None else str(state.offered),
        "fee_nanogram": state.fee,
        "balance_nanogram": view.balance,
        "images": _listings(state.images),
        "models": _listings(state.models),
        "enclaves": {
            key.hex(): {
                "boot": enclave.boot.hex(),
                "serial": enclave.serial,
                "valid_until": enclave.valid_until,
                "seqno": enclave.seqno,
                "head": enclave.head.hex(),
                "anchored_at": enclave.anchored_at or None,
                "revoked_at": state.revoked_keys.get(key),
            }
            for key, enclave in state.enclaves.items()
        },
        "revoked_images": {key.hex(): since for key, since in state.revoked_images.items()},
        "revoked_keys": {key.hex(): since for key, since in state.revoked_keys.items()},
    }


def _listings(listed: dict[bytes, Listing]) -> dict[str, object]:
    return {key.hex(): {"since": item.since, "not_after": item.not_after} for key, item in listed.items()}


def _time(seconds: int) -> str:
    """Show a time of the chain; a number that is no date is shown as it is."""
    return rfc3339(datetime.fromtimestamp(seconds, UTC)) if 0 < seconds < 1 << 36 else str(seconds)


def _show(view: RegistryView, network: Network, *, now: datetime) -> None:
    out, state = console(), view.state
    chain = PUBLIC_IDS.get(view.global_id, f"no public network (global id {view.global_id})")
    age = int(now.timestamp()) - view.gen_utime
    out.print(f"registry {view.address} on {network.name}: {chain}", style="bold")
    first = network.init_block.seqno
    out.print(f"at block {view.block.seqno} of {_time(view.gen_utime)}, {age} s ago, proved from block {first}")
    out.print(f"owner {state.owner or 'none'}; fee {gram(state.fee)}; balance {gram(view.balance)}")
    for title, listed in (("images", state.images), ("models", state.models)):
        table = _table(title, "sha256", "since", "not after")
        for key, item in listed.items():
            table.add_row(key.hex(), _time(item.since), _time(item.not_after))
        out.print(table if listed else f"\n{title}: none")
    table = _table("enclaves", "receipt key", "boot", "batches", "head", "anchored", "valid until")
    for key, it in state.enclaves.items():
        revoked = state.revoked_keys.get(key)
        until = _time(it.valid_until) if revoked is None else f"REVOKED\n{_time(revoked)}"
        anchored = _time(it.anchored_at) if it.anchored_at else "never"
        table.add_row(key.hex()[:16], it.boot.hex()[:16], str(it.seqno), it.head.hex()[:16], anchored, until)
    out.print(table if state.enclaves else "\nenclaves: none")
    for title, revoked_list in (("revoked images", state.revoked_images), ("revoked keys", state.revoked_keys)):
        for key, since in revoked_list.items():
            out.print(f"{title}: {key.hex()} at {_time(since)}")
    out.print(f"\n{SAYS}")


def _table(title: str, *headings: str) -> Table:
    table = Table(title=f"\n{title}", title_justify="left", box=None, pad_edge=False)
    for heading in headings:
        # Where room is short, a digest may be folded, a time not.
        table.add_column(heading, overflow="fold", no_wrap=heading in TIMES)
    return table
