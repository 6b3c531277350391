# SPDX-License-Identifier: Apache-2.0
"""Every buffer and patience of the server, hit over real sockets."""

from __future__ import annotations

import asyncio
import gzip
import http.client
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import pytest

from attestation import cbor
from attestation.channel.header import Padding
from attestation.exchange import SealedRefusal
from attestation.receipt import SignedReceipt, Status
from enclave import doors, engine_pump, exchanges, reply, routes, tls
from enclave.engine_pump import EnginePump, LiveJob
from enclave.metrics import Count, Gauge
from enclave.seams import Admission, Engine, EngineEvent, EventKind, Job
from tests.forged import StoppedClock
from tests.sealed_by_hand import sealed_for
from tests.served import Served, served

ATTEST = "/v1/sericin/attest"
SEALED = "/v1/sericin/sealed"


@pytest.fixture(autouse=True)
def _short_farewells(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("enclave.doors.LINGER_SECONDS", 0.2)


@pytest.fixture(scope="module")
def enclave(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("enclave")) as running:
        yield running


def dial(enclave: Served, name: str = "http") -> socket.socket:
    host, port = enclave.service.targets[name].rsplit("/", 1)[1].rsplit(":", 1)
    return socket.create_connection((host, int(port)), timeout=10)


def ended(sock: socket.socket) -> bytes:
    """Read until the server closes; a reset is an end too."""
    answer = b""
    try:
        while portion := sock.recv(65536):
            answer += portion
    except ConnectionResetError:
        pass
    sock.close()
    return answer


def eventually(holds: Any) -> None:
    for _ in range(500):
        if holds():
            return
        time.sleep(0.02)
    raise AssertionError("it never came to hold")


def still_answers(enclave: Served) -> None:
    assert list(enclave.run("on it goes").items())


# ---- connections


def test_one_connection_too_many_is_turned_away(tmp_path: Path) -> None:
    with served(tmp_path) as enclave:
        inside: Any = enclave.service._doors
        assert inside._max == doors.MAX_CONNECTIONS
        inside._max = 3
        held = [dial(enclave) for _ in range(3)]
        eventually(lambda: enclave.call(lambda: enclave.floor.metrics.read(Gauge.CONNECTIONS_OPEN)) == 3)
        assert ended(dial(enclave)) == b""
        assert enclave.count(Count.CONNECTIONS_REFUSED) == 1
        for sock in held:
            sock.close()
        eventually(lambda: enclave.call(lambda: enclave.floor.metrics.read(Gauge.CONNECTIONS_OPEN)) == 0)
        still_answers(enclave)


def test_silent_and_dripping_peers_are_put_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("enclave.doors.REQUEST_SECONDS", 0.4)
    monkeypatch.setattr("enclave.doors.KEEPALIVE_SECONDS", 0.4)
    monkeypatch.setattr("enclave.tls.HANDSHAKE_SECONDS", 0.4)
    assert (doors.REQUEST_SECONDS, doors.KEEPALIVE_SECONDS, tls.HANDSHAKE_SECONDS) == (0.4,) * 3
    with served(tmp_path) as enclave:
        silent, dripping, hello, idle = dial(enclave), dial(enclave), dial(enclave, "ra_tls"), dial(enclave)
        dripping.sendall(b"GET /healthz HT")
        hello.sendall(b"\x16\x03\x01\x02\x00\x01")
        idle.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        start = time.monotonic()
        assert ended(silent) == b""
        assert ended(dripping) == b""
        ended(hello)
        assert ended(idle).startswith(b"HTTP/1.1 200")
        assert time.monotonic() - start < 5
        assert enclave.count(Count.HANDSHAKES_FAILED) == 1
        still_answers(enclave)


def test_a_handshake_without_end_is_cut(enclave: Served) -> None:
    before = enclave.count(Count.HANDSHAKES_FAILED)
    sock = dial(enclave, "ra_tls")
    part = b"\x16\x03\x01\x40\x00"
    hello = b"\x01\x01\xf0\x00" + bytes(tls.MAX_HANDSHAKE * 2)  # a ClientHello of 127 KB, in records
    records = b"".join(part + hello[at : at + 16384] for at in range(0, tls.MAX_HANDSHAKE + 16384, 16384))
    with suppress(BrokenPipeError, ConnectionResetError):
        sock.sendall(records)
    ended(sock)
    assert enclave.count(Count.HANDSHAKES_FAILED) == before + 1
    still_answers(enclave)


def test_a_head_without_end_is_refused_by_the_server_and_not_repeated(enclave: Served) -> None:
    head = b"GET /healthz HTTP/1.1\r\nHost: x\r\n" + b"X-Long: " + b"canary" * 10_000 + b"\r\n\r\n"
    for unreadable in (head, b"canary\r\n\r\n", b"GET canary\r\n\r\n", b"\x16\x03\x01canary\r\n\r\n"):
        answer = enclave.raw(unreadable, finish=False)
        assert answer.split()[1] == b"400"
        assert answer.endswith(b'{"code": "http_error"}')
        assert b"canary" not in answer
    many = b"GET /healthz HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * 100_000 + b"\r\n"
    host, port = enclave.service.targets["http"].removeprefix("http://").rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=10) as sock:
        with suppress(OSError):
            sock.sendall(many)
        assert b"200" not in ended(sock)[:20]
    still_answers(enclave)
    connection = http.client.HTTPConnection(host, int(port), timeout=10)
    connection.request("GET", "/healthz")
    assert connection.getresponse().status == 200
    connection.close()


# ---- bodies


def test_a_small_body_is_small_and_comes_soon(enclave: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    assert enclave.post(bytes(routes.MAX_SMALL_BODY), ATTEST)[0] == 400
    assert enclave.post(bytes(routes.MAX_SMALL_BODY + 1), ATTEST)[0] == 413
    monkeypatch.setattr("enclave.routes.SMALL_BODY_SECONDS", 0.3)
    assert routes.SMALL_BODY_SECONDS == 0.3
    head = f"POST {ATTEST} HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\n"
    assert enclave.raw(head.encode() + b"x", finish=False).startswith(b"HTTP/1.1 400")


def test_a_sealed_body_comes_within_its_time_while_others_are_served(
    enclave: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("enclave.exchanges.READ_SECONDS", 0.5)
    wire = sealed_for(enclave)[0].wire
    head = f"POST {SEALED} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(wire)}\r\n\r\n"
    slow = dial(enclave)
    slow.sendall(head.encode() + wire[:-1])
    still_answers(enclave)
    assert ended(slow).startswith(b"HTTP/1.1 400")
    assert enclave.post(wire)[0] == 200  # nothing of it was used up


@pytest.mark.parametrize("framing", ["length", "chunks"])
def test_a_request_is_refused_at_the_limit_of_the_boot_map(enclave: Served, framing: str) -> None:
    limit = enclave.booted.boot.limits.max_request_bytes
    data = sealed_for(enclave)[0].wire.ljust(limit + 1, b"\0")
    if framing == "length":
        head = f"POST {SEALED} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n\r\n".encode()
        assert enclave.raw(head, finish=False).startswith(b"HTTP/1.1 413")
        return
    # One frame that never ends: its length is refused before the bytes are kept.
    head = f"POST {SEALED} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n{len(data):x}\r\n".encode()
    assert enclave.raw(head + data + b"\r\n0\r\n\r\n", finish=False).split()[1] in {b"400", b"413"}


@pytest.mark.parametrize("path", [SEALED, ATTEST])
def test_a_packed_body_is_not_unpacked(enclave: Served, path: str) -> None:
    """A thousand zeros for every byte sent would be unpacked before any limit is looked at."""
    good = sealed_for(enclave)[0].wire if path == SEALED else cbor.encode({1: ["sericin/1"], 2: bytes(32), 3: "epoch"})
    for body in (gzip.compress(good), gzip.compress(bytes(10**7))):
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Encoding: gzip\r\nContent-Length: {len(body)}\r\n\r\n"
        assert enclave.raw(head.encode() + body, finish=False).split()[1] in {b"400", b"413"}
    assert enclave.post(good, path)[0] == 200


def test_a_properly_sealed_request_beyond_the_limit_is_too_large_also_in_chunks(enclave: Served) -> None:
    limit = enclave.booted.boot.limits.max_request_bytes
    data = sealed_for(enclave, "w" * limit)[0].wire
    head = f"POST {SEALED} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    chunks = b"".join(f"{len(part):x}\r\n".encode() + part + b"\r\n" for part in (data[:50_000], data[50_000:]))
    assert enclave.raw(head + chunks + b"0\r\n\r\n", finish=False).split()[1] == b"413"


def test_challenges_that_wait_are_counted(enclave: Served) -> None:
    inside: Any = enclave.service._routes
    enclave.call(lambda: setattr(inside, "_waiting", routes.ATTEST_WAITING))
    try:
        body = cbor.encode({1: ["sericin/1"], 2: bytes(32), 3: "client"})
        head = f"POST {ATTEST} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        answer = enclave.raw(head + body, finish=False)
        assert answer.startswith(b"HTTP/1.1 503")
        assert b"Retry-After: 2" in answer
    finally:
        enclave.call(lambda: setattr(inside, "_waiting", 0))


# ---- answers that nobody reads


def ask_and_read_nothing(enclave: Served, *, words: int, padding: Padding = Padding.CELL) -> socket.socket:
    """Ask over the unix socket, whose buffers are small."""
    sealed, _ = sealed_for(enclave, "w " * words, header={"padding": padding}, request={"max_tokens": 100_000})
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(enclave.service.targets["unix"].removeprefix("unix:"))
    head = f"POST {SEALED} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(sealed.wire)}\r\n\r\n"
    sock.sendall(head.encode() + sealed.wire)
    return sock


LARGE = {"max_request_bytes": 1 << 20, "max_completion_tokens": 100_000, "queue_length": 8}


def test_an_answer_that_nobody_takes_frees_its_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Evidence asked for again and again and never read, on a connection that is then closed by one side or by none."""
    monkeypatch.setattr(doors, "STALL_SECONDS", 0.5)
    monkeypatch.setattr(doors, "SWEEP_SECONDS", 0.1)
    monkeypatch.setattr(doors, "KEEPALIVE_SECONDS", 0.3)
    get = b"GET /.well-known/sericin/attestation HTTP/1.1\r\nHost: x\r\n"
    with served(tmp_path) as enclave:
        path = enclave.service.targets["unix"].removeprefix("unix:")
        held = [socket.socket(socket.AF_UNIX) for _ in range(3)]
        for sock in held:
            sock.connect(path)
            sock.sendall((get + b"\r\n") * 100 + get + b"Connection: close\r\n\r\n")
        eventually(lambda: enclave.count(Count.CONNECTIONS) == 3)
        eventually(lambda: enclave.call(lambda: enclave.floor.metrics.read(Gauge.CONNECTIONS_OPEN)) == 0)
        for sock in held:
            sock.close()
        still_answers(enclave)


@pytest.mark.parametrize("how", ["patience", "pending", "events"])
def test_a_reader_that_does_not_read_loses_its_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    """Whatever fills first ends it: the time for a write, the bytes that wait for the wire, the engine's events."""
    if how == "patience":
        monkeypatch.setattr("enclave.exchanges.WRITE_SECONDS", 0.5)
    if how == "pending":
        monkeypatch.setattr(reply, "MAX_PENDING", 10_000)
    if how == "events":
        monkeypatch.setattr("enclave.engine_pump.MAX_EVENTS", 100)
        monkeypatch.setattr("enclave.exchanges.WRITE_SECONDS", 0.5)
    with served(tmp_path, context=60_000, limits=LARGE) as enclave:
        padding = Padding.GRID if how == "pending" else Padding.CELL
        with ask_and_read_nothing(enclave, words=30_000, padding=padding):
            lost(enclave)
        still_answers(enclave)


class Stuck:
    """A response that cannot be written, and a request whose transport holds `waiting` bytes."""

    def __init__(self, waiting: int) -> None:
        self.waiting = waiting
        self.transport = self

    def get_write_buffer_size(self) -> int:
        return self.waiting

    async def write(self, _: bytes) -> None:
        await asyncio.Event().wait()

    write_eof = write


@pytest.mark.parametrize(("waiting", "size", "last"), [(1, 10, False), (1, 10, True), (0, exchanges.SMALL + 1, True)])
def test_no_write_waits_for_ever(monkeypatch: pytest.MonkeyPatch, waiting: int, size: int, *, last: bool) -> None:
    """Neither one in the middle nor the last one, behind bytes that wait or with too many of its own."""
    monkeypatch.setattr(exchanges, "WRITE_SECONDS", 0.01)
    stuck: Any = Stuck(waiting)
    with pytest.raises(TimeoutError):
        asyncio.run(exchanges._write(stuck, stuck, bytes(size), last=last))


def test_what_never_waits_fits_a_transport() -> None:
    """Half of the 64 KiB at which asyncio's transports and aiohttp's writer begin to wait."""
    assert exchanges.SMALL == 32 * 1024


def test_a_slow_request_holds_one_lane_and_no_other_waits_for_it() -> None:
    """A job that is read for a long time, as a grammar may be, keeps nobody else's from being read."""
    held = threading.Event()

    class Slow:
        def submit(self, job: Job) -> Admission:
            if job.job_id == 1:
                held.wait(10)
            return Admission(accepted=True)

    async def both() -> list[bool]:
        lanes, slow = engine_pump._Lanes(), cast("Engine", Slow())
        first, others = lanes.submit(slow, job(1)), [lanes.submit(slow, job(n)) for n in range(2, 6)]
        await asyncio.wait_for(asyncio.gather(*others), 5)
        early = first.done()
        held.set()
        admitted = await first
        lanes.close()
        return [early, admitted.accepted]

    assert asyncio.run(both()) == [False, True]


def job(number: int) -> Job:
    return Job(job_id=number, model="m", endpoint="e", body=b"", tenant=b"", deadline=0.0)


def lost(enclave: Served) -> None:
    """Require the one run to be ended, and its slot free, while its reader is still there."""
    eventually(lambda: enclave.count(Count.READERS_TOO_SLOW) == 1)
    eventually(lambda: enclave.count(Count.RUNS_ABORTED) == 1)
    eventually(lambda: enclave.call(lambda: enclave.floor.pump.live) == 0)


def test_events_that_wait_are_counted() -> None:
    job = LiveJob(1)
    event = EngineEvent(job_id=1, kind=EventKind.DELTA)
    for _ in range(engine_pump.MAX_EVENTS):
        job.put(event)
    before = job.overrun
    job.put(event)
    assert (before, job.overrun) == (False, True)
    assert len(job.waiting()) == engine_pump.MAX_EVENTS


def test_few_steps_are_handed_over_together() -> None:
    """An engine that is always ahead cannot keep the pump from handing over what it has."""

    class Endless:
        def events(self, timeout: float) -> list[EngineEvent]:
            return [EngineEvent(job_id=1, kind=EventKind.DELTA, tokens=(int(timeout),))]

    endless: Any = Endless()
    assert len(EnginePump(endless, clock=StoppedClock())._burst()) == 1 + engine_pump.MAX_BURST


def test_a_run_ends_at_its_deadline(tmp_path: Path) -> None:
    with served(tmp_path, delay=0.02) as enclave:
        sealed, opener = sealed_for(enclave, "long " * 400)
        answers: list[Any] = []
        asking = threading.Thread(target=lambda: answers.append(enclave.post(sealed.wire)))
        asking.start()
        eventually(lambda: enclave.call(lambda: enclave.floor.pump.live))
        enclave.clock.since_boot += engine_pump.RUN_SECONDS
        asking.join(20)
        opener.feed(answers[0][1])
        assert SealedRefusal.decode(opener.error_item).code == "deadline"
        signed = SignedReceipt.decode(opener.receipt_item).receipt
        assert (signed.status, signed.price) == (Status.FAILED, 0)
