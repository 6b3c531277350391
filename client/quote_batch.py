# SPDX-License-Identifier: Apache-2.0
"""Verify a folder of quotes against a folder of collateral, matched by FMSPC, on every core."""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Final, NamedTuple

import click
from rich.console import Console
from rich.progress import Progress

from attestation.errors import AttestationError
from attestation.policy import Policy
from attestation.tdx.certificates import split_pem
from attestation.tdx.collateral import Collateral
from attestation.tdx.memory import Memory
from attestation.tdx.pck import platform_of
from attestation.tdx.quote import Quote
from attestation.tdx.tcbinfo import TcbInfo

from .errors import UsageFault
from .output import console
from .quote_check import check_quote, read_collateral, read_quote
from .settings import ChosenPolicy

MAX_FILES: Final = 1_000_000
MAX_MODELS: Final = 4096
PORTION: Final = 256  # quotes of one task at most
PORTIONS: Final = 4  # for each core at least, so that none is idle for long at the end
Row = dict[str, object]
Arguments = tuple[Path, Path, bytes | None, datetime, bool]  # quotes, collateral, policy, now, whether simulated passes


class Rows(NamedTuple):
    """What one portion gave. The worker writes the JSON, for the parent is one process and they are many."""

    quotes: int
    text: str  # a JSON object for each quote, with commas between them
    codes: Counter[str]
    refused: list[tuple[str, str]]  # file and code
    worst: int  # exit code


class _Worker:
    """One process: what it verified before, it remembers."""

    def __init__(self, quotes: Path, folder: Path, policy: bytes | None, now: datetime, *, allow: bool) -> None:
        self.quotes = quotes
        self.policy = Policy.parse(policy) if policy is not None else None
        self.now, self.allow = now, allow
        self.memory = Memory()
        self.collateral = dict(_collateral(folder))
        self.models: dict[bytes, bytes] = {}  # PCK chain -> FMSPC

    def rows(self, names: list[str]) -> Rows:
        """Verify a portion of the files."""
        rows = [self.check(name) for name in names]
        codes = Counter(str(row["code"] or "ok") for row in rows)
        refused = [(str(row["file"]), str(row["code"])) for row in rows if not row["ok"]]
        worst = max(int(str(row["exit"])) for row in rows)
        return Rows(len(rows), json.dumps(rows, sort_keys=True)[1:-1], codes, refused, worst)

    def check(self, name: str) -> Row:
        """Verify one file."""
        try:
            quote = Quote.parse(read_quote(self.quotes / name))
            collateral = self._for(quote.auth.chain)
        except AttestationError as e:
            return {"file": name, "ok": False, "code": e.code, "exit": e.exit_code}
        if collateral is None:
            return {"file": name, "ok": False, "code": "CollateralMissing", "exit": 4}
        check = check_quote(
            quote,
            collateral,
            now=self.now,
            policy=self.policy,
            allow_unconfidential=self.allow,
            memory=self.memory,
        )
        status = str(check.verified.tcb.status) if check.verified else None
        row: Row = {"file": name, "ok": check.error is None, "exit": check.exit_code, "status": status}
        return row | {"code": check.error.code if check.error else None, "confidential": check.confidential}

    def _for(self, chain: bytes) -> Collateral | None:
        fmspc = self.models.get(chain)
        if fmspc is None:
            fmspc = platform_of(split_pem(chain, 3, "pck_chain")[0]).fmspc
            if len(self.models) < MAX_MODELS:
                self.models[chain] = fmspc
        return self.collateral.get(fmspc)


_worker: _Worker | None = None


def _start(arguments: Arguments) -> None:
    global _worker  # noqa: PLW0603 - one worker for each process
    gc.freeze()  # what the parent made is not looked through again and again
    quotes, folder, policy, now, allow = arguments
    _worker = _Worker(quotes, folder, policy, now, allow=allow)


def _portion(names: list[str]) -> Rows:
    if _worker is None:
        raise RuntimeError("the worker was not started")
    return _worker.rows(names)


def _collateral(folder: Path) -> Iterator[tuple[bytes, Collateral]]:
    paths = sorted(folder.glob("*.json")) if folder.is_dir() else [folder]
    for path in paths:
        collateral = read_collateral(path)
        yield TcbInfo.parse(collateral.tcb_info).fmspc, collateral


def verify_folder(folder: Path, collateral: Path, *, now: datetime, chosen: ChosenPolicy | None, as_json: bool) -> int:
    """Verify every file of `folder`; print one row for each and a summary, and give the worst exit code."""
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if entry.is_file())[:MAX_FILES]
    if not names:
        raise UsageFault(f"{folder}: holds no quotes")
    if not dict(_collateral(collateral)):
        raise UsageFault(f"{collateral}: holds no collateral (*.json)")
    allow = chosen is not None and chosen.allow_unconfidential
    arguments = (folder, collateral, chosen.document if chosen else None, now, allow)
    portions = list(_progress(_verified(names, arguments), len(names)))
    codes: Counter[str] = sum((portion.codes for portion in portions), Counter())
    worst = max(portion.worst for portion in portions)
    if as_json:
        document = {"ok": worst == 0, "exit": worst, "appraised": chosen is not None, "counts": codes, "quotes": []}
        empty = json.dumps(document, sort_keys=True)
        click.echo(empty.removesuffix("]}") + ", ".join(portion.text for portion in portions) + "]}")
        return worst
    out = console()
    for portion in portions:
        for name, code in portion.refused:
            out.print(f"{name}: {code}", style="red")
    out.print(f"{len(names)} quotes: " + ", ".join(f"{count} {code}" for code, count in codes.most_common()))
    if chosen is None:
        out.print("NOT APPRAISED", style="bold yellow")
    return worst


def _verified(names: list[str], arguments: Arguments) -> Iterator[Rows]:
    cores = min(os.cpu_count() or 1, len(names))
    size = max(1, min(PORTION, len(names) // (PORTIONS * cores)))
    portions = [names[at : at + size] for at in range(0, len(names), size)]
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    with ProcessPoolExecutor(cores, mp_context=context, initializer=_start, initargs=(arguments,)) as pool:
        yield from pool.map(_portion, portions)


def _progress(portions: Iterable[Rows], total: int) -> Iterator[Rows]:
    """Show a bar on a terminal, nothing in a pipe."""
    with Progress(console=Console(stderr=True), disable=not sys.stderr.isatty(), transient=True) as bar:
        task = bar.add_task("verifying", total=total)
        for portion in portions:
            bar.advance(task, portion.quotes)
            yield portion
