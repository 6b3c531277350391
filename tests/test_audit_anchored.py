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
from tests.ton_in_box import InBox, in_box

pytest.importorskip("tonpy", reason="tonpy is not installed (requirements/tvm.txt)")


class Walk:
    """A dossier, the ledger of the enclave that made it, and a TON in a box."""

    def __init__(self, folder: Path, ton: InBox) -> None:
        self.folder = folder
        self.ton = ton
        _, self.wallet = ton.wallet()
        with served(folder / "enclave") as enclave:
            for name in ("first", "second", "third"):
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


def test_the_whole_walk(walk: Walk) -> None:
    result, found = walk.audit(walk.dossier, "--at", "2026-10-01T12:05:00Z")
    assert (result.exit_code, found["anchoring"]["status"]) == (0, "not anchored")
    dry = walk.anchor("--dry-run")
    assert dry.exit_code == 0, dry.output
    assert "GRAM" in dry.output
    assert walk.ton.exits() == []
    anchored = walk.anchor("--json")
    assert anchored.exit_code == 0, anchored.output
    assert [m["operation"] for m in json.loads(anchored.stdout)["messages"]] == ["register", "anchor", "anchor"]
    proved = walk.cli("receipt", "prove", walk.dossier, "--network", walk.network, "--trust-path", walk.folder / "path")
    assert proved.exit_code == 0, proved.output
    trust = ("--trust-path", walk.folder / "path", "--init-block", walk.network, "--require-anchored")
    result, found = walk.audit(walk.dossier, *trust)
    assert result.exit_code == 0, result.output
    assert found["anchoring"]["status"] == "anchored"
    names = [link["rule"] for link in found["links"] if link["rule"].startswith("anchoring.")]
    assert names == ["anchoring.batch", "anchoring.registry", "anchoring.chain", "anchoring.block"]
    assert len(walk.dossier.read_bytes()) < 256 * 1024
