# SPDX-License-Identifier: Apache-2.0
"""What every command says and how it ends: tables for people, JSON for machines, exit codes for scripts."""

from __future__ import annotations

import functools
import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path
from typing import ParamSpec, TextIO, TypeVar

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from attestation.errors import AttestationError
from attestation.findings import Finding

from .errors import ClientError, UsageFault

NOT_CONFIDENTIAL = "NOT CONFIDENTIAL: a simulated machine, whose host reads everything"
MAX_INPUT = 4 * 1024 * 1024
PIPE_WIDTH = 240  # columns of a table in a pipe: no value is folded

P = ParamSpec("P")
R = TypeVar("R")


class _Pipe(StringIO):
    """Passes text on to a stream that is no terminal, without the blanks that fill a table's lines up to its width."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(re.sub(r" +(?=\n)", "", text))
        return len(text)

    def flush(self) -> None:
        self._stream.flush()


def console(*, stderr: bool = False) -> Console:
    """Give a console that neither wraps nor pads in a pipe, so that scripts see whole lines and nothing else."""
    stream = sys.stderr if stderr else sys.stdout
    if stream.isatty():
        return Console(stderr=stderr, highlight=False, markup=False)
    return Console(file=_Pipe(stream), width=PIPE_WIDTH, soft_wrap=True, highlight=False, markup=False)


def print_json(document: dict[str, object], *, indent: int | None = 2) -> None:
    """Print the one JSON document of a command; long ones without indentation, which takes a slower encoder."""
    click.echo(json.dumps(document, indent=indent, sort_keys=True))


def reports_errors(command: Callable[P, R]) -> Callable[P, R]:
    """Turn this project's errors into the documented exit code; with `as_json`, into a JSON document."""

    @functools.wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except (AttestationError, ClientError) as e:
            if kwargs.get("as_json"):
                document: dict[str, object] = {"ok": False, "code": e.code, "exit": e.exit_code, "error": e.to_json()}
                verdict = getattr(e, "verdict", None)
                print_json(document | ({"verdict": verdict.to_json()} if verdict is not None else {}))
            else:
                print_error(e)
            raise SystemExit(e.exit_code) from None

    return wrapped


def print_error(error: AttestationError | ClientError) -> None:
    """Print one line that says what is wrong, and the verdict's failed findings when there is one."""
    out = console(stderr=True)
    label = {3: "malformed", 4: "untrusted", 5: "refused", 6: "unreachable", 7: "declined"}.get(
        error.exit_code, "error"
    )
    out.print(Text(f"{label}: {error}", style="bold red"))
    verdict = getattr(error, "verdict", None)
    if verdict is not None:
        out.print(findings_table(f for f in verdict.findings if not f.holds))


def show_fields(fields: Mapping[str, object]) -> None:
    """Print names and values in two columns, values folded where a terminal is narrow, those of a list a row each."""
    out = console()
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    room = out.width - max(map(len, fields), default=0) - 2
    for name, value in fields.items():
        text = "\n".join(map(_shown, value)) or "none" if isinstance(value, list) else _shown(value)
        table.add_row(name, _folded_hex(text, room))
    out.print(table)


def _folded_hex(text: str, room: int) -> str:
    """Fold digits that do not fit into `room` columns after whole eight bytes, so that two can be compared by eye."""
    if len(text) <= room or not re.fullmatch(r"[0-9a-f]+", text):
        return text
    step = max(room // 16 * 16, 16)
    return "\n".join(text[at : at + step] for at in range(0, len(text), step))


def _shown(value: object) -> str:
    """Show a value to a person."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {_shown(item)}" for name, item in value.items())
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else str(value)


def findings_table(findings: Iterable[Finding], *, title: str | None = None) -> Table:
    """Give findings as a table: a mark, the rule, what was wanted and what was found."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for heading in ("", "rule", "want", "got"):
        table.add_column(heading, overflow="fold")
    for finding in findings:
        if finding.waived is not None:
            mark, want = Text("~", style="yellow"), f"waived: {finding.waived}"
        else:
            mark = Text("ok", style="green") if finding.holds else Text("NO", style="bold red")
            want = finding.want
        table.add_row(mark, Text(finding.rule), Text(_short(want)), Text(_short(finding.got)))
    return table


def show_findings(findings: Iterable[Finding], *, title: str, every: bool) -> None:
    """Print what does not hold, how many clauses hold, and which were waived; with `every`, each of them."""
    found, out = list(findings), console()
    telling = [f for f in found if every or not f.holds]
    out.print(title, style="bold")
    if telling:
        out.print(findings_table(telling))
    waived = [f.rule for f in found if f.waived is not None]
    holding = sum(f.holds and f.waived is None for f in found)
    out.print(f"{holding} of {len(found) - len(waived)} clauses hold" + (f", {len(waived)} waived" if every else ""))
    if waived and not every:
        out.print(f"{len(waived)} waived (--all says why):", style="dim")
        out.print(_by_section(waived))


def _by_section(rules: Iterable[str]) -> Table:
    """Give rules as a table, a row for each section of the policy: it fits a narrow terminal."""
    sections: dict[str, list[str]] = {}
    for rule in rules:
        section, _, rest = re.sub(r"\[([0-9a-f]{8})[0-9a-f]+\]", r"[\1...]", rule).partition(".")
        sections.setdefault(section, []).append(rest or "the whole section")
    table = Table(box=None, show_header=False, pad_edge=False, style="dim")
    for section, names in sections.items():
        table.add_row(section, Text(", ".join(names), overflow="fold"))
    return table


def _short(text: str, limit: int = 100) -> str:
    return text if len(text) <= limit else text[: limit - 3] + "..."


def confidentiality_line(*, confidential: bool) -> Text:
    """Give the line that every screen shows about a verdict."""
    if confidential:
        return Text("CONFIDENTIAL: every root is one of this release", style="bold green")
    return Text(NOT_CONFIDENTIAL, style="bold yellow")


def parse_time(text: str | None) -> datetime | None:
    """Read --at: RFC 3339 or unix seconds. Raises UsageFault."""
    if text is None:
        return None
    if re.fullmatch(r"[0-9]{1,11}", text):
        return datetime.fromtimestamp(int(text), UTC)
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        raise UsageFault("--at takes an RFC 3339 time or unix seconds") from None
    if when.tzinfo is None:
        raise UsageFault("--at needs a time zone, for example 2026-11-24T12:00:00Z")
    return when.astimezone(UTC)


def parse_hex(text: str | None, fault: str, *, sizes: tuple[int, ...] = (32,)) -> bytes | None:
    """Read an option's bytes: hex, one of `sizes` long; None where it was not given. Raises UsageFault with `fault`."""
    if text is None:
        return None
    try:
        data = bytes.fromhex(text)
    except ValueError:
        raise UsageFault(fault) from None
    if len(data) not in sizes:
        raise UsageFault(fault)
    return data


def read_file(path: Path, *, limit: int = MAX_INPUT) -> bytes:
    """Read a file that the user named, at most `limit` bytes. Raises UsageFault."""
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as e:
        raise UsageFault(f"{path}: {e.strerror}") from None
    if len(data) > limit:
        raise UsageFault(f"{path}: longer than {limit} bytes")
    return data


def write_file(path: Path, data: bytes) -> None:
    """Write a file whole or not at all: beside its place, then renamed into it."""
    beside = path.with_name(f".{path.name}.part")
    try:
        beside.write_bytes(data)
        beside.replace(path)
    except OSError as e:
        beside.unlink(missing_ok=True)
        raise UsageFault(f"{path}: {e.strerror}") from None
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
