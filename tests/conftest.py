# SPDX-License-Identifier: Apache-2.0
"""No test reaches past this machine, and no test is skipped without a place on the list.

``SERICIN_SKIPS=listed`` (scripts/test sets it) fails the run when a test is skipped for a reason that tests/skips.txt
does not list, ``SERICIN_SKIPS=none`` (scripts/test-image) when any is. Every line is ``file: words of the reason``.
"""

from __future__ import annotations

import ipaddress
import os
import socket
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.recorded_host import RecordedHost
    from tests.ton_tvm import Contract, Machine

SKIPS = Path(__file__).parent / "skips.txt"


def _is_local(address: object) -> bool:
    if not isinstance(address, tuple):
        return True  # a unix socket
    try:
        return ipaddress.ip_address(str(address[0])).is_loopback
    except ValueError:
        return bool(address[0] == "localhost")


@pytest.fixture(autouse=True, scope="session")
def _network_stays_here() -> Iterator[None]:
    """Refuse every connection that is not to this machine."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        if not _is_local(address):
            raise OSError("tests reach nothing past this machine")
        connect(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", guarded)
        yield


@pytest.fixture(scope="module", params=["tonpy", "sandbox"])
def machine(request: pytest.FixtureRequest) -> Iterator[Machine]:
    """Give each of the two virtual machines in which the contract is tested."""
    from tests.ton_tvm import Machine, have_sandbox, have_tonpy

    kind: str = request.param
    if kind == "tonpy" and not have_tonpy():
        pytest.skip("tonpy is not installed (requirements/tvm.txt)")
    if kind == "sandbox" and not have_sandbox():
        pytest.skip("Node or contracts/node_modules is missing (npm ci in contracts)")
    with Machine(kind) as started:
        yield started


@pytest.fixture
def contract(machine: Machine) -> Contract:
    """Give a registry that was just deployed."""
    from tests.contract_cases import deploy

    return deploy(machine)


@pytest.fixture(scope="module")
def certificates() -> Iterator[str]:
    """Give the address of a certificate cache on loopback."""
    from tests.certificate_cache import certificate_cache

    with certificate_cache() as url:
        yield url


@pytest.fixture
def host(tmp_path: Path, certificates: str) -> RecordedHost:
    """Give a good TDX host as its files and programs show it, for a test to bend."""
    from tests.recorded_host import RecordedHost

    return RecordedHost(tmp_path / "host", cache=f"{certificates}/sgx/certification/v4/")


def listed_skips() -> list[tuple[str, str]]:
    """Give the (file, reason) pairs that may be skipped."""
    lines = [line.strip() for line in SKIPS.read_text().splitlines()]
    pairs = [line.split(": ", 1) for line in lines if line and not line.startswith("#")]
    return [(file, reason) for file, reason in pairs]


def _skipped(reporter: Any) -> Counter[tuple[str, str]]:
    found: Counter[tuple[str, str]] = Counter()
    for report in reporter.stats.get("skipped", []):
        file, reason = report.nodeid.split("::")[0], str(report.longrepr)
        if isinstance(report.longrepr, tuple):
            reason = report.longrepr[2].removeprefix("Skipped: ")
        found[file, reason] += 1
    return found


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print one table of what was skipped and why."""
    found = _skipped(terminalreporter)
    if not found:
        return
    terminalreporter.section("skipped: what this machine lacks")
    for (file, reason), count in sorted(found.items()):
        terminalreporter.write_line(f"{count:5}  {file}  {reason}")


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail the run for a skip that is not on the list, or for any."""
    mode = os.environ.get("SERICIN_SKIPS")
    if mode not in {"listed", "none"}:
        return
    reporter: Any = session.config.pluginmanager.get_plugin("terminalreporter")
    listed = listed_skips() if mode == "listed" else []
    for file, reason in _skipped(reporter):
        if not any(file == f"tests/{name}" and words in reason for name, words in listed):
            why = "without a line in tests/skips.txt" if mode == "listed" else "where nothing may be"
            reporter.write_line(f"\nskipped {why}: {file}: {reason}", red=True)
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
