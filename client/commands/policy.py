# SPDX-License-Identifier: Apache-2.0
"""`sericin policy init|check|diff`: make, check and compare policies."""

from __future__ import annotations

from pathlib import Path

import click
from rich.table import Table

from attestation.evidence import MAX_CONFIG
from attestation.findings import Waived
from attestation.policy import MAX_POLICY, Policy
from attestation.strict_json import loads

from ..acpi_qtest import acpi_digests
from ..clock import wall_clock
from ..errors import UsageFault
from ..measuring import measured_in, parse_key, read_shape
from ..output import console, print_json, read_file, reports_errors, write_file
from ..policy_making import differences, frame, from_simulator, printed, unfilled, with_config, with_image


@click.group(name="policy")
def command() -> None:
    """Make, check and compare policies (docs/policy.md)."""


@command.command()
@click.option("--simulator", type=click.Path(path_type=Path), help="State directory of a simulated machine.")
@click.option("--image", type=click.Path(path_type=Path), help="Directory of an enclave image.")
@click.option("--shape", "shapes", multiple=True, type=click.Path(path_type=Path), help="A shape to measure it in.")
@click.option("--qemu", "program", help="A stock QEMU of the shapes' release, to make their ACPI tables: RTMR0.")
@click.option("--key", "key_text", help="The image's manifest must be signed by this Ed25519 key, hex.")
@click.option("--config", type=click.Path(path_type=Path), help="The config document of the enclave.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write here instead of standard output.")
@reports_errors
def init(
    simulator: Path | None,
    image: Path | None,
    shapes: tuple[Path, ...],
    program: str | None,
    key_text: str | None,
    config: Path | None,
    output: Path | None,
) -> None:
    """Make a strict starting policy to read and edit.

    Without an option: a frame under Intel's and NVIDIA's roots whose measurements are left to fill in. --image fills
    them from the files of an image, measured in each --shape, or as its manifest records them when none is given;
    --config fills in what the config pins. --simulator gives the roots of a simulated machine.
    """
    now, notes = wall_clock(), console(stderr=True)
    made = from_simulator(simulator, now=now) if simulator is not None else frame(now=now)
    if (image is None and (shapes or key_text is not None)) or (program is not None and not shapes):
        raise UsageFault("--shape and --key belong to --image, and --qemu to --shape")
    if image is not None:
        parsed = [read_shape(path) for path in shapes]
        wanted = "tdx" if simulator is None else "emulated"
        if other := [shape.name for shape in parsed if shape.machine != wanted]:
            raise UsageFault(f"shape {other[0]} is not of a machine under these roots: they are for {wanted} ones")
        acpi = {shape: acpi_digests(shape, program=program) if program is not None else None for shape in parsed}
        manifest, measurements = measured_in(image, acpi, key=parse_key(key_text))
        made = with_image(made, manifest, measurements, now=now)
        if not shapes:
            notes.print("registers as the manifest records them: --shape FILE computes them", style="yellow")
    if config is not None:
        made = with_config(made, read_file(config, limit=MAX_CONFIG))
    if absent := unfilled(made):
        notes.print(f"still to fill in: {', '.join(absent)}", style="yellow")
    if output is None:
        click.echo(printed(made), nl=False)
    else:
        write_file(output, printed(made).encode())


@command.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@reports_errors
def check(file: Path, *, as_json: bool) -> None:
    """Check that FILE is a complete policy, and say what it gives up."""
    policy = Policy.parse(read_file(file, limit=MAX_POLICY))
    waivers = _waivers(loads(read_file(file, limit=MAX_POLICY), limit=MAX_POLICY, what="policy"), "policy")
    if as_json:
        document = {"ok": True, "code": None, "exit": 0, "name": policy.name, "sha256": policy.sha256.hex()}
        print_json({**document, "roots": policy.roots.kind, "waived": dict(waivers)})
        return
    out = console()
    out.print(f"{file}: a complete policy named {policy.name!r}, roots {policy.roots.kind}")
    if policy.roots.simulated:
        out.print("NOT CONFIDENTIAL: its roots are a simulator's", style="bold yellow")
    table = Table(title=f"{len(waivers)} fields waived", title_justify="left", box=None)
    table.add_column("field")
    table.add_column("because")
    for where, reason in waivers:
        table.add_row(where, reason)
    out.print(table)


def _waivers(value: object, where: str) -> list[tuple[str, str]]:
    if isinstance(value, dict):
        if value.keys() == {"waived"}:
            return [(where, Waived(str(value["waived"])).reason)]
        return [pair for key, item in value.items() for pair in _waivers(item, f"{where}.{key}")]
    if isinstance(value, list):
        return [pair for i, item in enumerate(value) for pair in _waivers(item, f"{where}[{i}]")]
    return []


@command.command()
@click.argument("old", type=click.Path(path_type=Path))
@click.argument("new", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@reports_errors
def diff(old: Path, new: Path, *, as_json: bool) -> None:
    """Say what NEW accepts differently from OLD. Exit code 1 when anything differs."""
    documents = []
    for path in (old, new):
        data = read_file(path, limit=MAX_POLICY)
        Policy.parse(data)
        documents.append(loads(data, limit=MAX_POLICY, what="policy"))
    found = differences(documents[0], documents[1])
    code = 1 if found else 0
    if as_json:
        rows = [{"field": where, "old": a, "new": b} for where, a, b in found]
        print_json({"ok": not found, "code": None, "exit": code, "differences": rows})
    else:
        for where, a, b in found:
            console().print(f"{where}\n  old {a}\n  new {b}")
        if not found:
            console().print("no difference")
    raise SystemExit(code)
