# SPDX-License-Identifier: Apache-2.0
"""A request sealed by hand, any field changed, and what comes back."""

from __future__ import annotations

import json
import time
from typing import Any

from attestation.channel.header import Header, Padding
from attestation.channel.request import SealedRequest, seal_request
from attestation.channel.response import ResponseOpener
from attestation.exchange import Delta, ExchangeBody, SealedRefusal
from tests.forged import MODEL
from tests.served import Served


def text_of(items: list[Any]) -> str:
    return "".join(item.text for item in items if isinstance(item, Delta))


def sealed_for(
    enclave: Served, text: str = "hello", *, header: dict[str, Any] | None = None, **body: Any
) -> tuple[SealedRequest, ResponseOpener]:
    """Seal a request by hand."""
    epoch = enclave.booted.floor.epochs.current
    fields: dict[str, Any] = {
        "kid": epoch.seal.kid,
        "keyset_digest": epoch.digest,
        "request_id": bytes(16),
        "time": enclave.clock.wall(),
        "padding": Padding.CELL,
        "stream": True,
        "model": MODEL,
    }
    openai = {"model": MODEL, "stream": True, "messages": [{"role": "user", "content": text}]}
    inside: dict[str, Any] = {
        "endpoint": "/v1/chat/completions",
        "nonce": bytes(32),
        "run_id": body.pop("run_id", time.monotonic_ns().to_bytes(32, "big")),
        "first_epoch": epoch.number,
        "policy_digest": bytes(32),
        "openai": json.dumps(openai | body.pop("request", {})).encode(),
    }
    made = Header(**(fields | (header or {})))
    seed = time.monotonic_ns().to_bytes(32, "big")
    sealed = seal_request(made, ExchangeBody(**(inside | body)).encode(), public_key=epoch.seal.public, seed=seed)
    return sealed, ResponseOpener(sealed.schedule, padding=made.padding)


def refusal(enclave: Served, **changes: Any) -> SealedRefusal:
    """Send a request and read the refusal that is sealed in the answer."""
    sealed, opener = sealed_for(enclave, **changes)
    status, wire = enclave.post(sealed.wire)
    assert status == 200
    opener.feed(wire)
    opener.close()
    assert opener.error_item
    return SealedRefusal.decode(opener.error_item)
