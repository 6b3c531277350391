# SPDX-License-Identifier: Apache-2.0
"""From an answer to a block of TON and back: anchored, proved, audited offline; and what is not anchored says so."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from client.__main__ import cli
from client.dossier import dossier_of
from enclave.simulator.ton_machine import TonMachine
from tests.served import served
from tests.ton_in_box import InBox, in_box, needs_tonpy

pytestmark = needs_tonpy

NAMES = ("first", "second", "third")  # questions; a batch closes after the second, and after the third


class Walk:
    """A dossier, the ledger of the enclave that made it, and a TON in a box."""

    def __init__(self, folder: Path, ton: InBox) -> None:
        self.folder = folder
        self.ton = ton
        _, self.wallet = ton.wallet()
        with served(folder / "enclave") as enclave:
            for name in NAMES:
                run = enclave.run(f"the {name} question")
                list(run.items())
                (folder / f"{name}.dossier").write_bytes(dossier_of(run, policy=enclave.policy_bytes()).encode())
                if name != "first":
                    enclave.call(enclave.floor.book.close_batch)
            self.policy = folder / "policy.json"
            self.policy.write_text(json.dumps(enclave.policy_document()))
            self.boot = enclave.booted.boot
        self.dossier = folder / "first.dossier"
        self.ledger = folder / "enclave" / "ledger"
        self.network = folder / "network.json"
        document = json.loads(ton.network_path.read_text()) | {"ledger": "enclave/ledger"}
        self.network.write_text(json.dumps(document))

    def cli(self, *words: object) -> Result:
        """Run the command line."""
        return CliRunner().invoke(cli, [str(word) for word in words])

    def anchor(self, *more: object) -> Result:
        """Anchor the enclave's ledger."""
        return self.cli("anchor", "--wallet", self.wallet, "--network", self.network, *more)

    def audit(self, dossier: Path, *more: object) -> tuple[Result, dict[str, Any]]:
        """Audit as JSON."""
        result = self.cli("audit", dossier, "--policy", self.policy, "--json", *more)
        return result, json.loads(result.stdout)


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Walk]:
    folder = tmp_path_factory.mktemp("walk")
    (folder / "enclave").mkdir()
    with (
        pytest.MonkeyPatch.context() as patch,
        TonMachine() as machine,
        in_box(folder, machine, now=int(time.time())) as ton,
    ):
        patch.setenv("SERICIN_STATE", str(folder / "state"))
        yield Walk(folder, ton)


def test_nothing_is_proved_before_it_is_anchored(walk: Walk) -> None:
    result, found = walk.audit(walk.dossier, "--at", "2026-10-01T12:05:00Z")
    assert (result.exit_code, found["anchoring"]["status"]) == (0, "not anchored")
    result, found = walk.audit(walk.dossier)
    assert (result.exit_code, found["anchoring"]["status"]) == (0, "overdue")
    assert "is due" not in found["anchoring"]["reason"]
    result, found = walk.audit(walk.dossier, "--require-anchored")
    assert (result.exit_code, found["code"]) == (5, "ReceiptOverdue")
    before = walk.dossier.read_bytes()
    early = walk.cli("receipt", "prove", walk.dossier, "--network", walk.network, "--json")
    assert (early.exit_code, json.loads(early.stdout)["code"]) == (4, "NotAnchored")
    assert walk.dossier.read_bytes() == before


def test_a_dry_run_says_what_it_costs_and_sends_nothing(walk: Walk) -> None:
    dry = walk.anchor("--dry-run")
    assert dry.exit_code == 0, dry.output
    assert "anchor batch 1 of 2 receipts" in dry.output
    assert "attached, what is not used comes back" in dry.output
    found = json.loads(walk.anchor("--dry-run", "--json").stdout)
    assert (found["dry_run"], found["paid_nanogram"], found["balance_nanogram"]) == (True, None, 10 * 10**9)
    assert all(type(found[name]) is int for name in ("estimate_nanogram", "attached_nanogram"))
    assert walk.ton.box.steps == []


@pytest.mark.parametrize("name", ["mainnet", "testnet"])
def test_a_simulated_boot_is_not_anchored_on_a_public_network(walk: Walk, name: str) -> None:
    """Refused before anything is connected to: there is no such server."""
    document = json.loads(walk.network.read_text()) | {"init_block": name}
    document["lite_servers"][0]["port"] = 1
    path = walk.folder / f"{name}.json"
    path.write_text(json.dumps(document))
    for more in ((), ("--dry-run",)):
        result = walk.cli("anchor", "--wallet", walk.wallet, "--network", path, "--json", *more)
        assert (result.exit_code, json.loads(result.stdout)["code"]) == (5, "MachineNotAllowed")


@pytest.fixture(scope="module")
def anchored(walk: Walk) -> Walk:
    """Anchor both batches, and prove every dossier."""
    done = walk.anchor("--json")
    assert done.exit_code == 0, done.output
    assert [m["operation"] for m in json.loads(done.stdout)["messages"]] == ["register", "anchor", "anchor"]
    for name in NAMES:
        dossier, path = walk.folder / f"{name}.dossier", walk.folder / f"{name}.path"
        proved = walk.cli("receipt", "prove", dossier, "--network", walk.network, "--trust-path", path)
        assert proved.exit_code == 0, proved.output
    return walk


def trust(walk: Walk, name: str = "first") -> tuple[object, ...]:
    return ("--trust-path", walk.folder / f"{name}.path", "--init-block", walk.network, "--require-anchored")


@pytest.mark.parametrize("name", NAMES)
def test_the_whole_walk(anchored: Walk, name: str) -> None:
    dossier = anchored.folder / f"{name}.dossier"
    result, found = anchored.audit(dossier, *trust(anchored, name))
    assert result.exit_code == 0, result.output
    assert found["anchoring"]["status"] == "anchored"
    assert found["anchoring"]["batch"] == (2 if name == "third" else 1)
    assert all(link["holds"] for link in found["links"])
    names = [link["rule"] for link in found["links"] if link["rule"].startswith("anchoring.")]
    assert names == ["anchoring.batch", "anchoring.registry", "anchoring.chain", "anchoring.block"]
    assert len(dossier.read_bytes()) < 256 * 1024
    text = anchored.cli("audit", dossier, "--policy", anchored.policy, *trust(anchored, name)).output
    assert "anchoring: anchored: batch" in text
    assert " ago" in text


def test_a_second_run_has_nothing_to_send(anchored: Walk) -> None:
    assert "nothing to send: the ledger has 2 batches" in anchored.anchor().output
    assert anchored.ton.exits() == [0, 0, 0]


def test_the_audit_needs_no_network(anchored: Walk, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("an audit opened a socket")

    monkeypatch.setattr("socket.socket", never)
    result, _ = anchored.audit(anchored.dossier, *trust(anchored))
    assert result.exit_code == 0, result.output


def test_the_registry_shows_who_anchored(anchored: Walk) -> None:
    walk = anchored
    found = json.loads(walk.cli("registry", "show", "--network", walk.network, "--json").stdout)
    enclave = found["enclaves"][walk.boot.receipt_key.hex()]
    assert (enclave["boot"], enclave["seqno"], enclave["revoked_at"]) == (walk.boot.digest.hex(), 2, None)
    assert (found["proved"], found["fee_nanogram"], found["images"]) == (True, 50_000_000, {})
    old = walk.cli("registry", "show", "--network", walk.network, "--at", str(int(time.time()) + 4000), "--json")
    assert (old.exit_code, json.loads(old.stdout)["code"]) == (5, "RegistryStale")


def test_what_is_missing_is_said(anchored: Walk, tmp_path: Path) -> None:
    walk = anchored
    document = json.loads(walk.network.read_text())
    del document["ledger"]
    bare = tmp_path / "n.json"
    bare.write_text(json.dumps(document))
    for words in (
        ("anchor", "--wallet", walk.wallet, "--network", bare),
        ("receipt", "prove", walk.dossier, "--network", bare),
    ):
        result = walk.cli(*words)
        assert result.exit_code == 2
        assert "--ledger" in result.output
    assert walk.cli("anchor", "--wallet", walk.wallet, "--network", bare, "--ledger", walk.ledger).exit_code == 0
    assert walk.cli("receipt", "prove", walk.ledger, "--network", bare, "--ledger", walk.ledger).exit_code == 3


def test_the_page_names_every_key(anchored: Walk) -> None:
    page = (Path(__file__).parent.parent / "docs" / "anchoring.md").read_text()
    documents = [
        json.loads(anchored.anchor("--json").stdout),
        json.loads(anchored.cli("registry", "show", "--network", anchored.network, "--json").stdout),
        json.loads(anchored.cli("receipt", "prove", anchored.dossier, "--network", anchored.network, "--json").stdout),
        anchored.audit(anchored.dossier)[1]["anchoring"],
    ]
    for document in documents:
        for key in [*document, *document["block"]]:
            assert f"`{key}`" in page, key
    for key in documents[1]["enclaves"][anchored.boot.receipt_key.hex()]:
        assert f"`{key}`" in page, key
