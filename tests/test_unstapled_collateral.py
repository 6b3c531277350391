# SPDX-License-Identifier: Apache-2.0
"""Evidence without collateral, as a machine sends that cannot reach Intel: the client brings it, and keeps it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest
from click.testing import CliRunner

from attestation.dossier import Dossier
from attestation.errors import AttestationError, Malformed, Untrusted
from attestation.trust.intel import INTEL_ANCHOR
from client.__main__ import cli
from client.anchored import TonTrust
from client.attested import Attested, attest
from client.audit import audit
from client.dossier import dossier_of
from client.endorsements import collateral_source
from client.errors import UsageFault
from client.target import parse_target
from enclave.simulator.machine import SimulatedMachine
from tests.collateral_service import Server, answers, contexts, serving
from tests.forged import MODEL
from tests.served import Served, served

NO_TON = TonTrust(init_block=None, path=None)
REAL = SimulatedMachine.collateral


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Served, bytes]]:
    """Give an enclave that staples no collateral, and the collateral that its platform has."""
    kept = []

    def none(machine: SimulatedMachine, quote: bytes) -> bytes:
        kept.append(REAL(machine, quote))
        return b""

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SimulatedMachine, "collateral", none)
        with served(tmp_path_factory.mktemp("bare")) as enclave:
            with pytest.raises(Untrusted):
                enclave.attest()
            yield enclave, kept[0]


def bringing(enclave: Served, source: Callable[[bytes], bytes] | None) -> Attested:
    """Verify the enclave as a client does that brings collateral by `source`."""
    return attest(
        parse_target(enclave.service.targets["http"]),
        enclave.policy(),
        now=enclave.now,
        allow_unconfidential=True,
        timeout=10,
        collateral_for=source,
    )


@pytest.fixture(scope="module")
def dossier(bare: tuple[Served, bytes]) -> Dossier:
    """Give the dossier of a run whose evidence came without collateral."""
    enclave, collateral = bare
    run = enclave.run("a question", attested=lambda: bringing(enclave, lambda _: collateral))
    list(run.items())
    run.attested.connection.close()
    return dossier_of(run, policy=enclave.policy_bytes())


def broken(enclave: Served, dossier: Dossier) -> tuple[str, str]:
    """Audit a dossier and give the code and the place of what is wrong; `("", "")` when nothing is."""
    try:
        found = audit(dossier.encode(), enclave.policy(), at=None, now=enclave.now(), trust=NO_TON)
        found.require(allow_unconfidential=True)
    except AttestationError as e:
        return e.code, e.where
    return "", ""


def test_without_collateral_there_is_no_answer(bare: tuple[Served, bytes]) -> None:
    with pytest.raises(Untrusted) as refused:
        bringing(bare[0], None)
    assert (refused.value.code, refused.value.where) == ("CollateralMissing", "evidence.collateral")


def test_an_auditor_needs_no_service(bare: tuple[Served, bytes], dossier: Dossier) -> None:
    assert dossier.collateral == bare[1]
    assert Dossier.decode(dossier.encode()) == dossier
    assert broken(bare[0], dossier) == ("", "")


BENT: dict[str, Callable[[bytes], Any]] = {
    "removed": lambda _: None,
    "a space more": lambda data: data + b" ",
    "a bit less": lambda data: data.replace(b"tcb_info", b"tcb_inf0", 1),
    "empty": lambda _: b"",
}


@pytest.mark.parametrize(
    ("bend", "code", "where"),
    [
        ("removed", "CollateralMissing", "evidence.collateral"),
        ("empty", "CollateralMissing", "evidence.collateral"),
        ("a space more", "ReceiptMismatch", "dossier.evidence"),
        ("a bit less", "JsonInvalid", "collateral"),
    ],
)
def test_every_byte_of_what_was_brought_counts(
    bare: tuple[Served, bytes], dossier: Dossier, bend: str, code: str, where: str
) -> None:
    bent = replace(dossier, collateral=BENT[bend](dossier.collateral or b""))
    found = broken(bare[0], bent)
    assert found[0] == code
    assert found[1].startswith(where)


@pytest.mark.parametrize("data", [b"", b"{}", b"\x00" * 64])
def test_false_collateral_is_refused_before_a_question(bare: tuple[Served, bytes], data: bytes) -> None:
    with pytest.raises((Malformed, Untrusted)):
        bringing(bare[0], lambda _: data)


def test_what_is_stapled_is_not_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SimulatedMachine, "collateral", REAL)

    def never(_: bytes) -> bytes:
        raise AssertionError("asked")

    with served(tmp_path) as enclave:
        attested = bringing(enclave, never)
        attested.connection.close()
        assert attested.collateral is None


def test_a_quote_that_names_no_platform_is_not_asked_about() -> None:
    source = collateral_source("https://127.0.0.1:9", anchor=INTEL_ANCHOR, now=lambda: pytest.fail("looked"))
    with pytest.raises(Malformed):
        source(b"no quote")


def test_a_service_is_asked_over_https_alone() -> None:
    with pytest.raises(UsageFault):
        collateral_source("http://127.0.0.1:9", anchor=INTEL_ANCHOR, now=lambda: pytest.fail("asked"))


@pytest.mark.parametrize("command", ["verify", "ask", "proxy"])
def test_commands_refuse_another_address_before_they_dial(command: str, tmp_path: Path) -> None:
    policy = tmp_path / "policy.json"
    arguments = [command, "http://127.0.0.1:9", *(["hello"] if command == "ask" else [])]
    policy.write_text("{}")
    done = CliRunner().invoke(cli, [*arguments, "--policy", str(policy), "--pccs", "http://127.0.0.1:9"])
    assert done.exit_code == 2


class TestFromTheCommandToTheServiceAndBack:
    """Over loopback and real TLS: what a command fetches for an enclave that staples nothing, and what it keeps."""

    @pytest.fixture
    def service(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        monkeypatch.setenv("SERICIN_STATE", str(tmp_path))
        server, trusting = contexts(tmp_path)
        with serving(server) as made, httpx2.Client(verify=trusting, trust_env=False) as client:
            monkeypatch.setattr("client.pcs.httpx2.Client", lambda **_: client)
            yield made

    @pytest.fixture
    def run(
        self, bare: tuple[Served, bytes], service: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> Callable[..., dict[str, Any]]:
        """Run a command at the enclave's own time, and give its document."""
        enclave, _ = bare
        (tmp_path / "policy.json").write_bytes(enclave.policy_bytes())
        for command in ("verify", "ask"):
            monkeypatch.setattr(f"client.commands.{command}.wall_clock", enclave.now)

        def run(command: str, *words: str) -> dict[str, Any]:
            more = ["--policy", str(tmp_path / "policy.json"), "--pccs", service.url, "--json"]
            target = enclave.service.targets["http"]
            done = CliRunner().invoke(cli, [command, target, *words, *more], catch_exceptions=False)
            found: dict[str, Any] = json.loads(done.stdout)
            assert found["exit"] == done.exit_code
            return found

        return run

    def test_what_verified_is_kept_and_asked_for_once(
        self, bare: tuple[Served, bytes], service: Server, run: Callable[..., dict[str, Any]]
    ) -> None:
        service.reply = answers(json.loads(bare[1]))
        assert run("verify")["ok"]
        fmspc = json.loads(json.loads(bare[1])["tcb_info"])["fmspc"].lower()
        assert [path.split("/v4/")[1] for path in service.asked] == [
            f"tcb?fmspc={fmspc}&update=standard", "qe/identity?update=standard", "pckcrl?ca=platform&encoding=der",
            "rootcacrl",
        ]  # fmt: skip
        assert run("verify")["ok"]
        assert run("ask", "how are you?", "--model", MODEL)["text"]
        assert len(service.asked) == 4

    @pytest.mark.parametrize("part", ["tcb_info_signature", "qe_identity_signature"])
    def test_a_lie_is_refused_and_not_kept(
        self, bare: tuple[Served, bytes], service: Server, run: Callable[..., dict[str, Any]], part: str
    ) -> None:
        true = json.loads(bare[1])
        service.reply = answers(true | {part: "11" * 64})
        for times in (1, 2):
            found = run("verify")
            assert (found["exit"], found["code"]) == (4, "CollateralSignatureInvalid")
            assert len(service.asked) == 4 * times
        service.reply = answers(true)
        assert run("verify")["ok"], "the service has mended its ways"
        assert len(service.asked) == 12

    def test_a_service_that_is_down_is_unreachable(self, service: Server, run: Callable[..., dict[str, Any]]) -> None:
        service.reply = lambda _: iter([b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"])
        found = run("ask", "how are you?", "--model", MODEL)
        assert (found["exit"], found["code"]) == (6, "Unreachable")
