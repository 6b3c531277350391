# SPDX-License-Identifier: Apache-2.0
"""A simulated TDX machine: quotes that verify, under a root that no release trusts."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from hashlib import sha384
from pathlib import Path
from typing import Final

from ..runtime_log import MemoryRuntimeLog
from ..seams import Clock
from .firmware import MeasuredBoot
from .tdx_ca import SimulatedCa
from .tdx_collateral import CollateralPlan
from .tdx_quote import QuotePlan, ReportPlan

IMAGE_NAME: Final = "simulated"
REAL_PROVIDERS: Final = (Path("/dev/tdx_guest"), Path("/dev/tdx-guest"))
_REFRESH: Final = timedelta(days=1)


class RealMachine(Exception):
    """This is a TDX guest: nothing may be simulated on it."""


def require_no_real_provider(places: tuple[Path, ...] = REAL_PROVIDERS) -> None:
    """Raise RealMachine where a real quote provider exists."""
    for place in places:
        if place.exists():
            raise RealMachine(f"{place} is there: this is a TDX guest; set machine to tdx in the config")


def pseudo_manifest() -> bytes:
    """Give the image manifest of the simulated machine: the same form as a real one's, with made-up measurements."""
    measurements = {
        name: sha384(f"SIMULATED {name}".encode()).hexdigest() for name in ("mr_td", "rtmr0", "rtmr1", "rtmr2")
    }
    document = {"schema": "sericin-image/1", "name": IMAGE_NAME, "simulated": True, **measurements}
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


class SimulatedMachine:
    """The Machine seam of the attester. It keeps its own RTMR3 and signs with a key per machine.

    In an emulated guest `measured` holds what the guest's firmware measured; a process alone has made-up registers.
    """

    name = "simulated"

    def __init__(
        self, ca: SimulatedCa, *, clock: Clock, config: bytes, version: int = 4, measured: MeasuredBoot | None = None
    ) -> None:
        self.ca = ca
        self.manifest = measured.manifest if measured is not None else pseudo_manifest()
        self.firmware_log = measured.log if measured is not None else b""
        self._measured = measured
        self.runtime_log = MemoryRuntimeLog()
        self._clock = clock
        self._config_digest = sha384(config).digest()
        self._plan = QuotePlan.of(ca, ReportPlan(), version=version)
        self._collateral = b""
        self._signed_at = datetime.min.replace(tzinfo=UTC)

    @property
    def quotes(self) -> SimulatedMachine:
        """Where quotes come from: this machine."""
        return self

    @property
    def measurements(self) -> dict[str, str]:
        """MRTD and RTMR0 to RTMR2 in hex."""
        names = ("mr_td", "rtmr0", "rtmr1", "rtmr2")
        if self._measured is not None:
            values = (self._measured.mr_td, *self._measured.rtmr)
            return {name: value.hex() for name, value in zip(names, values, strict=True)}
        return {name: json.loads(self.manifest)[name] for name in names}

    def report(self, report_data: bytes) -> ReportPlan:
        """Give the TD report that a quote over `report_data` would hold."""
        mr_td, rtmr0, rtmr1, rtmr2 = (bytes.fromhex(value) for value in self.measurements.values())
        return ReportPlan(
            mr_td=mr_td,
            mr_config_id=self._config_digest,
            rtmr=(rtmr0, rtmr1, rtmr2, self.runtime_log.rtmr3),
            report_data=report_data,
        )

    def quote(self, report_data: bytes) -> bytes:
        """Give a quote whose REPORTDATA is `report_data` (64 bytes)."""
        if len(report_data) != 64:
            raise ValueError("REPORTDATA has 64 bytes")
        return self._plan.but(report=self.report(report_data)).sign()

    def collateral(self, quote: bytes) -> bytes:  # noqa: ARG002  # the seam's
        """Give the endorsements of this platform, signed anew once a day."""
        now = datetime.fromtimestamp(self._clock.wall(), UTC)
        if not timedelta(0) <= now - self._signed_at < _REFRESH:
            self._collateral = CollateralPlan.of(self.ca, now=now).document()
            self._signed_at = now
        return self._collateral
