# SPDX-License-Identifier: Apache-2.0
"""Answers: why was nothing launched, or why can this enclave not be reached?"""

from __future__ import annotations

from typing import Final

EXITS: Final = {
    "usage": 2,
    "mismatch": 4,  # a file is not what a manifest or config says it is
    "unknown": 2,  # no enclave of that name
    "running": 2,  # one of that name runs already
    "host": 6,  # a program or device of this host is missing or failed
    "guest": 6,  # the enclave does not answer
}


class LaunchRefused(Exception):
    """Nothing was started, or what was started is gone again. `code` is a key of EXITS; the message says what to do."""

    def __init__(self, code: str, message: str) -> None:
        if code not in EXITS:
            raise TypeError(f"{code} is not a code of a launch")
        super().__init__(message)
        self.code = code

    @property
    def exit_code(self) -> int:
        """The exit code of the command."""
        return EXITS[self.code]
