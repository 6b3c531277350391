# SPDX-License-Identifier: Apache-2.0
"""Which enclaves run on this host? One folder each, for its owner alone, its record written whole or not at all.

A process is known by its id, its start time and this boot's id: an id that the kernel gave to another process since is
nobody's, and is never signalled.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import shutil
import signal
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from .refusal import LaunchRefused

NAME: Final = re.compile(r"[a-z0-9][a-z0-9.-]{0,63}")
RECORD: Final = "enclave.json"
HEALTH: Final = "health.json"
LOCK: Final = ".lock"
MAX_RECORD: Final = 64 * 1024
MAX_SOCKET_PATH: Final = 107  # sockaddr_un
_SCHEMA: Final = "sericin-launch/1"
_START_FIELD: Final = 19  # starttime of /proc/PID/stat, counted behind the command's closing bracket (proc(5))


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """A process of this boot, and no other that may have its id later."""

    pid: int
    start: int  # clock ticks since boot
    boot: str  # /proc/sys/kernel/random/boot_id

    @classmethod
    def of(cls, pid: int) -> Process | None:
        """Describe a process that runs now; None when there is none, or a dead one that nobody waited for."""
        try:
            text = Path(f"/proc/{pid}/stat").read_bytes().decode("latin-1")
            boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        except OSError:
            return None
        fields = text.rpartition(")")[2].split()
        if len(fields) <= _START_FIELD or fields[0] in {"Z", "X"}:
            return None
        return cls(pid=pid, start=int(fields[_START_FIELD]), boot=boot)

    @classmethod
    def this(cls) -> Process:
        """Describe this process. Raises LaunchRefused(host) without /proc."""
        found = cls.of(os.getpid())
        if found is None:
            raise LaunchRefused("host", "no /proc: processes cannot be told apart")
        return found

    @property
    def alive(self) -> bool:
        """Whether this very process still runs."""
        return Process.of(self.pid) == self

    def signal(self, number: signal.Signals) -> bool:
        """Signal this very process. False when it has ended. Raises LaunchRefused(host) without the right to."""
        try:
            handle = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return False
        try:
            if not self.alive:  # looked at while the handle holds the id
                return False
            signal.pidfd_send_signal(handle, number)
        except ProcessLookupError:
            return False
        except PermissionError:
            raise LaunchRefused("host", f"process {self.pid} belongs to another user: run this as root") from None
        finally:
            os.close(handle)
        return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What is kept of a running enclave. Nothing in it is secret, nothing of it is evidence."""

    name: str
    machine: str  # tdx or emulated
    shape: str  # its name
    image: str  # the manifest's name and version
    image_id: str  # hex
    config_sha384: str  # hex
    targets: list[str]  # host:port of every forwarded port
    vsock_cid: int | None
    started: int  # unix seconds, this host's clock
    launcher: Process
    machine_process: Process | None = None  # QEMU
    tpm_process: Process | None = None

    @property
    def processes(self) -> list[Process]:
        """Every process of it that still runs, the launcher first."""
        known = (self.launcher, self.machine_process, self.tpm_process)
        return [process for process in known if process is not None and process.alive]

    @property
    def state(self) -> str:
        """Give `starting`, `running`, `orphaned` (its launcher was killed) or `gone`."""
        if self.machine_process is not None and self.machine_process.alive:
            return "running" if self.launcher.alive else "orphaned"
        return "starting" if self.launcher.alive else "gone"

    def to_json(self) -> dict[str, object]:
        """Give the documented JSON object: processes by their ids, and the state."""
        row = asdict(self)
        for name in ("launcher", "machine_process", "tpm_process"):
            process = row.pop(name)
            row[f"{name.removesuffix('_process')}_pid"] = None if process is None else process["pid"]
        return {**row, "state": self.state}


class Records:
    """The folder of running enclaves."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def place(self, name: str) -> Path:
        """Give the folder of an enclave. Raises LaunchRefused(usage) for what is no name."""
        if not NAME.fullmatch(name):
            raise LaunchRefused("usage", f"a name is [a-z0-9][a-z0-9.-]*, at most 64 characters, not {name!r}")
        return self.folder / name

    def claim(self, record: Record) -> Path:
        """Make the folder of a new enclave; what a dead one left is cleared away.

        Raises LaunchRefused: running where the name is taken, usage where the folder is open to others or too deep.
        """
        place = self.place(record.name)
        if len(os.fsencode(place / "monitor")) > MAX_SOCKET_PATH:
            raise LaunchRefused("usage", f"{place}: too long for a socket's path; choose a shorter --run-dir")
        self._open()
        try:
            with self._alone():
                self._clear(record.name)
                place.mkdir(mode=0o700)
                self.write(record)
        except OSError as e:
            raise LaunchRefused("host", f"{place}: {e.strerror}") from None
        return place

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep other launches and stops waiting: who finds a dead record must be the one to replace it."""
        with (self.folder / LOCK).open("wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _open(self) -> None:
        """Make the folder of all, and require that nobody else may put anything there."""
        try:
            self.folder.mkdir(parents=True, mode=0o700, exist_ok=True)
            found = self.folder.stat()
        except OSError as e:
            raise LaunchRefused("host", f"{self.folder}: {e.strerror}") from None
        if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o022:
            raise LaunchRefused(
                "usage", f"{self.folder} must be writable by you alone: chmod 700 it, or choose --run-dir"
            )

    def _clear(self, name: str) -> None:
        record = self.read(name)
        if record is not None and record.processes:
            raise LaunchRefused("running", f"{name} is {record.state}: `sericin launch stop {name}`, or give --name")
        shutil.rmtree(self.place(name), ignore_errors=True)

    def write(self, record: Record) -> None:
        """Keep a record."""
        replace_file(self.place(record.name) / RECORD, json.dumps({"schema": _SCHEMA, **asdict(record)}).encode())

    def read(self, name: str) -> Record | None:
        """Give a record; None where there is none, or none that can be read."""
        try:
            with (self.place(name) / RECORD).open("rb") as file:
                row = json.loads(file.read(MAX_RECORD))
            if row.pop("schema") != _SCHEMA:
                return None
            for key in ("launcher", "machine_process", "tpm_process"):
                row[key] = None if row[key] is None else Process(**row[key])
            return Record(**row)
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return None

    def find(self, name: str) -> Record:
        """Give a record. Raises LaunchRefused(unknown)."""
        record = self.read(name)
        if record is None:
            known = ", ".join(record.name for record in self.all()) or "none"
            raise LaunchRefused("unknown", f"no enclave is called {name}; known: {known}")
        return record

    def all(self) -> list[Record]:
        """Give every record, by name."""
        try:
            names = sorted(entry.name for entry in self.folder.iterdir() if NAME.fullmatch(entry.name))
        except OSError as e:
            if e.errno == errno.ENOENT:
                return []
            raise LaunchRefused("host", f"{self.folder}: {e.strerror}") from None
        return [record for record in map(self.read, names) if record is not None]

    def remove(self, record: Record) -> None:
        """Forget an enclave: its record, its documents, its sockets. One that took its name since is not touched."""
        with self._alone():
            found = self.read(record.name)
            if found is None or found.launcher == record.launcher:
                shutil.rmtree(self.place(record.name), ignore_errors=True)


def replace_file(path: Path, data: bytes, *, sync: bool = True) -> None:
    """Write a file for its owner alone: beside its place, then renamed there."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
