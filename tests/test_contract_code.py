# SPDX-License-Identifier: Apache-2.0
"""The contract's code that clients carry is the compiled source, and every way out of it is told."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from attestation.ton.registry import contract_code
from tests.simulated_ton import CODE
from tests.ton_tvm import have_sandbox

ROOT = Path(__file__).parent.parent
SOURCE = (ROOT / "contracts" / "registry.tolk").read_text()
TESTS = "\n".join(path.read_text() for path in sorted((ROOT / "tests").glob("*contract_*.py")))
PAGE = (ROOT / "docs" / "ton.md").read_text()
CODES = dict(re.findall(r"^const (ERR_\w+) = (0x\w+|\d+)$", SOURCE, re.MULTILINE))


def test_the_recorded_hash_is_the_code_s() -> None:
    record = json.loads((ROOT / "contracts" / "registry.json").read_text())
    assert record == {"tolk": "1.3.0", "code_hash": contract_code(CODE).hash.hex(), "boc_bytes": len(CODE)}
    assert record["code_hash"] in PAGE


@pytest.mark.parametrize("bend", [False, True])
def test_the_source_compiles_to_the_committed_code(tmp_path: Path, *, bend: bool) -> None:
    if not have_sandbox():
        pytest.skip("Node or contracts/node_modules is missing (npm ci in contracts)")
    for name in ("registry.tolk", "registry.json", "compile.mjs", "package.json"):
        (tmp_path / "contracts").mkdir(exist_ok=True)
        shutil.copy(ROOT / "contracts" / name, tmp_path / "contracts" / name)
    (tmp_path / "contracts" / "node_modules").symlink_to(ROOT / "contracts" / "node_modules")
    shutil.copytree(ROOT / "attestation", tmp_path / "attestation")
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts" / "contract", tmp_path / "scripts" / "contract")
    if bend:
        source = tmp_path / "contracts" / "registry.tolk"
        source.write_text(SOURCE.replace("const ERR_NOT_OWNER = 701", "const ERR_NOT_OWNER = 700"))
    done = subprocess.run(
        [sys.executable, "scripts/contract", "--json"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    answer = json.loads(done.stdout)
    assert (done.returncode, answer["ok"]) == ((1, False) if bend else (0, True))
    assert (answer["code_hash"]["committed"] == answer["code_hash"]["compiled"]) != bend
    assert (answer["boc"]["committed"] == answer["boc"]["compiled"]) != bend


def test_every_exit_code_is_its_own_and_is_tested_and_told() -> None:
    assert len(CODES) >= 30
    assert len(set(CODES.values())) == len(CODES)
    for name, code in CODES.items():
        shown = str(int(code, 0)) if code.startswith("0x") else code
        assert re.search(rf"\b({shown}|0x{int(code, 0):X})\b", TESTS), f"{name} has no test"
        assert re.search(rf"^\| {shown} \|", PAGE, re.MULTILINE), f"docs/ton.md does not tell {name}"
        assert SOURCE.count(name) >= 2, f"{name} is never thrown"


def test_the_schema_is_the_page_s_and_has_every_operation() -> None:
    schema = (ROOT / "attestation" / "ton" / "registry.tlb").read_text()
    assert f"```\n{schema}```\n" in PAGE
    structs = re.findall(r"^struct \((0x[0-9a-f]{8})\) \w+", SOURCE, re.MULTILINE)
    signed = {"53524332", "53524333"}
    assert {tag[2:] for tag in structs} == set(re.findall(r"#([0-9a-f]{8}) ", schema)) | signed


def test_every_operation_is_told() -> None:
    for code, name in re.findall(r"^struct \((0x[0-9a-f]{8})\) (\w+)", SOURCE, re.MULTILINE):
        assert code[2:] in PAGE, f"docs/ton.md does not tell {name}"
    for method in re.findall(r"^get fun (\w+)", SOURCE, re.MULTILINE):
        assert method in PAGE, f"docs/ton.md does not tell {method}"
        assert method in TESTS, f"{method} has no test"
