# SPDX-License-Identifier: Apache-2.0
"""Verify a folder of quotes against a folder of collateral, matched by FMSPC, on every core."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Final

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
from .output import console, print_json
from .quote_check import check_quote, read_collateral, read_quote
from .settings import ChosenPolicy

MAX_FILES: Final = 1_000_000
MAX_MODELS: Final = 4096
PORTION: Final = 64  # quotes of one task
Row = dict[str, object]
Arguments = tuple[Path, bytes | None, datetime, bool]  # collateral, policy, now, whether simulated roots may pass


class _Worker:
    """One process: what it verified before, it remembers."""

    def __init__(self, folder: Path, policy: bytes | None, now: datetime, *, allow: bool) -> None:
        self.policy = Policy.parse(policy) if policy is not None else None
        self.now, self.allow = now, allow
        self.memory = Memory()
        self.collateral = dict(_collateral(folder))
        self.models: dict[bytes, bytes] = {}  # PCK chain -> FMSPC

    def check(self, path: Path) -> Row:
        """Verify one file."""
        try:
            quote = Quote.parse(read_quote(path))
            collateral = self._for(quote.auth.chain)
        except AttestationError as e:
            return {"file": path.name, "ok": False, "code": e.code, "exit": e.exit_code}
        if collateral is None:
            return {"file": path.name, "ok": False, "code": "CollateralMissing", "exit": 4}
        check = check_quote(
            quote,
            collateral,
            now=self.now,
            policy=self.policy,
            allow_unconfidential=self.allow,
            memory=self.memory,
        )
        status = str(check.verified.tcb.status) if check.verified else None
        row: Row = {"file": path.name, "ok": check.error is None, "exit": check.exit_code, "status": status}
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
    folder, policy, now, allow = arguments
    _worker = _Worker(folder, policy, now, allow=allow)


def _portion(paths: list[Path]) -> list[Row]:
    if _worker is None:
        raise RuntimeError("the worker was not started")
    return [_worker.check(path) for path in paths]


def _collateral(folder: Path) -> Iterator[tuple[bytes, Collateral]]:
    paths = sorted(folder.glob("*.json")) if folder.is_dir() else [folder]
    for path in paths:
        collateral = read_collateral(path)
        yield TcbInfo.parse(collateral.tcb_info).fmspc, collateral


def verify_folder(folder: Path, collateral: Path, *, now: datetime, chosen: ChosenPolicy | None, as_json: bool) -> int:
    """Verify every file of `folder`; print one row for each and a summary, and give the worst exit code."""
    paths = sorted(path for path in folder.iterdir() if path.is_file())[:MAX_FILES]
    if not paths:
        raise UsageFault(f"{folder}: holds no quotes")
    if not dict(_collateral(collateral)):
        raise UsageFault(f"{collateral}: holds no collateral (*.json)")
    allow = chosen is not None and chosen.allow_unconfidential
    arguments = (collateral, chosen.document if chosen else None, now, allow)
    rows = list(_progress(_verified(paths, arguments), len(paths)))
    codes = Counter(str(row["code"] or "ok") for row in rows)
    worst = max(int(str(row["exit"])) for row in rows)
    if as_json:
        appraised = chosen is not None
        document = {"ok": worst == 0, "exit": worst, "appraised": appraised, "counts": dict(codes), "quotes": rows}
        print_json(document, indent=None)
        return worst
    out = console()
    for row in rows:
        if not row["ok"]:
            out.print(f"{row['file']}: {row['code']}", style="red")
    out.print(f"{len(rows)} quotes: " + ", ".join(f"{count} {code}" for code, count in codes.most_common()))
    if chosen is None:
        out.print("NOT APPRAISED", style="bold yellow")
    return worst


def _verified(paths: list[Path], arguments: Arguments) -> Iterator[Row]:
    portions = [paths[at : at + PORTION] for at in range(0, len(paths), PORTION)]
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    cores = min(os.cpu_count() or 1, len(portions))
    with ProcessPoolExecutor(cores, mp_context=context, initializer=_start, initargs=(arguments,)) as pool:
        for rows in pool.map(_portion, portions):
            yield from rows


def _progress(rows: Iterable[Row], total: int) -> Iterator[Row]:
    """Show a bar on a terminal, nothing in a pipe."""
    with Progress(console=Console(stderr=True), disable=not sys.stderr.isatty(), transient=True) as bar:
        task = bar.add_task("verifying", total=total)
        for row in rows:
            bar.advance(task)
            yield row
