# SPDX-License-Identifier: Apache-2.0
"""`sericin model`: which models are known, fetch one, and name a file by its digests."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import NoReturn, ParamSpec

import click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Column, Table

from attestation.errors import Malformed

from ..image.model_disk import digest_model_disk, write_model_disk
from ..models.catalogue import catalogue, find, local_path
from ..models.digests import digest_file
from ..models.pull import pull
from ..models.refusal import ModelRefused
from ..output import console

_EXITS = {"model_unknown": 2, "model_missing": 2, "model_header": 3, "model_digest": 4, "model_pull": 6}
P = ParamSpec("P")


def _reports(action: Callable[P, None]) -> Callable[P, None]:
    """End with the documented exit code; with --json, say why as a document."""

    @functools.wraps(action)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            action(*args, **kwargs)
        except ModelRefused as refusal:
            status = _EXITS.get(refusal.code, 1)
            if kwargs.get("as_json"):
                click.echo(json.dumps({"ok": False, "code": refusal.code, "exit": status, "error": str(refusal)}))
            else:
                click.echo(str(refusal), err=True)
            raise SystemExit(status) from None

    return wrapped


@contextmanager
def _progress(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a bar on a terminal, and nothing in a pipe."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(
        *columns, TimeRemainingColumn(), console=Console(stderr=True), disable=not sys.stderr.isatty(), transient=True
    ) as bar:
        task = bar.add_task(title, total=total)
        yield lambda size: bar.advance(task, size)


@click.group(name="model")
def command() -> None:
    """List, fetch and digest models."""


@command.command(name="list", short_help="List the models of the catalogue.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def list_models(*, as_json: bool) -> None:
    """List the models of the catalogue and say which are on this machine."""
    rows: list[dict[str, object]] = [
        {
            "name": entry.name,
            "description": entry.description,
            "licence": entry.licence,
            "size": entry.size,
            "sha256": entry.sha256.hex(),
            "verity_root": entry.verity_root.hex(),
            "template": entry.template.hex(),
            "tokenizer": entry.tokenizer.hex(),
            "context": entry.context,
            "from": f"{entry.package}=={entry.version}",
            "path": str(local_path(entry)) if local_path(entry).is_file() else None,
        }
        for entry in catalogue().values()
    ]
    if as_json:
        click.echo(json.dumps({"models": rows}, indent=2, sort_keys=True))
        return
    table = Table("name", "licence", "bytes", Column("sha256", overflow="fold"), "here", box=None, pad_edge=False)
    for row in rows:
        here = "yes" if row["path"] else "no"
        table.add_row(str(row["name"]), str(row["licence"]), str(row["size"]), str(row["sha256"]), here)
    console().print(table)


@command.command(name="pull", short_help="Fetch a model, check it, and print where it is.")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@_reports
def pull_model(name: str, *, as_json: bool) -> None:
    """Fetch the model NAME, check it, and print where it is. Exit codes: 4 another file than promised, 6 no network."""
    entry = find(name)
    quiet = as_json or not sys.stderr.isatty()
    with _progress(f"Fetching {name}", 2 * entry.size) as progress:
        path = pull(entry, quiet=quiet, progress=progress)
    if as_json:
        document = {"ok": True, "name": name, "path": str(path), "sha256": entry.sha256.hex(), "size": entry.size}
        click.echo(json.dumps(document, indent=2, sort_keys=True))
    else:
        click.echo(str(path))


@command.command(name="digest")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@_reports
def digest_model(file: Path, *, as_json: bool) -> None:
    """Print the digests of a GGUF FILE and what its header says. Exit code 3: not a well-formed GGUF file."""
    size = file.stat().st_size if file.is_file() else 0
    with _progress(f"Hashing {file.name}", size) as progress:
        digests, facts = digest_file(file, progress=progress)
    known = [entry.name for entry in catalogue().values() if entry.sha256 == digests.sha256]
    document: dict[str, object] = {
        "ok": True,
        "sha256": digests.sha256.hex(),
        "verity_root": digests.verity_root.hex(),
        "template": facts.template.hex() if facts.has_template else None,
        "tokenizer": facts.tokenizer.hex(),
        "size": digests.size,
        "architecture": facts.architecture,
        "model_name": facts.name,
        "context": facts.context_length,
        "parameters": facts.parameters,
        "tensors": facts.tensors,
        "metadata": facts.metadata,
        "catalogue": known[0] if known else None,
    }
    if as_json:
        click.echo(json.dumps(document, indent=2, sort_keys=True))
        return
    for key, value in document.items():
        if key != "ok":
            click.echo(f"{key:12} {value if value is not None else '-'}")


@command.command(name="disk", short_help="Print or write the disk that an image finds a model on.")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Folder to write the disk into.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@_reports
def disk_model(file: Path, output: Path | None, *, as_json: bool) -> None:
    """Print what a config says of the disk on which an image finds the model FILE; with -o, write that disk."""
    if not file.is_file():
        raise ModelRefused("model_missing", f"{file}: not a file")
    with _progress(f"Reading {file.name}", file.stat().st_size) as progress:
        if output is None:
            path, pin = None, digest_model_disk(file, progress=progress)
        else:
            output.mkdir(parents=True, exist_ok=True)
            path, pin = write_model_disk(file, output, progress=progress)
    disk = {"root": pin.root.hex(), "blocks": pin.blocks}
    if as_json:
        click.echo(json.dumps({"ok": True, "disk": disk, "path": str(path) if path else None}, indent=2))
    else:
        click.echo(f'"disk": {json.dumps(disk)}' + (f"\n{path}" if path else ""))


@command.command(name="replay", short_help="Re-execute a run: what `sericin audit --replay` starts.")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--threads", type=click.IntRange(0, 1024), default=0, help="Threads that compute; 0 for this machine's.")
@click.option("--count", is_flag=True, help="Recount the tokens alone: what 'sericin ask' asks for.")
def replay_model(file: Path, threads: int, *, count: bool) -> None:
    """Re-execute a run with the model FILE: what `sericin audit --replay` asks for.

    Reads the run from standard input and prints one JSON document, both described in docs/models.md. Exit codes: 0 the
    model would have said that, 4 it would not, 3 the question is malformed, 2 it cannot be asked here.
    """
    try:
        from ..engine.body import RequestRefused  # noqa: PLC0415 - llama.cpp is loaded where it is needed
        from ..engine.native import NativeError  # noqa: PLC0415
        from ..engine.replay import Replayer  # noqa: PLC0415
        from ..engine.replay_question import MAX_QUESTION, read_question  # noqa: PLC0415
        from ..engine.templates import TemplateRefused  # noqa: PLC0415
    except ImportError as error:
        _cannot(f"{error.name} is missing: install sericin[replay]", "engine_missing", 2)
    try:
        question = read_question(sys.stdin.buffer.read(MAX_QUESTION + 1))
        total = sum(len(choice.ids) for choice in question.choices)
        ready = Replayer(question.record, file, threads=threads, count=count)
        with ready as model, _progress("Re-executing", total) as progress:
            result = model.replay(question, progress=progress)
    except Malformed as error:
        _cannot(str(error), error.code, 3)
    except ModelRefused as error:
        _cannot(str(error), error.code, _EXITS.get(error.code, 1))
    except RequestRefused as error:
        _cannot(f"{error.code} {error.field}", error.code, 3)
    except (NativeError, TemplateRefused, ValueError) as error:
        _cannot(f"{type(error).__name__}", "engine_failed", 2)
    checks = [asdict(check) for check in result.checks]
    answer = {"ok": result.ok, "mode": result.mode, "why": result.why, "tokens": result.tokens, "checks": checks}
    click.echo(json.dumps(answer, indent=2, sort_keys=True))
    raise SystemExit(0 if result.ok else 4)


def _cannot(message: str, code: str, status: int) -> NoReturn:
    click.echo(json.dumps({"ok": False, "code": code, "exit": status, "error": message}))
    click.echo(message, err=True)
    raise SystemExit(status)
