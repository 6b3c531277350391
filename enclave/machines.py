# SPDX-License-Identifier: Apache-2.0
"""Which hardware does the config name? A real TDX guest, or the simulated machine: never both at once."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from attestation.config import EnclaveConfig
from attestation.gpu.anchor import GpuTrustAnchor
from attestation.trust.nvidia import NVIDIA_ANCHOR

from .attester import Machine
from .seams import Clock, GpuEvidenceSource
from .times import utc

if TYPE_CHECKING:
    from .simulator.firmware import MeasuredBoot


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """The machine, its GPUs and the roots under which the boot gate judges them."""

    machine: Machine
    gpus: GpuEvidenceSource | None
    gpu_anchor: GpuTrustAnchor


def open_hardware(config: EnclaveConfig, *, state: Path, config_document: bytes, clock: Clock) -> Hardware:
    """Open the machine that the config names. Raises RealMachine, QuoteUnavailable, GpuUnavailable, PermissionError."""
    if config.machine == "simulated":
        return _simulated(config, state=state, config_document=config_document, clock=clock)
    return _real(config, clock)


def _simulated(config: EnclaveConfig, *, state: Path, config_document: bytes, clock: Clock) -> Hardware:
    from .simulator.gpu_authority import GpuAuthority, spki  # noqa: PLC0415 - a real machine never loads it
    from .simulator.gpu_source import SimulatedGpuSource  # noqa: PLC0415
    from .simulator.machine import SimulatedMachine, require_no_real_provider  # noqa: PLC0415
    from .simulator.tdx_ca import SimulatedCa  # noqa: PLC0415

    require_no_real_provider()
    now = utc(clock)
    ca = SimulatedCa.load_or_create(state, now=now)
    authority = GpuAuthority.load_or_make(state, now=now)
    roots = [sha256(spki(issuer.key.public_key())).digest() for issuer in (authority.device_root, authority.rim_root)]
    anchor = GpuTrustAnchor.of_simulator(device_root_spki=frozenset(roots[:1]), rim_root_spki=frozenset(roots[1:]))
    gpus = SimulatedGpuSource(state, clock=clock, count=config.gpu.count) if config.gpu.count else None
    machine = SimulatedMachine(ca, clock=clock, config=config_document, measured=_measured_boot())
    return Hardware(machine=machine, gpus=gpus, gpu_anchor=anchor)


def _measured_boot() -> MeasuredBoot | None:
    """Give what an emulated guest measured; None outside of one, where no boot agent left an image's manifest."""
    from .guest import MANIFEST  # noqa: PLC0415
    from .simulator.firmware import read_measured_boot  # noqa: PLC0415

    return read_measured_boot(MANIFEST.read_bytes()) if MANIFEST.exists() else None


def _real(config: EnclaveConfig, clock: Clock) -> Hardware:
    from .guest import open_gpus, open_guest  # noqa: PLC0415 - reads devices

    gpus = open_gpus(anchor=NVIDIA_ANCHOR, clock=clock) if config.gpu.count else None
    return Hardware(machine=open_guest(), gpus=gpus, gpu_anchor=NVIDIA_ANCHOR)
