# SPDX-License-Identifier: Apache-2.0
"""`sericin collateral fetch`: what Intel publishes about a quote's platform model, in one file."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click
from rich.console import Console

from attestation.trust.intel import INTEL_ANCHOR

from ..clock import wall_clock
from ..endorsements import find_or_fetch
from ..output import print_json, reports_errors, write_file
from ..pcs import INTEL_PCS, PcsClient, model_of
from ..quote_check import read_quote

pccs_option = click.option(
    "--pccs", help="Where collateral comes from when the enclave sends none: a caching service instead of Intel's."
)


@click.group(name="collateral")
def command() -> None:
    """Fetch what Intel publishes about a platform."""


@command.command()
@click.option("--quote", "quote_path", required=True, type=click.Path(path_type=Path), help="The quote it is for.")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="Where to write the JSON.")
@click.option("--pccs", "url", default=INTEL_PCS, show_default=True, help="A caching service instead of Intel's.")
@click.option("--update", default="standard", show_default=True, help="standard, early, or a tcbEvaluationDataNumber.")
@click.option("--fresh", is_flag=True, help="Ask the service even where kept collateral is not over.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@reports_errors
def fetch(quote_path: Path, output: Path, url: str, update: str, *, fresh: bool, as_json: bool) -> None:
    """Fetch TCB info, QE identity and CRLs for the platform model of a quote, and write them as they came.

    The request names the model (FMSPC), never the platform. What the quote verifies with, under Intel's root and now,
    is kept in the user's cache directory until the first of its parts is over. Exit codes: 0 written, 6 unreachable,
    2 usage.
    """
    quote = read_quote(quote_path)
    model, service = model_of(quote), PcsClient(url)
    with _steps() as step:
        collateral, kept = find_or_fetch(
            service, quote, model, anchor=INTEL_ANCHOR, update=update, now=wall_clock(), fresh=fresh, step=step
        )
    write_file(output, collateral.to_json())
    if as_json:
        about = {"fmspc": model.fmspc, "ca": model.ca, "output": str(output), "from_cache": kept}
        print_json({"ok": True, "code": None, "exit": 0, **about})
    else:
        click.echo(f"collateral of FMSPC {model.fmspc} written to {output}; not verified yet")


@contextmanager
def _steps() -> Iterator[Callable[[str], None]]:
    """Say what is being fetched, on a terminal alone."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    with Console(stderr=True).status("fetching") as status:
        yield status.update
