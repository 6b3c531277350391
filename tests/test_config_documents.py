# SPDX-License-Identifier: Apache-2.0
"""The config and operator documents: what is read, and everything else that is refused."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest

from attestation.config import EnclaveConfig
from attestation.errors import Malformed, Untrusted
from attestation.operator import MAX_PRICE, OperatorDocument, Prices

CONFIG: dict[str, Any] = {
    "schema": "sericin-config/1",
    "machine": "simulated",
    "gpu": {"mode": "none", "count": 0},
    "engine": {"kind": "echo", "n_ctx": 4096, "n_seq": 4, "n_ubatch": 512, "threads": 1},
    "models": [{"name": "echo", "sha256": "ab" * 32}],
    "limits": {"max_request_bytes": 65536, "max_completion_tokens": 512, "queue_length": 8},
    "anchor_within": 3600,
    "retention": 3600,
    "logging": "codes",
}
OPERATOR: dict[str, Any] = {
    "schema": "sericin-operator/1",
    "listen": {"http": "127.0.0.1:8080", "unix": "/run/s.sock", "ra_tls": "[::]:8443"},
    "state": "state",
    "ledger": "ledger",
    "model_dir": "models",
    "ton_address": None,
    "prices": {"prompt": 1, "cached": 2, "completion": 3},
    "contact": "somebody",
}


def _config(document: object) -> EnclaveConfig:
    return EnclaveConfig.parse(json.dumps(document).encode())


def _operator(document: object) -> OperatorDocument:
    return OperatorDocument.parse(json.dumps(document).encode())


def test_the_documents_are_read() -> None:
    config, operator = _config(CONFIG), _operator(OPERATOR)
    assert (config.models[0].name, config.models[0].sha256) == ("echo", b"\xab" * 32)
    assert config.limits.queue_length == 8
    assert operator.listen.ra_tls == ("::", 8443)
    assert operator.listen.http == ("127.0.0.1", 8080)
    assert operator.prices == Prices(prompt=1, cached=2, completion=3)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("schema", "sericin-config/2"),
        ("machine", "sgx"),
        ("gpu", {"mode": "none", "count": 1}),
        ("gpu", {"mode": "simulated", "count": 0}),
        ("gpu", {"mode": "nvml", "count": 1}),
        ("gpu", {"mode": "none", "count": 0, "more": 1}),
        ("engine", {"kind": "echo"}),
        ("engine.kind", "other"),
        ("engine.n_ctx", 1),
        ("engine.n_seq", True),
        ("engine.threads", -1),
        ("engine.n_ubatch", 1.0),
        ("models", []),
        ("models", [{"name": "a", "sha256": "00" * 32}] * 2),
        ("models", [{"name": "", "sha256": "00" * 32}]),
        ("models", [{"name": "a\n", "sha256": "00" * 32}]),
        ("models", [{"name": "a" * 65, "sha256": "00" * 32}]),
        ("models", [{"name": "a", "sha256": "AB" * 32}]),
        ("models", [{"name": "a", "sha256": "zz" * 32}]),
        ("models", [{"name": "a", "sha256": " 0" * 32}]),
        ("models", [{"name": "a", "sha256": "00" * 31}]),
        ("models", [{"name": "a", "sha256": "00" * 32, "disk": {"root": "00" * 32}}]),
        ("models", [{"name": "a", "sha256": "00" * 32, "disk": {"root": "00" * 31, "blocks": 1}}]),
        ("models", [{"name": "a", "sha256": "00" * 32, "disk": {"root": "00" * 32, "blocks": 0}}]),
        ("models", [{"name": "a", "sha256": "00" * 32, "disk": None}]),
        ("models", [{"name": str(i), "sha256": "00" * 32} for i in range(17)]),
        ("limits.max_request_bytes", 1 << 40),
        ("limits.max_completion_tokens", 0),
        ("limits.queue_length", 0),
        ("limits.queue_length", "8"),
        ("anchor_within", 0),
        ("retention", -1),
        ("logging", "everything"),
        ("unknown", 1),
    ],
)
def test_config_refuses(path: str, value: object) -> None:
    with pytest.raises(Malformed) as caught:
        _config(_bent(CONFIG, path, value))
    assert caught.value.code == "MalformedConfig"


@pytest.mark.parametrize("key", sorted(CONFIG))
def test_config_needs_every_key(key: str) -> None:
    with pytest.raises(Malformed):
        _config({k: v for k, v in CONFIG.items() if k != key})


@pytest.mark.parametrize("key", sorted(OPERATOR))
def test_operator_needs_every_key(key: str) -> None:
    with pytest.raises(Malformed):
        _operator({k: v for k, v in OPERATOR.items() if k != key})


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("schema", "sericin-config/1"),
        ("listen", {}),
        ("listen", None),
        ("listen", {"ftp": "127.0.0.1:1"}),
        ("listen", {"http": "127.0.0.1"}),
        ("listen", {"http": "127.0.0.1:70000"}),
        ("listen", {"http": "user@host:1"}),
        ("listen", {"unix": "x" * 101}),
        ("listen", {"unix": ""}),
        ("state", ""),
        ("ledger", 3),
        ("model_dir", "x\0y"),
        ("ton_address", "not an address"),
        ("prices", {"prompt": 1, "cached": 2}),
        ("prices.prompt", -1),
        ("prices.completion", MAX_PRICE + 1),
        ("prices.cached", 1.5),
        ("contact", "x" * 257),
        ("unknown", None),
    ],
)
def test_operator_refuses(path: str, value: object) -> None:
    with pytest.raises(Malformed) as caught:
        _operator(_bent(OPERATOR, path, value))
    assert caught.value.code == "MalformedConfig"


@pytest.mark.parametrize(("parse", "size"), [(EnclaveConfig.parse, 64 * 1024), (OperatorDocument.parse, 16 * 1024)])
def test_size_and_syntax(parse: Callable[[bytes], object], size: int) -> None:
    for data, code in (
        (b" " * (size + 1), "JsonInvalid"),
        (b"{", "JsonInvalid"),
        (b"", "JsonInvalid"),
        (b'{"schema": 1, "schema": 1}', "JsonDuplicateKey"),
        (b"[]", "MalformedConfig"),
        (b"\xff{}", "JsonInvalid"),
    ):
        with pytest.raises(Malformed) as caught:
            parse(data)
        assert caught.value.code == code


@pytest.mark.parametrize(
    ("prompt", "cached", "completion", "total"),
    [
        (0, 0, 0, 0),
        (1, 0, 0, 1),
        (1_000_000, 0, 0, 10),
        (1_000_000, 1_000_000, 0, 4),
        (1_000_000, 0, 1, 11),
        (3, 1, 3, 1),
    ],
)
def test_the_price_is_rounded_up_once(prompt: int, cached: int, completion: int, total: int) -> None:
    assert (
        Prices(prompt=10, cached=4, completion=30).total(prompt=prompt, cached=cached, completion=completion) == total
    )


def test_the_largest_price_fits_the_receipt() -> None:
    most = 2**32 - 1
    prices = Prices(prompt=MAX_PRICE, cached=MAX_PRICE, completion=MAX_PRICE)
    assert prices.total(prompt=most, cached=most, completion=most) < 2**64


def test_more_cached_than_prompt_tokens_is_refused() -> None:
    with pytest.raises(Untrusted):
        Prices(prompt=1, cached=1, completion=1).total(prompt=1, cached=2, completion=0)


def _bent(document: dict[str, Any], path: str, value: object) -> dict[str, Any]:
    bent = copy.deepcopy(document)
    at = bent
    *parents, last = path.split(".")
    for parent in parents:
        at = at[parent]
    at[last] = value
    return bent
