# SPDX-License-Identifier: Apache-2.0
"""What a client's connections and its proxy read and keep has its size."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from client import connection as connections
from client import openai_shapes, upstream
from client.connection import Connection
from client.door_threads import MAX_AT_ONCE
from client.errors import Unreachable
from client.proxy import Proxy
from client.target import parse_target
from client.upstream import BadRequest, Question
from tests.served import Served, served


@pytest.fixture(autouse=True)
def _short_farewells(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("enclave.doors.LINGER_SECONDS", 0.2)


@pytest.fixture(scope="module")
def enclave(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("enclave")) as running:
        yield running


@contextmanager
def server_that_says(data: bytes) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            peer, _ = listening.accept()
            with peer:
                peer.recv(65536)
                try:
                    peer.sendall(data)
                    peer.shutdown(socket.SHUT_WR)
                    peer.recv(65536)
                except OSError:
                    return

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        thread.join(10)


def test_a_client_reads_no_endless_head_and_no_endless_body() -> None:
    endless = b"HTTP/1.1 200 OK\r\n" + b"X-Long: " + b"x" * (2 * connections.MAX_HEADERS)
    body = b"HTTP/1.1 200 OK\r\nContent-Length: 101\r\n\r\n" + bytes(101)
    for says, why in ((endless, "RemoteProtocolError"), (body, "longer than 100 bytes")):
        with (
            server_that_says(says) as target,
            Connection(parse_target(target), timeout=5) as connection,
            pytest.raises(Unreachable, match=why),
        ):
            connection.request("GET", "/").read(100)


def test_few_idle_connections_are_kept(enclave: Served) -> None:
    pool = upstream.Upstream(enclave.attest, now=enclave.now, memory=None)  # type: ignore[arg-type]  # no run here
    given = [enclave.attest() for _ in range(upstream.MAX_IDLE + 1)]
    for attested in given:
        pool.give_back(attested)
    assert len(pool._idle) == upstream.MAX_IDLE
    assert not given[-1].connection.still_open
    pool.close()


def test_a_callers_body_and_a_models_detail_have_their_size(enclave: Served) -> None:
    long = json.dumps({"model": "m", "x": "y" * upstream.MAX_BODY}).encode()
    with pytest.raises(BadRequest):
        Question.read("/v1/completions", long)
    assert openai_shapes._detail(b'{"a": 1}') == {"a": 1}
    assert openai_shapes._detail(b'{"a": "' + b"x" * openai_shapes._MAX_DETAIL + b'"}') == {}
    pool = upstream.Upstream(enclave.attest, now=enclave.now, memory=None)  # type: ignore[arg-type]  # no run here
    proxy = Proxy(pool)
    assert proxy._at_once == MAX_AT_ONCE
    proxy.close()
