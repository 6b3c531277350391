# SPDX-License-Identifier: Apache-2.0
"""Who installs no extra: asks, runs a proxy, audits and lists models; and is told what anything else would need."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.forged import config_document
from tests.served import operator_document
from tests.small_model import NAME, SHA256
from tests.test_serve_process import Process, post, serving

# What only an extra brings (pyproject.toml). A name that is None in sys.modules cannot be imported.
BARE = """
import sys
sys.modules.update(dict.fromkeys(["llama_cpp", "numpy", "jinja2", "pynvml", "httpx", "openai", "gguf"]))
from client.__main__ import main
main()
"""


def words(*arguments: object) -> list[str]:
    return [sys.executable, "-c", BARE, *map(str, arguments)]


def bare(*arguments: object, state: Path) -> subprocess.CompletedProcess[str]:
    environment = {"SERICIN_STATE": str(state), "SERICIN_CACHE": str(state), "PATH": ""}
    return subprocess.run(
        words(*arguments), capture_output=True, text=True, check=False, timeout=60, env=environment, cwd=state
    )


@pytest.fixture(scope="module")
def enclave(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    with serving(tmp_path_factory.mktemp("enclave")) as process:
        yield process


def test_a_question_is_asked_audited_and_not_recounted(enclave: Process, tmp_path: Path) -> None:
    policy = ("--policy", enclave.policy)
    dossier = tmp_path / "d"
    asked = bare("ask", enclave.target, "three plain words", *policy, "--dossier", dossier, state=tmp_path)
    assert (asked.returncode, asked.stdout.strip()) == (0, "three plain words"), asked.stderr
    assert "not recounted" in asked.stderr
    assert bare("verify", enclave.target, *policy, state=tmp_path).returncode == 0
    audited = bare("audit", dossier, *policy, "--json", state=tmp_path)
    assert (audited.returncode, json.loads(audited.stdout)["replay"]) == (0, "not recounted")


def test_a_proxy_answers(enclave: Process, tmp_path: Path) -> None:
    proxy = words("proxy", enclave.target, "--policy", enclave.policy, "--listen", "127.0.0.1:0", "--json")
    with subprocess.Popen(
        proxy, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={"SERICIN_STATE": str(tmp_path)}
    ) as process:
        try:
            assert process.stdout is not None
            lines = list[str]()
            while not lines or lines[-1].rstrip() != "}":
                lines.append(process.stdout.readline())
                assert lines[-1], process.stderr and process.stderr.read()
            url = json.loads("".join(lines))["url"].removesuffix("/v1")
            answer = post(url, {"model": "echo", "messages": [{"role": "user", "content": "said by a proxy"}]})
            assert answer["choices"][0]["message"]["content"] == "said by a proxy"
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=20) == 0
        finally:
            process.kill()


def test_models_are_listed(tmp_path: Path) -> None:
    listed = bare("model", "list", "--json", state=tmp_path)
    assert NAME in [model["name"] for model in json.loads(listed.stdout)["models"]]


@pytest.mark.parametrize(
    ("arguments", "extra"),
    [
        (("serve", "--config", "config.json", "--operator", "operator.json"), "sericin[enclave]"),
        (("model", "replay", "config.json"), "sericin[replay]"),
        (("ask", "http://127.0.0.1:9", "x", "--policy", "policy.json", "--recount", "config.json"), "sericin[replay]"),
    ],
)
def test_what_needs_an_extra_names_it(enclave: Process, tmp_path: Path, arguments: tuple[str, ...], extra: str) -> None:
    engine = {"kind": "llama", "n_ctx": 512, "n_seq": 1, "n_ubatch": 128, "threads": 1}
    models = [{"name": NAME, "sha256": SHA256.hex()}]
    (tmp_path / "config.json").write_bytes(config_document(engine=engine, models=models))
    (tmp_path / "operator.json").write_bytes(operator_document(tmp_path))
    (tmp_path / "policy.json").write_bytes(enclave.policy.read_bytes())
    ended = bare(*arguments, state=tmp_path)
    assert (ended.returncode, extra in ended.stderr) == (2, True), ended.stderr
    assert "Traceback" not in ended.stderr
