# SPDX-License-Identifier: Apache-2.0
"""Collateral from a service that answers, stalls and lies about lengths, over real TLS; and what is kept of it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx2
import pytest
from click.testing import CliRunner

from attestation.tdx.anchor import SIMULATED_NAMES, TdxTrustAnchor
from attestation.tdx.collateral import Collateral
from attestation.trust.intel import INTEL_ANCHOR
from client.collateral_cache import MAX_FILES, CollateralCache, renewal
from client.commands.collateral import command as collateral_command
from client.errors import Unreachable, UsageFault
from client.pcs import MAX_BODY, PcsClient, PlatformModel, signed_part, update_query
from tests.collateral_service import Contexts, Server, answer, contexts, good, http, serving
from tests.tdx_cases import NOW, Case, authority

ANCHOR = TdxTrustAnchor(root_sha256=sha256(authority().root.der).digest(), names=SIMULATED_NAMES)
MODEL = PlatformModel(fmspc="51f0c0de0000", ca="platform")


def quiet(_: str) -> None:
    """Say nothing."""


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Contexts:
    return contexts(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def server(tls: Contexts) -> Iterator[Server]:
    with serving(tls[0]) as made:
        yield made


@pytest.fixture
def service(server: Server, tls: Contexts) -> Iterator[PcsClient]:
    with httpx2.Client(verify=tls[1], timeout=0.5, trust_env=False) as client:
        yield PcsClient(server.url, client=client)


def test_fetched_collateral_verifies(service: PcsClient, server: Server) -> None:
    case = Case.new(1).build()
    assert PlatformModel.of_quote(case.signed) == MODEL
    fetched = service.fetch(MODEL, step=quiet)
    case.text = fetched.to_json()
    assert case.ours().tcb.status == "UpToDate"
    assert Collateral.from_json(case.text) == fetched
    assert [path.split("/v4/")[1] for path in server.asked] == [
        "tcb?fmspc=51f0c0de0000&update=standard",
        "qe/identity?update=standard",
        "pckcrl?ca=platform&encoding=der",
        "rootcacrl",
    ]


def stalls(path: str) -> Iterator[bytes]:
    yield good(path)[:200]
    time.sleep(1.2)


def says_nothing(_: str) -> Iterator[bytes]:
    time.sleep(1.2)
    yield b""


def endless(path: str) -> Iterator[bytes]:
    yield http(answer(path)[0], length=10**12)
    for _ in range(200):
        yield bytes(16384)


def endless_chunks(path: str) -> Iterator[bytes]:
    yield f"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n{answer(path)[0]}\r\n\r\n".encode()
    for _ in range(200):
        yield b"4000\r\n" + bytes(16384) + b"\r\n"


def long_headers(_: str) -> Iterator[bytes]:
    yield b"HTTP/1.1 200 OK\r\n"
    for _number in range(200):
        yield b"X-Long: " + b"x" * 16384 + b"\r\n"


def once(make: Callable[[str], bytes]) -> Callable[[str], Iterator[bytes]]:
    return lambda path: iter([make(path)])


LIES: list[tuple[str, Callable[[str], Iterator[bytes]]]] = [
    ("an error status", once(lambda _: http(status="500 Oops"))),
    ("not found", once(lambda _: http(status="404 No"))),
    ("a redirect", once(lambda _: http("Location: https://elsewhere.test", status="302 Found"))),
    ("no issuer chain", once(lambda path: http(body=answer(path)[1]))),
    ("a long issuer chain", once(lambda path: http("TCB-Info-Issuer-Chain: " + "x" * 40_000, body=answer(path)[1]))),
    ("another shape", once(lambda path: http(answer(path)[0], body=b'{"signature":"00"}'))),
    ("a body in gzip", once(lambda path: http(answer(path)[0], "Content-Encoding: gzip", body=answer(path)[1]))),
    ("a length that is too long", once(lambda path: http(answer(path)[0], body=b"{", length=100))),
    ("a length that is no number", once(lambda path: good(path).replace(b"Content-Length: ", b"Content-Length: x"))),
    ("two lengths", once(lambda path: good(path).replace(b"Connection", b"Content-Length: 1\r\nConnection"))),
    ("a body one byte past the bound", once(lambda path: http(answer(path)[0], body=b"x" * (MAX_BODY + 1)))),
    ("a body without end", endless),
    ("chunks without end", endless_chunks),
    ("headers without end", long_headers),
    ("no HTTP", once(lambda _: b"SSH-2.0-x\r\n")),
    ("nothing at all", once(lambda _: b"")),
    ("a stall in the body", stalls),
    ("silence", says_nothing),
]  # fmt: skip


@pytest.mark.parametrize("reply", [row[1] for row in LIES], ids=[row[0] for row in LIES])
def test_a_server_that_lies_or_stalls_is_unreachable(
    service: PcsClient, server: Server, reply: Callable[[str], Iterator[bytes]]
) -> None:
    server.reply = reply
    began = time.monotonic()
    with pytest.raises(Unreachable):
        service.fetch(MODEL, step=quiet)
    assert time.monotonic() - began < 10


def test_a_length_that_is_too_short_is_not_mended(service: PcsClient, server: Server) -> None:
    server.reply = once(lambda path: http(answer(path)[0], body=answer(path)[1], length=len(answer(path)[1]) - 1))
    with pytest.raises(Unreachable):
        service.fetch(MODEL, step=quiet)


def test_a_server_that_drips_is_cut_off(service: PcsClient, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def drips(path: str) -> Iterator[bytes]:
        yield http(answer(path)[0], length=10_000)
        for _ in range(100):
            time.sleep(0.05)
            yield b"x"

    server.reply = drips
    monkeypatch.setattr("client.pcs.TOTAL_SECONDS", 0.3)
    with pytest.raises(Unreachable, match="not done after"):
        service.fetch(MODEL, step=quiet)


def test_a_server_that_nobody_vouches_for_is_unreachable(server: Server) -> None:
    with pytest.raises(Unreachable, match="ConnectError"):
        PcsClient(server.url).fetch(MODEL, step=quiet)
    assert not server.asked


@pytest.mark.parametrize("url", ["http://pccs.test", "https://", "ftp://x", "https://pccs.test?x=1", "file:///etc"])
def test_only_https_is_spoken(url: str) -> None:
    with pytest.raises(UsageFault):
        PcsClient(url)


@pytest.mark.parametrize("update", ["", "late", "-1", "1e9", "1&x=2"])
def test_update_is_one_of_the_known_ways(update: str) -> None:
    with pytest.raises(UsageFault):
        update_query(update)


def test_the_signed_text_is_cut_out_byte_for_byte() -> None:
    text = b'{"a": 1,  "b":{"signature":"x"}}'
    body = b'{"tcbInfo":' + text + b',"signature":"' + b"ab" * 64 + b'"}'
    assert signed_part(body, "tcbInfo") == (text, b"\xab" * 64)


# ---- what is kept


QUESTION = "https://pccs.test 51f0c0de0000 platform update=standard"


def collateral(seed: int = 1) -> Collateral:
    return Collateral.from_json(Case.new(seed).build().text)


def test_collateral_is_kept_until_the_first_of_its_parts_is_over(tmp_path: Path) -> None:
    cache, given = CollateralCache(tmp_path / "c"), collateral()
    assert cache.find(QUESTION, now=NOW) is None
    cache.keep(QUESTION, given)
    end = renewal(given)
    assert cache.find(QUESTION, now=end - timedelta(seconds=1)) == given
    assert cache.find(QUESTION, now=end) is None
    assert cache.find(QUESTION + "x", now=NOW) is None


def test_the_end_is_the_earliest_of_four() -> None:
    ends = {renewal(collateral())}
    for part in ("tcb_info", "qe_identity", "root_crl", "pck_crl"):
        case = Case.new(1)
        if part.endswith("crl"):
            getattr(case.collateral, part).next_update = NOW + timedelta(hours=1)
        else:
            getattr(case.collateral, part)["nextUpdate"] = (NOW + timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
        assert renewal(Collateral.from_json(case.build().text)) == NOW + timedelta(hours=1)
    assert ends != {NOW + timedelta(hours=1)}


def bend_content(folder: Path, change: Callable[[bytes], bytes]) -> None:
    for path in folder.glob("*.json"):
        path.write_bytes(change(path.read_bytes()))


def remove_content(folder: Path) -> None:
    for path in folder.glob("*.json"):
        path.unlink()


def bend_question(folder: Path, text: str) -> None:
    for path in folder.glob("*.of"):
        path.write_text(text)


BENT: list[tuple[str, Callable[[Path], None]]] = [
    ("content changed", lambda f: bend_content(f, lambda d: d.replace(b"a", b"b", 1))),
    ("content cut", lambda f: bend_content(f, lambda d: d[:-1])),
    ("content huge", lambda f: bend_content(f, lambda d: d + b" " * 5_000_000)),
    ("content gone", remove_content),
    ("a path for a name", lambda f: bend_question(f, "../../etc/passwd")),
    ("bytes for a name", lambda f: bend_question(f, "\u00e9")),
    ("another name", lambda f: bend_question(f, "0" * 64)),
]  # fmt: skip


@pytest.mark.parametrize("bend", [row[1] for row in BENT], ids=[row[0] for row in BENT])
def test_what_is_wrong_with_the_cache_is_as_if_it_were_not_there(tmp_path: Path, bend: Callable[[Path], None]) -> None:
    cache = CollateralCache(tmp_path)
    cache.keep(QUESTION, collateral())
    bend(tmp_path)
    assert cache.find(QUESTION, now=NOW) is None
    cache.keep(QUESTION, collateral())
    assert cache.find(QUESTION, now=NOW) is not None


def test_the_cache_is_bounded_and_a_folder_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    cache = CollateralCache(tmp_path / "c")
    given = collateral()
    for number in range(MAX_FILES + 3):
        cache.keep(f"{QUESTION} {number}", given)
    assert len(list((tmp_path / "c").glob("*.of"))) == MAX_FILES
    (tmp_path / "file").write_text("")
    CollateralCache(tmp_path / "file" / "c").keep(QUESTION, given)


def fetch(*arguments: object) -> Any:
    return CliRunner().invoke(collateral_command, ["fetch", *map(str, arguments)])


def test_the_command_fetches_once(
    server: Server, tls: Contexts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    client = httpx2.Client(verify=tls[1], trust_env=False)
    monkeypatch.setattr("client.pcs.httpx2.Client", lambda **_: client)
    monkeypatch.setattr("client.commands.collateral.INTEL_ANCHOR", ANCHOR)
    monkeypatch.setattr("client.commands.collateral.wall_clock", lambda: NOW)
    (tmp_path / "quote").write_bytes(Case.new(1).build().signed)
    arguments = ("--quote", tmp_path / "quote", "-o", tmp_path / "out", "--pccs", server.url)
    first, second = fetch(*arguments, "--json"), fetch(*arguments, "--json")
    assert [json.loads(r.stdout)["from_cache"] for r in (first, second)] == [False, True]
    assert len(server.asked) == 4
    assert json.loads(fetch(*arguments, "--fresh", "--json").stdout)["from_cache"] is False
    assert len(server.asked) == 8
    assert fetch(*arguments, "--update", "early").exit_code == 0
    assert len(server.asked) == 12
    monkeypatch.setattr("client.commands.collateral.INTEL_ANCHOR", INTEL_ANCHOR)
    found = json.loads(fetch(*arguments, "--json").stdout)
    assert (found["ok"], found["from_cache"]) == (True, False), "what verified under another root is not Intel's"
    assert json.loads(fetch(*arguments, "--json").stdout)["from_cache"] is False, "nor is it kept as Intel's"
    client.close()


def test_collateral_wants_a_quote(tmp_path: Path) -> None:
    (tmp_path / "collateral.json").write_bytes(Case.new(1).build().text)
    assert fetch("--quote", tmp_path / "collateral.json", "-o", tmp_path / "out").exit_code == 2
    assert not (tmp_path / "out").exists()
