# SPDX-License-Identifier: Apache-2.0
"""The client's own time, apart from connections: a command that works offline loads none of their libraries."""

from __future__ import annotations

from datetime import UTC, datetime


def wall_clock() -> datetime:
    """Give the client's own time: the one place where it reads the clock for verification."""
    return datetime.now(UTC)
