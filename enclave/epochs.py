# SPDX-License-Identifier: Apache-2.0
"""Epochs: which seal keys are live, when the next one is due, when one is gone for good.

Everything counts CLOCK_BOOTTIME, which the host cannot set back; the times in the map are its claim.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

from attestation.boot import EPOCH_SECONDS, EpochMap
from attestation.evidence import Evidence

from .keys import SealKey
from .replay import ReplaySet

ROTATE_SECONDS: Final = 60 * 60  # the successor is published then
MAX_LIVE_KEYS: Final = 4  # private seal keys in memory at one time


@dataclass(frozen=True, slots=True, kw_only=True)
class Epoch:
    """One epoch with everything that is renewed with it."""

    map: EpochMap
    encoded: bytes
    digest: bytes  # keyset digest
    born: float  # CLOCK_BOOTTIME
    seal: SealKey = field(repr=False)
    replay: ReplaySet = field(repr=False)
    tls_key: EllipticCurvePrivateKey = field(repr=False)
    certificate: bytes = field(repr=False)  # DER, with quote and claims
    evidence: Evidence = field(repr=False)  # without a nonce
    encoded_evidence: bytes = field(repr=False)

    @property
    def number(self) -> int:
        """The epoch's number, from 1."""
        return self.map.number


class EpochTable:
    """The live epochs of this boot, newest last."""

    def __init__(self) -> None:
        self._live: list[Epoch] = []

    @property
    def current(self) -> Epoch:
        """The newest epoch. Raises LookupError before the first."""
        if not self._live:
            raise LookupError("no epoch yet")
        return self._live[-1]

    def __len__(self) -> int:
        return len(self._live)

    def publish(self, epoch: Epoch) -> None:
        """Make `epoch` the current one. Raises RuntimeError for a wrong number or too many live keys."""
        if epoch.number != (self._live[-1].number + 1 if self._live else 1):
            raise RuntimeError("epochs are numbered without a gap")
        if len(self._live) >= MAX_LIVE_KEYS:
            raise RuntimeError("too many live seal keys")
        self._live.append(epoch)

    def by_kid(self, kid: bytes, *, boot_now: float) -> Epoch | None:
        """Give the live epoch that `kid` names; an epoch that is over is none, dropped or not."""
        for epoch in self._live:
            if epoch.seal.kid == kid and epoch.seal.live and boot_now - epoch.born < EPOCH_SECONDS:
                return epoch
        return None

    def due(self, *, boot_now: float) -> bool:
        """Tell whether the successor should be made: after an hour, or when the replay set fills early."""
        current = self.current
        wanted = boot_now - current.born >= ROTATE_SECONDS or current.replay.early
        return wanted and len(self._live) < MAX_LIVE_KEYS

    def drop_expired(self, *, boot_now: float) -> list[int]:
        """Drop the private keys whose time is over; give their numbers. The last epoch stays listed, keyless."""
        dropped = []
        for epoch in self._live:
            if epoch.seal.live and boot_now - epoch.born >= EPOCH_SECONDS:
                epoch.seal.drop()
                dropped.append(epoch.number)
        self._live = [epoch for epoch in self._live[:-1] if epoch.seal.live] + self._live[-1:]
        return dropped

    def wipe(self) -> None:
        """Drop every private key."""
        for epoch in self._live:
            epoch.seal.drop()
