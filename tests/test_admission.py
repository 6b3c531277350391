# SPDX-License-Identifier: Apache-2.0
"""Who may run: every rule of admission by itself, with no engine behind it that could say no in its place."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from attestation.boot import Limits
from attestation.channel.header import Header, Padding
from attestation.exchange import MAX_BODY, ExchangeBody
from enclave.admission import TIME_WINDOW, Admission, SealedNo
from enclave.runs import RunTable
from enclave.session import Opened

NOW = 1_800_000_000
KEYSET = bytes(range(32))


def opened(
    *, header: dict[str, Any] | None = None, body: dict[str, Any] | None = None, openai: Any = None, raw: bytes = b""
) -> Opened:
    request = {"model": "m", "stream": True, "messages": []}
    inside: dict[str, Any] = {
        "endpoint": "/v1/chat/completions",
        "nonce": bytes(32),
        "run_id": bytes(32),
        "first_epoch": 3,
        "policy_digest": bytes(32),
        "openai": json.dumps(request | openai if isinstance(openai, dict) else openai or request).encode(),
    }
    fields: dict[str, Any] = {
        "kid": bytes(8),
        "keyset_digest": KEYSET,
        "request_id": bytes(16),
        "time": NOW,
        "padding": Padding.CELL,
        "stream": True,
        "model": "m",
    }
    epoch: Any = SimpleNamespace(digest=KEYSET)
    schedule: Any = None
    return Opened(
        epoch=epoch,
        header=Header(**(fields | (header or {}))),
        schedule=schedule,
        body=raw or ExchangeBody(**(inside | (body or {}))).encode(),
        ciphertext_hash=bytes(32),
        commitment=bytes(32),
    )


def admission(*, runs: RunTable | None = None) -> Admission:
    limits = Limits(max_request_bytes=1 << 20, max_completion_tokens=100, queue_length=2)
    return Admission(runs=RunTable() if runs is None else runs, models=frozenset({"m"}), limits=limits)


def admit(request: Opened, *, at: Admission | None = None, live: int = 0) -> None:
    (at or admission()).admit(request, wall_now=NOW, current_epoch=3, live_runs=live)


ADMITTED: list[tuple[str, dict[str, Any]]] = [
    ("as it should be", {}),
    ("a clock at the edge", {"header": {"time": NOW - TIME_WINDOW}}),
    ("the other edge", {"header": {"time": NOW + TIME_WINDOW}}),
    ("as many tokens as allowed", {"openai": {"max_tokens": 100, "max_completion_tokens": 100}}),
    ("no stream, said so by null", {"header": {"stream": False}, "openai": {"stream": None}}),
    ("a first attempt in the previous epoch", {"body": {"first_epoch": 2}}),
]


@pytest.mark.parametrize("given", [row[1] for row in ADMITTED], ids=[row[0] for row in ADMITTED])
def test_it_may_run(given: dict[str, Any]) -> None:
    admit(opened(**given))


REFUSED: list[tuple[str, dict[str, Any], str, str | None]] = [
    ("too old", {"header": {"time": NOW - TIME_WINDOW - 1}}, "time_window", "time"),
    ("too young", {"header": {"time": NOW + TIME_WINDOW + 1}}, "time_window", "time"),
    ("another epoch's keyset", {"header": {"keyset_digest": bytes(32)}}, "epoch_mismatch", "keyset_digest"),
    ("no body at all", {"raw": b"\xa0"}, "invalid_request", "body[1]"),
    ("an unknown endpoint", {"body": {"endpoint": "/v1/files"}}, "invalid_request", "body.endpoint"),
    ("an unknown model", {"header": {"model": "n"}, "openai": {"model": "n"}}, "model_unknown", "model"),
    ("another model inside", {"openai": {"model": "n"}}, "header_mismatch", "model"),
    ("no model inside", {"openai": [1]}, "invalid_request", "body"),
    ("another stream flag", {"openai": {"stream": False}}, "header_mismatch", "stream"),
    ("a stream flag that is none", {"openai": {"stream": 1}}, "header_mismatch", "stream"),
    ("a null stream under a header that streams", {"openai": {"stream": None}}, "header_mismatch", "stream"),
    ("too many tokens", {"openai": {"max_tokens": 101}}, "limit_exceeded", "max_tokens"),
    ("too many by the new name", {"openai": {"max_completion_tokens": 101}}, "limit_exceeded", "max_completion_tokens"),
    ("an epoch to come", {"body": {"first_epoch": 4}}, "invalid_request", "first_epoch"),
    ("an epoch that is none", {"body": {"first_epoch": 0}}, "invalid_request", "first_epoch"),
    ("an epoch long gone", {"body": {"first_epoch": 1}}, "run_expired", None),
    ("a body that is no JSON", {"body": {"openai": b"{"}}, "invalid_request", "body"),
    ("a key twice", {"body": {"openai": b'{"model":"m","model":"m"}'}}, "invalid_request", "body"),
    ("a body too long", {"body": {"openai": b" " * MAX_BODY}}, "invalid_request", "body"),
]


@pytest.mark.parametrize(("given", "code", "field"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_it_may_not_and_its_run_id_is_not_taken(given: dict[str, Any], code: str, field: str | None) -> None:
    runs = RunTable()
    with pytest.raises(SealedNo) as e:
        admit(opened(**given), at=admission(runs=runs))
    assert (e.value.refusal.code, e.value.refusal.field) == (code, field)
    assert len(runs) == 0
    admit(opened(), at=admission(runs=runs))


def test_a_queue_has_its_length_and_says_when_to_come_again() -> None:
    admit(opened(), live=1)
    with pytest.raises(SealedNo) as e:
        admit(opened(), live=2)
    assert e.value.refusal.code == "busy"
    assert e.value.refusal.retry_after


def test_whoever_closes_refuses_everybody_first() -> None:
    closing = admission()
    closing.closing = True
    with pytest.raises(SealedNo, match="shutting_down"):
        admit(opened(header={"time": 0}), at=closing)


def test_a_run_id_is_taken_once_and_gives_its_receipt() -> None:
    runs = RunTable()
    at = admission(runs=runs)
    admit(opened(), at=at)
    for receipt in (None, b"receipt"):
        if receipt:
            runs.done(bytes(32), receipt)
        with pytest.raises(SealedNo) as e:
            admit(opened(), at=at)
        assert (e.value.refusal.code, e.value.receipt) == ("already_run", receipt)
    runs.forget_before(4)
    admit(opened(), at=at)


def test_what_was_never_entered_is_not_done() -> None:
    runs = RunTable()
    runs.done(bytes(32), b"receipt")
    runs.remove(bytes(32))
    assert len(runs) == 0
