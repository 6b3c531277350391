# SPDX-License-Identifier: Apache-2.0
"""`sericin quote show|verify`: read TDX quotes, and verify them with Intel's collateral, offline."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import click

from attestation.tdx.eventlog import MAX_LOG
from attestation.tdx.quote import Quote

from ..clock import wall_clock
from ..ear import ear
from ..errors import UsageFault
from ..measuring import Measured, measure, read_acpi_file, read_shape
from ..output import (
    confidentiality_line,
    console,
    parse_time,
    print_json,
    read_file,
    reports_errors,
    show_fields,
    show_findings,
)
from ..quote_batch import verify_folder
from ..quote_check import QuoteCheck, check_quote, expected_report_data, read_collateral, read_quote
from ..quote_report import BODY_TYPES, quote_json
from ..settings import ChosenPolicy, choose_policy


@click.group(name="quote")
def command() -> None:
    """Show and verify TDX quotes."""


@command.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@reports_errors
def show(file: Path, *, as_json: bool) -> None:
    """Decode every field of the quote in FILE (raw or hex). Nothing is verified."""
    quote = Quote.parse(read_quote(file))
    fields = quote_json(quote)
    if as_json:
        print_json({"ok": True, "code": None, "exit": 0, "authentic": False, "appraised": False, "quote": fields})
        return
    _print_fields(quote)
    console().print("NOT VERIFIED", style="bold yellow")


@command.command(short_help="Verify a quote, or every quote in a folder.")
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--collateral", "collateral_path", required=True, type=click.Path(path_type=Path), help="Collateral, or a folder."
)
@click.option("--at", "at_text", help="Verify at this time (RFC 3339 or unix seconds) instead of now.")
@click.option("--policy", "policy_path", type=click.Path(path_type=Path), help="Appraise under this policy's clauses.")
@click.option("--claims", type=click.Path(path_type=Path), help="REPORTDATA must be the hash of this claims file.")
@click.option("--report-data", "report_text", help="REPORTDATA must be this, hex.")
@click.option("--event-log", "event_log", type=click.Path(path_type=Path), help="CCEL or JSON events to replay.")
@click.option("--image", "image_path", type=click.Path(path_type=Path), help="Its registers must be this image's...")
@click.option("--shape", "shape_path", type=click.Path(path_type=Path), help="...launched in this shape.")
@click.option("--acpi", "acpi_path", type=click.Path(path_type=Path), help="ACPI digests of that shape, for RTMR0.")
@click.option("--all", "every", is_flag=True, help="Print every clause with its values, not only those that fail.")
@click.option("--ear", "as_ear", is_flag=True, help="Print the result as EAR/AR4SI JSON.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@reports_errors
def verify(
    file: Path,
    collateral_path: Path,
    at_text: str | None,
    policy_path: Path | None,
    claims: Path | None,
    report_text: str | None,
    event_log: Path | None,
    image_path: Path | None,
    shape_path: Path | None,
    acpi_path: Path | None,
    *,
    as_ear: bool,
    every: bool,
    as_json: bool,
) -> None:
    """Verify the quote in FILE, or every quote in a folder, with collateral, under Intel's root or the policy's.

    Without --policy the answer is authenticity alone. Exit codes: 0 it holds, 3 malformed, 4 untrusted, 5 refused by a
    hard rule or the policy, 2 usage.
    """
    chosen = choose_policy(policy_path) if policy_path is not None else None
    now = parse_time(at_text) or wall_clock()
    report = expected_report_data(claims, report_text)
    if file.is_dir():
        if as_ear or event_log is not None or report is not None or image_path is not None:
            raise UsageFault("--ear, --event-log, --image and --report-data are for one quote, not for a folder")
        raise SystemExit(verify_folder(file, collateral_path, now=now, chosen=chosen, as_json=as_json))
    image = _measured(image_path, shape_path, acpi_path)
    check = check_quote(
        read_quote(file),
        read_collateral(collateral_path),
        now=now,
        policy=chosen.policy if chosen else None,
        allow_unconfidential=chosen is not None and chosen.allow_unconfidential,
        report=report,
        event_log=read_file(event_log, limit=MAX_LOG) if event_log is not None else None,
        image=image,
    )
    if as_ear and check.verified is not None:
        # Without a policy nothing is affirmed, but what does not replay or is not the image is still refused.
        accepted = False if check.error is not None else True if chosen is not None else None
        policy = (chosen.policy.name, chosen.policy.sha256) if chosen else None
        print_json(ear(check.verified, accepted=accepted, policy=policy, now=now, version=version("sericin")))
    elif as_json:
        print_json(check.to_json())
    else:
        _report(check, chosen, every=every)
    raise SystemExit(check.exit_code)


def _measured(image: Path | None, shape: Path | None, acpi: Path | None) -> Measured | None:
    if image is None or shape is None:
        if image is not None or shape is not None or acpi is not None:
            raise UsageFault("--image, --shape and --acpi go together: what a machine measures depends on all of them")
        return None
    parsed = read_shape(shape)
    return measure(image, parsed, acpi=read_acpi_file(acpi, parsed) if acpi is not None else None)


def _report(check: QuoteCheck, chosen: ChosenPolicy | None, *, every: bool) -> None:
    out = console()
    if check.quote is not None:
        _print_fields(check.quote)
    if check.verified is not None:
        _print_verified(check)
    if check.image is not None and check.measurements:
        _print_measurements(check.image, check)
    if check.findings:
        show_findings(check.findings, title=f"\nunder policy {chosen.policy.name if chosen else ''}", every=every)
    if check.error is not None:
        out.print(str(check.error), style="bold red")
        out.print("AUTHENTIC, BUT NOT ACCEPTED" if check.verified is not None else "NOT AUTHENTIC", style="bold red")
        return
    out.print("AUTHENTIC", style="bold green")
    if chosen is None:
        out.print("NOT APPRAISED", style="bold yellow")
    else:
        out.print("ACCEPTED by the policy", style="bold green")
        out.print(confidentiality_line(confidential=check.confidential))


def _print_verified(check: QuoteCheck) -> None:
    verified = check.verified
    if verified is None:
        return
    out, tcb, platform = console(), verified.tcb, verified.platform
    window = verified.window.to_json()
    rows = [
        ("TCB status", f"{tcb.status} (TCB date {tcb.date:%Y-%m-%d}, evaluation {tcb.evaluation_data_number})"),
        ("advisories", ", ".join(tcb.advisories) or "none"),
        ("FMSPC", platform.fmspc.hex()),
        ("PPID", platform.ppid.hex()),
        ("platform instance", platform.platform_instance_id.hex() if platform.platform_instance_id else "none"),
        ("holds", f"{window['not_before']} to {window['not_after']}"),
    ]
    if tcb.current is not None:
        rows.insert(1, ("at launch, now", f"{tcb.launch.status}, {tcb.current.status}"))
    for name, value in rows:
        out.print(f"{name:<20} {value}")
    for short in (tcb.current or tcb.launch).shortfalls:
        out.print(f"{'below highest level':<20} {short.component}: {short.have}, update to {short.need}")
    for register in check.registers:
        elsewhere = register.index == 3 and not register.events  # the runtime log has them
        mark = "equal" if register.equal else "not compared" if elsewhere else "DIFFERS"
        out.print(f"{f'event log RTMR{register.index}':<20} {mark}: {register.explanation()}")


def _print_measurements(image: Measured, check: QuoteCheck) -> None:
    out, manifest = console(), image.image.manifest
    out.print(f"\nagainst image {manifest.name} {manifest.version} in shape {image.shape.name}", style="bold")
    for found in check.measurements:
        name = found.register.upper().replace("_", "")
        if found.difference is not None:
            event = found.difference
            out.print(f"{name:<6} DIFFERS at event {event.number}: {event.event}", style="bold red")
            for label, value in (("expected", event.expected), ("got", event.got)):
                out.print(f"       {label:<9} {value.hex() if value is not None else 'no event'}")
            out.print(f"       likely    {event.cause}")
        elif found.expected is None:
            out.print(f"{name:<6} not computed: {found.why}", style="yellow")
        elif found.equal:
            out.print(f"{name:<6} equal", style="green")
        else:
            out.print(f"{name:<6} DIFFERS; --event-log names the event", style="bold red")


def _print_fields(quote: Quote) -> None:
    fields = quote_json(quote)
    names = fields.pop("td_attributes_names")
    qe, rtmr = fields.pop("qe"), fields.pop("rtmr")
    fields["body_type"] = f"{quote.body_type} ({BODY_TYPES[quote.body_type]})"
    fields["td_attributes"] = f"{quote.report.td_attributes.hex()} {names}"
    fields |= {f"rtmr{index}": value for index, value in enumerate(rtmr if isinstance(rtmr, list) else [])}
    fields |= {f"qe.{name}": value for name, value in (qe if isinstance(qe, dict) else {}).items()}
    show_fields(fields)
