# SPDX-License-Identifier: Apache-2.0
"""From a plan to a running machine and back: its folder, its disks, its record; and stopping one from elsewhere."""

from __future__ import annotations

import re
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from attestation.shape import Shape

from .ending import TERMINATE_SECONDS
from .line import TCG_PHYS_BITS, Places, command_line
from .plan import SECTOR, Plan
from .records import Process, Record, Records, replace_file
from .refusal import LaunchRefused
from .running import Ended, Running, Tell

LEDGER_SIZE: Final = 256 << 20  # bytes of a ledger disk that is made here; it is sparse
VERSION_SECONDS: Final = 20.0
WAIT: Final = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What is this host's own business."""

    program: str  # QEMU: a name or a path
    ledger: Path  # where the ledger disk lies, or is made
    grace: float  # seconds that a stopping guest has


def places_of(plan: Plan, options: Options, records: Records) -> Places:
    """Say where everything of an enclave will lie. Makes nothing."""
    held = any(device.disk == "ledger" for device in plan.shape.disks)
    return Places(folder=records.place(plan.name), ledger=options.ledger if held else None)


def launch(
    plan: Plan, options: Options, records: Records, *, console: Callable[[bytes], None], tell: Tell
) -> tuple[Ended, list[str]]:
    """Run an enclave until it ends; gives how, and its last words where nobody asked it to end.

    Raises LaunchRefused. Nothing is left behind but the ledger.
    """
    require_program(options.program, plan.shape)
    places = places_of(plan, options, records)
    record = _record(plan)
    running = Running(record, records=records, places=places, grace=options.grace, console=console, tell=tell)
    with running.signals():
        records.claim(record)
        try:
            for name, data in plan.documents.items():
                replace_file(places.document(name), padded(data))
            if places.ledger is not None:
                make_disk(places.ledger, LEDGER_SIZE)
            ended = running.run(command_line(plan, places, program=options.program))
        except OSError as e:
            raise LaunchRefused("host", f"{e.filename or places.folder}: {e.strerror}") from None
        finally:
            records.remove(record)
    return ended, [] if ended.asked else [*running.printed.lines(), *running.said.lines()]


def padded(data: bytes) -> bytes:
    """Fill a document up with zeros to whole sectors (docs/image.md): the guest takes them off again."""
    return data + bytes(-len(data) % SECTOR)


def make_disk(path: Path, size: int) -> None:
    """Make an empty, sparse disk for its owner alone; one that is there stays as it is. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        with path.open("xb") as file:
            path.chmod(0o600)
            file.truncate(size)
    except FileExistsError:
        return


def require_program(program: str, shape: Shape) -> None:
    """Require a QEMU that the shape can be launched with. Raises LaunchRefused(host or mismatch)."""
    try:
        done = subprocess.run(
            [program, "--version"], check=False, stdin=subprocess.DEVNULL, capture_output=True, timeout=VERSION_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired) as e:
        raise LaunchRefused("host", f"{program}: {e}; install QEMU, or name one with --qemu") from None
    found = re.search(rb"version (\d{1,3})\.(\d{1,3})", done.stdout[:1024])
    if done.returncode != 0 or found is None:
        raise LaunchRefused("host", f"{program} does not say which QEMU it is")
    version = int(found[1]), int(found[2])
    got, want = (f"{major}.{minor}" for major, minor in (version, shape.qemu))
    if shape.machine == "tdx" and version != shape.qemu:
        raise LaunchRefused(
            "mismatch",
            f"{program} is QEMU {got}, the shape says {want}: RTMR0 would differ. Name that release with --qemu, "
            "or measure a shape for yours",
        )
    if version < shape.machine_type:
        raise LaunchRefused("mismatch", f"{program} is QEMU {got}, too old for a machine of {want}")
    if shape.machine == "emulated" and shape.phys_bits != TCG_PHYS_BITS:
        raise LaunchRefused("mismatch", f"an emulated machine has phys_bits {TCG_PHYS_BITS}, not {shape.phys_bits}")


def _record(plan: Plan) -> Record:
    return Record(
        name=plan.name,
        machine=plan.shape.machine,
        shape=plan.shape.name,
        image=f"{plan.manifest.name} {plan.manifest.version}",
        image_id=plan.image_id.hex(),
        config_sha384=plan.config_digest.hex(),
        targets=[f"{forward.address}:{forward.port}" for forward in plan.shape.host.forward],
        vsock_cid=plan.shape.host.vsock_cid,
        started=int(time.time()),
        launcher=Process.this(),
    )


def stop(record: Record, records: Records, *, grace: float) -> str:
    """Stop an enclave of this host and wait, in bounded time. Gives `stopped`, `killed` or `gone`.

    Its launcher does it where it lives, with the grace that it was given; an orphan is ended directly. Raises
    LaunchRefused(host).
    """
    if not record.processes:
        records.remove(record)
        return "gone"
    if record.launcher.signal(signal.SIGTERM) and _wait(record, grace + 2 * TERMINATE_SECONDS):
        return "stopped"
    for number in (signal.SIGTERM, signal.SIGKILL):
        for process in record.processes:
            process.signal(number)
        if _wait(record, TERMINATE_SECONDS):
            break
    else:
        raise LaunchRefused("host", f"{record.name}: process {record.processes[0].pid} does not end")
    records.remove(record)
    return "killed"


def _wait(record: Record, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while record.processes:
        if time.monotonic() > end:
            return False
        time.sleep(WAIT)
    return True
