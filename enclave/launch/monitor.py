# SPDX-License-Identifier: Apache-2.0
"""Ask QEMU's monitor for one thing and hang up (QMP: one JSON object a line)."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import IO, Final

from .refusal import LaunchRefused

SECONDS: Final = 5.0
MAX_LINES: Final = 64  # events may come before the answer
MAX_LINE: Final = 64 * 1024


def ask(path: Path, command: str) -> object:
    """Send one command without arguments and give what it returns. Raises LaunchRefused(host)."""
    result: object = None
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(SECONDS)
            connection.connect(str(path))
            with connection.makefile("rb") as answers:
                answers.readline(MAX_LINE)  # its greeting
                for name in ("qmp_capabilities", command):
                    connection.sendall(json.dumps({"execute": name}).encode() + b"\n")
                    result = _answer(answers, name)
    except (OSError, ValueError) as e:
        raise LaunchRefused("host", f"{path}: the machine's monitor does not answer ({type(e).__name__})") from None
    return result


def _answer(answers: IO[bytes], name: str) -> object:
    for _ in range(MAX_LINES):
        row = json.loads(answers.readline(MAX_LINE))
        if "return" in row:
            return row["return"]
        if "error" in row:
            raise LaunchRefused("host", f"the machine's monitor refused {name}")
    raise LaunchRefused("host", f"the machine's monitor gave no answer to {name}")
