# SPDX-License-Identifier: Apache-2.0
"""Compare a device's measurements with golden ones, and say what no golden one covers.

Index i of a RIM is SPDM block i + 1: RIMs count from zero, SPDM from one. Here an index is always the RIM's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ..errors import Untrusted
from .rim import VerifiedRim

NVDEC0_INDEX: Final = 35  # a measurement that exists only while the first video decoder is enabled
_NOT_MEASURED: Final = bytes(48)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mismatch:
    """A measurement that equals none of its golden values."""

    index: int
    golden: tuple[bytes, ...]  # 48 each
    found: bytes  # 48
    exempt: bool  # NVDEC0_INDEX with the decoder disabled

    def to_json(self) -> dict[str, object]:
        """Give the mismatch as the documented JSON object."""
        return {
            "index": self.index,
            "golden": [g.hex() for g in self.golden],
            "found": self.found.hex(),
            "exempt": self.exempt,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What was compared and how it came out."""

    compared: tuple[int, ...]
    mismatches: tuple[Mismatch, ...]
    uncovered: tuple[int, ...]  # measured, not zero, and in no RIM


def compare(measurements: Sequence[bytes], rims: Sequence[VerifiedRim], *, nvdec0_enabled: bool | None) -> Comparison:
    """Compare measurements (48 bytes each; position i is RIM index i) with the golden ones of all `rims`.

    Raises Untrusted(RimMismatch) when two RIMs claim one index, or one claims an index that the device does not have.
    """
    golden: dict[int, tuple[bytes, ...]] = {}
    for rim in rims:
        for index, hashes in rim.golden.items():
            if index in golden:
                raise Untrusted("RimMismatch", f"rim.Resource[{index}]", want="active in one RIM", got="active in two")
            if index >= len(measurements):
                got = f"a device of {len(measurements)}"
                raise Untrusted("RimMismatch", f"rim.Resource[{index}]", want="a measurement of the device", got=got)
            golden[index] = hashes
    mismatches = tuple(
        Mismatch(
            index=index,
            golden=golden[index],
            found=measurements[index],
            exempt=index == NVDEC0_INDEX and nvdec0_enabled is False,
        )
        for index in sorted(golden)
        if measurements[index] not in golden[index]
    )
    uncovered = tuple(i for i, value in enumerate(measurements) if value != _NOT_MEASURED and i not in golden)
    return Comparison(compared=tuple(sorted(golden)), mismatches=mismatches, uncovered=uncovered)
