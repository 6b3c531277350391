# SPDX-License-Identifier: Apache-2.0
"""The GPU seam of a simulated machine: evidence that verifies, under roots that no release trusts."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from ..seams import Clock, GpuEndorsements, GpuReport
from .gpu_authority import GpuAuthority
from .gpu_device import make_machine, make_rims
from .gpu_ocsp import SimulatedOcsp

_REFRESH: Final = timedelta(hours=12)


class SimulatedGpuSource:
    """Plays the GPUs of one machine: one in single passthrough, several in multi-GPU passthrough."""

    def __init__(self, state_dir: Path, *, clock: Clock, count: int = 1) -> None:
        if not 1 <= count <= 16:
            raise ValueError("a simulated machine has 1 to 16 GPUs")
        self._clock = clock
        self._authority = GpuAuthority.load_or_make(state_dir, now=self._now())
        self._devices = make_machine(self._authority, mode="spt" if count == 1 else "mpt", count=count)
        self._rims = make_rims(self._authority, sorted({d.product for d in self._devices}))
        self._ocsp = SimulatedOcsp(self._authority.issuers.values())
        self._responses: tuple[bytes, ...] = ()
        self._answered = datetime.min.replace(tzinfo=UTC)
        self._ready = 0

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock.wall(), UTC)

    def collect(self, nonce: bytes) -> tuple[GpuReport, ...]:
        """Collect one report of every device over `nonce` (32 bytes)."""
        if len(nonce) != 32:
            raise ValueError("a GPU nonce has 32 bytes")
        state = {"cc_feature": 1, "dev_tools": 0, "environment": 2, "multi_gpu_mode": 0, "ready": self._ready}
        return tuple(
            GpuReport(kind=d.kind, report=d.report(nonce), chain=d.pem, cc_state=dict(state)) for d in self._devices
        )

    def endorsements(self, reports: Sequence[GpuReport]) -> GpuEndorsements:  # noqa: ARG002  # the seam's
        """Give the RIMs and OCSP responses of this machine's devices; OCSP responses are renewed twice a day."""
        now = self._now()
        if not timedelta(0) <= now - self._answered < _REFRESH:
            # No service covers a device's leaf; its provisioner answers about the boot ROM's certificate.
            chains = [d.chain[1:] for d in self._devices]
            chains.append(tuple(self._authority.chain("rim-signer", "rim-l3", "rim-ca")))
            self._responses = self._ocsp.about(chains, now=now)
            self._answered = now
        return GpuEndorsements(rims=self._rims, ocsp=self._responses)

    def ready(self) -> None:
        """Let the GPUs take work."""
        self._ready = 1
