# SPDX-License-Identifier: Apache-2.0
"""What commands print for people: tables on a terminal, whole lines in a pipe."""

from __future__ import annotations

import re
import sys
from io import StringIO
from typing import Final, TextIO

from rich.console import Console

PIPE_WIDTH: Final = 240  # columns of a table in a pipe: no value is folded


class _Pipe(StringIO):
    """Passes text on to a stream that is no terminal, without the blanks that fill a table's lines up to its width."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(re.sub(r" +(?=\n)", "", text))
        return len(text)

    def flush(self) -> None:
        self._stream.flush()


def console() -> Console:
    """Give a console on standard output that neither wraps nor pads in a pipe."""
    if sys.stdout.isatty():
        return Console(highlight=False, markup=False)
    return Console(file=_Pipe(sys.stdout), width=PIPE_WIDTH, soft_wrap=True, highlight=False, markup=False)
