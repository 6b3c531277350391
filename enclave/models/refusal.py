# SPDX-License-Identifier: Apache-2.0
"""Answers: why must this model not run?"""

from __future__ import annotations


class ModelRefused(Exception):
    """A model that must not run. `code` is stable; the message says what to do.

    Codes: model_missing, model_digest, model_header, model_load, model_template, model_selftest, model_unknown,
    model_pull.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
