# SPDX-License-Identifier: Apache-2.0
"""Say that something must be refused: with which code, and where."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from attestation.errors import AttestationError


def refuse(code: str, where: str, check: Callable[..., Any], /, *arguments: Any, **keywords: Any) -> AttestationError:
    """Require that `check(*arguments, **keywords)` raises `code` at a place whose name has `where` in it."""
    with pytest.raises(AttestationError) as refusal:
        check(*arguments, **keywords)
    error = refusal.value
    assert (error.code, where in error.where) == (code, True), f"{error} at {error.where}, want {code} at {where}"
    return error
