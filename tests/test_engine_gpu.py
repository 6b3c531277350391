# SPDX-License-Identifier: Apache-2.0
"""What computes: the attested GPUs or the processor, never one in place of the other, and no GPU beside them."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Iterator, Sequence
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
from tests.engine_rig import CLOCK, Jobs, chat, small_config
from tests.forged import config_document
from tests.small_model import NAME


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
    [({}, 256), ({"ubatch": 128}, 128), ({"on_gpu": True}, 1024), ({"chunk": 64, "on_gpu": True}, 64)],
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


# ---- a GPU that rested reads together what comes together


@pytest.fixture
def resting(monkeypatch: pytest.MonkeyPatch) -> Iterator[LlamaEngine]:
    """An engine that takes its processor for a GPU, and would wait ten minutes for another prompt."""
    monkeypatch.setattr(llama, "_GATHER_SECONDS", 600.0)
    engine = LlamaEngine.load([small_config(slots=2, self_test=False)], clock=CLOCK)
    engine._served[NAME].model.on_gpu = True
    yield engine
    engine.close()
    assert not engine._thread.is_alive()


def sizes(engine: LlamaEngine, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Have told, from now on, how many tokens each batch has."""
    found: list[int] = []
    context = engine._served[NAME].context
    decode = context.decode

    def watch(batch: Any) -> int:
        found.append(int(batch.n_tokens))
        return decode(batch)

    monkeypatch.setattr(context, "decode", watch)
    return found


def test_a_resting_gpu_reads_prompts_that_come_one_after_the_other_in_one_batch(
    resting: LlamaEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, jobs = sizes(resting, monkeypatch), Jobs(resting)
    first = jobs.accept(chat("Hello", max_tokens=2))
    time.sleep(0.2)
    assert found == [], "it waits for another"
    second = jobs.accept(chat("Hello", max_tokens=2))
    jobs.wait(first, second)
    prompt = jobs.seen[first][0].prompt_tokens
    assert found == [2 * prompt, 2], "and for no third, as there are two slots"


def test_one_prompt_alone_waits_for_no_longer_than_it_must(
    resting: LlamaEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(llama, "_GATHER_SECONDS", 0.01)
    jobs = Jobs(resting)
    assert len(jobs.ids(jobs.run(chat("Hello", max_tokens=2)))) == 2


def test_a_processor_waits_for_nobody(resting: LlamaEngine) -> None:
    resting._served[NAME].model.on_gpu = False
    jobs = Jobs(resting)
    assert len(jobs.ids(jobs.run(chat("Hello", max_tokens=2)))) == 2


def test_a_cancel_is_not_kept_waiting_for_another_prompt(resting: LlamaEngine) -> None:
    jobs = Jobs(resting)
    job = jobs.accept(chat("Hello", max_tokens=2))
    resting.cancel(job)
    jobs.wait(job)
    assert jobs.finish(job) == []


def test_what_waits_for_company_when_the_engine_closes_is_ended(resting: LlamaEngine) -> None:
    jobs = Jobs(resting)
    job = jobs.accept(chat("Hello", max_tokens=2))
    resting.close()
    jobs.wait(job)
