# SPDX-License-Identifier: Apache-2.0
"""What computes: the attested GPUs or the processor, never one in place of the other, and no GPU beside them."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from llama_cpp import llama_cpp as lc

from attestation.config import EnclaveConfig
from enclave.booting import load_engine
from enclave.engine import llama
from enclave.engine.library import ModelConfig
from enclave.engine.llama import LlamaEngine
from enclave.engine.native import NativeError, NativeModel, finds_gpu
from enclave.models.refusal import ModelRefused
from tests.engine_rig import CLOCK, small_config
from tests.forged import config_document


class Stopped(Exception):
    """What was asked is known."""


@pytest.mark.parametrize(
    ("mode", "count", "on_gpu"), [("nvml", 1, True), ("nvml", 8, True), ("none", 0, False), ("simulated", 1, False)]
)
def test_who_has_attested_gpus_computes_on_them_and_nobody_else(
    mode: str, count: int, on_gpu: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(models: Sequence[ModelConfig], **_: object) -> None:
        assert [model.on_gpu for model in models] == [on_gpu]
        raise Stopped

    monkeypatch.setattr(LlamaEngine, "load", load)
    engine = {"kind": "llama", "n_ctx": 512, "n_seq": 2, "n_ubatch": 128, "threads": 1}
    machine = "tdx" if mode == "nvml" else "simulated"
    document = config_document(machine=machine, gpu={"mode": mode, "count": count}, engine=engine)
    with pytest.raises(Stopped):
        load_engine(EnclaveConfig.parse(document), None, CLOCK)


def test_a_library_without_a_gpu_is_refused_and_not_taken_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llama, "finds_gpu", lambda: False)
    with pytest.raises(ModelRefused, match="finds no GPU") as refused:
        LlamaEngine.load([small_config(on_gpu=True, self_test=False)], clock=CLOCK)
    assert refused.value.code == "model_load"


@pytest.mark.parametrize(
    ("changes", "tokens"),
    [({}, 256), ({"ubatch": 128}, 128), ({"on_gpu": True}, 2048), ({"chunk": 64, "on_gpu": True}, 64)],
    ids="processor small GPU asked".split(),
)
def test_a_gpu_reads_more_of_prompts_between_two_answers(changes: dict[str, Any], tokens: int) -> None:
    config = ModelConfig(name="m", path=Path("m.gguf"), sha256=bytes(32), **changes)
    assert config.resolved_chunk() == tokens


def test_this_build_says_whether_it_has_a_gpu() -> None:
    assert finds_gpu() is bool(lc.llama_supports_gpu_offload())


@pytest.mark.parametrize("on_gpu", [True, False], ids=["on the GPUs", "on the processor"])
def test_llama_is_given_every_layer_and_every_gpu_or_no_layer_and_no_gpu(
    on_gpu: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, object]] = []

    def load(_: bytes, params: Any) -> None:
        first = ctypes.c_void_p.from_address(params.devices).value if params.devices else "all"
        asked.append((params.n_gpu_layers, first))

    monkeypatch.setattr(lc, "llama_model_load_from_file", load)
    with pytest.raises(NativeError):
        NativeModel(str(tmp_path / "m.gguf"), on_gpu=on_gpu)
    assert asked == [(-1, "all") if on_gpu else (0, None)]
