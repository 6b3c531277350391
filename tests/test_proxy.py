# SPDX-License-Identifier: Apache-2.0
"""The proxy with the real openai package: chat, completions, streams, refusals; and whom it lets in."""

from __future__ import annotations

import asyncio
import gzip
import http.client
import json
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from aiohttp import web

from client.exchange import SEALED_PATH
from client.memory import ReceiptMemory
from client.proxy import Proxy
from client.upstream import MAX_BODY, Upstream
from enclave.metrics import Count
from tests.forged import MODEL
from tests.relay import relayed
from tests.served import Served, served

SHOWN = f"{MODEL}@NOT-CONFIDENTIAL"


class Running:
    """A proxy in a thread in front of an enclave."""

    def __init__(self, enclave: Served, *, token: str | None = None, at_once: int = 16) -> None:
        self.memory = ReceiptMemory(None)
        self.upstream = Upstream(enclave.attest, now=enclave.now, memory=self.memory)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.proxy = Proxy(self.upstream, token=token, at_once=at_once)
        self._runner = self.proxy.runner()
        self.port = asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(10)

    async def _start(self) -> int:
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        port: int = self._runner.addresses[0][1]
        return port

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()
        self.proxy.close()
        self.upstream.close()
        self.memory.close()


@pytest.fixture(scope="module")
def enclave(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("enclave")) as running:
        yield running


@pytest.fixture(scope="module")
def proxy(enclave: Served) -> Iterator[Running]:
    running = Running(enclave)
    yield running
    running.close()


@pytest.fixture
def caller(proxy: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=proxy.url, api_key="unused", max_retries=0, timeout=20) as made:
        yield made


def test_models_say_that_they_are_not_confidential(caller: openai.OpenAI) -> None:
    assert [model.id for model in caller.models.list()] == [SHOWN]


def test_a_chat_is_answered_with_usage_and_receipt(caller: openai.OpenAI) -> None:
    raw = caller.chat.completions.with_raw_response.create(
        model=SHOWN, messages=[{"role": "user", "content": "three plain words"}]
    )
    answer = raw.parse()
    assert answer.choices[0].message.content == "three plain words"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 3
    assert raw.headers["Sericin-Confidential"] == "false"
    about: Any = answer.model_extra
    assert about["sericin"]["receipt"] == raw.headers["Sericin-Receipt"]
    assert about["sericin"]["confidential"] is False
    assert about["sericin"]["evidence_sha256"] == raw.headers["Sericin-Evidence"]
    assert answer.model == SHOWN


def test_a_chat_streams(caller: openai.OpenAI) -> None:
    stream = caller.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "one two three"}],
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == "one two three"
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens > 3


def test_completions_and_several_choices(caller: openai.OpenAI) -> None:
    answer = caller.completions.create(model=MODEL, prompt="say it again", n=2, max_tokens=2)
    assert [choice.text.strip() for choice in answer.choices] == ["say it", "say it"]
    assert {choice.finish_reason for choice in answer.choices} == {"length"}


async def test_an_async_caller_is_served(proxy: Running) -> None:
    async with openai.AsyncOpenAI(base_url=proxy.url, api_key="x", max_retries=0) as caller:
        asked = [
            caller.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": f"number {i}"}])
            for i in range(4)
        ]
        answers = await asyncio.gather(*asked)
    assert [a.choices[0].message.content for a in answers] == [f"number {i}" for i in range(4)]


def test_an_unknown_field_is_refused_by_name(caller: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as e:
        caller.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "x"}], extra_body={"frobnicate": 1}
        )
    assert e.value.code == "unsupported_field"
    assert e.value.param == "frobnicate"


def test_an_unknown_model_is_not_found_and_nothing_is_sent(caller: openai.OpenAI, enclave: Served) -> None:
    before = enclave.count(Count.SEALED_ACCEPTED)
    with pytest.raises(openai.NotFoundError):
        caller.chat.completions.create(model="other", messages=[{"role": "user", "content": "x"}])
    assert enclave.count(Count.SEALED_ACCEPTED) == before


def test_evidence_that_is_over_is_not_shown_again(tmp_path: Path) -> None:
    with served(tmp_path) as aging:
        running = Running(aging)
        try:
            for _ in range(3):
                assert raw(running, {}) == 200
            assert aging.count(Count.ATTESTATIONS) == 1  # one verified connection is kept
            aging.clock.forward(4300)
            aging.do(aging.service.tend())
            assert raw(running, {}) == 200
            assert aging.count(Count.ATTESTATIONS) == 2
        finally:
            running.close()


def test_a_refusal_before_a_stream_has_its_status(caller: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError):
        caller.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "x"}], stream=True, max_tokens=10**6
        )


def test_a_full_enclave_is_a_429_with_a_hint(tmp_path: Path) -> None:
    limits = {"max_request_bytes": 262144, "max_completion_tokens": 512, "queue_length": 1}
    with served(tmp_path, delay=0.05, limits=limits) as slow:
        running = Running(slow)
        try:
            with openai.OpenAI(base_url=running.url, api_key="x", max_retries=0) as caller:
                message: Any = [{"role": "user", "content": "slow " * 60}]
                first = caller.chat.completions.create(model=MODEL, messages=message, stream=True)
                next(iter(first))
                with pytest.raises(openai.RateLimitError) as e:
                    caller.chat.completions.create(model=MODEL, messages=message)
                assert int(e.value.response.headers["Retry-After"]) > 0
                first.close()
        finally:
            running.close()


def slow_caller(running: Running) -> http.client.HTTPConnection:
    """Send a long question and wait for nothing."""
    connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=20)
    body = json.dumps({"model": MODEL, "messages": [{"role": "user", "content": "slow " * 300}]})
    connection.request("POST", "/v1/chat/completions", body)
    return connection


def eventually(holds: Callable[[], object]) -> None:
    for _ in range(500):
        if holds():
            return
        time.sleep(0.02)
    raise AssertionError("it never came to hold")


def test_a_caller_who_goes_away_ends_the_run_and_it_is_not_sent_again(tmp_path: Path) -> None:
    with served(tmp_path, delay=0.02) as slow:
        running = Running(slow)
        try:
            before = slow.count(Count.ATTESTATIONS)
            gone = slow_caller(running)
            eventually(lambda: slow.call(lambda: slow.floor.pump.live))
            gone.close()
            eventually(lambda: slow.call(lambda: slow.floor.pump.live) == 0)
            with openai.OpenAI(base_url=running.url, api_key="x", max_retries=0) as caller:
                message: Any = [{"role": "user", "content": "slow " * 300}]
                with caller.chat.completions.create(model=MODEL, messages=message, stream=True) as stream:
                    next(iter(stream))
            eventually(lambda: slow.call(lambda: slow.floor.pump.live) == 0)
            time.sleep(0.2)
            assert slow.count(Count.SEALED_ACCEPTED) == 2
            assert slow.count(Count.RUNS_COMPLETE) == 0
            assert slow.count(Count.ATTESTATIONS) - before == 2  # nor was anything verified again for nobody
        finally:
            running.close()


def test_a_full_proxy_is_a_429_with_a_hint(tmp_path: Path) -> None:
    with served(tmp_path, delay=0.02) as slow:
        running = Running(slow, at_once=2)
        try:
            held = [slow_caller(running) for _ in range(2)]
            eventually(lambda: slow.call(lambda: slow.floor.pump.live) == 2)
            with (
                openai.OpenAI(base_url=running.url, api_key="x", max_retries=0) as caller,
                pytest.raises(openai.RateLimitError) as e,
            ):
                caller.models.list()
            assert e.value.response.headers["Retry-After"] == "1"
            for connection in held:
                connection.close()
            eventually(lambda: raw(running, {}) == 200)
        finally:
            running.close()


def failure(enclave: Served, connect: Callable[[], Any], *, retries: int = 0) -> str | None:
    """Ask through a proxy whose enclave is reached by `connect`, and give the code of the 502 that comes back."""
    running = Running(enclave)
    running.upstream._connect = connect
    try:
        with (
            openai.OpenAI(base_url=running.url, api_key="x", max_retries=retries) as caller,
            pytest.raises(openai.InternalServerError) as e,
        ):
            caller.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "x"}])
    finally:
        running.close()
    return e.value.code


def test_an_unknown_outcome_is_a_502_that_is_not_sent_again(enclave: Served) -> None:
    with relayed(enclave, lambda path, data: (503 if path == SEALED_PATH else 200, data)) as relay:
        assert failure(enclave, lambda: enclave.attest(target=relay.target), retries=3) == "RunOutcomeUnknown"
        assert relay.paths.count(SEALED_PATH) == 2  # the second one under the same run id


def test_a_stream_that_is_cut_says_so_and_has_no_done(tmp_path: Path) -> None:
    with served(tmp_path, delay=0.02) as slow:
        running = Running(slow)
        try:
            connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=20)
            message = [{"role": "user", "content": "cut " * 300}]
            asked = {"model": MODEL, "stream": True, "messages": message}
            connection.request("POST", "/v1/chat/completions", json.dumps(asked))
            with connection.getresponse() as response:
                assert response.readline().startswith(b"data: {")
                slow.call(slow.service._routes.cut_short)
                rest = response.read()
            connection.close()
            assert json.loads(rest.strip().split(b"data: ")[-1])["error"]["code"] == "StreamTruncated"
            assert b"[DONE]" not in rest
        finally:
            running.close()


def test_a_restarted_enclave_is_verified_anew_and_asked(tmp_path: Path) -> None:
    """Idle connections of the earlier boot are closed: nothing was sent on them, so nothing is in doubt."""
    with served(tmp_path / "a") as first, served(tmp_path / "b") as second:
        at = [first]

        def connect() -> Any:
            return at[0].attest()

        running = Running(first)
        running.upstream._connect = connect
        try:
            with openai.OpenAI(base_url=running.url, api_key="x", max_retries=0) as caller:
                message: Any = [{"role": "user", "content": "hello"}]
                boots = []
                for _ in range(2):
                    answer: Any = caller.chat.completions.create(model=MODEL, messages=message)
                    boots.append(answer.model_extra["sericin"]["boot_digest"])
                    at[0] = second
                    first.drop_connections()
                    time.sleep(0.1)
            assert boots == [s.booted.boot.digest.hex() for s in (first, second)]
        finally:
            running.close()


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl_is_served(proxy: Running) -> None:
    asked = json.dumps({"model": MODEL, "stream": True, "messages": [{"role": "user", "content": "said by curl"}]})
    words = ["curl", "-sSN", "--fail", f"{proxy.url}/chat/completions", "-H", "Content-Type: application/json"]
    ended = subprocess.run([*words, "-d", asked], capture_output=True, text=True, check=True, timeout=20)
    events = [line.removeprefix("data: ") for line in ended.stdout.splitlines() if line.startswith("data: ")]
    assert events[-1] == "[DONE]"
    chunks = [json.loads(event) for event in events[:-1]]
    assert "".join(c["choices"][0]["delta"].get("content", "") for c in chunks if c["choices"]) == "said by curl"
    assert ": receipt " in ended.stdout


def test_an_enclave_that_fails_verification_is_a_502(enclave: Served) -> None:
    def refuse() -> Any:
        return enclave.attest(runtime=enclave.policy_document()["runtime"] | {"engine": ["llama"]})

    assert failure(enclave, refuse) == "ConfigNotAllowed"


def raw(proxy: Running, headers: dict[str, str], *, path: str = "/v1/models", body: bytes | None = None) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=10)
    try:
        connection.request("POST" if body is not None else "GET", path, body, headers | {"Connection": "close"})
        with connection.getresponse() as response:
            response.read()
            return response.status
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Host": "localhost:10000"}, 200),
        ({"Host": "evil.example"}, 403),
        ({"Host": "127.0.0.1.evil.example"}, 403),
        ({"Host": "evil.example:127.0.0.1"}, 403),
        ({"Host": "127.0.0.1:evil"}, 403),
        ({"Host": "[::1]:10000"}, 200),
        ({"Host": ""}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
    ],
)
def test_pages_of_other_origins_are_kept_out(proxy: Running, headers: dict[str, str], status: int) -> None:
    assert raw(proxy, headers) == status


def test_a_token_is_asked_for_where_one_is_set(enclave: Served) -> None:
    running = Running(enclave, token="sesame")
    try:
        assert raw(running, {}) == 401
        assert raw(running, {"Authorization": "Bearer other"}) == 401
        assert raw(running, {"Authorization": "Bearer sesame"}) == 200
    finally:
        running.close()


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"model":7}', b'{"model":"echo","stream":"yes"}'])
def test_what_is_no_request_is_a_400(proxy: Running, body: bytes) -> None:
    assert raw(proxy, {}, path="/v1/chat/completions", body=body) == 400


def test_a_body_that_is_too_long_is_a_413(proxy: Running) -> None:
    assert raw(proxy, {}, path="/v1/chat/completions", body=bytes(MAX_BODY + 1)) == 413


def test_a_packed_body_is_not_unpacked(proxy: Running) -> None:
    packed = gzip.compress(json.dumps({"model": MODEL, "messages": []}).encode())
    assert raw(proxy, {"Content-Encoding": "gzip"}, path="/v1/chat/completions", body=packed) == 400


def test_the_verdict_can_be_read(proxy: Running) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=10)
    connection.request("GET", "/v1/sericin/verdict", headers={"Connection": "close"})
    with connection.getresponse() as response:
        document = json.loads(response.read())
    assert document["accepted"] is True
    assert document["confidential"] is False
    assert document["evidence_sha256"] == response.headers["Sericin-Evidence"]
