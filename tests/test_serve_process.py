# SPDX-License-Identifier: Apache-2.0
"""`sericin serve` and `sericin ask` as processes: start, stop, kill, and what is left behind."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from attestation.ledger import BATCH, RECEIPT, ReceiptRecord, StatementRecord, read_records
from client.exchange import SEALED_PATH
from tests.forged import MODEL, config_document, policy_document
from tests.relay import relayed
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


LONG: dict[str, Any] = {
    "engine": {"kind": "echo", "n_ctx": 1 << 17, "n_seq": 1, "n_ubatch": 512, "threads": 0},
    "limits": {"max_request_bytes": 1 << 20, "max_completion_tokens": 1 << 17, "queue_length": 8},
}


@contextmanager
def asking(enclave: Process, *more: object) -> Iterator[subprocess.Popen[bytes]]:
    """Ask what takes many seconds to answer; come back with the answer's first byte."""
    words = [SERICIN, "ask", enclave.target, "-", "--policy", enclave.policy, "--max-tokens", 1 << 17, *more]
    environment = os.environ | {"SERICIN_STATE": str(enclave.folder)}
    process = subprocess.Popen(
        [str(word) for word in words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
    )
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"word " * 100_000)
        process.stdin.close()
        process.stdin = None
        assert process.stdout.read(1) == b"w"
        yield process
    finally:
        if process.poll() is None:
            process.kill()
            process.wait(timeout=20)
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()


def ledger(folder: Path) -> list[tuple[str, bytes]]:
    return [(str(kind), body) for kind, body in read_records((folder / "ledger").read_bytes())]


def test_a_kill_in_the_middle_of_an_answer(tmp_path: Path) -> None:
    """The client says what it has is incomplete; the next boot begins at nothing and batches what was delivered."""
    with serving(tmp_path, **LONG) as enclave:
        run("ask", enclave.target, "before", "--policy", enclave.policy, "--dossier", tmp_path / "d", state=tmp_path)
        with asking(enclave, "--dossier", tmp_path / "never") as process:
            enclave.end(signal.SIGKILL)
            _, errors = process.communicate(timeout=60)
            assert process.returncode == 4
            assert b"[incomplete: what stands above was cut or is false]" in errors
            assert b"StreamTruncated" in errors
    assert not list(tmp_path.glob("*never*"))
    delivered = [ReceiptRecord.decode(body) for kind, body in ledger(tmp_path) if kind == RECEIPT]
    assert len(delivered) == 1  # the killed run never came to one
    with serving(tmp_path, **LONG) as again:
        dossier = tmp_path / "after"
        run("ask", again.target, "after", "--policy", again.policy, "--dossier", dossier, state=tmp_path)
        shown = json.loads(run("receipt", "show", dossier, "--json").stdout)["receipt"]
        assert (shown["serial"], shown["previous"]) == (0, "00" * 32)
        assert run("receipt", "verify", tmp_path / "d", "--policy", again.policy).returncode == 0
        assert again.end() == 0
    (batch,) = [StatementRecord.decode(body) for kind, body in ledger(tmp_path) if kind == BATCH]
    assert batch.recovered == ((delivered[0].key, delivered[0].serial),)


def test_a_kill_before_the_first_frame_leaves_the_outcome_unknown(tmp_path: Path) -> None:
    with serving(tmp_path) as enclave:

        def kill(path: str, data: bytes) -> tuple[int, bytes]:
            if path == SEALED_PATH:
                enclave.process.kill()
                enclave.process.wait(timeout=20)
                return 200, b""
            return 200, data

        with relayed(enclave.ready["targets"]["http"], kill) as relay:
            asked = run("ask", relay.target, f"say {CANARY}", "--policy", enclave.policy, "--json", state=tmp_path)
            assert asked.returncode == 6
            assert json.loads(asked.stdout)["code"] == "RunOutcomeUnknown"
            assert CANARY not in asked.stdout + asked.stderr
            assert relay.paths.count(SEALED_PATH) == 1


def test_ctrl_c_in_the_middle_of_an_answer(tmp_path: Path) -> None:
    """Exit 130, no file half written, nobody's run goes on."""
    with serving(tmp_path, **LONG) as enclave:
        with asking(enclave, "--dossier", tmp_path / "never") as process:
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=20)
            assert process.returncode == 130
            assert b"Traceback" not in errors
        assert not list(tmp_path.glob("*never*"))
        asked = run("ask", enclave.target, "next", "--policy", enclave.policy, "--json", state=tmp_path)
        assert json.loads(asked.stdout)["receipt"]["serial"] == 1  # the run that was left has an aborted receipt
        assert enclave.end() == 0
    assert [kind for kind, _ in ledger(tmp_path)].count(RECEIPT) == 2


def test_ctrl_c_while_a_server_is_silent(tmp_path: Path) -> None:
    (tmp_path / "policy.json").write_bytes(json.dumps(policy_document()).encode())
    with socket.create_server(("127.0.0.1", 0)) as silent:
        target = f"http://127.0.0.1:{silent.getsockname()[1]}"
        words = [SERICIN, "verify", target, "--policy", str(tmp_path / "policy.json")]
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        peer, _ = silent.accept()
        process.send_signal(signal.SIGINT)
        out, errors = process.communicate(timeout=20)
        peer.close()
    assert process.returncode == 130
    assert (out, b"Traceback" in errors) == (b"", False)


def test_a_proxy_says_what_it_is_serves_and_stops(tmp_path: Path) -> None:
    with serving(tmp_path) as enclave:
        words = [SERICIN, "proxy", enclave.target, "--policy", str(enclave.policy), "--listen", "127.0.0.1:0"]
        environment = os.environ | {"SERICIN_STATE": str(tmp_path)}
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
        try:
            assert process.stderr is not None
            url = re.search(r"listening on (http://127\.0\.0\.1:\d+)/v1", process.stderr.readline())
            assert url is not None
            assert "NOT CONFIDENTIAL" in process.stderr.readline()
            question = {"model": MODEL, "messages": [{"role": "user", "content": f"say {CANARY}"}]}
            answer = post(url[1], question)
            assert answer["choices"][0]["message"]["content"] == f"say {CANARY}"
            taken = url[1].rsplit(":", 1)[1]
            ended = run("proxy", enclave.target, "--policy", enclave.policy, "--listen", f"127.0.0.1:{taken}", "--json")
            assert (ended.returncode, json.loads(ended.stdout)["code"]) == (2, "Usage")
            process.send_signal(signal.SIGINT)
            out, errors = process.communicate(timeout=20)
        finally:
            process.kill()
        assert process.returncode == 0
        assert CANARY not in out + errors
        assert "Traceback" not in errors
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or CANARY.encode() not in path.read_bytes(), path


def post(url: str, question: dict[str, Any]) -> Any:
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=20)
    connection.request("POST", "/v1/chat/completions", json.dumps(question))
    with connection.getresponse() as response:
        found = json.loads(response.read())
    connection.close()
    return found


@pytest.mark.parametrize(
    "listen", ["0.0.0.0:10000", "10.0.0.1:1", "127.0.0.1", "localhost:99999", "evil.example:80", ""]
)
def test_a_proxy_listens_on_loopback_alone(tmp_path: Path, listen: str) -> None:
    (tmp_path / "policy.json").write_bytes(json.dumps(policy_document()).encode())
    ended = run("proxy", "http://127.0.0.1:9", "--policy", tmp_path / "policy.json", "--listen", listen)
    assert ended.returncode == 2
    assert "loopback" in ended.stderr


def test_a_dossier_that_cannot_be_written_is_said_before_anything_is_asked(tmp_path: Path) -> None:
    (tmp_path / "policy.json").write_bytes(json.dumps(policy_document()).encode())
    where = tmp_path / "no such folder" / "d"
    ended = run("ask", "http://127.0.0.1:9", "x", "--policy", tmp_path / "policy.json", "--dossier", where)
    assert ended.returncode == 2
    assert "directory" in ended.stderr


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
