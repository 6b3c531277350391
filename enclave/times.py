# SPDX-License-Identifier: Apache-2.0
"""The host's claim of the time, as the verifier wants it."""

from __future__ import annotations

from datetime import UTC, datetime

from .seams import Clock


def utc(clock: Clock) -> datetime:
    """Give the wall time in UTC."""
    return datetime.fromtimestamp(clock.wall(), UTC)
