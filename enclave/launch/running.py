# SPDX-License-Identifier: Apache-2.0
"""Run one machine from start to end: QEMU, the software TPM of an emulated one, its console and its health.

One thread, one loop. Whatever ends it (the guest, SIGTERM, Ctrl-C, an error) takes its processes with it.
"""

from __future__ import annotations

import os
import selectors
import signal
import socket
import subprocess
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from types import FrameType
from typing import Final

from .ending import TERMINATE_SECONDS, Ending, Step
from .guest_health import HealthLines, keep
from .line import Places
from .monitor import ask
from .records import Process, Record, Records
from .refusal import LaunchRefused

TICK: Final = 0.2  # seconds between two looks at processes and signals
TPM_SECONDS: Final = 30.0
PORTION: Final = 64 * 1024
KEPT_LINES: Final = 40  # of the console and of QEMU's own words, for the report of a failure
KEPT_LINE: Final = 512
Tell = Callable[[dict[str, object]], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How it ended: QEMU's status, and the signal that asked for it, if any."""

    status: int
    asked: signal.Signals | None


class Tail:
    """Keeps the last lines of a stream, each cut to a bound."""

    def __init__(self) -> None:
        self._lines: deque[bytes] = deque(maxlen=KEPT_LINES)
        self._rest = b""

    def feed(self, data: bytes) -> None:
        """Take the next bytes."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        self._rest = self._rest[:KEPT_LINE]
        self._lines.extend(line[:KEPT_LINE] for line in lines)

    def lines(self) -> list[str]:
        """Give what is kept, printable, blank lines left out."""
        kept = [line.decode("utf-8", "replace").strip() for line in (*self._lines, self._rest)]
        return ["".join(c if c.isprintable() else "?" for c in line) for line in kept if line]


class Running:
    """One launch. `console` takes what the guest prints, `tell` the events of docs/provider.md."""

    def __init__(
        self,
        record: Record,
        *,
        records: Records,
        places: Places,
        grace: float,
        console: Callable[[bytes], None],
        tell: Tell,
    ) -> None:
        self.printed, self.said = Tail(), Tail()
        self._record, self._records, self._places = record, records, places
        self._ending = Ending(grace)
        self._console, self._tell = console, tell
        self._asked: list[signal.Signals] = []
        self._health: socket.socket | None = None
        self._lines = HealthLines()
        self._heard: dict[str, object] = {}

    def run(self, words: Sequence[str]) -> Ended:
        """Start it, and stay until it has ended; signals are heard within `signals()`.

        Raises LaunchRefused(host) where it cannot start.
        """
        tpm = self._start_tpm() if self._record.machine == "emulated" else None
        try:
            if self._asked:
                return Ended(status=0, asked=self._asked[0])
            machine = _start(words)
            try:
                self._note(machine, tpm)
                status = self._stay(machine)
            finally:
                _end(machine)
        finally:
            if self._health is not None:
                self._health.close()
            if tpm is not None:
                _end(tpm)
        return Ended(status=status, asked=self._asked[0] if self._asked else None)

    @contextmanager
    def signals(self) -> Iterator[None]:
        """Take SIGTERM, SIGINT and SIGHUP as requests to end the machine, as long as this lasts."""

        def asked(number: int, _: FrameType | None) -> None:
            self._asked.append(signal.Signals(number))

        old = {number: signal.signal(number, asked) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
        try:
            yield
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)

    def _start_tpm(self) -> subprocess.Popen[bytes]:
        """Make a fresh software TPM whose one bank is SHA-384 and start it; it ends when QEMU hangs up."""
        folder = self._places.folder / "tpm-state"
        folder.mkdir(mode=0o700)
        setup = ["swtpm_setup", "--tpm2", "--tpmstate", str(folder), "--pcr-banks", "sha384", "--overwrite"]
        try:
            done = subprocess.run(
                setup,
                check=False,
                timeout=TPM_SECONDS,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                start_new_session=True,
            )
        except (OSError, subprocess.TimeoutExpired) as e:
            raise LaunchRefused("host", f"swtpm_setup: {e}; install swtpm and swtpm-tools") from None
        if done.returncode != 0:
            raise LaunchRefused("host", f"swtpm_setup ended with {done.returncode}: {done.stdout.strip()[-300:]}")
        control = f"type=unixio,path={self._places.tpm}"
        tpm = _start(["swtpm", "socket", "--tpm2", "--tpmstate", f"dir={folder}", "--ctrl", control, "--terminate"])
        end = time.monotonic() + TPM_SECONDS
        while not self._places.tpm.exists():
            if tpm.poll() is not None or time.monotonic() > end:
                _end(tpm)
                raise LaunchRefused("host", "swtpm did not start")
            time.sleep(0.02)
        return tpm

    def _note(self, machine: subprocess.Popen[bytes], tpm: subprocess.Popen[bytes] | None) -> None:
        """Keep the processes' names, and say that it has started."""
        self._record = replace(
            self._record,
            machine_process=Process.of(machine.pid),
            tpm_process=None if tpm is None else Process.of(tpm.pid),
        )
        self._records.write(self._record)
        self._tell({"event": "started", **self._record.to_json()})

    def _stay(self, machine: subprocess.Popen[bytes]) -> int:
        with selectors.DefaultSelector() as ready:
            for stream, take in ((machine.stdout, self._take_console), (machine.stderr, self.said.feed)):
                if stream is not None:
                    ready.register(stream, selectors.EVENT_READ, take)
            while ready.get_map() or machine.poll() is None:
                for key, _ in ready.select(TICK):
                    _read(ready, key)
                self._connect_health(ready)
                step = self._ending.due(asked=len(self._asked), now=time.monotonic())
                if step is not None:
                    self._take(step, machine)
            return machine.wait()

    def _take_console(self, data: bytes) -> None:
        self.printed.feed(data)
        self._console(data)

    def _connect_health(self, ready: selectors.BaseSelector) -> None:
        if self._health is not None or not self._places.health.exists():
            return
        door = socket.socket(socket.AF_UNIX)
        try:
            door.connect(str(self._places.health))
        except OSError:
            door.close()
            return
        self._health = door
        ready.register(door, selectors.EVENT_READ, self._take_health)

    def _take_health(self, data: bytes) -> None:
        for row in self._lines.feed(data):
            with suppress(OSError):  # a full disk ends no enclave
                keep(self._places.folder, row, now=int(time.time()))
            news = {key: value for key, value in row.items() if key != "uptime"}
            if news != self._heard:
                self._heard = news
                self._tell({"event": "health", "name": self._record.name, "said": row})

    def _take(self, step: Step, machine: subprocess.Popen[bytes]) -> None:
        self._tell({"event": "stopping", "name": self._record.name, "step": step.name.lower()})
        if step is Step.POWER:
            try:
                ask(self._places.monitor, "system_powerdown")
            except LaunchRefused:
                machine.terminate()
        elif step is Step.TERMINATE:
            machine.terminate()
        else:
            machine.kill()


def _start(words: Sequence[str]) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            list(words),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,  # Ctrl-C is ours to pass on
        )
    except OSError as e:
        raise LaunchRefused("host", f"{words[0]}: {e.strerror}; is it installed?") from None


def _read(ready: selectors.BaseSelector, key: selectors.SelectorKey) -> None:
    try:
        data = os.read(key.fd, PORTION)
    except OSError:
        data = b""
    if data:
        key.data(data)
    else:
        ready.unregister(key.fileobj)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Leave nothing behind: terminate what still runs, kill what does not listen, close its pipes."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(TERMINATE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    for stream in (process.stdout, process.stderr):
        if stream is not None:
            stream.close()
