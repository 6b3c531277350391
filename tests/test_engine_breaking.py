# SPDX-License-Identifier: Apache-2.0
"""When the engine's own thread breaks or stops, no job waits for ever and nothing more is taken."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from enclave.engine import llama
from enclave.engine.library import require_memory
from enclave.engine.llama import LlamaEngine
from enclave.engine.native import NativeError
from enclave.models.refusal import ModelRefused
from tests.engine_rig import ALICE, CLOCK, Jobs, chat, small_config
from tests.small_model import NAME


@pytest.fixture
def engine() -> Iterator[LlamaEngine]:
    engine = LlamaEngine.load([small_config(slots=2, ubatch=64, self_test=False)], clock=CLOCK)
    yield engine
    engine.close()


def test_a_step_that_raises_fails_its_jobs_and_ends_the_engine(
    engine: LlamaEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = Jobs(engine)

    def fail(_: object) -> None:
        raise ZeroDivisionError

    running = [jobs.accept(chat("Count to a hundred.", max_tokens=200)) for _ in range(4)]
    monkeypatch.setattr(engine._served[NAME].lane, "step", fail)
    jobs.wait(*running)
    assert {jobs.seen[job][-1].code for job in running} == {"engine_failed"}
    assert jobs.refuse(chat("Hello"))[0] == "engine_failed"
    with pytest.raises(NativeError):
        engine.events(0.1)


def test_a_batch_that_does_not_compute_fails_its_jobs_alone(
    engine: LlamaEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = Jobs(engine)
    context = engine._served[NAME].context

    def fail(_: object) -> int:
        raise NativeError("llama_decode -3")

    long = chat(
        "A prompt that is long enough to be kept for its tenant, and is gone after a failure. " * 2, max_tokens=3
    )
    first = jobs.run(long, tenant=ALICE)
    with monkeypatch.context() as patch:
        patch.setattr(context, "decode", fail)
        job = jobs.run(long, tenant=ALICE)
    assert jobs.seen[job][-1].code == "engine_failed"
    again = jobs.run(long, tenant=ALICE)
    assert jobs.seen[job][0].cached_tokens > 0, "the control: the prefix was there"
    assert jobs.seen[again][0].cached_tokens == 0, "after a failure nothing is believed of what the slots hold"
    assert jobs.ids(again) == jobs.ids(first)


def test_a_grammar_that_does_not_compile_here_fails_its_run_alone(
    engine: LlamaEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = Jobs(engine)
    steady = jobs.accept(chat("Count to twenty.", max_tokens=20))
    monkeypatch.setattr(engine._grammars, "make", lambda *_, **__: "root ::= broken")
    bent = jobs.accept(chat("An object.", max_tokens=5, response_format={"type": "json_object"}))
    jobs.wait(steady, bent)
    assert jobs.seen[bent][-1].code == "engine_failed"
    assert len(jobs.ids(steady)) == 20


def test_a_prompt_longer_than_a_micro_batch_is_read_beside_an_answer(engine: LlamaEngine) -> None:
    """A micro-batch smaller than the usual portion of a prompt, with two sequences at once."""
    jobs = Jobs(engine)
    first = jobs.accept(chat("Count to twenty.", max_tokens=20))
    second = jobs.accept(chat("word " * 150, max_tokens=2))
    jobs.wait(first, second)
    assert len(jobs.ids(first)) == 20


def test_closing_cancels_what_runs_and_takes_no_more(engine: LlamaEngine) -> None:
    jobs = Jobs(engine)
    running = jobs.accept(chat("Count to a hundred.", max_tokens=300))
    engine.close()
    jobs.wait(running)
    assert jobs.seen[running][-1].kind == "finished"
    assert jobs.refuse(chat("Hello"))[0] == "busy"


def test_two_models_of_one_name_are_a_mistake() -> None:
    with pytest.raises(ValueError, match="name"):
        LlamaEngine.load([small_config(), small_config()], clock=CLOCK)


def test_a_model_that_does_not_fit_is_refused_before_it_is_read() -> None:
    path = small_config().path
    size = path.stat().st_size
    require_memory(path, 2 * size)
    with pytest.raises(ModelRefused) as refused:
        require_memory(path, 2 * size - 1)
    assert refused.value.code == "model_load"


def test_a_context_that_cannot_be_made_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise NativeError("llama_init_from_model")

    monkeypatch.setattr(llama, "NativeContext", fail)
    with pytest.raises(ModelRefused) as refused:
        LlamaEngine.load([small_config(self_test=False)], clock=CLOCK)
    assert refused.value.code == "model_load"


def test_several_models_answer_side_by_side(engine: LlamaEngine) -> None:
    """Two entries of one file: jobs of both at once, each by its own lane."""
    configs = [replace(small_config(slots=2, ubatch=64, self_test=False), name=name) for name in ("one", "two")]
    both = LlamaEngine.load(configs, clock=CLOCK)
    alone = Jobs(engine)
    wanted = alone.ids(alone.run(chat("Hello", max_tokens=5)))
    jobs = Jobs(both)
    found = [jobs.accept(chat("Hello", max_tokens=5), model=name) for name in ("one", "two", "one", "two")]
    jobs.wait(*found)
    assert [jobs.ids(job) for job in found] == [wanted] * 4
    assert len(both.model_records()) == 2
    both.close()


def test_a_model_that_is_not_there_is_refused() -> None:
    config = small_config()
    missing = type(config)(name="m", path=config.path.parent / "missing.gguf", sha256=config.sha256)
    with pytest.raises(ModelRefused) as refused:
        LlamaEngine.load([missing], clock=CLOCK)
    assert refused.value.code == "model_missing"
