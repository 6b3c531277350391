# SPDX-License-Identifier: Apache-2.0
"""NVIDIA's root keys, compiled in: the only ones under which GPU evidence counts as confidential."""

from __future__ import annotations

from typing import Final

from ..gpu.anchor import NVIDIA_ORGANIZATIONS, GpuTrustAnchor

# The device identity root has two self-signed certificates (2020 and 2021) over this one key.
NVIDIA_DEVICE_ROOT_SPKI: Final = bytes.fromhex("a90c4eb5acfd3e3d03a25db6a26b84f720ad0503196c627c21ddd48dd85b06a4")
NVIDIA_RIM_ROOT_SPKI: Final = bytes.fromhex("dec1dc316477aa851eebdf51327ae9f864bc8d89254657ed1e7eb9168af1e1a3")

NVIDIA_ANCHOR: Final = GpuTrustAnchor(
    device_root_spki=frozenset({NVIDIA_DEVICE_ROOT_SPKI}),
    rim_root_spki=frozenset({NVIDIA_RIM_ROOT_SPKI}),
    organizations=NVIDIA_ORGANIZATIONS,
)
