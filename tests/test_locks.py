# SPDX-License-Identifier: Apache-2.0
"""The lock files: everything pinned, hashed, one version of each package, no index named, licences that fit."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LOCKS = sorted((ROOT / "requirements").glob("*.txt"))
PIN = re.compile(r"^([a-z0-9._-]+)==(\S+)", re.MULTILINE)
FREE = re.compile(
    r"apache|mit\b|bsd|isc|python|psf|mozilla|mpl|unlicense|zlib|public domain|0bsd|cc0|lgpl|lesser|blueoak",
    re.IGNORECASE,
)


def _pins(path: Path) -> list[tuple[str, str]]:
    return PIN.findall(path.read_text())


def _wanted(requirement: str) -> str:
    return re.split(r"[><=!~;\[ ]", requirement)[0].lower().replace("_", "-")


def test_the_locks_are_there() -> None:
    assert {path.stem for path in LOCKS} == {"base", "build", "campaign", "dev", "enclave", "tvm"}


@pytest.mark.parametrize("path", LOCKS, ids=lambda p: p.stem)
def test_every_pin_has_hashes_and_no_host(path: Path) -> None:
    text = path.read_text()
    assert "://" not in text
    assert "--index-url" not in text
    blocks = re.split(r"^(?=[a-z0-9])", text, flags=re.MULTILINE)[1:]
    assert blocks
    for block in blocks:
        assert "==" in block.splitlines()[0]
        assert "--hash=sha256:" in block, block.splitlines()[0]


def test_no_package_is_pinned_to_two_versions_across_files() -> None:
    for path in LOCKS:
        if path.stem == "dev":
            continue
        dev: dict[str, set[str]] = {}
        for name, version in _pins(ROOT / "requirements" / "dev.txt"):
            dev.setdefault(name, set()).add(version)
        for name, version in _pins(path):
            assert version in dev.get(name, {version}), f"{name} in {path.name}"


@pytest.mark.parametrize("extra", ["base", "enclave", "dev", "tvm", "campaign"])
def test_the_lock_holds_what_the_project_asks_for(extra: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = list(project["dependencies"])
    if extra != "base":
        wanted += project["optional-dependencies"][extra]
    pinned = {name for name, _ in _pins(ROOT / "requirements" / f"{extra}.txt")}
    assert {_wanted(requirement) for requirement in wanted} <= pinned


@pytest.mark.parametrize("lock", ["base", "enclave"])
def test_licences_let_us_ship(lock: str) -> None:
    unknown = []
    for name, _ in _pins(ROOT / "requirements" / f"{lock}.txt"):
        try:
            found = distribution(name)
        except PackageNotFoundError:
            continue  # for another platform or Python
        classifiers = [text for text in found.metadata.get_all("Classifier", []) if text.startswith("License")]
        stated = [
            *found.metadata.get_all("License-Expression", []),
            *found.metadata.get_all("License", []),
            *classifiers,
        ]
        files = [file for file in found.files or [] if "licen" in file.name.lower()]
        stated += [file.read_text()[:200] for file in files]
        if not FREE.search(" ".join(stated)):
            unknown.append(name)
    assert not unknown
