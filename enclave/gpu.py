# SPDX-License-Identifier: Apache-2.0
"""GPU evidence through NVML, collected in a child process with a deadline: a driver that hangs takes nobody with it."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from .seams import GpuEndorsements, GpuReport, GpuUnavailable

COLLECT_SECONDS: Final = 60.0  # of one SPDM exchange per device; the first one after boot is slow
ENDORSEMENTS: Final = Path("/run/sericin/gpu-endorsements")  # put there by hand in place of the vendor; no image has it
MAX_ENDORSEMENT: Final = 512 * 1024
MAX_REPORT: Final = 0x2000
MAX_CHAIN: Final = 0x1400
MAX_DEVICES: Final = 16
_KINDS: Final = {"rims": ".xml", "ocsp": ".ocsp", "crls": ".crl"}
PCI_DEVICES: Final = Path("/sys/bus/pci/devices")
_NVIDIA: Final = "0x10de"
_DISPLAY: Final = ("0x0300", "0x0302")  # VGA and 3D controllers
_STATE: Final = ("cc_feature", "dev_tools", "environment", "multi_gpu_mode", "ready")
Ask = Callable[[Sequence[str]], bytes]
Vendor = Callable[[Sequence[GpuReport]], GpuEndorsements]


class NvmlGpuSource:
    """The GpuEvidenceSource seam over a child process that speaks NVML."""

    def __init__(
        self,
        *,
        endorsements: Path = ENDORSEMENTS,
        vendor: Vendor | None = None,
        ask: Ask | None = None,
        present: Callable[[], int] | None = None,
    ) -> None:
        self._endorsements = endorsements
        self._vendor = vendor
        self._ask = ask or _ask_child
        self._present = present or (lambda: count_gpus(PCI_DEVICES))
        self._one_at_a_time = threading.Lock()  # a GPU answers one SPDM request at a time

    def collect(self, nonce: bytes) -> tuple[GpuReport, ...]:
        """Collect one report of every device over `nonce` (32 bytes). Raises GpuUnavailable."""
        if len(nonce) != 32:
            raise ValueError("a GPU nonce has 32 bytes")
        answer = self._answer(["collect", nonce.hex()])
        devices = answer.get("devices")
        if not isinstance(devices, list) or not 1 <= len(devices) <= MAX_DEVICES:
            raise GpuUnavailable("NVML lists no GPU that is in confidential mode")
        present = self._present()
        if present != len(devices):
            counts = f"the PCI bus has {present} NVIDIA GPUs, {len(devices)} gave evidence"
            raise GpuUnavailable(f"{counts}: one has failed or is missing; see the driver log")
        return tuple(_report(device) for device in devices)

    def endorsements(self, reports: Sequence[GpuReport]) -> GpuEndorsements:
        """Give RIMs, OCSP responses and CRLs; verifiers check their signatures. Raises GpuUnavailable.

        A folder that somebody put there is used alone; without one the vendor is asked.
        """
        if not self._endorsements.is_dir() and self._vendor is not None:
            with self._one_at_a_time:
                return self._vendor(reports)
        found: dict[str, tuple[bytes, ...]] = {}
        for name, suffix in _KINDS.items():
            paths = sorted(self._endorsements.glob(f"*{suffix}"))[:64] if self._endorsements.is_dir() else []
            found[name] = tuple(path.read_bytes() for path in paths if path.stat().st_size <= MAX_ENDORSEMENT)
        return GpuEndorsements(**found)

    def ready(self) -> None:
        """Let the GPUs take work. Raises GpuUnavailable."""
        self._answer(["ready"])

    def _answer(self, arguments: Sequence[str]) -> dict[str, object]:
        try:
            with self._one_at_a_time:
                answer = json.loads(self._ask(arguments))
        except ValueError:
            raise GpuUnavailable("the NVML child gave no answer") from None
        if not isinstance(answer, dict):
            raise GpuUnavailable("the NVML child gave no answer")
        if "error" in answer:
            raise GpuUnavailable(str(answer["error"])[:300])
        return answer


def count_gpus(pci_devices: Path) -> int:
    """Count NVIDIA's display controllers on the PCI bus: NVML does not list one that has failed."""
    found = 0
    for device in pci_devices.glob("*"):
        try:
            vendor, kind = ((device / name).read_text().strip() for name in ("vendor", "class"))
        except OSError:
            continue  # went away meanwhile: NVML's count differs then
        found += vendor == _NVIDIA and kind[:6] in _DISPLAY
    return found


def _ask_child(arguments: Sequence[str]) -> bytes:
    command = [sys.executable, "-m", "enclave.gpu_child", *arguments]
    try:
        done = subprocess.run(
            command, check=False, capture_output=True, timeout=COLLECT_SECONDS, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired:
        raise GpuUnavailable(f"NVML did not answer within {COLLECT_SECONDS:.0f} s") from None
    return done.stdout


def _report(device: object) -> GpuReport:
    if not isinstance(device, dict):
        raise GpuUnavailable("the NVML child's answer is malformed")
    try:
        report, chain = bytes.fromhex(device["report"]), bytes.fromhex(device["chain"])
        state = {name: int(device["cc_state"][name]) for name in _STATE}
    except (KeyError, TypeError, ValueError):
        raise GpuUnavailable("the NVML child's answer is malformed") from None
    if not 0 < len(report) <= MAX_REPORT or not 0 < len(chain) <= MAX_CHAIN:
        raise GpuUnavailable("NVML gave a report or chain of an impossible size")
    return GpuReport(kind="gpu", report=report, chain=chain, cc_state=state)
