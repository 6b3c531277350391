# SPDX-License-Identifier: Apache-2.0
"""Embeddings for a model that has them: the small model with one more key in its header, which says how to pool."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from openai.types import CreateEmbeddingResponse

from attestation.boot import ModelRecord
from enclave.engine.llama import LlamaEngine
from tests.engine_rig import CLOCK, Jobs, chat, embedding_config, shared_engine
from tests.small_model import NAME

EMBED = "/v1/embeddings"


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaEngine]:
    config = embedding_config(tmp_path_factory.mktemp("model"), name=NAME)
    engine = LlamaEngine.load([config], clock=CLOCK)
    yield engine
    engine.close()


@pytest.fixture
def jobs(engine: LlamaEngine) -> Jobs:
    return Jobs(engine)


def vectors(jobs: Jobs, **body: object) -> list[Any]:
    job = jobs.run(dict(body), endpoint=EMBED)
    (document,) = jobs.details(job)
    found = CreateEmbeddingResponse.model_validate({**document, "model": "m"})
    assert [item.index for item in found.data] == list(range(len(found.data)))
    assert found.usage.prompt_tokens == jobs.seen[job][-1].prompt_tokens == len(jobs.seen[job][0].tokens)
    assert jobs.seen[job][-1].completion_tokens == 0
    return [item.embedding for item in found.data]


def test_vectors_have_length_one_and_near_texts_are_near(jobs: Jobs) -> None:
    cat, kitten, tax = (
        np.array(v)
        for v in vectors(jobs, input=["A cat sat on the mat.", "A kitten sat on the rug.", "Tax law of 1987, section"])
    )
    assert np.linalg.norm(cat) == pytest.approx(1.0, abs=1e-5)
    assert cat @ kitten > cat @ tax


def test_one_input_is_one_vector_alone_or_among_others(jobs: Jobs) -> None:
    (alone,) = vectors(jobs, input="A cat sat on the mat.")
    among = vectors(jobs, input=["Something else.", "A cat sat on the mat."])
    assert among[1] == alone


def test_base64_is_the_same_vector(jobs: Jobs) -> None:
    (plain,) = vectors(jobs, input="hello")
    job = jobs.run({"input": "hello", "encoding_format": "base64"}, endpoint=EMBED)
    document: Any = jobs.details(job)[0]
    packed = np.frombuffer(base64.b64decode(document["data"][0]["embedding"]), "<f4")
    assert packed.tolist() == pytest.approx(plain)


@pytest.mark.parametrize(
    ("body", "code", "field"),
    [
        ({"input": "word " * 400}, "context_too_long", "input"),
        ({"input": ["x"] * 100}, "invalid_request", "input"),  # more than one item of the sealed stream holds
        ({"input": ["x"] * 300}, "invalid_request", "input"),
        ({"input": ""}, "invalid_request", "input"),
        ({"input": [10**6]}, "invalid_request", "input"),
        ({"input": [[]]}, "invalid_request", "input"),
    ],
)
def test_inputs_out_of_bounds_are_refused(jobs: Jobs, body: dict[str, object], code: str, field: str) -> None:
    assert jobs.refuse(body, endpoint=EMBED) == (code, field)


def test_such_a_model_does_not_chat_and_the_other_does_not_embed(jobs: Jobs) -> None:
    assert jobs.refuse(chat("x")) == ("unsupported_field", "messages")
    assert jobs.refuse({"prompt": "x"}, endpoint="/v1/completions") == ("unsupported_field", "prompt")
    assert Jobs(shared_engine()).refuse({"input": "x"}, endpoint=EMBED) == ("unsupported_field", "input")


def test_a_cancel_and_a_deadline_end_it(jobs: Jobs) -> None:
    job = jobs.accept({"input": ["word " * 100] * 30}, endpoint=EMBED)
    jobs.engine.cancel(job)
    jobs.wait(job)
    assert jobs.details(job) == []
    late = jobs.run({"input": "x"}, endpoint=EMBED, seconds=-1)
    assert jobs.seen[late][-1].code == "deadline"
    assert len(vectors(jobs, input="still here")) == 1


def test_its_record_has_a_self_test_and_no_class(engine: LlamaEngine) -> None:
    record = ModelRecord.decode(engine.model_records()[0])
    assert record.determinism == "unknown"
    assert record.selftest != bytes(32)
    assert json.dumps(record.name)
