# SPDX-License-Identifier: Apache-2.0
"""`sericin launch`: run an image as an enclave on this host, list what runs, ask after it, stop it."""

from __future__ import annotations

import functools
import json
import os
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from signal import SIGINT
from typing import IO, ParamSpec

import click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn
from rich.table import Table

from attestation.errors import AttestationError

from ..doctor.host import plain
from ..launch import launching, line
from ..launch.guest_health import last
from ..launch.model_disks import Progress as Told
from ..launch.model_disks import disk_folder
from ..launch.plan import Plan, make_plan, read_shape
from ..launch.records import Records
from ..launch.refusal import LaunchRefused
from ..output import console as output

EXIT_GUEST = 6
MAX_SHOWN = 1000  # characters of one value that a guest says
EXIT_INTERRUPTED = 130
MAX_CONSOLE = 64 << 20  # bytes of a console file: a guest must not fill the host's disk
NOTICE = "EMULATED, NOT CONFIDENTIAL: this host reads everything"
P = ParamSpec("P")


def _folder() -> Path:
    """Give the folder of running enclaves: $SERICIN_RUN, or a folder of this user alone."""
    named = os.environ.get("SERICIN_RUN")
    if named:
        return Path(named)
    if os.geteuid() == 0:
        return Path("/run/sericin")
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    return Path(runtime) / "sericin" if runtime else Path.home() / ".local" / "state" / "sericin"


_run_dir = click.option(
    "--run-dir",
    type=click.Path(path_type=Path),
    default=_folder,
    show_default="$SERICIN_RUN, else /run/sericin or this user's own",
    help="Folder of running enclaves.",
)
_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
_grace = click.option(
    "--grace", type=click.FloatRange(0, 600), default=15.0, show_default=True, help="Seconds that a stopping guest has."
)


def _reports(action: Callable[P, None]) -> Callable[P, None]:
    """End with the documented exit code; with --json, say why as a document."""

    @functools.wraps(action)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            action(*args, **kwargs)
        except (LaunchRefused, AttestationError) as e:
            if kwargs.get("as_json"):
                click.echo(json.dumps({"ok": False, "code": e.code, "exit": e.exit_code, "error": str(e)}))
            else:
                click.echo(f"sericin launch: {e}", err=True)
            raise SystemExit(e.exit_code) from None

    return wrapped


@click.group(name="launch")
def command() -> None:
    """Launch enclave images, list and stop what runs on this host."""


@command.command(short_help="Launch an image in a shape, and stay until it ends.")
@click.argument("shape", type=click.Path(path_type=Path))
@click.option("--image", required=True, type=click.Path(path_type=Path), help="Folder of the image.")
@click.option("--config", required=True, type=click.Path(path_type=Path), help="Config document (measured).")
@click.option("--operator", type=click.Path(path_type=Path), help="Operator document: listeners, prices, contact.")
@click.option("--model", "models", multiple=True, type=click.Path(path_type=Path), help="Model file; may be repeated.")
@click.option("--name", help="Name of this enclave; the shape's, if not given.")
@click.option("--ledger", type=click.Path(path_type=Path), help="Ledger disk; made where there is none.")
@click.option("--state", type=click.Path(path_type=Path), help="Disk of `sericin image authorities`.")
@click.option("--console", type=click.Path(path_type=Path), help="Write what the guest prints to this file.")
@click.option("--qemu", default="qemu-system-x86_64", show_default=True, help="QEMU: a name or a path.")
@click.option("--dry-run", is_flag=True, help="Check everything, print the command line, start nothing.")
@click.option("--emulate", is_flag=True, help="Run an emulated shape in software. NOT CONFIDENTIAL.")
@_run_dir
@_grace
@_json
@_reports
def run(
    shape: Path,
    image: Path,
    config: Path,
    operator: Path | None,
    models: tuple[Path, ...],
    name: str | None,
    ledger: Path | None,
    state: Path | None,
    console: Path | None,
    qemu: str,
    run_dir: Path,
    grace: float,
    *,
    dry_run: bool,
    emulate: bool,
    as_json: bool,
) -> None:
    """Launch an image in the form that the file SHAPE says, and stay until it ends.

    Every file is checked first: the image's against its manifest, the model's against the config. One line of JSON on
    standard output says that it has started, one more each time the enclave says how it is. SIGTERM, Ctrl-C and
    `launch stop` end it. Exit codes: 0 stopped as told, 2 usage, 3 a malformed document, 4 a file that is not the named
    one, 6 a host or guest that failed.
    """
    records = Records(run_dir.absolute())
    if name is not None:
        records.place(name)
    with _hashing() as told:
        plan = make_plan(
            shape=read_shape(shape),
            image=image.absolute(),
            config=config,
            operator=operator,
            state=state,
            models=[model.absolute() for model in models],
            emulate=emulate,
            name=name,
            disks=disk_folder(),
            write=not dry_run,
            progress=told,
        )
    options = launching.Options(program=qemu, ledger=_ledger(plan, ledger), grace=grace)
    if not plan.published and not emulate:
        click.echo(
            f"no measurement of shape {plan.shape.name} is in the manifest: clients accept it only if their policy has "
            "RTMR0 of `sericin measure image`",
            err=True,
        )
    for port in plan.deaf_ports:
        click.echo(f"the shape forwards to port {port}, on which the operator document listens nowhere", err=True)
    if dry_run:
        words = line.command_line(plan, launching.places_of(plan, options, records), program=qemu)
        click.echo(json.dumps({"ok": True, "exit": 0, "argv": words}, indent=2) if as_json else shlex.join(words))
        return
    _launch(plan, options, records, console)


def _launch(plan: Plan, options: launching.Options, records: Records, console: Path | None) -> None:
    if plan.shape.machine == "emulated":
        click.echo(NOTICE, err=True)
    with ExitStack() as stack:
        ended, words = launching.launch(
            plan, options, records, console=stack.enter_context(_printing(console)), tell=_tell
        )
    if ended.asked is None:
        for word in words:
            click.echo(word, err=True)
        click.echo(f"sericin launch: {plan.name} ended by itself, QEMU's status is {ended.status}", err=True)
        if plan.shape.machine == "tdx":
            click.echo("`sericin doctor --shape SHAPE --image DIR` says what this host lacks for it", err=True)
        raise SystemExit(EXIT_GUEST)
    if ended.asked is SIGINT:
        raise SystemExit(EXIT_INTERRUPTED)


def _ledger(plan: Plan, given: Path | None) -> Path:
    """Say where the ledger lies: as told, or in this user's data folder, by the enclave's name."""
    if given is not None and not any(device.disk == "ledger" for device in plan.shape.disks):
        raise LaunchRefused("usage", f"shape {plan.shape.name} has no ledger disk: leave --ledger out")
    base = os.environ.get("XDG_DATA_HOME")
    folder = Path(base) if base else Path.home() / ".local" / "share"
    return (given or folder / "sericin" / plan.name / "ledger.img").absolute()


def _tell(event: dict[str, object]) -> None:
    with suppress(OSError):  # nobody reads any more: the enclave goes on
        click.echo(json.dumps(event))
        sys.stdout.flush()


@contextmanager
def _printing(path: Path | None) -> Iterator[Callable[[bytes], None]]:
    """Give a taker of the guest's words: a file, a terminal, or nobody."""
    if path is None:
        yield _show if sys.stderr.isatty() else (lambda _: None)
        return
    with path.open("ab") as file:
        yield _Bounded(file).write


class _Bounded:
    """A file that takes so much and no more."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._left = file, MAX_CONSOLE

    def write(self, data: bytes) -> None:
        """Take the next bytes as far as there is room."""
        with suppress(OSError):  # a full disk ends no enclave
            self._file.write(data[: self._left])
            self._file.flush()
        self._left -= min(len(data), self._left)


def _show(data: bytes) -> None:
    """Show a guest's words on a terminal, which they must not steer."""
    text = data.decode("utf-8", "replace")
    click.echo("".join(c for c in text if c.isprintable() or c in "\n\t"), err=True, nl=False)


@contextmanager
def _hashing() -> Iterator[Told]:
    """Show which file is being hashed, on a terminal alone."""
    quiet = not sys.stderr.isatty()
    columns = (TextColumn("checking {task.description}"), BarColumn(), DownloadColumn())
    with Progress(*columns, console=Console(stderr=True), disable=quiet, transient=True) as bar:
        tasks: dict[str, TaskID] = {}

        def told(name: str, done: int, size: int) -> None:
            if name not in tasks:
                tasks[name] = bar.add_task(name, total=size)
            bar.update(tasks[name], completed=done)

        yield told


@command.command()
@_run_dir
@_json
@_reports
def ps(run_dir: Path, *, as_json: bool) -> None:
    """List the enclaves of this host."""
    found = Records(run_dir.absolute()).all()
    if as_json:
        document = {"ok": True, "exit": 0, "enclaves": [record.to_json() for record in found]}
        click.echo(json.dumps(document, indent=2, sort_keys=True))
        return
    table = Table("name", "state", "machine", "image", "pid", "targets", box=None, pad_edge=False)
    for record in found:
        pid = str(record.machine_process.pid) if record.machine_process else "-"
        table.add_row(record.name, record.state, record.machine, record.image, pid, ", ".join(record.targets) or "-")
    output().print(table)


@command.command(short_help="Show what an enclave says of itself: no evidence.")
@click.argument("name")
@_run_dir
@_json
@_reports
def health(name: str, run_dir: Path, *, as_json: bool) -> None:
    """Show what the enclave NAME says of itself: a convenience, no evidence. Exit code 6: it says nothing."""
    records = Records(run_dir.absolute())
    row = last(records.place(name), records.find(name))
    if as_json:
        click.echo(json.dumps({"ok": True, "exit": 0, "name": name, **row}, indent=2, sort_keys=True))
        return
    said = row["said"]
    for key, value in _lines(said if isinstance(said, dict) else {}):
        text = value if isinstance(value, str) else json.dumps(value)
        click.echo(f"{plain(key, 32):<16} {plain(text, MAX_SHOWN)}")


def _lines(said: dict[str, object]) -> Iterator[tuple[str, object]]:
    """Give names and values, those of an object within (the ready line) under their own names."""
    for key, value in said.items():
        yield from value.items() if isinstance(value, dict) else [(key, value)]


@command.command()
@click.argument("name")
@_run_dir
@_grace
@_json
@_reports
def stop(name: str, run_dir: Path, grace: float, *, as_json: bool) -> None:
    """Stop the enclave NAME and wait until it is gone. No other process is ever touched."""
    records = Records(run_dir.absolute())
    how = launching.stop(records.find(name), records, grace=grace)
    document = {"ok": True, "exit": 0, "name": name, "how": how}
    click.echo(json.dumps(document) if as_json else f"{name}: {how}")
