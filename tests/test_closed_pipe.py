# SPDX-License-Identifier: Apache-2.0
"""A reader that closes the pipe ends any command quietly with 141: 1 would say that a comparison found a difference."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SERICIN = str(Path(sys.executable).parent / "sericin")


@pytest.mark.parametrize(
    "words",
    [
        ("model", "list", "--json"),  # written by click
        ("model", "list"),  # a table of rich
        ("policy", "init"),  # the client's own
    ],
    ids=" ".join,
)
def test_a_closed_pipe_is_141(words: tuple[str, ...]) -> None:
    reader, writer = os.pipe()
    os.close(reader)  # as `head` does, only sooner: the first write fails
    try:
        ended = subprocess.run([SERICIN, *words], stdout=writer, stderr=subprocess.PIPE, check=False, timeout=120)
    finally:
        os.close(writer)
    assert ended.returncode == 141
    assert b"pipe" not in ended.stderr.lower()  # no complaint, whatever else a command says there
