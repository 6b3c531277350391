# SPDX-License-Identifier: Apache-2.0
"""A real model behind `sericin serve`: asked, audited by re-execution, and silent about what it was asked."""

from __future__ import annotations

import json
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.small_model import NAME, SHA256, small_model
from tests.test_serve_process import Process, run, serving

CANARY = "canary-90e4"
CONFIG: dict[str, Any] = {
    "engine": {"kind": "llama", "n_ctx": 512, "n_seq": 2, "n_ubatch": 128, "threads": 1},
    "models": [{"name": NAME, "sha256": SHA256.hex()}],
}


@pytest.fixture(scope="module")
def enclave(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    folder = tmp_path_factory.mktemp("enclave")
    (folder / f"{NAME}.gguf").symlink_to(small_model())
    with serving(folder, **CONFIG) as process:
        yield process


@pytest.fixture(scope="module")
def dossier(enclave: Process) -> Path:
    path = enclave.folder / "dossier"
    words = ("--max-tokens", "8", "--temperature", "0.8", "--dossier", path, "--policy", enclave.policy)
    asked = run("ask", enclave.target, f"Say {CANARY} and a colour.", *words, "--json", state=enclave.folder)
    assert asked.returncode == 0, asked.stderr
    path.with_suffix(".json").write_text(asked.stdout, encoding="utf-8")
    return path


def test_an_audit_re_executes_the_run(enclave: Process, dossier: Path) -> None:
    again = ("--policy", enclave.policy, "--replay", "--model", small_model())
    said = run("audit", dossier, *again, "--json")
    assert said.returncode == 0, said.stderr
    document = json.loads(said.stdout)
    assert document["replay"]["mode"] in {"bit-exact", "teacher-forced"}
    # A drawn answer may end before its eighth token.
    usage = json.loads(dossier.with_suffix(".json").read_text(encoding="utf-8"))["usage"]
    assert document["replay"]["tokens"] == usage["completion"] > 0
    assert all(link["holds"] for link in document["replay"]["links"])
    assert CANARY not in said.stdout + said.stderr


def test_without_the_model_nothing_is_recounted(enclave: Process, dossier: Path) -> None:
    said = run("audit", dossier, "--policy", enclave.policy, "--json")
    assert json.loads(said.stdout)["replay"] == "not recounted"
    for words in (("--replay",), ("--model", small_model())):
        assert run("audit", dossier, "--policy", enclave.policy, *words).returncode == 2


def test_another_model_file_is_refused(enclave: Process, dossier: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.gguf"
    shutil.copyfile(small_model(), other)
    with other.open("ab") as file:
        file.write(b"\0")
    ended = run("audit", dossier, "--policy", enclave.policy, "--replay", "--model", other)
    assert ended.returncode == 4
    assert "ReplayMismatch" in ended.stderr


def ask(enclave: Process, *words: str | Path) -> subprocess.CompletedProcess[str]:
    question = ("Name a colour.", "--max-tokens", "4", "--policy", enclave.policy)
    return run("ask", enclave.target, *question, *words, state=enclave.folder)


def of_the_name(folder: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make `model` the pulled one."""
    (folder / "models").mkdir()
    (folder / "models" / f"{NAME}.gguf").symlink_to(model)
    monkeypatch.setenv("SERICIN_CACHE", str(folder))


def test_ask_recounts_with_the_pulled_model(enclave: Process, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    of_the_name(tmp_path, small_model(), monkeypatch)
    said = ask(enclave, "--json")
    assert said.returncode == 0, said.stderr
    recount = json.loads(said.stdout)["recount"]
    assert (recount["mode"], recount["tokens"]) == ("recounted", 4)
    assert {"replay.prompt", "replay.choice.0.tokens", "replay.choice.0.text"} <= {r["rule"] for r in recount["links"]}
    assert all(link["holds"] for link in recount["links"])


def test_ask_without_the_model_says_so(enclave: Process, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_model()
    monkeypatch.setenv("SERICIN_CACHE", str(tmp_path))
    said = ask(enclave)
    assert (said.returncode, "links hold; not recounted" in said.stderr) == (0, True)
    named = ask(enclave, "--recount", model)
    assert (named.returncode, "links hold; token counts recounted" in named.stderr) == (0, True)
    missing = ask(enclave, "--recount", tmp_path / "none.gguf")
    assert (missing.returncode, missing.stdout) == (2, "")  # nothing was asked


def test_ask_refuses_a_named_file_of_another_model(
    enclave: Process, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other.gguf"
    other.write_bytes(b"GGUF")
    of_the_name(tmp_path, other, monkeypatch)
    assert "not recounted" in ask(enclave).stderr  # a pulled one may be what its owner wants it to be
    refused = ask(enclave, "--recount", other, "--dossier", tmp_path / "kept")
    assert (refused.returncode, "ReplayMismatch" in refused.stderr) == (4, True)
    assert (tmp_path / "kept").is_file()


def test_the_process_keeps_its_secrets(enclave: Process, dossier: Path) -> None:
    """No core file, no debugger, and no word of a prompt in log, metrics or any file but the client's own dossier."""
    proc = Path(f"/proc/{enclave.process.pid}")
    limits = {line[:26].strip(): line[26:].split()[0] for line in (proc / "limits").read_text().splitlines()[1:]}
    assert limits["Max core file size"] == "0"
    assert "CoreDumping:\t0" in (proc / "status").read_text()
    with urllib.request.urlopen(enclave.ready["targets"]["http"] + "/metrics", timeout=10) as answer:
        assert CANARY.encode() not in answer.read()
    for path in enclave.folder.rglob("*"):
        if path.is_file() and path not in {dossier, enclave.folder / f"{NAME}.gguf"}:
            assert CANARY.encode() not in path.read_bytes(), path
