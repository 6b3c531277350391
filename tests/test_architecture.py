# SPDX-License-Identifier: Apache-2.0
"""The house rules that a program can check."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("attestation", "enclave", "client")
SOURCES = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))
TESTS = sorted(path for path in (ROOT / "tests").glob("*.py") if path.stem != "__init__")
FORBIDDEN_NAMES = {"utils", "util", "common", "helpers", "helper", "manager", "base", "misc"}
PURE = (
    "os sys io pathlib socket ssl subprocess threading multiprocessing asyncio time secrets random tempfile urllib http"
)


def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _names(paths: list[Path]) -> list[str]:
    return [str(path.relative_to(ROOT)) for path in paths]


def _imported(path: Path) -> set[str]:
    """Give the top-level modules that a file imports absolutely, at any depth of its code."""
    found = set()
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Import):
            found |= {name.name.split(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module.split(".")[0])
    return found


def test_there_is_something_to_check() -> None:
    assert len(SOURCES) > 100
    assert len(TESTS) > 20


@pytest.mark.parametrize("path", SOURCES, ids=_names(SOURCES))
def test_a_file_is_a_small_room(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) < 400
    assert lines[0] == "# SPDX-License-Identifier: Apache-2.0"
    assert path.stem not in FORBIDDEN_NAMES
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert (node.end_lineno or 0) - node.lineno < 60, f"{node.name} is longer than a function may be"
        assert not isinstance(node, ast.Assert), "assert is for tests: verification must survive python -O"


@pytest.mark.parametrize("path", TESTS, ids=_names(TESTS))
def test_a_file_of_tests_is_a_small_room(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) < 400
    assert lines[0] == "# SPDX-License-Identifier: Apache-2.0"
    assert path.stem.removeprefix("test_") not in FORBIDDEN_NAMES


@pytest.mark.parametrize("path", [p for p in SOURCES if p.stem != "__init__"], ids=lambda p: p.stem)
def test_a_module_says_what_it_answers(path: Path) -> None:
    assert ast.get_docstring(_tree(path))


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_meet_only_in_attestation(room: str) -> None:
    others = {"attestation": {"enclave", "client"}, "enclave": {"client"}, "client": {"enclave"}}[room]
    for path in (ROOT / room).rglob("*.py"):
        assert not _imported(path) & (others | {"tests"}), path


def test_attestation_touches_nothing_but_bytes() -> None:
    for path in (ROOT / "attestation").rglob("*.py"):
        assert not _imported(path) & set(PURE.split()), path
        called = {
            node.func.id
            for node in ast.walk(_tree(path))
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        }
        assert not called & {"open", "print", "input", "eval", "exec"}, path
        clocks = {
            node.attr
            for node in ast.walk(_tree(path))
            if isinstance(node, ast.Attribute) and node.attr in {"now", "utcnow", "today"}
        }
        assert not clocks, f"{path} reads a clock"


def test_digits_are_ascii_where_text_is_read() -> None:
    """`\\d` takes the digits of every script, and so does int(): one value would have many spellings."""
    for path in (ROOT / "attestation").rglob("*.py"):
        assert r"\d" not in path.read_text(encoding="utf-8"), path


def test_tests_are_flat_and_import_by_one_name() -> None:
    assert not [path for path in (ROOT / "tests").rglob("*.py") if path.parent != ROOT / "tests"]


def test_no_test_reads_another_checkout() -> None:
    absolute = re.compile(r"[\"']/(?:work|home|root|tmp)/")
    for path in [*SOURCES, *TESTS]:
        assert not absolute.search(path.read_text(encoding="utf-8")), path


def test_nothing_is_committed_that_is_made_here() -> None:
    listing = subprocess.run(["git", "ls-files"], cwd=ROOT, check=False, capture_output=True, text=True)
    if listing.returncode:
        pytest.skip("not a git checkout")
    files = listing.stdout.split("\n")
    assert not [
        name for name in files if re.search(r"\.(pyc|whl|gguf|sqlite|key|dossier)$|node_modules|egg-info", name)
    ]
    private = [
        name for name in files if name.endswith(".pem") and "PRIVATE" in (ROOT / name).read_text(errors="replace")
    ]
    assert not private
