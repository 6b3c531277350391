# SPDX-License-Identifier: Apache-2.0
"""Running enclaves: listed, asked, stopped within a bound, and nothing of them left behind however they end."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from attestation.shape import Shape
from enclave.commands.launch import command
from enclave.launch.launching import Options, launch
from enclave.launch.plan import make_plan
from enclave.launch.records import RECORD, Process, Record, Records
from tests.image_forms import SHAPE, bent
from tests.launch_cases import EMULATED, Launchable, launchable

SECONDS = 30.0  # how long any one step may take on a busy machine
PLAYED = bent(SHAPE, "host/forward", [])
PLAYED = bent(bent(PLAYED, "devices", PLAYED["devices"][:9]), "host/vsock_cid", None)


class Started:
    """One `sericin launch run` in a process of its own."""

    def __init__(self, folder: Path, words: list[str], *, play: str = "good") -> None:
        self.env = {
            **os.environ,
            "SERICIN_RUN": str(folder / "run"),
            "SERICIN_CACHE": str(folder / "cache"),
            "XDG_DATA_HOME": str(folder / "data"),
            "PLAY": play,
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "client", "launch", "run", *words],
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.seen: list[dict[str, Any]] = []

    def event(self, name: str) -> dict[str, Any]:
        """Wait for an event."""
        if self.process.stdout is None:
            raise TypeError("no output")
        for line in self.process.stdout:
            self.seen.append(json.loads(line))
            if self.seen[-1]["event"] == name:
                return self.seen[-1]
        raise AssertionError(f"it ended without {name}: {self.process.stderr.read() if self.process.stderr else ''}")

    def ended(self) -> tuple[int, str]:
        """Wait for its end; give the exit code and what it said."""
        out, err = self.process.communicate(timeout=SECONDS)
        self.seen += [json.loads(line) for line in out.splitlines()]
        return self.process.returncode, err


@pytest.fixture
def program(tmp_path: Path) -> Path:
    place = tmp_path / "qemu"
    place.write_text(f'#!/bin/sh\nexec {sys.executable} {Path(__file__).with_name("launch_machine.py")} "$@"\n')
    place.chmod(0o755)
    return place


@pytest.fixture
def case(tmp_path: Path) -> Launchable:
    return launchable(tmp_path / "case", shapes=[PLAYED])


@pytest.fixture
def begin(tmp_path: Path, program: Path, case: Launchable) -> Iterator[Any]:
    """Start machines, and end what a failed test leaves."""
    all_of_them: list[Started] = []

    def start(*more: str, play: str = "good") -> Started:
        started = Started(tmp_path, [*case.words(PLAYED), "--qemu", str(program), *more], play=play)
        all_of_them.append(started)
        return started

    yield start
    for started in all_of_them:
        if started.process.poll() is None:
            started.process.kill()
        for row in started.seen:
            if row["event"] == "started" and Path(f"/proc/{row['machine_pid']}/cmdline").exists():
                found = Path(f"/proc/{row['machine_pid']}/cmdline").read_bytes()
                if b"launch_machine" in found:
                    os.kill(row["machine_pid"], signal.SIGKILL)
        started.process.communicate()


def said(tmp_path: Path, *words: str) -> tuple[int, Any]:
    """Run a launch command in this process; give exit code and document."""
    result = CliRunner().invoke(command, [*words, "--run-dir", str(tmp_path / "run"), "--json"])
    return result.exit_code, json.loads(result.stdout)


def nothing_left(tmp_path: Path, row: dict[str, Any]) -> None:
    assert not list((tmp_path / "run").glob("[!.]*"))
    for pid in (row["machine_pid"], row["tpm_pid"]):
        assert pid is None or Process.of(pid) is None


def test_from_start_to_stop(tmp_path: Path, begin: Any) -> None:
    started = begin("--console", str(tmp_path / "console"))
    row = started.event("started")
    assert {row["name"], row["state"], row["machine"]} == {"cpu-4", "running", "tdx"}
    first, second = started.event("health"), started.event("health")
    assert (first["said"], second["said"]) == (
        {"stage": "loading", "uptime": 1},
        {"stage": "serving", "uptime": 2},
    ), "a change is told once, what is no health line never"

    place = tmp_path / "run" / "cpu-4"
    assert stat.S_IMODE((tmp_path / "run").stat().st_mode) == 0o700
    assert stat.S_IMODE(place.stat().st_mode) == 0o700
    for name in (RECORD, "config.img", "operator.img", "manifest.img", "health.json"):
        assert stat.S_IMODE((place / name).stat().st_mode) == 0o600
    config = (tmp_path / "case" / "config.json").read_bytes()
    disk = (place / "config.img").read_bytes()
    assert disk == config.ljust(len(disk), b"\0")
    assert len(disk) % 512 == 0
    ledger = tmp_path / "data" / "sericin" / "cpu-4" / "ledger.img"
    assert stat.S_IMODE(ledger.stat().st_mode) == 0o600

    code, listed = said(tmp_path, "ps")
    assert (code, [e["name"] for e in listed["enclaves"]]) == (0, ["cpu-4"])
    assert listed["enclaves"][0]["machine_pid"] == row["machine_pid"]
    code, health = said(tmp_path, "health", "cpu-4")
    assert (code, health["said"]["stage"]) == (0, "serving")
    assert abs(health["at"] - time.time()) < SECONDS

    code, how = said(tmp_path, "stop", "cpu-4")
    assert (code, how["how"]) == (0, "stopped")
    assert started.ended() == (0, "")
    assert [r["step"] for r in started.seen if r["event"] == "stopping"] == ["power"]
    nothing_left(tmp_path, row)
    assert ledger.exists(), "receipts outlive the machine"
    assert (tmp_path / "console").read_bytes() == b"\x1b[31mhello\x1b[0m from the guest\npower button\n"
    assert said(tmp_path, "health", "cpu-4")[0] == 2
    assert said(tmp_path, "stop", "cpu-4")[0] == 2


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0), (signal.SIGHUP, 0)])
def test_a_signal_leaves_nothing_behind(tmp_path: Path, begin: Any, number: signal.Signals, code: int) -> None:
    started = begin()
    row = started.event("started")
    started.process.send_signal(number)
    assert started.ended()[0] == code
    nothing_left(tmp_path, row)


def test_a_reader_that_goes_away_ends_no_enclave(tmp_path: Path, begin: Any) -> None:
    started = begin()
    row = started.event("started")
    started.process.stdout.close()
    until = time.monotonic() + SECONDS
    while said(tmp_path, "health", "cpu-4")[0]:
        assert time.monotonic() < until
    assert said(tmp_path, "ps")[1]["enclaves"][0]["state"] == "running"
    assert said(tmp_path, "stop", "cpu-4")[1]["how"] == "stopped"
    nothing_left(tmp_path, row)


def test_a_signal_before_the_start_starts_nothing(tmp_path: Path, case: Launchable, program: Path) -> None:
    shape = Shape.parse(json.dumps(PLAYED).encode())
    plan = make_plan(
        shape=shape, image=case.image, config=case.config, operator=case.operator, state=None, models=[case.model],
        emulate=False, disks=tmp_path / "disks", write=True, progress=lambda *_: None,
    )  # fmt: skip
    records = Records(tmp_path / "run")

    class Interrupted(Records):
        def claim(self, record: Record) -> Path:
            os.kill(os.getpid(), signal.SIGTERM)
            return super().claim(record)

    told: list[dict[str, object]] = []
    options = Options(program=str(program), ledger=tmp_path / "ledger", grace=1.0)
    ended, words = launch(plan, options, Interrupted(records.folder), console=lambda _: None, tell=told.append)
    assert (ended.asked, words, told) == (signal.SIGTERM, [], [])
    assert records.all() == []
    assert not list(records.folder.glob("[!.]*"))


@pytest.mark.parametrize(
    ("play", "grace", "steps"),
    [
        ("deaf", "0.3", ["power", "terminate"]),
        ("deaf", "0", ["terminate"]),
    ],
)
def test_a_guest_that_does_not_hear(tmp_path: Path, begin: Any, play: str, grace: str, steps: list[str]) -> None:
    started = begin("--grace", grace, play=play)
    row = started.event("started")
    started.event("health")
    started.process.send_signal(signal.SIGTERM)
    assert started.ended()[0] == 0
    assert [r["step"] for r in started.seen if r["event"] == "stopping"] == steps
    nothing_left(tmp_path, row)


def test_impatience_goes_a_step_further_each_time(tmp_path: Path, begin: Any) -> None:
    started = begin("--grace", "600", play="stubborn")
    row = started.event("started")
    started.event("health")
    for step in ("power", "terminate", "kill"):
        started.process.send_signal(signal.SIGINT)
        assert started.event("stopping")["step"] == step
    assert started.ended()[0] == 130
    nothing_left(tmp_path, row)


def test_a_machine_that_ends_by_itself_says_its_last_words(tmp_path: Path, begin: Any) -> None:
    started = begin(play="dies")
    row = started.event("started")
    code, err = started.ended()
    assert code == 6
    assert "Kernel panic - not syncing: verity" in err
    assert "played: something is missing" in err
    assert "QEMU's status is 3" in err
    assert "sericin doctor --shape" in err
    assert "\x1b" not in err, "a guest steers no terminal"
    nothing_left(tmp_path, row)


def test_a_name_is_taken_once(tmp_path: Path, begin: Any) -> None:
    started = begin()
    started.event("started")
    again = begin()
    code, err = again.ended()
    assert (code, "cpu-4 is running" in err) == (2, True)
    other = begin("--name", "second", "--ledger", str(tmp_path / "second.img"))
    other.event("started")
    assert [e["name"] for e in said(tmp_path, "ps")[1]["enclaves"]] == ["cpu-4", "second"]
    for name in ("second", "cpu-4"):
        assert said(tmp_path, "stop", name)[0] == 0
    assert said(tmp_path, "ps")[1]["enclaves"] == []


def test_an_orphan_is_stopped_and_its_name_is_free_again(tmp_path: Path, begin: Any) -> None:
    started = begin(play="deaf")
    row = started.event("started")
    started.event("health")
    started.process.kill()
    started.process.wait()
    assert said(tmp_path, "ps")[1]["enclaves"][0]["state"] == "orphaned"
    assert "cpu-4 is orphaned" in begin().ended()[1]
    assert said(tmp_path, "stop", "cpu-4")[1]["how"] == "killed"
    nothing_left(tmp_path, row)
    again = begin()
    again.event("started")
    assert said(tmp_path, "stop", "cpu-4")[1]["how"] == "stopped"


def test_what_a_dead_launch_left_is_cleared_away(tmp_path: Path, begin: Any) -> None:
    started = begin()
    row = started.event("started")
    started.event("health")
    started.process.kill()
    started.process.wait()
    os.kill(row["machine_pid"], signal.SIGKILL)
    until = time.monotonic() + SECONDS
    while said(tmp_path, "ps")[1]["enclaves"][0]["state"] != "gone":
        assert time.monotonic() < until
    assert said(tmp_path, "health", "cpu-4")[0] == 6
    again = begin()
    again.event("started")
    assert said(tmp_path, "stop", "cpu-4")[1]["how"] == "stopped"


@pytest.mark.parametrize("mode", [0o775, 0o757, 0o1777])
def test_a_folder_that_others_may_write_is_refused(tmp_path: Path, begin: Any, mode: int) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run").chmod(mode)
    code, err = begin().ended()
    assert (code, "chmod 700" in err) == (2, True)
    assert not list((tmp_path / "run").glob("[!.]*"))


def test_a_folder_too_deep_for_a_socket_is_refused(tmp_path: Path, begin: Any) -> None:
    code, err = begin("--run-dir", str(tmp_path / ("x" * 100))).ended()
    assert (code, "too long for a socket" in err) == (2, True)


needs_emulation = pytest.mark.skipif(
    not all(map(shutil.which, ("qemu-system-x86_64", "swtpm", "swtpm_setup"))),
    reason="no qemu-system-x86_64, swtpm and swtpm_setup",
)


@needs_emulation
def test_a_real_machine_in_software(tmp_path: Path) -> None:
    """Real QEMU and a real software TPM: the machine comes up, halts at its first instruction, and is stopped."""
    case = launchable(tmp_path / "case", machine="simulated")
    started = Started(tmp_path, [*case.words(EMULATED, "--emulate"), "--grace", "0.2"])
    row = started.event("started")
    assert (tmp_path / "run" / "trial" / "tpm-state" / "tpm2-00.permall").exists()
    words = Path(f"/proc/{row['machine_pid']}/cmdline").read_bytes().split(b"\0")
    assert b"tpm-crb" in b" ".join(words)
    assert said(tmp_path, "ps")[1]["enclaves"][0]["state"] == "running"
    assert said(tmp_path, "health", "trial")[0] == 6, "it has said nothing"
    assert said(tmp_path, "stop", "trial")[1]["how"] == "stopped"
    code, err = started.ended()
    assert (code, "NOT CONFIDENTIAL" in err) == (0, True)
    nothing_left(tmp_path, row)


@needs_emulation
def test_a_tpm_whose_machine_never_called_goes_too(tmp_path: Path, program: Path) -> None:
    case = launchable(tmp_path / "case", machine="simulated")
    started = Started(tmp_path, [*case.words(EMULATED, "--emulate"), "--qemu", str(program)], play="dies")
    row = started.event("started")
    assert row["tpm_pid"] is not None
    assert started.ended()[0] == 6
    nothing_left(tmp_path, row)
