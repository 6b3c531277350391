# SPDX-License-Identifier: Apache-2.0
"""A client written from the specification alone, with other libraries, talks to the enclave."""

from __future__ import annotations

import ast
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests import independent_client
from tests.forged import MODEL
from tests.served import served

SOURCE = Path(independent_client.__file__)
QUESTION = {"messages": [{"role": "user", "content": "said by another client"}], "stream": True, "max_tokens": 16}


def test_it_imports_none_of_the_rooms_and_is_short() -> None:
    tree = ast.parse(SOURCE.read_text())
    names = {n.module.split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module}
    names |= {a.name.split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    assert not names & {"attestation", "client", "enclave"}
    assert len(SOURCE.read_text().splitlines()) <= 300


@pytest.mark.parametrize("padding", [0, 1, 2])
def test_it_asks_and_checks_the_receipt(tmp_path: Path, padding: int) -> None:
    with served(tmp_path, start=datetime.now(UTC)) as enclave:
        address = enclave.service.targets["http"].removeprefix("http://")
        answer, receipt = independent_client.ask(address, MODEL, QUESTION, padding)
    assert answer.text == "said by another client"
    assert receipt["completion"] == 4


def test_it_refuses_another_epoch(tmp_path: Path) -> None:
    with served(tmp_path) as enclave:  # its clock stands still, weeks ago
        address = enclave.service.targets["http"].removeprefix("http://")
        with pytest.raises(independent_client.Wrong, match="window"):
            independent_client.ask(address, MODEL, QUESTION)
