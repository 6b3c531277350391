# SPDX-License-Identifier: Apache-2.0
"""Why the agent does not start the enclave."""

from __future__ import annotations


class BootRefused(Exception):
    """The machine is not what the image may run on. `code` is stable (docs/image.md, Refusals)."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
