# SPDX-License-Identifier: Apache-2.0
"""Amounts: whole nanograms everywhere, shown as GRAM (the coin that was called TON until June 2026)."""

from __future__ import annotations

from typing import Final

NANO: Final = 10**9


def gram(nanograms: int) -> str:
    """Show an amount, exactly: `0.05 GRAM`."""
    whole, part = divmod(abs(nanograms), NANO)
    digits = f"{part:09d}".rstrip("0")
    sign = "-" if nanograms < 0 else ""
    return f"{sign}{whole}{'.' + digits if digits else ''} GRAM"
