# SPDX-License-Identifier: Apache-2.0
"""Production leaves no core, lets no debugger in, and keeps its memory out of swap where the kernel allows it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
SHOW = """
import ctypes, json, os, resource
from dataclasses import asdict
from enclave.hygiene import apply_hygiene
libc = ctypes.CDLL(None)
before = libc.prctl(3, 0, 0, 0, 0)
state = asdict(apply_hygiene())
locked = [line for line in open("/proc/self/status") if line.startswith("VmLck")][0].split()[1]
print(json.dumps({"before": before, "after": libc.prctl(3, 0, 0, 0, 0),
                  "core": resource.getrlimit(resource.RLIMIT_CORE),
                  "umask": os.umask(0o077), "state": state, "locked": int(locked)}))
"""
LOG = """
import sys
from enclave.engine.native import NativeModel
try:
    NativeModel("/nowhere/canary-1f3b.gguf")
except Exception as error:
    print(type(error).__name__, "canary" in str(error))
"""


def run(code: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-c", code]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)


@pytest.fixture(scope="module")
def shown() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run(SHOW).stdout)
    return found


def test_a_process_is_dumpable_until_it_says_otherwise(shown: dict[str, Any]) -> None:
    assert (shown["before"], shown["after"]) == (1, 0)
    assert shown["state"]["dumpable"] is False


def test_no_core_file(shown: dict[str, Any]) -> None:
    assert shown["core"] == [0, 0]
    assert shown["state"]["core_limit"] == 0


def test_files_are_the_owners_alone(shown: dict[str, Any]) -> None:
    assert shown["umask"] == 0o077


def test_memory_is_locked_when_it_says_so(shown: dict[str, Any]) -> None:
    assert (shown["locked"] > 0) == shown["state"]["locked"]


def test_llamas_log_is_dropped() -> None:
    done = run(LOG)
    assert done.stdout.split() == ["NativeError", "False"]
    assert done.stderr == ""
