# SPDX-License-Identifier: Apache-2.0
"""Collateral for a quote: kept from an earlier time, or fetched. Bytes only: whoever uses them verifies them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from attestation.errors import AttestationError
from attestation.tdx.anchor import TdxTrustAnchor
from attestation.tdx.collateral import Collateral
from attestation.tdx.verify import verify_quote

from .collateral_cache import CollateralCache
from .pcs import INTEL_PCS, PcsClient, PlatformModel
from .settings import cache_dir

CollateralSource = Callable[[bytes], bytes]


def find_or_fetch(
    service: PcsClient,
    quote: bytes,
    model: PlatformModel,
    *,
    anchor: TdxTrustAnchor,
    update: str,
    now: datetime,
    fresh: bool,
    step: Callable[[str], None],
) -> tuple[Collateral, bool]:
    """Give collateral for the platform model of `quote`, and whether it was kept. Raises Unreachable.

    Kept in the user's cache directory is what the quote verifies with under `anchor`, until the first of its parts is
    over: a service that lied is asked again. `fresh` asks it in any case. What does not verify is given all the same:
    whoever uses it refuses it, and says why.
    """
    cache = CollateralCache(cache_dir() / "collateral")
    question = f"{anchor.root_sha256.hex()} {service.question(model, update)}"
    collateral = None if fresh else cache.find(question, now=now)
    if collateral is not None:
        return collateral, True
    collateral = service.fetch(model, update=update, step=step)
    if _verifies(quote, collateral, anchor, now):
        cache.keep(question, collateral)
    return collateral, False


def _verifies(quote: bytes, collateral: Collateral, anchor: TdxTrustAnchor, now: datetime) -> bool:
    try:
        verify_quote(quote, collateral, anchor=anchor, now=now)
    except AttestationError:
        return False
    return True


def collateral_source(url: str | None, *, anchor: TdxTrustAnchor, now: Callable[[], datetime]) -> CollateralSource:
    """Give what finds collateral for a quote that came without: at Intel's service, or a PCCS at `url` (https).

    The request names the platform's model (FMSPC), never the platform. Raises UsageFault for another kind of address;
    what it gives raises AttestationError for a quote that cannot be read, and Unreachable.
    """
    service = PcsClient(url or INTEL_PCS)

    def source(quote: bytes) -> bytes:
        model = PlatformModel.of_quote(quote)
        found, _ = find_or_fetch(
            service, quote, model, anchor=anchor, update="standard", now=now(), fresh=False, step=lambda _: None
        )
        return found.to_json()

    return source
