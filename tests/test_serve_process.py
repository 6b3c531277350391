# SPDX-License-Identifier: Apache-2.0
"""`sericin serve` and `sericin ask` as processes: start, stop, kill, and what is left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from attestation.ledger import BATCH, RECEIPT, read_records
from tests.forged import MODEL, config_document
from tests.served import operator_document

SERICIN = str(Path(sys.executable).parent / "sericin")
CANARY = "canary-55d2"


class Process:
    """A `sericin serve` of its own."""

    def __init__(self, folder: Path, **config: Any) -> None:
        (folder / "config.json").write_bytes(config_document(**config))
        (folder / "operator.json").write_bytes(operator_document(folder))
        self.folder = folder
        with (folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    SERICIN,
                    "serve",
                    "--config",
                    str(folder / "config.json"),
                    "--operator",
                    str(folder / "operator.json"),
                ],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        stdout = self.process.stdout
        assert stdout is not None
        self.ready: dict[str, Any] = json.loads(stdout.readline())
        self.target = self.ready["targets"]["ra_tls"]
        self.policy = folder / "policy.json"
        if not self.policy.exists():
            run("policy", "init", "--simulator", folder / "state", "-o", self.policy)

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        code = self.process.wait(timeout=20)
        if self.process.stdout is not None:
            self.process.stdout.close()
        return code


def run(*arguments: object, state: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = os.environ | ({"SERICIN_STATE": str(state)} if state else {})
    words = [SERICIN, *[str(a) for a in arguments]]
    return subprocess.run(words, capture_output=True, text=True, check=False, timeout=60, env=environment)


@contextmanager
def serving(folder: Path, **config: Any) -> Iterator[Process]:
    process = Process(folder, **config)
    try:
        yield process
    finally:
        if process.process.poll() is None:
            process.end(signal.SIGKILL)
        elif process.process.stdout is not None:
            process.process.stdout.close()


def test_a_person_asks_and_audits(tmp_path: Path) -> None:
    with serving(tmp_path) as enclave:
        assert enclave.ready["notice"] == "SIMULATED - NOT CONFIDENTIAL"
        assert enclave.ready["models"] == [MODEL]
        policy = ("--policy", enclave.policy)
        assert run("verify", enclave.target, *policy).returncode == 0
        dossier = tmp_path / "d"
        asked = run("ask", enclave.target, f"say {CANARY}", *policy, "--dossier", dossier, state=tmp_path)
        assert asked.returncode == 0
        assert asked.stdout.strip() == f"say {CANARY}"
        assert "NOT CONFIDENTIAL" in asked.stderr
        assert run("receipt", "verify", dossier, *policy).returncode == 0
        assert run("audit", dossier, *policy).returncode == 0
        bad = dossier.read_bytes().replace(CANARY.encode(), CANARY.upper().encode())
        (tmp_path / "bent").write_bytes(bad)
        assert run("audit", tmp_path / "bent", *policy).returncode == 4
        assert enclave.end() == 0
    for path in tmp_path.rglob("*"):
        if path.is_file() and path.name not in {"d", "bent"}:
            assert CANARY.encode() not in path.read_bytes(), path


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_a_batch_and_no_process_is_left(tmp_path: Path, number: int) -> None:
    with serving(tmp_path) as enclave:
        run("ask", enclave.target, "once", "--policy", enclave.policy, state=tmp_path)
        assert enclave.end(number) == 0
    kinds = [kind for kind, _ in read_records((tmp_path / "ledger").read_bytes())]
    assert kinds[1:] == [RECEIPT, BATCH]
    assert not (tmp_path / "state").stat().st_mode & 0o077


def test_a_kill_in_the_middle_of_an_answer(tmp_path: Path) -> None:
    """The client says what it has is incomplete; the next boot begins at nothing and batches what was delivered."""
    with serving(tmp_path) as enclave:
        run("ask", enclave.target, "before", "--policy", enclave.policy, state=tmp_path)
        words = [SERICIN, "ask", enclave.target, "word " * 3000, "--policy", str(enclave.policy), "--max-tokens", "512"]
        environment = os.environ | {"SERICIN_STATE": str(tmp_path)}
        asking = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
        time.sleep(0.8)
        enclave.end(signal.SIGKILL)
        _, errors = asking.communicate(timeout=60)
        assert asking.returncode in {0, 4, 6}
        if asking.returncode == 4:
            assert "incomplete" in errors or "StreamTruncated" in errors
    with serving(tmp_path) as again:
        asked = run("ask", again.target, "after", "--policy", again.policy, "--json", state=tmp_path)
        assert json.loads(asked.stdout)["receipt"]["serial"] == 0
        again.end()
    records = read_records((tmp_path / "ledger").read_bytes())
    assert [kind for kind, _ in records].count(BATCH) == 1


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"machine": "tdx", "gpu": {"mode": "none", "count": 0}}, 6),
        ({"models": [{"name": MODEL, "sha256": "00" * 32}]}, 2),
        ({"schema": "sericin-config/2"}, 3),
        ({"limits": {}}, 3),
        ({"engine": {"kind": "llama", "n_ctx": 2048, "n_seq": 1, "n_ubatch": 64, "threads": 0}}, 2),
    ],
    ids=["no TDX here", "other weights", "another schema", "no limits", "no such model"],
)
def test_what_cannot_be_served_is_refused_at_once(tmp_path: Path, change: dict[str, Any], code: int) -> None:
    (tmp_path / "config.json").write_bytes(config_document(**change))
    (tmp_path / "operator.json").write_bytes(operator_document(tmp_path))
    ended = run("serve", "--config", tmp_path / "config.json", "--operator", tmp_path / "operator.json")
    assert ended.returncode == code, ended.stderr
    assert ended.stdout == ""
    assert "Traceback" not in ended.stderr


def test_two_enclaves_do_not_share_a_ledger(tmp_path: Path) -> None:
    with serving(tmp_path):
        ended = run("serve", "--config", tmp_path / "config.json", "--operator", tmp_path / "operator.json")
        assert ended.returncode == 6
        assert "another process" in ended.stderr
