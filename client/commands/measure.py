# SPDX-License-Identifier: Apache-2.0
"""`sericin measure firmware|acpi|image`: what must a machine measure? Computed from files alone (docs/measure.md)."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import click
from rich.table import Table

from attestation.image import AcpiDigests
from attestation.shape import Shape
from attestation.tdx.measure_firmware import MAX_FIRMWARE, Firmware
from attestation.tdx.measure_layout import layout_of

from ..acpi_qtest import acpi_digests
from ..errors import UsageFault
from ..measuring import Measured, acpi_document, measure, parse_key, read_acpi_file, read_shape
from ..output import console, print_json, read_file, reports_errors, show_fields


@click.group(name="measure")
def command() -> None:
    """Compute what a machine must measure, from firmware, image and shape alone (docs/measure.md)."""


@command.command(short_help="Print MRTD of a firmware, and its sections.")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@reports_errors
def firmware(file: Path, *, as_json: bool) -> None:
    """Print MRTD of the firmware in FILE, in both page orders, and the sections it is made of.

    A file that no TD can be started from (code without variables, bad metadata) is malformed: exit code 3.
    """
    data = read_file(file, limit=MAX_FIRMWARE)
    parsed, layout = Firmware.parse(data), layout_of(data)
    orders = {"single_pass": parsed.mr_td(single_pass=True).hex(), "two_pass": parsed.mr_td(single_pass=False).hex()}
    if as_json:
        document: dict[str, object] = {"ok": True, "code": None, "exit": 0, "sha256": sha256(data).hexdigest()}
        rows = [
            {
                "type": s.type.name, "offset": s.offset, "size": s.size, "address": s.address, "memory": s.memory,
                "extended": s.extended, "pages": s.pages,
            }
            for s in parsed.sections
        ]  # fmt: skip
        print_json({**document, "mr_td": orders, "layout": layout.name if layout else None, "sections": rows})
        return
    out = console()
    table = Table(box=None, pad_edge=False)
    for heading in ("section", "file offset", "file bytes", "address", "memory", "pages", "in MRTD"):
        table.add_column(heading, justify="left" if heading in {"section", "in MRTD"} else "right")
    for s in parsed.sections:
        how = "contents" if s.extended else "address" if s.pages else "nothing"
        where = (f"{value:#x}" for value in (s.offset, s.size, s.address, s.memory))
        table.add_row(s.type.name, *where, str(s.pages), how)
    out.print(table)
    show_fields({
        "SHA-256": sha256(data).hexdigest(),
        "MRTD, single pass": f"{orders['single_pass']} (Linux 6.16, QEMU 10.1 and newer)",
        "MRTD, two passes": f"{orders['two_pass']} (the series before them)",
        "event layout": layout.name if layout else "not known: RTMR0 to RTMR2 cannot be computed",
    })  # fmt: skip


@command.command(short_help="Print the digests of a shape's ACPI tables.")
@click.option("--shape", "shape_path", required=True, type=click.Path(path_type=Path), help="The shape of the launch.")
@click.option("--qemu", "program", required=True, help="A stock QEMU of the shape's release.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document, which --acpi takes.")
@reports_errors
def acpi(shape_path: Path, program: str, *, as_json: bool) -> None:
    """Print the digests of the ACPI tables that QEMU makes for a shape. No guest runs, and no KVM is needed.

    They are part of RTMR0. They depend on the QEMU release and the shape, and on no GPU that sits in it.
    """
    shape = read_shape(shape_path)
    found = acpi_digests(shape, program=program)
    if as_json:
        print_json(acpi_document(found, shape))
        return
    show_fields({"table-loader": found.loader.hex(), "rsdp": found.rsdp.hex(), "tables": found.tables.hex()})


@command.command(short_help="Compute the registers of an image in a shape.")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--shape", "shape_path", required=True, type=click.Path(path_type=Path), help="The shape of the launch.")
@click.option("--config", type=click.Path(path_type=Path), help="The config document: MRCONFIGID and RTMR3 events.")
@click.option("--operator", type=click.Path(path_type=Path), help="The operator document.")
@click.option("--model", "models", multiple=True, type=click.Path(path_type=Path), help="A model file of the config.")
@click.option("--acpi", "acpi_path", type=click.Path(path_type=Path), help="What 'measure acpi --json' wrote.")
@click.option("--qemu", "program", help="A stock QEMU of the shape's release, to make its ACPI tables: RTMR0.")
@click.option("--key", "key_text", help="The manifest must be signed by this Ed25519 key, hex.")
@click.option("--explain", is_flag=True, help="Print every event, and why a value is not computed.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@reports_errors
def image(
    folder: Path,
    shape_path: Path,
    config: Path | None,
    operator: Path | None,
    models: tuple[Path, ...],
    acpi_path: Path | None,
    program: str | None,
    key_text: str | None,
    *,
    explain: bool,
    as_json: bool,
) -> None:
    """Compute MRTD, RTMR0 to RTMR2 and MRCONFIGID of the image in DIR launched in a shape.

    Every file is checked against the manifest first, and the manifest's records against what is computed. What was not
    given reads "not computed". Exit codes: 0, 3 malformed, 4 a file or record is not as the manifest says.
    """
    shape = read_shape(shape_path)
    measured = measure(
        folder,
        shape,
        acpi=_acpi(shape, acpi_path, program),
        config=config,
        operator=operator,
        models=models,
        key=parse_key(key_text),
    )
    if as_json:
        print_json(measured.to_json())
    else:
        _print(measured, explain=explain)


def _acpi(shape: Shape, path: Path | None, program: str | None) -> AcpiDigests | None:
    if path is not None and program is not None:
        raise UsageFault("--acpi and --qemu say the same thing twice")
    if path is not None:
        return read_acpi_file(path, shape)
    return acpi_digests(shape, program=program) if program is not None else None


def _print(measured: Measured, *, explain: bool) -> None:
    out, manifest, shape = console(), measured.image.manifest, measured.shape
    signer = measured.image.signer
    reasons = measured.reasons()
    fields = {
        "image": f"{manifest.name} {manifest.version}, profile {manifest.profile}",
        "image id": measured.image.image_id.hex(),
        "signed by": signer.hex() if signer is not None else "nobody",
        "shape": f"{shape.name}: {shape.machine}, {shape.vcpus} vCPUs, {shape.memory_mib} MiB",
        "event layout": measured.prediction.layout or "not known",
    }
    for name, value in measured.values().items():
        why = f": {reasons[name]}" if value is None and explain else ""
        fields[name.upper().replace("_", "")] = value.hex() if value is not None else f"not computed{why}"
    show_fields(fields)
    if explain:
        _print_events(measured)
    else:
        out.print("--explain says which events, and why a value is not computed", style="dim")


def _print_events(measured: Measured) -> None:
    table = Table(box=None, pad_edge=False, title="\nevents, in the order of each log", title_justify="left")
    for heading in ("register", "event", "digest"):
        table.add_column(heading, overflow="fold")
    for event in (*measured.prediction.events, *measured.runtime):
        said = event.digest.hex() if event.digest is not None else f"not computed: {event.cause}"
        table.add_row(f"RTMR{event.register}", event.name, said)
    console().print(table)
