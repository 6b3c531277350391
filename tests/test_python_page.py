# SPDX-License-Identifier: Apache-2.0
"""docs/python.md is run, block after block, and prints what it says."""

from __future__ import annotations

import contextlib
import io
import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.served import served

PAGE = (Path(__file__).parent.parent / "docs" / "python.md").read_text()
TARGET = "https://enclave.example:8443"


def test_every_block_runs_and_prints_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```\n\n```\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) == PAGE.count("```python") >= 3
    names: dict[str, Any] = {}
    with served(tmp_path, start=datetime.now(UTC)) as enclave:
        Path("policy.json").write_text(json.dumps(enclave.policy_document()))
        for code, says in blocks:
            assert code.count("now=wall_clock)") == code.count(TARGET)
            here = code.replace(TARGET, enclave.service.targets["ra_tls"])
            here = here.replace("now=wall_clock)", "now=wall_clock, allow_unconfidential=True)")
            with contextlib.redirect_stdout(io.StringIO()) as printed:
                exec(compile(here, "docs/python.md", "exec"), names)
            assert printed.getvalue().strip() == says.strip()


def test_it_names_what_the_doors_give() -> None:
    import attestation
    import client

    for name in re.findall(r"`(attestation|client)\.([A-Z]\w+)", PAGE):
        assert hasattr({"attestation": attestation, "client": client}[name[0]], name[1]), name
