# SPDX-License-Identifier: Apache-2.0
"""`sericin doctor`: what can this host launch, and what would it take?"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import click
from rich.table import Table
from rich.text import Text

from attestation.errors import AttestationError
from attestation.shape import Shape

from ..doctor.check import QUOTE_PORT, Finding, Status, Wanted, examine
from ..doctor.checks import CHECKS
from ..doctor.host import Host
from ..launch.plan import read_manifest, read_shape
from ..launch.refusal import LaunchRefused
from ..output import console

EXIT_DIFFERENT = 1
_MARKS = {
    Status.OK: ("ok", "green"),
    Status.FAILS: ("NO", "bold red"),
    Status.UNSEEN: ("?", "bold yellow"),
    Status.NOT_NEEDED: ("-", "dim"),
}


@click.command(name="doctor")
@click.option("--shape", "shape_path", type=click.Path(path_type=Path), help="Ask for what this shape needs.")
@click.option("--image", type=click.Path(path_type=Path), help="Look at this image's firmware, too.")
@click.option("--qemu", default="qemu-system-x86_64", show_default=True, help="QEMU to look at: a name or a path.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(shape_path: Path | None, image: Path | None, qemu: str, *, as_json: bool) -> None:
    """Check whether this host can launch enclaves, and say how to mend what is missing. Nothing is changed.

    Run it as root: registers, the kernel's log and GPU modes are for root alone, and what cannot be seen does not hold.
    Exit codes: 0 every check holds, 1 one does not, 2 a file that cannot be read, 3 a malformed shape or manifest.
    """
    try:
        shape = read_shape(shape_path) if shape_path is not None else None
        firmware = _firmware(image) if image is not None else None
    except (LaunchRefused, AttestationError) as e:
        click.echo(f"sericin doctor: {e}", err=True)
        raise SystemExit(e.exit_code) from None
    findings = examine(CHECKS, Host(), wanted(shape, firmware=firmware, qemu=qemu))
    ok = all(finding.holds for finding in findings)
    if as_json:
        click.echo(json.dumps(report(findings), indent=2, sort_keys=True))
    else:
        _show(findings)
    if not ok:
        raise SystemExit(EXIT_DIFFERENT)


def wanted(shape: Shape | None, *, firmware: tuple[str, bytes] | None, qemu: str) -> Wanted:
    """Give what a host must have for a shape; without one, the least that any enclave needs."""
    if shape is None:
        return Wanted(qemu=qemu, firmware=firmware)
    kind, _, rest = (shape.host.quote_socket or "").partition(":")
    return Wanted(
        qemu=qemu,
        release=shape.qemu,
        memory=shape.memory,
        phys_bits=shape.phys_bits,
        gpus=shape.host.gpus,
        quote_socket=rest if kind == "unix" else None,
        quote_port=int(rest.rpartition(":")[2]) if kind == "vsock" else QUOTE_PORT,
        firmware=firmware,
    )


def _firmware(image: Path) -> tuple[str, bytes]:
    _, manifest = read_manifest(image)
    return str(image / manifest.firmware.file), manifest.file(manifest.firmware.file).sha256


def report(findings: Sequence[Finding]) -> dict[str, object]:
    """Give the documented JSON document: `ok`, `exit`, `checks`."""
    ok = all(finding.holds for finding in findings)
    return {"ok": ok, "exit": 0 if ok else EXIT_DIFFERENT, "checks": [finding.to_json() for finding in findings]}


def _show(findings: Sequence[Finding]) -> None:
    out = console()
    table = Table("", "check", "found", box=None, pad_edge=False)
    for finding in findings:
        word, style = _MARKS[finding.status]
        table.add_row(Text(word, style=style), finding.name, Text(finding.found, overflow="fold"))
        if finding.mend:
            table.add_row("", "", Text(f"wanted: {finding.want}", style="dim"))
            table.add_row("", "", Text(f"to mend: {finding.mend}"))
    out.print(table)
    counts = {status: sum(finding.status is status for finding in findings) for status in Status}
    out.print(
        f"\n{counts[Status.OK]} hold, {counts[Status.FAILS]} fail, {counts[Status.UNSEEN]} could not be looked at, "
        f"{counts[Status.NOT_NEEDED]} are not needed"
    )
    if all(finding.holds for finding in findings):
        out.print("This host can launch enclaves.", style="bold green")
    else:
        out.print("This host cannot launch enclaves.", style="bold red")
        out.print("Without TDX, `sericin launch run SHAPE ... --emulate` runs an image for trial.")
