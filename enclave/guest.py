# SPDX-License-Identifier: Apache-2.0
"""The TDX guest under this process: its quotes, its RTMR3, its image manifest and its firmware's event log."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from attestation.gpu.anchor import GpuTrustAnchor

from .gpu_vendor import VendorEndorsements
from .rtmr import SysfsRuntimeLog
from .seams import Clock, GpuEvidenceSource, GpuUnavailable, QuoteSource, QuoteUnavailable, RuntimeLog
from .tsm import ConfigfsQuoteSource

MANIFEST: Final = Path("/run/sericin/manifest.json")
EVENT_LOG: Final = Path("/sys/firmware/acpi/tables/data/CCEL")
MAX_MANIFEST: Final = 64 * 1024
MAX_EVENT_LOG: Final = 256 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class TdxGuest:
    """The Machine seam of the attester on real hardware."""

    manifest: bytes
    firmware_log: bytes
    quotes: QuoteSource
    runtime_log: RuntimeLog
    name: str = field(default="tdx", init=False)


def open_guest(*, manifest: Path = MANIFEST, event_log: Path = EVENT_LOG) -> TdxGuest:
    """Open the guest. Raises QuoteUnavailable when it is none, or its image gave no manifest."""
    try:
        text = manifest.read_bytes()
    except OSError as e:
        raise QuoteUnavailable(f"{manifest}: {e.strerror}; the launcher puts the image's manifest there") from None
    if len(text) > MAX_MANIFEST:
        raise QuoteUnavailable(f"{manifest}: more than {MAX_MANIFEST} bytes")
    return TdxGuest(
        manifest=text,
        firmware_log=_event_log(event_log),
        quotes=ConfigfsQuoteSource(),
        runtime_log=SysfsRuntimeLog(),
    )


def _event_log(path: Path) -> bytes:
    """Give the firmware's log without its padding; empty where the firmware keeps none or it is too long to send."""
    try:
        data = path.read_bytes()
    except OSError:
        return b""
    kept = data.rstrip(b"\xff")
    return kept if len(kept) <= MAX_EVENT_LOG else b""


def open_gpus(*, anchor: GpuTrustAnchor, clock: Clock) -> GpuEvidenceSource:
    """Open the GPUs through NVML; what their vendor endorses is fetched and stapled. Raises GpuUnavailable."""
    try:
        from .gpu import NvmlGpuSource  # noqa: PLC0415 - the binding is an extra
    except ImportError:
        raise GpuUnavailable("nvidia-ml-py is not installed: pip install 'sericin[enclave]'") from None
    return NvmlGpuSource(vendor=VendorEndorsements(anchor=anchor, clock=clock).of)
