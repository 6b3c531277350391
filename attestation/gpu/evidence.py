# SPDX-License-Identifier: Apache-2.0
"""GPU evidence on the wire: devices, endorsements, and key 12 of the evidence map (docs/protocol.md, Evidence)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from .. import cbor
from ..errors import Malformed

KINDS: Final = ("gpu", "switch")
NONCE_EPOCH: Final = 1
NONCE_CLIENT: Final = 2
MAX_DEVICES: Final = 16
MAX_REPORT_BYTES: Final = 8192  # NVML's buffer
MAX_CHAIN_BYTES: Final = 16384
MAX_RIMS: Final = 16
MAX_RIM_BYTES: Final = 256 * 1024
MAX_OCSP: Final = 64
MAX_OCSP_BYTES: Final = 16 * 1024
MAX_CRLS: Final = 16
MAX_CRL_BYTES: Final = 256 * 1024
MAX_CC_FIELDS: Final = 16
MAX_CC_NAME_BYTES: Final = 32
MAX_CC_VALUE: Final = 2**32 - 1

_CODE: Final = "MalformedEvidence"


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuDeviceEvidence:
    """One device's evidence as the driver gave it. Nothing in it is verified."""

    kind: str  # "gpu" or "switch"
    report: bytes  # SPDM request || response, signature included
    chain: bytes  # PEM, leaf first
    cc_state: Mapping[str, int]  # what NVML said

    def to_map(self) -> dict[int, object]:
        """Give the map {1 kind, 2 report, 3 chain, 4 CC state}."""
        return {1: self.kind, 2: self.report, 3: self.chain, 4: dict(self.cc_state)}

    @classmethod
    def from_map(cls, value: cbor.Value, *, where: str = "gpu.device") -> GpuDeviceEvidence:
        """Read one device. Raises Malformed(MalformedEvidence)."""
        m = cbor.int_map(value, what=where, code=_CODE, required=range(1, 5))
        kind = cbor.as_text(m[1], f"{where}.kind", code=_CODE, limit=16)
        if kind not in KINDS:
            raise Malformed(_CODE, f"{where}.kind", want=" or ".join(KINDS), got="another kind")
        return cls(
            kind=kind,
            report=cbor.as_bytes(m[2], f"{where}.report", code=_CODE, limit=MAX_REPORT_BYTES),
            chain=cbor.as_bytes(m[3], f"{where}.chain", code=_CODE, limit=MAX_CHAIN_BYTES),
            cc_state=_cc_state(m[4], f"{where}.cc_state"),
        )


def _cc_state(value: cbor.Value, where: str) -> dict[str, int]:
    if not isinstance(value, dict) or len(value) > MAX_CC_FIELDS:
        raise Malformed(_CODE, where, want=f"a map of at most {MAX_CC_FIELDS} fields", got=type(value).__name__)
    state: dict[str, int] = {}
    for name, number in value.items():
        if not isinstance(name, str) or not 1 <= len(name.encode()) <= MAX_CC_NAME_BYTES:
            raise Malformed(_CODE, where, want=f"names of 1 to {MAX_CC_NAME_BYTES} bytes", got=type(name).__name__)
        state[name] = cbor.as_uint(number, where, code=_CODE, limit=MAX_CC_VALUE)
    return state


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuEndorsementSet:
    """What a verifier needs beside the reports. Every item is signed by the vendor; who carried it does not matter."""

    rims: tuple[bytes, ...] = ()  # XML
    ocsp: tuple[bytes, ...] = ()  # DER OCSPResponse
    crls: tuple[bytes, ...] = ()  # DER CertificateList

    def to_map(self) -> dict[int, object]:
        """Give the map {1 RIMs, 2 OCSP responses, 3 CRLs}."""
        return {1: list(self.rims), 2: list(self.ocsp), 3: list(self.crls)}

    @classmethod
    def from_map(cls, value: cbor.Value, *, where: str = "gpu.endorsements") -> GpuEndorsementSet:
        """Read the endorsements. Raises Malformed(MalformedEvidence)."""
        m = cbor.int_map(value, what=where, code=_CODE, required=range(1, 4))
        return cls(
            rims=_items(m[1], f"{where}.rims", count=MAX_RIMS, size=MAX_RIM_BYTES),
            ocsp=_items(m[2], f"{where}.ocsp", count=MAX_OCSP, size=MAX_OCSP_BYTES),
            crls=_items(m[3], f"{where}.crls", count=MAX_CRLS, size=MAX_CRL_BYTES),
        )


def _items(value: cbor.Value, where: str, *, count: int, size: int) -> tuple[bytes, ...]:
    items = cbor.as_list(value, where, code=_CODE, limit=count)
    return tuple(cbor.as_bytes(item, f"{where}[{i}]", code=_CODE, limit=size) for i, item in enumerate(items))


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuEvidence:
    """Key 12 of the evidence map: this quote's devices, the boot gate's devices, and their endorsements."""

    nonce_kind: int  # NONCE_EPOCH or NONCE_CLIENT
    devices: tuple[GpuDeviceEvidence, ...]
    boot_devices: tuple[GpuDeviceEvidence, ...]
    endorsements: GpuEndorsementSet

    def to_map(self) -> dict[int, object]:
        """Give the map {1 kind of the nonce, 2 devices, 3 boot gate's devices, 4 endorsements}."""
        return {
            1: self.nonce_kind,
            2: [d.to_map() for d in self.devices],
            3: [d.to_map() for d in self.boot_devices],
            4: self.endorsements.to_map(),
        }

    @classmethod
    def from_map(cls, value: cbor.Value) -> GpuEvidence:
        """Read key 12. Raises Malformed(MalformedEvidence)."""
        m = cbor.int_map(value, what="gpu", code=_CODE, required=range(1, 5))
        kind = cbor.as_uint(m[1], "gpu.nonce_kind", code=_CODE, limit=255)
        if kind not in (NONCE_EPOCH, NONCE_CLIENT):
            raise Malformed(_CODE, "gpu.nonce_kind", want="1 (epoch) or 2 (client)", got=kind)
        return cls(
            nonce_kind=kind,
            devices=_devices(m[2], "gpu.devices"),
            boot_devices=_devices(m[3], "gpu.boot_devices"),
            endorsements=GpuEndorsementSet.from_map(m[4]),
        )


def _devices(value: cbor.Value, where: str) -> tuple[GpuDeviceEvidence, ...]:
    items = cbor.as_list(value, where, code=_CODE, limit=MAX_DEVICES, least=1)
    return tuple(GpuDeviceEvidence.from_map(item, where=f"{where}[{i}]") for i, item in enumerate(items))
