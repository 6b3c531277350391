# SPDX-License-Identifier: Apache-2.0
"""Everything that comes back is what the openai package says it is: real models, sealed exchange, real package.

Two models in one enclave, one that answers and one that embeds. Every object is checked strictly against its type, for
the package itself takes any JSON.
"""

from __future__ import annotations

import asyncio
import base64
import http.client
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import numpy as np
import openai
import pytest
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from pydantic import BaseModel

from client import BASE_URL
from enclave.engine.llama import LlamaEngine
from enclave.seams import Clock
from tests.engine_rig import embedding_config, small_config
from tests.served import Served, served
from tests.small_model import NAME
from tests.test_proxy import Running
from tests.test_python_api import eventually, remote

EMBED = "embed"
OURS = {"sericin"}  # the one field that is not OpenAI's, of whole objects
ASKED: Any = [{"role": "user", "content": "Name three colours."}]
CALL: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 12}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}


@pytest.fixture(scope="module")
def enclave(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    answers = small_config(self_test=False)
    embeds = embedding_config(tmp_path_factory.mktemp("model"), name=EMBED, self_test=False)

    def load(_config: object, _operator: object, clock: Clock) -> LlamaEngine:
        return LlamaEngine.load([answers, embeds], clock=clock)

    models = [{"name": config.name, "sha256": config.sha256.hex()} for config in (answers, embeds)]
    engine = {"kind": "llama", "n_ctx": 512, "n_seq": 4, "n_ubatch": 128, "threads": 1}
    with served(tmp_path_factory.mktemp("enclave"), load=load, engine=engine, models=models) as running:
        yield running


@pytest.fixture(scope="module")
def caller(enclave: Served) -> Iterator[openai.OpenAI]:
    with (
        remote(enclave) as there,
        openai.OpenAI(http_client=there.http_client(), base_url=BASE_URL, api_key="x", max_retries=0) as made,
    ):
        yield made


def exact(value: BaseModel, *, ours: set[str] = frozenset()) -> None:  # type: ignore[assignment]
    """Require that every field is of its type's kind, and that there is none beside them but `ours`."""
    type(value).model_validate(value.model_dump(exclude_unset=True), strict=True)
    assert _beside(value) == ours


def _beside(value: Any) -> set[str]:
    if isinstance(value, BaseModel):
        inner = [getattr(value, name) for name in type(value).model_fields]
        return set(value.model_extra or {}).union(*map(_beside, inner))
    return set[str]().union(*map(_beside, value)) if isinstance(value, list) else set()


def test_a_stream_of_two_choices_with_logprobs(caller: openai.OpenAI) -> None:
    body: dict[str, Any] = {"model": NAME, "messages": ASKED, "n": 2, "seed": 3, "temperature": 0.8, "max_tokens": 6}
    body |= {"logprobs": True, "top_logprobs": 2}
    chunks: list[ChatCompletionChunk] = list(
        caller.chat.completions.create(**body, stream=True, stream_options={"include_usage": True})
    )
    whole: ChatCompletion = caller.chat.completions.create(**body)
    exact(whole, ours=OURS)
    for chunk in chunks:
        exact(chunk)
    assert len({(chunk.id, chunk.model, chunk.created) for chunk in chunks}) == 1
    assert [bool(chunk.usage) for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert chunks[-1].choices == []
    told_usage, usage = chunks[-1].usage, whole.usage
    assert told_usage is not None
    assert usage is not None
    assert told_usage.model_copy(update={"prompt_tokens_details": None}) == usage.model_copy(
        update={"prompt_tokens_details": None}  # the second time, the prompt is in the cache
    )
    assert [choice.index for choice in whole.choices] == [0, 1]
    for choice in whole.choices:
        parts = [part for chunk in chunks for part in chunk.choices if part.index == choice.index]
        assert [part.delta.role for part in parts] == ["assistant"] + [None] * (len(parts) - 1)
        assert [part.finish_reason is None for part in parts] == [True] * (len(parts) - 1) + [False]
        told = [entry for part in parts if part.logprobs for entry in part.logprobs.content or []]
        assert choice.logprobs is not None
        assert told == choice.logprobs.content
        assert {len(entry.top_logprobs) for entry in told} == {2}
        assert b"".join(bytes(entry.bytes or []) for entry in told).decode() == choice.message.content
        assert "".join(part.delta.content or "" for part in parts) == choice.message.content
    assert whole.choices[0].message.content != whole.choices[1].message.content


def test_a_streamed_call_is_put_together_by_the_package(caller: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": NAME, "messages": ASKED, "tools": [CALL], "tool_choice": "required"}
    with caller.chat.completions.stream(**asked, max_tokens=60, temperature=0) as stream:
        chunks = [event.chunk for event in stream if event.type == "chunk"]
        final = stream.get_final_completion()
    for chunk in chunks:
        exact(chunk)
    assert final.choices[0].finish_reason == "tool_calls"
    (call,) = final.choices[0].message.tool_calls or []
    assert call.function.name == "get_weather"
    assert set(call.function.parsed_arguments or {}) == {"city"}  # type: ignore[call-overload]
    whole = caller.chat.completions.create(**asked, max_tokens=60, temperature=0)
    exact(whole, ours=OURS)
    assert whole.choices[0].message.content is None
    assert whole.choices[0].finish_reason == "tool_calls"


class Sky(BaseModel):
    colour: Literal["blue", "grey"]
    clear: bool


def test_an_answer_is_parsed_into_a_type_of_the_callers(caller: openai.OpenAI) -> None:
    found = caller.chat.completions.parse(model=NAME, messages=ASKED, response_format=Sky, max_tokens=60)
    assert isinstance(found.choices[0].message.parsed, Sky)
    exact(ChatCompletion.model_validate(found.model_dump(exclude_unset=True, exclude={"choices": {"__all__": {
        "message": {"parsed"}}}})), ours=OURS)  # fmt: skip


def test_completions_whole_and_streamed(caller: openai.OpenAI) -> None:
    body: dict[str, Any] = {"model": NAME, "prompt": "One, two,", "max_tokens": 4, "temperature": 0, "n": 2}
    body |= {"logprobs": 2, "echo": True}
    whole: Completion = caller.completions.create(**body)
    exact(whole, ours=OURS)
    chunks: list[Completion] = list(caller.completions.create(**body, stream=True))
    for choice in whole.choices:
        parts = [part for chunk in chunks for part in chunk.choices if part.index == choice.index]
        assert "".join(part.text for part in parts) == choice.text
        assert choice.text.startswith("One, two,")
        told = [part.logprobs for part in parts if part.logprobs]
        assert choice.logprobs is not None
        for key in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
            assert [item for part in told for item in getattr(part, key)] == getattr(choice.logprobs, key)
        # Its type knows no part of a stream, whose finish_reason is null there as it is OpenAI's own.
        ends = [part.finish_reason for part in parts]
        assert ends == [None] * (len(parts) - 1) + [choice.finish_reason]
    for chunk in chunks:
        ended = [part.model_copy(update={"finish_reason": "stop"}) for part in chunk.choices]
        exact(chunk.model_copy(update={"choices": ended}))


def test_embeddings_come_as_the_package_asks_for_them(caller: openai.OpenAI) -> None:
    body: dict[str, Any] = {"model": EMBED, "input": ["A cat sat.", "Tax law."]}
    plain = caller.embeddings.create(**body, encoding_format="float")
    exact(plain, ours=OURS)
    packed = caller.embeddings.create(**body)  # the package asks for base64 and unpacks it
    exact(packed, ours=OURS)
    raw = caller.embeddings.with_raw_response.create(**body, encoding_format="base64")
    document: Any = json.loads(raw.text)
    for number in (0, 1):
        assert packed.data[number].embedding == pytest.approx(plain.data[number].embedding)
        unpacked = np.frombuffer(base64.b64decode(document["data"][number]["embedding"]), "<f4")
        assert unpacked.tolist() == pytest.approx(plain.data[number].embedding)
        assert (document["data"][number]["object"], document["data"][number]["index"]) == ("embedding", number)
    assert (document["object"], document["model"]) == ("list", plain.model)
    usage = plain.usage
    assert usage.prompt_tokens == usage.total_tokens


def test_models_are_listed_and_found(caller: openai.OpenAI) -> None:
    listed = list(caller.models.list())
    assert [model.id.partition("@")[0] for model in listed] == [NAME, EMBED]
    for model in listed:
        exact(model)
        assert caller.models.retrieve(model.id) == model


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("fields", "kind", "code", "param"),
    [
        ({"temperature": 9}, openai.BadRequestError, "invalid_request", "temperature"),
        ({"extra_body": {"frobnicate": 1}}, openai.BadRequestError, "unsupported_field", "frobnicate"),
        ({"extra_body": {"store": True}}, openai.BadRequestError, "unsupported_field", "store"),
        ({"messages": [{"role": "user", "content": "x " * 600}]}, openai.BadRequestError, "context_too_long",
            "messages"),
        ({"model": "nobody"}, openai.NotFoundError, "model_unknown", "model"),
        ({"model": EMBED}, openai.BadRequestError, "unsupported_field", "messages"),
        ({"response_format": {"type": "xml"}}, openai.BadRequestError, "invalid_request", "response_format"),
    ],
    ids="value unknown store long model embeds form".split(),
)  # fmt: skip
def test_a_refusal_is_openais_error(
    caller: openai.OpenAI,
    stream: bool,
    fields: dict[str, Any],
    kind: type[openai.APIStatusError],
    code: str,
    param: str,
) -> None:
    body: dict[str, Any] = {"model": NAME, "messages": ASKED} | fields
    with pytest.raises(kind) as refused:
        caller.chat.completions.create(**body, stream=stream)
    error: Any = refused.value
    assert (error.code, error.param, error.type) == (code, param, "sericin")
    assert set(error.body) == {"message", "type", "code", "param"}
    assert error.body["message"] == f"{code}: {param}"


async def test_many_at_once_and_each_its_own_answer(enclave: Served) -> None:
    with remote(enclave) as there:
        async with openai.AsyncOpenAI(
            http_client=there.async_http_client(), base_url=BASE_URL, api_key="x", max_retries=0
        ) as caller:

            async def one(number: int) -> str:
                message: Any = [{"role": "user", "content": f"Say a word about the number {number}."}]
                stream = await caller.chat.completions.create(
                    model=NAME, messages=message, stream=True, max_tokens=6, temperature=0
                )
                return "".join([c.choices[0].delta.content or "" async for c in stream if c.choices])

            together = await asyncio.gather(*(one(number) for number in range(3)))
            assert together == [await one(number) for number in range(3)]


def test_a_run_that_is_cancelled_in_the_queue_is_a_refusal(enclave: Served, caller: openai.OpenAI) -> None:
    pump = enclave.floor.pump
    body: dict[str, Any] = {"model": NAME, "messages": ASKED, "max_tokens": 400, "temperature": 0, "stream": True}
    running = [caller.chat.completions.create(**body, extra_body={"logit_bias": {"2": -100}}) for _ in range(4)]
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(lambda: list(caller.chat.completions.create(**body)))
        eventually(lambda: enclave.call(lambda: pump.live) == 5)
        enclave.call(lambda: pump.cancel(max(pump._jobs)))
        with pytest.raises(openai.InternalServerError) as refused:
            waiting.result(20)
    assert (refused.value.code, refused.value.status_code) == ("engine_failed", 502)
    for stream in running:
        stream.close()


def test_a_stream_that_breaks_off_is_the_packages_error(enclave: Served) -> None:
    running = Running(enclave)
    try:
        with openai.OpenAI(base_url=running.url, api_key="x", max_retries=0) as caller:
            stream = caller.chat.completions.create(model=NAME, messages=ASKED, stream=True, max_tokens=400)
            next(iter(stream))
            enclave.call(enclave.service._routes.cut_short)
            with pytest.raises(openai.APIError) as broken:
                list(stream)
        error: Any = broken.value
        assert (error.code, error.type, error.param) == ("StreamTruncated", "sericin", None)
        assert set(error.body) == {"message", "type", "code", "param"}
    finally:
        running.close()


@pytest.mark.parametrize(
    ("headers", "status", "code"), [({"Origin": "https://x"}, 403, "forbidden"), ({}, 404, "not_found")]
)
def test_the_proxys_own_refusals_have_that_shape_too(
    enclave: Served, headers: dict[str, str], status: int, code: str
) -> None:
    running = Running(enclave)
    connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=10)
    try:
        connection.request("GET", "/v1/nothing", headers=headers)
        with connection.getresponse() as response:
            error = json.loads(response.read())["error"]
            assert response.status == status
    finally:
        connection.close()
        running.close()
    assert set(error) == {"message", "type", "code", "param"}
    assert error["code"] == code
