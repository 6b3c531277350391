# SPDX-License-Identifier: Apache-2.0
"""`sericin serve`: run an enclave on this machine until it is told to stop."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click
from rich.console import Console

from attestation.config import EnclaveConfig
from attestation.errors import AttestationError
from attestation.evidence import MAX_CONFIG, MAX_OPERATOR

from ..attester import BootMismatch, Documents
from ..booting import Booted, boot, load_engine
from ..clock import SystemClock
from ..doors import ListenerUnusable
from ..hygiene import apply_hygiene
from ..ledger import LedgerUnusable
from ..models.refusal import ModelRefused
from ..seams import GpuUnavailable, QuoteUnavailable
from ..service import Service
from ..simulator.machine import RealMachine, SimulatedMachine
from ..simulator.public import write_public

EXIT_USAGE = 2
EXIT_UNUSABLE = 6
_USAGE = (BootMismatch, ModelRefused, RealMachine, PermissionError)
_UNUSABLE = (GpuUnavailable, QuoteUnavailable, LedgerUnusable, ListenerUnusable, OSError)


@click.command(name="serve")
@click.option(
    "--config", "config_path", required=True, type=click.Path(path_type=Path), help="Config document (measured)."
)
@click.option(
    "--operator", "operator_path", type=click.Path(path_type=Path), help="Operator document: listeners, prices, paths."
)
def command(config_path: Path, operator_path: Path | None) -> None:
    """Run an enclave. When it is ready, one line of JSON on standard output says where it listens.

    The journal goes to standard error: ids, sizes, durations and codes, never a word of a prompt. SIGTERM and Ctrl-C
    let runs under way end. Exit codes: 2 a document or model that cannot be used, 3 a malformed document, 6 a machine,
    GPU, ledger or address that cannot be used.
    """
    try:
        documents = Documents(
            config=_read(config_path, MAX_CONFIG),
            operator=_read(operator_path, MAX_OPERATOR) if operator_path is not None else b"",
        )
        simulated = EnclaveConfig.parse(documents.config).machine == "simulated"
        if simulated:
            click.echo("SIMULATED - NOT CONFIDENTIAL: this machine's root is its own", err=True)
        apply_hygiene()
        with _steps() as step:
            booted = boot(documents, clock=SystemClock(), load_engine=load_engine, step=step)
            if simulated:
                _publish(booted)
        asyncio.run(_serve(booted))
    except AttestationError as e:
        _end(e, e.exit_code)
    except _USAGE as e:
        _end(e, EXIT_USAGE)
    except _UNUSABLE as e:
        _end(e, EXIT_UNUSABLE)


async def _serve(booted: Booted) -> None:
    service = Service(booted)
    await service.start()
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    click.echo(json.dumps(ready_line(booted, service.targets)))
    sys.stdout.flush()
    waits = [asyncio.create_task(event.wait()) for event in (stopping, service.failed)]
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    for waiting in waits:
        waiting.cancel()
    await service.stop()
    if service.failed.is_set():
        raise GpuUnavailable("the GPUs no longer pass the check that they passed at boot; the journal names the time")


def ready_line(booted: Booted, targets: dict[str, str]) -> dict[str, object]:
    """Give what the ready line says. It is a convenience: a client believes evidence alone."""
    simulated = booted.machine.name == "simulated"
    return {
        "event": "ready",
        "machine": booted.machine.name,
        "simulated": simulated,
        "targets": targets,
        "boot_digest": booted.boot.digest.hex(),
        "image_id": booted.boot.image_id.hex(),
        "models": [record.name for record in booted.boot.models],
        **({"state": str(booted.state), "notice": "SIMULATED - NOT CONFIDENTIAL"} if simulated else {}),
    }


def _publish(booted: Booted) -> None:
    machine = booted.machine
    if not isinstance(machine, SimulatedMachine):
        raise TypeError("only a simulated machine has a public file")
    write_public(
        booted.state,
        machine,
        image_id=booted.boot.image_id,
        gpus=booted.config.gpu.count,
        config_sha384=booted.documents.config_digest,
        engine=booted.config.engine.kind,
        models=[(record.name, record.weights, record.template) for record in booted.boot.models],
    )


def _read(path: Path, limit: int) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(limit + 1)
    except OSError as e:
        click.echo(f"{path}: {e.strerror}", err=True)
        raise SystemExit(EXIT_USAGE) from None


@contextmanager
def _steps() -> Iterator[Callable[[str], None]]:
    """Say what is being done, on a terminal alone."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda _: None
        return
    with console.status("starting") as status:
        yield status.update


def _end(error: Exception, code: int) -> None:
    click.echo(f"sericin serve: {error}", err=True)
    raise SystemExit(code) from None
