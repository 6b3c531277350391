# SPDX-License-Identifier: Apache-2.0
"""Evidence without collateral, as a machine sends that cannot reach Intel: the client brings it, and keeps it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from attestation.dossier import Dossier
from attestation.errors import AttestationError, Malformed, Untrusted
from client.__main__ import cli
from client.anchored import TonTrust
from client.attested import Attested, attest
from client.audit import audit
from client.dossier import dossier_of
from client.endorsements import collateral_source
from client.errors import UsageFault
from client.target import parse_target
from enclave.simulator.machine import SimulatedMachine
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
    source = collateral_source("https://127.0.0.1:9", now=lambda: pytest.fail("looked for what is kept"))
    with pytest.raises(Malformed):
        source(b"no quote")


def test_a_service_is_asked_over_https_alone() -> None:
    with pytest.raises(UsageFault):
        collateral_source("http://127.0.0.1:9", now=lambda: pytest.fail("asked"))


@pytest.mark.parametrize("command", ["verify", "ask", "proxy"])
def test_commands_refuse_another_address_before_they_dial(command: str, tmp_path: Path) -> None:
    policy = tmp_path / "policy.json"
    arguments = [command, "http://127.0.0.1:9", *(["hello"] if command == "ask" else [])]
    policy.write_text("{}")
    done = CliRunner().invoke(cli, [*arguments, "--policy", str(policy), "--pccs", "http://127.0.0.1:9"])
    assert done.exit_code == 2
