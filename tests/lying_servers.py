# SPDX-License-Identifier: Apache-2.0
"""Lite servers beside an honest one: what a client sees through them, and that a lie is caught by its name."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from attestation.errors import AttestationError
from attestation.ton.blockid import BlockId
from client.errors import ClientError
from client.ton import liteserver
from client.ton.chain import with_chain
from client.ton.network import LiteServerAddress, Network
from client.ton.registry_view import RegistryView, view_registry
from enclave.simulator.ton_answers import TonAnswers
from enclave.simulator.ton_chain import TonChain
from enclave.simulator.ton_server import TonServer
from tests.ton_in_box import InBox, in_box

BOUND = 15.0  # seconds, for everything here, on a machine that has much else to do


@contextmanager
def grown_box(folder: Path) -> Iterator[InBox]:
    """Give a box with some accounts and two key blocks."""
    with in_box(folder, None) as made:
        for number in range(1, 9):
            made.box.fund(bytes((number * 16,)) * 32, 10**9)
        for _ in range(20):
            made.box.block()
        yield made


def be_impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(liteserver, "ANSWER_SECONDS", 5.0)
    monkeypatch.setattr(liteserver, "CONNECT_SECONDS", 5)


def view(ton: InBox, network: Network | None = None, **options: Any) -> RegistryView:
    network = network or ton.network
    started = time.monotonic()
    try:
        return with_chain(
            network, lambda chain: view_registry(chain, network.registry, now=ton.clock.now(), **options), seconds=10.0
        )
    finally:
        assert time.monotonic() - started < BOUND


@contextmanager
def lying(ton: InBox, lie: type[TonAnswers], *, key: Ed25519PrivateKey | None = None) -> Iterator[Network]:
    """Serve `lie` beside the honest server, and give a network that knows only the liar."""
    server = TonServer(lie(ton.box).answer, key=key or Ed25519PrivateKey.generate())
    port = ton.await_(server.start())
    address = LiteServerAddress(host="127.0.0.1", port=port, key=server.public)
    try:
        yield replace(ton.network, lite_servers=(address,))
    finally:
        ton.await_(server.stop())


def caught(ton: InBox, lie: type[TonAnswers], code: str, where: str = "") -> None:
    with lying(ton, lie) as network:
        with pytest.raises((AttestationError, ClientError)) as e:
            view(ton, network)
        assert getattr(e.value, "code", None) == code, e.value
        assert where in str(e.value), e.value
        both = replace(network, lite_servers=(*network.lite_servers, *ton.network.lite_servers))
        assert view(ton, both).block.seqno == ton.box.chain.head.seqno


def first_block(chain: TonChain) -> BlockId:
    """Give a chain's init block as a client names it."""
    return BlockId.decode(chain.init_block.encode(), what="init")
