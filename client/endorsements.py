# SPDX-License-Identifier: Apache-2.0
"""Collateral for a quote: kept from an earlier time, or fetched. Bytes only: whoever uses them verifies them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from attestation.tdx.collateral import Collateral

from .collateral_cache import CollateralCache
from .pcs import INTEL_PCS, PcsClient, PlatformModel
from .settings import cache_dir

CollateralSource = Callable[[bytes], bytes]


def find_or_fetch(
    service: PcsClient, model: PlatformModel, *, update: str, now: datetime, fresh: bool, step: Callable[[str], None]
) -> tuple[Collateral, bool]:
    """Give collateral for a platform model, and whether it was kept. Raises Unreachable.

    What is kept in the user's cache directory is given until the first of its parts is over, unless `fresh`.
    """
    cache, question = CollateralCache(cache_dir() / "collateral"), service.question(model, update)
    collateral = None if fresh else cache.find(question, now=now)
    if collateral is not None:
        return collateral, True
    collateral = service.fetch(model, update=update, step=step)
    cache.keep(question, collateral)
    return collateral, False


def collateral_source(url: str | None, *, now: Callable[[], datetime]) -> CollateralSource:
    """Give what finds collateral for a quote that came without: at Intel's service, or a PCCS at `url` (https).

    The request names the platform's model (FMSPC), never the platform. Raises UsageFault for another kind of address;
    what it gives raises AttestationError for a quote that cannot be read, and Unreachable.
    """
    service = PcsClient(url or INTEL_PCS)

    def source(quote: bytes) -> bytes:
        model = PlatformModel.of_quote(quote)
        found, _ = find_or_fetch(service, model, update="standard", now=now(), fresh=False, step=lambda _: None)
        return found.to_json()

    return source
