# SPDX-License-Identifier: Apache-2.0
"""Evidence: everything an enclave presents, as one bounded CBOR map (docs/protocol.md, Evidence)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from . import cbor
from .boot import MAX_BOOT_BYTES, MAX_EPOCH_BYTES, PROFILE
from .errors import Malformed
from .gpu.evidence import GpuEvidence

MAX_EVIDENCE: Final = 4 * 1024 * 1024
MAX_QUOTE: Final = 16 * 1024
MAX_CLAIMS: Final = 1024
MAX_LOG: Final = 64 * 1100
MAX_CONFIG: Final = 64 * 1024
MAX_OPERATOR: Final = 16 * 1024
MAX_COLLATERAL: Final = 256 * 1024
MAX_MANIFEST: Final = 64 * 1024
MAX_FIRMWARE_LOG: Final = 256 * 1024
_CODE: Final = "MalformedEvidence"

_FIELDS: Final = {
    2: ("quote", MAX_QUOTE),
    3: ("claims", MAX_CLAIMS),
    4: ("boot", MAX_BOOT_BYTES),
    5: ("epoch", MAX_EPOCH_BYTES),
    6: ("runtime_log", MAX_LOG),
    7: ("config", MAX_CONFIG),
    8: ("operator", MAX_OPERATOR),
    9: ("collateral", MAX_COLLATERAL),
    10: ("manifest", MAX_MANIFEST),
    11: ("firmware_log", MAX_FIRMWARE_LOG),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Well formed, and nothing more: every field is a claim until `attestation.verify` has been over it."""

    quote: bytes
    claims: bytes
    boot: bytes
    epoch: bytes
    runtime_log: bytes
    config: bytes
    operator: bytes
    collateral: bytes = b""  # JSON in dcap-qvl's form; empty: the client fetches its own
    manifest: bytes = b""  # shown, never believed
    firmware_log: bytes = b""
    gpu: GpuEvidence | None = None

    def encode(self) -> bytes:
        """Give the deterministic CBOR."""
        m: dict[int, object] = {1: PROFILE}
        m.update({key: getattr(self, name) for key, (name, _) in _FIELDS.items()})
        if self.gpu is not None:
            m[12] = self.gpu.to_map()
        return cbor.encode(m)

    @classmethod
    def decode(cls, data: bytes) -> Evidence:
        """Read evidence of at most 4 MiB. Raises Malformed(MalformedEvidence)."""
        m = cbor.decode_map(
            data, limit=MAX_EVIDENCE, what="evidence", code=_CODE, required=range(1, 12), optional=(12,)
        )
        if m[1] != PROFILE:
            raise Malformed(_CODE, "evidence.profile", want=PROFILE, got="another profile")
        fields = {
            name: cbor.as_bytes(m[key], f"evidence.{name}", code=_CODE, limit=limit)
            for key, (name, limit) in _FIELDS.items()
        }
        return cls(**fields, gpu=GpuEvidence.from_map(m[12]) if 12 in m else None)
