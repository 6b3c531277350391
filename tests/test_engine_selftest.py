# SPDX-License-Identifier: Apache-2.0
"""A model that computes something else than it is known to must not run, and a class is claimed only where measured."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from attestation.boot import ModelRecord
from enclave.engine.library import ModelConfig, Weights
from enclave.engine.llama import LlamaEngine
from enclave.engine.measuring import instruction_set
from enclave.engine.native import start
from enclave.engine.selftest import EXACT, UNKNOWN, KnownAnswer, Measured, judge, known_answers, measure
from enclave.models.refusal import ModelRefused
from tests.engine_rig import CLOCK, shared_engine, small_config
from tests.small_model import SHA256, small_model

CONFIG = ModelConfig(name="m", path=Path("m.gguf"), sha256=b"w" * 32)
MEASURED = Measured(isa="CPU AVX2", tokens=(1, 2, 3), digest=b"d" * 32, together=True)
KNOWN = KnownAnswer(
    weights=b"w" * 32, release="0.3.36", isa="CPU AVX2", flash=1, type_k="f16", type_v="f16", tokens=(1, 2, 3),
    digest=b"d" * 32, determinism=EXACT,
)  # fmt: skip


def test_the_known_answer_gives_its_class() -> None:
    assert judge(MEASURED, CONFIG, (KNOWN,)) == EXACT


@pytest.mark.parametrize(
    "known",
    [
        (),
        (replace(KNOWN, weights=b"x" * 32, tokens=(9,)),),
        (replace(KNOWN, release="0.3.35", tokens=(9,)),),
        (replace(KNOWN, isa="CPU AVX512"),),
        (replace(KNOWN, flash=0, tokens=(9,)),),
        (replace(KNOWN, type_k="q8_0", tokens=(9,)),),
        (replace(KNOWN, type_v="q8_0", tokens=(9,)),),
        (replace(KNOWN, digest=b"e" * 32),),
        (replace(KNOWN, determinism=UNKNOWN),),
    ],
    ids="nothing weights release isa flash type_k type_v bits class".split(),
)
def test_without_its_known_answer_a_model_is_of_no_class(known: tuple[KnownAnswer, ...]) -> None:
    assert judge(MEASURED, CONFIG, known) == UNKNOWN


@pytest.mark.parametrize(
    ("measured", "known"),
    [
        (replace(MEASURED, tokens=(1, 2, 4)), KNOWN),
        (replace(MEASURED, tokens=(1, 2, 4)), replace(KNOWN, isa="CPU AVX512")),
        (replace(MEASURED, together=False), KNOWN),
    ],
    ids=["other tokens", "other tokens on another machine", "others change its numbers"],
)
def test_a_model_that_computes_something_else_must_not_run(measured: Measured, known: KnownAnswer) -> None:
    with pytest.raises(ModelRefused) as refused:
        judge(measured, CONFIG, (known,))
    assert refused.value.code == "model_selftest"


def test_the_build_never_takes_amx_and_its_peer_is_built_the_same_way() -> None:
    """With gcc 12 that code crashes at its first decode, on every CPU that can run TDX."""
    scripts = Path(__file__).parent.parent / "scripts"
    words = [str(scripts / "build-llama"), "--flags"]
    flags = subprocess.run(words, capture_output=True, text=True, check=True, timeout=20).stdout.split()
    assert "-DGGML_NATIVE=OFF" in flags
    assert not [flag for flag in flags if "AMX" in flag]
    start()
    assert "AMX" not in instruction_set()
    assert "$(scripts/build-llama --flags)" in (scripts / "build-llama-peer").read_text()


def test_the_committed_answers_are_for_models_of_the_catalogue() -> None:
    assert {answer.weights for answer in known_answers()} == {SHA256}
    assert len({answer.isa for answer in known_answers()}) == len(known_answers()) >= 2


def test_the_record_says_what_was_measured() -> None:
    (raw,) = shared_engine().model_records()
    record = ModelRecord.decode(raw)
    assert record.selftest != bytes(32)
    here = [answer for answer in known_answers() if answer.isa == instruction_set()]
    found = [answer.determinism for answer in here if answer.digest == record.selftest]
    assert record.determinism == (found[0] if found else UNKNOWN)


@pytest.fixture
def weights() -> Iterator[Weights]:
    found = Weights(small_model(), SHA256)
    yield found
    found.close()


def test_a_child_that_dies_refuses_the_model(weights: Weights, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\nkill -SEGV $$\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    with pytest.raises(ModelRefused, match="signal 11"):
        measure(weights.fd, small_config())


@pytest.mark.parametrize("said", ["", "{}", "[]", '{"isa": 1, "tokens": [], "digest": "zz", "together": true}'])
def test_a_child_that_says_nothing_refuses_the_model(
    weights: Weights, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, said: str
) -> None:
    script = tmp_path / "python"
    script.write_text(f"#!/bin/sh\nprintf '%s' '{said}'\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    with pytest.raises(ModelRefused, match="no answer"):
        measure(weights.fd, small_config())


def test_other_weights_are_never_parsed(tmp_path: Path) -> None:
    bent = tmp_path / "bent.gguf"
    shutil.copyfile(small_model(), bent)
    with bent.open("r+b") as file:
        file.seek(-1000, os.SEEK_END)
        file.write(b"\x55")
    with pytest.raises(ModelRefused) as refused:
        LlamaEngine.load([replace(small_config(), path=bent)], clock=CLOCK)
    assert refused.value.code == "model_digest"


def test_weights_in_memory_cannot_be_changed(weights: Weights) -> None:
    with pytest.raises(PermissionError):
        os.pwrite(weights.fd, b"x", 0)
    with pytest.raises(PermissionError):
        os.ftruncate(weights.fd, 5)
