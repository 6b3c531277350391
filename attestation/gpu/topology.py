# SPDX-License-Identifier: Apache-2.0
"""Do these devices make one machine? No device twice, one driver, one chip, one mode, and every link at both ends.

A GPU names the switches that its links lead to, a switch names its GPUs, and the serial number of each device's own CA
names the device: what reports say is tied to what certificates say.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

from ..errors import Untrusted
from .opaque import GpuMode

if TYPE_CHECKING:
    from .verify import VerifiedDevice

PROTECTED_GPUS: Final = 8
PROTECTED_SWITCHES: Final = 4
_WHERE: Final = "gpu.set"


def require_topology(devices: Sequence[VerifiedDevice]) -> GpuMode:
    """Require the devices to make one machine, and give its mode.

    Raises Untrusted(GpuDuplicateDevice | GpuTopologyInvalid | GpuEvidenceMissing).
    """
    _require_distinct((f"{d.serial:x}" for d in devices), "leaf serial")
    _require_distinct((f"{d.kind} {d.pdi.hex()}" for d in devices), "device identifier")
    gpus = [d for d in devices if d.kind == "gpu"]
    switches = [d for d in devices if d.kind == "switch"]
    if not gpus:
        raise Untrusted("GpuEvidenceMissing", _WHERE, want="at least one GPU", got=f"{len(switches)} switches")
    _require_one((d.product for d in gpus), "chip")
    _require_one((d.driver_version for d in gpus), "driver")
    _require_one((str(d.mode) for d in gpus), "mode")
    mode = gpus[0].mode or GpuMode.SINGLE
    if mode is GpuMode.SINGLE and len(gpus) != 1:
        raise Untrusted("GpuTopologyInvalid", _WHERE, want="one GPU in single passthrough", got=len(gpus))
    if mode is GpuMode.PROTECTED_PCIE:
        _require_fabric(gpus, switches)
    elif switches:
        raise Untrusted("GpuTopologyInvalid", _WHERE, want=f"no switch in mode {mode}", got=len(switches))
    return mode


def _require_fabric(gpus: Sequence[VerifiedDevice], switches: Sequence[VerifiedDevice]) -> None:
    if (len(gpus), len(switches)) != (PROTECTED_GPUS, PROTECTED_SWITCHES):
        want = f"{PROTECTED_GPUS} GPUs and {PROTECTED_SWITCHES} switches"
        raise Untrusted("GpuTopologyInvalid", _WHERE, want=want, got=f"{len(gpus)} and {len(switches)}")
    gpu_pdis, switch_pdis = (frozenset(d.pdi for d in group) for group in (gpus, switches))
    for gpu in gpus:
        _require_links(f"{_WHERE}.gpu[{gpu.pdi.hex()}]", switch_pdis, gpu.linked_pdis)
    for switch in switches:
        _require_links(f"{_WHERE}.switch[{switch.pdi.hex()}]", gpu_pdis, switch.linked_pdis)


def _require_links(where: str, want: frozenset[bytes], got: frozenset[bytes]) -> None:
    if got != want:
        shown = [" ".join(sorted(pdi.hex() for pdi in group)) for group in (want, got)]
        raise Untrusted("GpuTopologyInvalid", where, want=shown[0], got=shown[1] or "no links")


def _require_distinct(values: Iterable[str], what: str) -> None:
    seen: set[str] = set()
    for value in values:
        if value in seen:
            raise Untrusted("GpuDuplicateDevice", _WHERE, want=f"each {what} once", got=f"{value} twice")
        seen.add(value)


def _require_one(values: Iterable[str], what: str) -> None:
    found = sorted(set(values))
    if len(found) != 1:
        raise Untrusted("GpuTopologyInvalid", _WHERE, want=f"one {what}", got=", ".join(found))
