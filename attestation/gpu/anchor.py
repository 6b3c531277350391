# SPDX-License-Identifier: Apache-2.0
"""The trust anchor of a GPU verification: two root keys, and the organization that its hierarchy must carry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

NVIDIA_ORGANIZATIONS: Final = frozenset({"NVIDIA", "NVIDIA Corporation"})
SIMULATED_ORGANIZATION: Final = "SIMULATED - NOT CONFIDENTIAL"


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuTrustAnchor:
    """Root keys by SHA-256 of their SubjectPublicKeyInfo: one key may have several self-signed certificates.

    `organizations` holds every O that a subject of the hierarchy may carry.
    """

    device_root_spki: frozenset[bytes]  # 32 bytes each
    rim_root_spki: frozenset[bytes]  # 32 bytes each
    organizations: frozenset[str]

    @classmethod
    def of_simulator(cls, *, device_root_spki: frozenset[bytes], rim_root_spki: frozenset[bytes]) -> GpuTrustAnchor:
        """Give the anchor of a simulated hierarchy, whose every name says that it is one."""
        return cls(
            device_root_spki=device_root_spki,
            rim_root_spki=rim_root_spki,
            organizations=frozenset({SIMULATED_ORGANIZATION}),
        )
