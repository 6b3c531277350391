# SPDX-License-Identifier: Apache-2.0
"""The TON in a box as people start it, and what happens when its virtual machine is missing, crashes or hangs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from attestation.ton.boc import write_boc
from attestation.ton.slices import Builder
from client.__main__ import cli
from enclave.simulator import ton_machine
from enclave.simulator.ton_machine import MachineFailed, MachineMissing, TonMachine
from tests.ton_in_box import REGISTRY, in_box, needs_tonpy

ROOT = Path(__file__).parent.parent
IMAGE, MODEL = "ab" * 32, "cd" * 32
EMPTY = write_boc(Builder().cell())


@needs_tonpy
def test_the_script_starts_a_registry_that_a_client_can_read(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "scripts" / "ton-box"), str(tmp_path / "ton"), "--image", IMAGE]
    command += ["--model", MODEL, "--ledger", str(tmp_path / "ledger"), "--minutes", "2"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as box:
        assert box.stdout is not None
        ready = json.loads(box.stdout.readline())
        assert (ready["event"], "SIMULATED" in ready["notice"]) == ("ready", True)
        network = tmp_path / "ton" / "network.json"
        assert (network.parent / "wallet.json").stat().st_mode & 0o777 == 0o600
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("SERICIN_STATE", str(tmp_path / "state"))
            shown = CliRunner().invoke(cli, ["registry", "show", "--network", str(network), "--json"])
        box.send_signal(signal.SIGTERM)
        assert box.wait(timeout=20) == 0
    assert shown.exit_code == 0, shown.output
    found = json.loads(shown.stdout)
    assert (list(found["images"]), list(found["models"]), found["registry"]) == ([IMAGE], [MODEL], ready["registry"])


def test_a_missing_machine_is_said_to_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(MachineMissing, match=r"sericin\[tvm\]"):
        TonMachine()


@needs_tonpy
def test_a_machine_that_crashes_or_hangs_ends_in_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in (signal.SIGKILL, signal.SIGSTOP):
        with TonMachine() as machine, in_box(tmp_path, machine) as ton, monkeypatch.context() as patch:
            patch.setattr(ton_machine, "ANSWER_SECONDS", 0.5)
            os.kill(machine._process.pid, number)
            with pytest.raises(MachineFailed):
                ton.do(lambda: ton.box.send(b"\x02" * 32, REGISTRY, EMPTY, value=1))
