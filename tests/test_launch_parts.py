# SPDX-License-Identifier: Apache-2.0
"""What a launch is made of: processes that are told apart, records, ways to end, a guest's words within bounds."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import Any, Self

import pytest
from click.testing import CliRunner

from enclave.commands.launch import command
from enclave.image.devices import HEALTH_VSOCK
from enclave.launch.ending import TERMINATE_SECONDS, Ending, Step
from enclave.launch.guest_health import MAX_LINE, HealthLines, keep, last
from enclave.launch.launching import stop
from enclave.launch.records import RECORD, Process, Record, Records
from enclave.launch.refusal import LaunchRefused
from enclave.launch.running import KEPT_LINE, KEPT_LINES, Tail
from tests.launch_cases import launch_record


class TestForeignProcesses:
    """No process is signalled that is not the very one that was started."""

    @pytest.fixture
    def bystander(self) -> Iterator[subprocess.Popen[bytes]]:
        process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        yield process
        process.kill()
        process.wait()

    @pytest.mark.parametrize("change", [{"start": 1}, {"boot": "another-boot"}])
    def test_an_id_that_was_given_away(
        self, tmp_path: Path, bystander: subprocess.Popen[bytes], change: dict[str, Any]
    ) -> None:
        process = Process.of(bystander.pid)
        assert process is not None
        assert process.alive
        old = launch_record(replace(process, **change))
        records = Records(tmp_path / "run")
        records.claim(launch_record(Process.this()))
        records.write(old)
        assert not old.launcher.signal(signal.SIGKILL)
        assert (old.state, stop(old, records, grace=0)) == ("gone", "gone")
        assert bystander.poll() is None
        assert records.all() == []

    def test_a_process_that_has_ended(self) -> None:
        process = subprocess.Popen([sys.executable, "-c", "pass"])
        found = Process.of(process.pid)
        process.wait()
        assert Process.of(process.pid) is None
        assert found is None or not found.signal(signal.SIGTERM)


class TestRecords:
    def test_many_launches_of_one_name_leave_one(self, tmp_path: Path) -> None:
        """Eight at once find the record of a dead one: one clears it away and has the name, seven are refused."""
        dead = Process(pid=os.getpid(), start=1, boot="long ago")
        records = Records(tmp_path / "run")
        records.claim(launch_record(dead))
        won: list[Path] = []
        lost: list[LaunchRefused] = []

        def take() -> None:
            try:
                won.append(records.claim(launch_record(Process.this())))
            except LaunchRefused as e:
                lost.append(e)

        threads = [threading.Thread(target=take) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (len(won), {e.code for e in lost}, len(lost)) == (1, {"running"}, 7)

    def test_forgetting_one_does_not_touch_the_next_of_its_name(self, tmp_path: Path) -> None:
        records = Records(tmp_path / "run")
        old = launch_record(Process(pid=os.getpid(), start=1, boot="long ago"))
        records.claim(launch_record(Process.this()))
        records.remove(old)
        assert records.find("old").launcher == Process.this()

    @pytest.mark.parametrize(
        "text", ["", "{", "[]", "{}", '{"schema":"sericin-launch/2"}', '{"schema":"sericin-launch/1","name":"x"}']
    )
    def test_a_record_that_cannot_be_read_is_none(self, tmp_path: Path, text: str) -> None:
        place = tmp_path / "run" / "x"
        place.mkdir(parents=True)
        (place / RECORD).write_text(text)
        records = Records(tmp_path / "run")
        assert records.all() == []
        with pytest.raises(LaunchRefused, match="no enclave is called x"):
            records.find("x")

    def test_other_things_in_the_folder_are_not_enclaves(self, tmp_path: Path) -> None:
        (tmp_path / "run" / "Not-One").mkdir(parents=True)
        (tmp_path / "run" / "file").write_text("x")
        assert Records(tmp_path / "run").all() == []
        assert Records(tmp_path / "none").all() == []


class TestEnding:
    def test_nobody_asked(self) -> None:
        assert Ending(5.0).due(asked=0, now=1e9) is None

    def test_each_deadline_goes_further(self) -> None:
        ending = Ending(5.0)
        assert ending.due(asked=1, now=100.0) is Step.POWER
        assert ending.due(asked=1, now=104.9) is None
        assert ending.due(asked=1, now=105.0) is Step.TERMINATE
        assert ending.due(asked=1, now=105.0 + TERMINATE_SECONDS) is Step.KILL
        assert ending.due(asked=9, now=inf) is None

    def test_each_request_goes_further(self) -> None:
        ending = Ending(600.0)
        assert [ending.due(asked=n, now=0.0) for n in (1, 2, 3)] == [Step.POWER, Step.TERMINATE, Step.KILL]

    def test_no_grace_no_button(self) -> None:
        assert Ending(0.0).due(asked=1, now=0.0) is Step.TERMINATE


class TestHealthOverVsock:
    """A machine with vsock is asked itself. This host may have none, so the socket is played."""

    @pytest.fixture
    def running(self, tmp_path: Path) -> tuple[Path, Record]:
        return tmp_path, replace(launch_record(Process.this()), vsock_cid=7)

    def play(self, monkeypatch: pytest.MonkeyPatch, parts: list[bytes]) -> list[object]:
        asked: list[object] = []

        class Played:
            def __init__(self, family: int, kind: int) -> None:
                asked.append((family, kind))

            def __enter__(self) -> Self:
                return self

            def __exit__(self, *_: object) -> None:
                asked.append("closed")

            def settimeout(self, seconds: float) -> None:
                assert 0 < seconds <= 10

            def connect(self, address: object) -> None:
                asked.append(address)

            def recv(self, size: int) -> bytes:
                return parts.pop(0)[:size] if parts else b""

        monkeypatch.setattr(socket, "socket", Played)
        return asked

    def test_it_is_asked(self, running: tuple[Path, Record], monkeypatch: pytest.MonkeyPatch) -> None:
        asked = self.play(monkeypatch, [b'{"stage":', b'"serving"}\n', b"never read"])
        assert last(*running) == {"at": None, "said": {"stage": "serving"}}
        assert asked == [(socket.AF_VSOCK, socket.SOCK_STREAM), (7, HEALTH_VSOCK), "closed"]

    @pytest.mark.parametrize("parts", [[], [b"x" * 4096] * 100, [b"[]\n"], [b"\n"], [b'{"a":1,"a":1}\n']])
    def test_nothing_that_can_be_read(
        self, running: tuple[Path, Record], monkeypatch: pytest.MonkeyPatch, parts: list[bytes]
    ) -> None:
        self.play(monkeypatch, parts)
        with pytest.raises(LaunchRefused, match="nothing that can be read"):
            last(*running)

    def test_nobody_there(self, running: tuple[Path, Record]) -> None:
        with pytest.raises(LaunchRefused, match="does not answer on vsock 7"):
            last(*running)


def test_a_guest_steers_no_terminal(tmp_path: Path) -> None:
    records = Records(tmp_path / "run")
    place = records.claim(launch_record(Process.this()))
    keep(place, {"stage": "\x1b[2Jserving\x07", "\x1b[31mkey": ["\x1b"]}, now=1)
    result = CliRunner().invoke(command, ["health", "old", "--run-dir", str(tmp_path / "run")])
    assert result.exit_code == 0
    assert "?[2Jserving?" in result.output
    assert "\x1b" not in result.output


class TestBounds:
    def test_health_lines(self) -> None:
        lines = HealthLines()
        assert lines.feed(b'{"a":1}\n{"a"') == [{"a": 1}]
        assert lines.feed(b':2}\n[1]\n"x"\nnull\n{"a":1,"a":2}\n\xff\n') == [{"a": 2}]
        assert lines.feed(b'{"a":"' + b"x" * MAX_LINE + b'"}\n{"b":1}\n') == [{"b": 1}]
        for _ in range(100):
            assert lines.feed(b"x" * 10_000) == []
        assert len(lines._pending) <= 64 * 1024
        assert lines.feed(b'\n{"c":1}\n') == [{"c": 1}]

    def test_the_tail_of_a_console(self) -> None:
        tail = Tail()
        for number in range(1000):
            tail.feed(f"line {number}\n".encode() + b"y" * 5000 + b"\n\n")
        kept = tail.lines()
        assert len(kept) <= KEPT_LINES
        assert kept[-2:] == ["line 999", "y" * KEPT_LINE]
        tail.feed(b"\x1b[2J\xffend")
        assert tail.lines()[-1] == "?[2J\ufffdend"
