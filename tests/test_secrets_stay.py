# SPDX-License-Identifier: Apache-2.0
"""A canary in a prompt: what breaks inside or outside says so without a word of it."""

from __future__ import annotations

import json
import logging
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from attestation.errors import AttestationError
from attestation.exchange import Delta, ExchangeBody
from client.errors import ClientError, Declined
from client.exchange import RunRequest
from client.upstream import Question
from enclave.admission import Admitted
from enclave.hygiene import silence_libraries
from enclave.journal import kind_of
from enclave.metrics import Count
from enclave.seams import EngineEvent, EventKind, Job
from tests.forged import MODEL
from tests.served import Served, served

CANARY = "canary-19d4c2"


def raise_it(*_: object, **__: object) -> Any:
    raise ValueError(f"the model choked on {CANARY}")


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def nothing_kept(enclave: Served) -> None:
    metrics = enclave.raw(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", finish=False)
    assert CANARY.encode() not in metrics
    assert CANARY not in enclave.log.getvalue()
    for path in files(enclave.folder):
        assert CANARY.encode() not in path.read_bytes(), path


@pytest.fixture
def quiet() -> Any:
    """The libraries' loggers as `sericin serve` sets them."""
    names = ("aiohttp", "aiohttp.access", "aiohttp.server", "aiohttp.web", "aiohttp.internal", "asyncio")
    before = [(logging.getLogger(name), list(logging.getLogger(name).handlers)) for name in names]
    silence_libraries()
    yield
    for logger, handlers in before:
        logger.handlers, logger.propagate, logger.disabled = handlers, True, False


@pytest.mark.usefixtures("quiet")
def test_an_engine_that_breaks_at_a_prompt_takes_nobody_with_it(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with served(tmp_path) as enclave:
        engine: Any = enclave.booted.engine
        real, engine.submit = engine.submit, raise_it
        run = enclave.run(f"say {CANARY}")
        with pytest.raises(Declined) as e:
            list(run.items())
        assert e.value.refusal == "engine_failed"
        assert CANARY not in "".join(traceback.format_exception(e.value))
        engine.submit = real
        assert enclave.count(Count.INTERNAL_ERRORS) == 1
        assert '"code": "ValueError"' in enclave.log.getvalue()
        assert [i.text for i in enclave.run("after").items() if isinstance(i, Delta)] == ["after"]
        nothing_kept(enclave)
    out, err = capfd.readouterr()
    assert CANARY not in out + err


def test_an_engine_that_dies_fails_its_runs_and_says_so_to_whoever_watches(tmp_path: Path) -> None:
    with served(tmp_path, delay=0.02) as enclave:
        run = enclave.run(f"{CANARY} " * 200)
        items = run.items()
        next(items)
        engine: Any = enclave.booted.engine
        engine.events = raise_it
        with pytest.raises(Declined) as e:
            list(items)
        assert e.value.refusal == "engine_failed"
        health = enclave.raw(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", finish=False)
        assert health.startswith(b"HTTP/1.1 503")
        nothing_kept(enclave)


REFUSED: list[tuple[str, dict[str, Any]]] = [
    ("unknown field", {"frobnicate": CANARY}),
    ("wrong type", {"max_tokens": CANARY}),
    ("wrong messages", {"messages": CANARY}),
    ("another model", {"model": CANARY}),
    ("too many tokens", {"max_tokens": 10**9, "messages": [{"role": "user", "content": CANARY}]}),
]


@pytest.mark.parametrize("request_", [row[1] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_a_refusal_names_the_field_and_never_its_value(tmp_path: Path, request_: dict[str, Any]) -> None:
    with served(tmp_path) as enclave:
        run = enclave.run("x", request=request_)
        with pytest.raises((Declined, AttestationError)) as e:
            list(run.items())
        error: Any = e.value
        shown = json.dumps(error.to_json()) + str(e.value) + "".join(traceback.format_exception(e.value))
        assert CANARY not in shown
        nothing_kept(enclave)


def test_a_false_answer_is_refused_without_quoting_it(tmp_path: Path) -> None:
    from tests.relay import relayed

    with served(tmp_path) as enclave, relayed(enclave, lambda p, d: (200, d[:-150] if "sealed" in p else d)) as relay:
        with pytest.raises((AttestationError, ClientError)) as e:
            list(enclave.run(f"say {CANARY}", target=relay.target).items())
        assert CANARY not in "".join(traceback.format_exception(e.value))


def body() -> ExchangeBody:
    return ExchangeBody(
        endpoint="/v1/completions",
        nonce=bytes(32),
        run_id=bytes(32),
        first_epoch=1,
        policy_digest=bytes(32),
        openai=CANARY.encode(),
    )


FACELESS: list[tuple[str, Callable[[], object]]] = [
    ("request", lambda: RunRequest(endpoint="e", openai=CANARY.encode(), model="m", stream=True)),
    ("question", lambda: Question.read("/v1/completions", json.dumps({"model": "m", "prompt": CANARY}).encode())),
    ("delta", lambda: Delta(text=CANARY)),
    ("event", lambda: EngineEvent(job_id=1, kind=EventKind.DELTA, text=CANARY.encode())),
    ("job", lambda: Job(job_id=1, model=MODEL, endpoint="e", body=CANARY.encode(), tenant=b"", deadline=0)),
    ("admitted", lambda: Admitted(opened=None, body=body())),  # type: ignore[arg-type]  # its face is asked for alone
    ("body", body),
]


@pytest.mark.parametrize("make", [row[1] for row in FACELESS], ids=[row[0] for row in FACELESS])
def test_what_holds_a_prompt_has_no_face(make: Callable[[], object]) -> None:
    assert CANARY not in repr(make()) + str(make())


def test_an_errors_kind_is_a_code_whatever_it_is_called() -> None:
    class Http2Error42(Exception):
        """Named as libraries name theirs."""

    assert kind_of(Http2Error42(CANARY)) == "HttpError"


def test_a_run_and_an_answer_have_no_face(tmp_path: Path) -> None:
    with served(tmp_path) as enclave:
        run = enclave.run(f"say {CANARY}")
        list(run.items())
        for held in (run, run.answer, run.sealed, run.body, run.witness, run.attested, enclave.booted.floor):
            assert CANARY not in repr(held)
