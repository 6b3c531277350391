# SPDX-License-Identifier: Apache-2.0
"""Python programs: the rooms' doors, one enclave as an object, and the real openai package over its transports."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import httpx2
import openai
import pytest

import attestation
import client
from attestation import Refused, SignedReceipt, Untrusted
from client import BASE_URL, Declined, RemoteEnclave, RunOutcomeUnknown, Unreachable, UsageFault
from client.exchange import SEALED_PATH
from client.legacy_transport import AsyncSealedTransport as LegacyAsync
from client.legacy_transport import SealedTransport as Legacy
from client.openai_door import Door, Ticket
from enclave.metrics import Count
from tests.forged import MODEL
from tests.relay import relayed
from tests.served import Served, served

SHOWN = f"{MODEL}@NOT-CONFIDENTIAL"
ASKED: Any = [{"role": "user", "content": "three plain words"}]
LONG: Any = [{"role": "user", "content": "word " * 300}]


@pytest.fixture(scope="module")
def enclave(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("enclave"), delay=0.002) as running:
        yield running


def remote(enclave: Served, *, target: str | None = None, allow: bool = True, **changes: Any) -> RemoteEnclave:
    document = json.dumps(enclave.policy_document(**changes)).encode()
    where = target or enclave.service.targets["ra_tls"]
    return RemoteEnclave(where, policy=document, now=enclave.now, allow_unconfidential=allow, timeout=10)


@pytest.fixture
def there(enclave: Served) -> Iterator[RemoteEnclave]:
    with remote(enclave) as made:
        yield made


def eventually(holds: Any) -> None:
    for _ in range(500):
        if holds():
            return
        time.sleep(0.02)
    raise AssertionError("it never came to hold")


# ---- the doors


@pytest.mark.parametrize("room", [attestation, client])
def test_every_name_of_a_door_is_there_and_explained(room: Any) -> None:
    assert room.__all__ == sorted(room.__all__, key=lambda name: (not name.isupper(), name))
    for name in room.__all__:
        found = getattr(room, name)
        assert isinstance(found, str) or found.__doc__, name
    with pytest.raises(AttributeError):
        room.nothing_of_that_name  # noqa: B018


def test_a_door_loads_nothing_that_was_not_asked_for() -> None:
    code = (
        "import sys, attestation, client; print([m for m in ('cryptography', 'httpx2', 'aiohttp') if m in sys.modules])"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"


# ---- one enclave as an object


def test_a_question_is_answered_with_receipt_and_dossier(there: RemoteEnclave) -> None:
    pieces: list[str] = []
    reply = there.ask("three plain words", on_text=pieces.append)
    assert reply.text == "".join(pieces) == "three plain words"
    assert reply.finish == "stop"
    assert reply.receipt.receipt.completion_tokens == 3
    assert not reply.confidential
    assert SignedReceipt.decode(attestation.Dossier.decode(reply.dossier()).receipt) == reply.receipt
    assert "plain" not in repr(reply)


def test_an_answer_too_long_for_a_dossier_is_given_all_the_same(
    there: RemoteEnclave, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("attestation.dossier.MAX_DOSSIER", 1000)
    reply = there.ask("three plain words")
    assert reply.text == "three plain words"
    with pytest.raises(UsageFault, match="at most 1000 bytes"):
        reply.dossier()


def test_verify_says_who_is_there(there: RemoteEnclave) -> None:
    attested = there.verify()
    assert [model.name for model in attested.verified.boot.models] == [MODEL]
    assert attested.verdict.accepted
    assert not attested.verdict.confidential


def test_a_simulated_machine_is_refused_unless_the_caller_says_so(enclave: Served) -> None:
    with remote(enclave, allow=False) as there, pytest.raises(Refused) as e:
        there.ask("never sent")
    assert e.value.code == "Unconfidential"


def test_a_policy_that_says_no_raises_its_finding_before_anything_is_sent(enclave: Served) -> None:
    before = enclave.count(Count.SEALED_ACCEPTED) + enclave.count(Count.SEALED_REFUSED_OUTER)
    runtime = enclave.policy_document()["runtime"] | {"engine": ["llama"]}
    with remote(enclave, runtime=runtime) as there:
        for ask in (lambda: there.ask("x"), lambda: chat(there)):
            with pytest.raises(Refused) as e:
                ask()
            assert e.value.code == "ConfigNotAllowed"
    assert enclave.count(Count.SEALED_ACCEPTED) + enclave.count(Count.SEALED_REFUSED_OUTER) == before


def test_what_the_caller_gets_wrong_is_said(there: RemoteEnclave, enclave: Served) -> None:
    with pytest.raises(UsageFault, match=MODEL):
        there.ask("x", model="other")
    with pytest.raises(UsageFault):
        remote(enclave, target="ftp://x:1")
    with remote(enclave, target="http://127.0.0.1:9") as nobody, pytest.raises(Unreachable):
        nobody.verify()


def test_a_declined_question_has_the_enclaves_code(there: RemoteEnclave) -> None:
    with pytest.raises(Declined) as e:
        there.ask("x", max_tokens=10**6)
    assert (e.value.refusal, e.value.field) == ("limit_exceeded", "max_tokens")


# ---- the openai package over a transport


def chat(there: RemoteEnclave, **fields: Any) -> Any:
    with openai.OpenAI(http_client=there.http_client(), base_url=BASE_URL, api_key="unused") as caller:
        return caller.chat.completions.create(**({"model": MODEL, "messages": ASKED} | fields))


def test_chat_completions_and_models(there: RemoteEnclave) -> None:
    with openai.OpenAI(http_client=there.http_client(), base_url=BASE_URL, api_key="unused") as caller:
        assert [model.id for model in caller.models.list()] == [SHOWN]
        assert caller.models.retrieve(SHOWN).owned_by == "simulated"
        with pytest.raises(openai.NotFoundError):
            caller.models.retrieve("other")
        raw = caller.chat.completions.with_raw_response.create(model=SHOWN, messages=ASKED)
        answer = raw.parse()
        assert answer.choices[0].message.content == "three plain words"
        run: Any = raw.http_response.extensions["sericin_run"]
        assert run.receipt.receipt.hash.hex() == raw.headers["Sericin-Receipt"]
        text = caller.completions.create(model=MODEL, prompt="again and again", max_tokens=2)
        assert text.choices[0].text.strip() == "again and"


def test_an_answer_streams_piece_by_piece(there: RemoteEnclave) -> None:
    with openai.OpenAI(http_client=there.http_client(), base_url=BASE_URL, api_key="unused") as caller:
        stream = caller.chat.completions.create(model=MODEL, messages=ASKED, stream=True)
        pieces = [chunk.choices[0].delta.content or "" for chunk in stream]
    assert "".join(pieces) == "three plain words"
    assert len(pieces) > 3


def test_the_default_address_is_never_called(there: RemoteEnclave) -> None:
    """Tests reach nothing past this machine: an answer shows that api.openai.com was not asked."""
    with openai.OpenAI(http_client=there.http_client(), api_key="unused") as caller:
        answer = caller.chat.completions.create(model=MODEL, messages=ASKED)
    assert answer.choices[0].message.content == "three plain words"


async def test_the_asynchronous_client(there: RemoteEnclave) -> None:
    async with openai.AsyncOpenAI(http_client=there.async_http_client(), base_url=BASE_URL, api_key="unused") as caller:
        asked = [caller.chat.completions.create(model=MODEL, messages=ASKED) for _ in range(8)]
        answers = await asyncio.gather(*asked)
        assert {answer.choices[0].message.content for answer in answers} == {"three plain words"}
        stream = await caller.chat.completions.create(model=MODEL, messages=ASKED, stream=True)
        assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream]) == "three plain words"
        with pytest.raises(openai.BadRequestError) as e:
            await caller.chat.completions.create(model=MODEL, messages=ASKED, extra_body={"frobnicate": 1})
        assert (e.value.code, e.value.param) == ("unsupported_field", "frobnicate")


async def test_the_twins_for_legacy_httpx(there: RemoteEnclave) -> None:
    legacy: Any = httpx.Client(transport=Legacy(there.upstream()))
    with openai.OpenAI(http_client=legacy, base_url=BASE_URL, api_key="unused") as caller:
        stream = caller.chat.completions.create(model=MODEL, messages=ASKED, stream=True)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == "three plain words"
    twin: Any = httpx.AsyncClient(transport=LegacyAsync(there.upstream()))
    async with openai.AsyncOpenAI(http_client=twin, base_url=BASE_URL, api_key="unused") as caller2:
        answer = await caller2.chat.completions.create(model=MODEL, messages=ASKED)
        assert answer.choices[0].message.content == "three plain words"


def remote_nobody(there: RemoteEnclave) -> RemoteEnclave:
    return RemoteEnclave("http://127.0.0.1:9", policy=there._document, now=there._now, timeout=2)


def test_the_legacy_twin_says_what_it_needs() -> None:
    code = "import sys; sys.modules['httpx'] = None; import client.legacy_transport"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "client.legacy_transport needs httpx" in ended.stderr


def test_one_client_serves_many_threads(there: RemoteEnclave) -> None:
    with (
        openai.OpenAI(http_client=there.http_client(), base_url=BASE_URL, api_key="unused") as caller,
        ThreadPoolExecutor(8) as threads,
    ):

        def ask(number: int) -> str | None:
            message: Any = [{"role": "user", "content": f"number {number}"}]
            return caller.chat.completions.create(model=MODEL, messages=message).choices[0].message.content

        assert list(threads.map(ask, range(24))) == [f"number {n}" for n in range(24)]


def test_an_enclave_that_is_not_there_is_a_connection_error(there: RemoteEnclave) -> None:
    with httpx2.Client(transport=client.SealedTransport(remote_nobody(there).upstream())) as plain:
        with pytest.raises(httpx2.ConnectError):
            plain.get(f"{BASE_URL}/models")
        with (
            openai.OpenAI(http_client=plain, base_url=BASE_URL, api_key="unused", max_retries=0) as caller,
            pytest.raises(openai.APIConnectionError),
        ):
            caller.models.list()


def test_the_legacy_twin_says_so_in_its_own_words(there: RemoteEnclave) -> None:
    with httpx.Client(transport=Legacy(remote_nobody(there).upstream())) as plain, pytest.raises(httpx.ConnectError):
        plain.get(f"{BASE_URL}/models")


def test_other_paths_are_not_found_and_nothing_is_sent(there: RemoteEnclave) -> None:
    with there.http_client() as plain:
        for method, path in (("GET", "/files"), ("POST", "/files"), ("DELETE", "/models/x"), ("POST", "/models")):
            assert plain.request(method, BASE_URL + path).status_code == 404


# ---- nothing runs twice, and nobody's run goes on


@pytest.mark.parametrize(
    ("fields", "kind"),
    [({"max_tokens": 10**6}, openai.BadRequestError), ({"model": "other"}, openai.NotFoundError)],
)
def test_a_refusal_is_not_sent_once_more(there: RemoteEnclave, fields: dict[str, Any], kind: type[Exception]) -> None:
    with pytest.raises(kind) as e:
        chat(there, **fields)
    response: Any = e.value
    assert response.response.headers["X-Should-Retry"] == "false"


def test_an_unknown_outcome_is_raised_and_never_sent_again(enclave: Served) -> None:
    """The openai package retries a 5xx and a lost connection by itself, as what would be another run."""
    with relayed(enclave, lambda path, data: (503 if path == SEALED_PATH else 200, data)) as relay:
        with remote(enclave, target=relay.target) as there, pytest.raises(RunOutcomeUnknown):
            chat(there)
        assert relay.paths.count(SEALED_PATH) == 2  # the second one under the same run id


def test_a_stream_that_is_cut_raises_what_is_wrong(tmp_path: Path) -> None:
    with served(tmp_path, delay=0.02) as mortal:
        there = remote(mortal)
        with openai.OpenAI(http_client=there.http_client(), base_url=BASE_URL, api_key="unused") as caller:
            stream = caller.chat.completions.create(model=MODEL, messages=LONG, stream=True)
            next(iter(stream))
            mortal.call(mortal.service._routes.cut_short)
            with pytest.raises(Untrusted) as e:
                list(stream)
        assert e.value.code == "StreamTruncated"
        there.close()


def test_closing_a_stream_ends_the_run(tmp_path: Path) -> None:
    with served(tmp_path, delay=0.02) as slow, remote(slow) as there:
        with openai.OpenAI(http_client=there.http_client(), base_url=BASE_URL, api_key="unused") as caller:
            with caller.chat.completions.create(model=MODEL, messages=LONG, stream=True) as stream:
                next(iter(stream))
            eventually(lambda: slow.count(Count.RUNS_ABORTED) == 1)
        eventually(lambda: slow.call(lambda: slow.floor.pump.live) == 0)


async def test_cancelling_an_asynchronous_request_ends_its_run(tmp_path: Path) -> None:
    with served(tmp_path, delay=0.02) as slow, remote(slow) as there:
        async with openai.AsyncOpenAI(
            http_client=there.async_http_client(), base_url=BASE_URL, api_key="unused", max_retries=0
        ) as caller:
            asking = asyncio.create_task(caller.chat.completions.create(model=MODEL, messages=LONG))
            await asyncio.to_thread(eventually, lambda: slow.call(lambda: slow.floor.pump.live))
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
            await asyncio.to_thread(eventually, lambda: slow.call(lambda: slow.floor.pump.live) == 0)
            stream = await caller.chat.completions.create(model=MODEL, messages=LONG, stream=True)
            await anext(aiter(stream))
            await stream.close()
            await asyncio.to_thread(eventually, lambda: slow.call(lambda: slow.floor.pump.live) == 0)
        assert slow.count(Count.SEALED_ACCEPTED) == 2
        assert slow.count(Count.RUNS_COMPLETE) == 0


def test_ending_a_run_that_has_ended_leaves_its_connection_to_others(there: RemoteEnclave) -> None:
    """A caller who goes away late must not hang up on whoever uses the connection next."""
    pool = there.upstream()
    asked = json.dumps({"model": MODEL, "messages": ASKED}).encode()
    ticket = Ticket()
    answered = Door(pool).answer("POST", "/v1/chat/completions", asked, ticket)
    assert b"three plain words" in b"".join(answered.body)
    ticket.abandon()
    answered.close()
    (kept,) = pool._idle
    assert kept.connection.still_open
    pool.close()


def test_a_caller_who_went_before_there_was_a_run_starts_none(there: RemoteEnclave, enclave: Served) -> None:
    before, attested = enclave.count(Count.SEALED_ACCEPTED), enclave.count(Count.ATTESTATIONS)
    pool, ticket = there.upstream(), Ticket()
    ticket.abandon()
    with pytest.raises(RunOutcomeUnknown):
        Door(pool).answer(
            "POST", "/v1/chat/completions", json.dumps({"model": MODEL, "messages": ASKED}).encode(), ticket
        )
    assert enclave.count(Count.SEALED_ACCEPTED) == before
    assert enclave.count(Count.ATTESTATIONS) == attested + 1  # nor is it verified again for nobody
    pool.close()


def test_an_idle_connection_that_the_enclave_closed_is_not_used(enclave: Served) -> None:
    with remote(enclave) as there:
        there.ask("keeps a connection")
        (kept,) = there._upstream._idle
        enclave.drop_connections()
        eventually(lambda: not kept.connection.still_open)
        assert there.ask("on a new one").text == "on a new one"
