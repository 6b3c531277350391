# SPDX-License-Identifier: Apache-2.0
"""The section `gpu` of a policy: what its author accepts of GPUs, or gave up with a reason (docs/policy.md)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias, TypeVar

from ..errors import PolicyInvalid
from ..findings import Given, Waived, require_keys, waived_or
from .chip import CHIPS
from .evidence import MAX_DEVICES
from .opaque import GpuMode
from .rim import ENTRIES

T = TypeVar("T")
Clause: TypeAlias = "Given[T] | Waived"

FRESHNESS: Final = ("client", "epoch")
REVOCATION: Final = ("ocsp", "crl", "either", "both")
_FIELDS: Final = (
    "fresh",
    "count",
    "chips",
    "modes",
    "min_driver",
    "denied_vbios",
    "devices",
    "revocation",
    "rims",
    "firmware_identity",
    "disabled_decoder",
    "mismatch",
    "uncovered",
)
_MAX_ITEMS: Final = 256
_MAX_REASON: Final = 500
_VERSION: Final = re.compile(r"[0-9]{1,5}(\.[0-9]{1,5}){1,3}")


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuPolicy:
    """What is accepted of GPUs. Debugging, devtools, a differing or an uncovered measurement have no global waiver."""

    fresh: str  # "client": signed this client's nonce; "epoch": at least this epoch's
    count: Given[int] | Waived  # exactly so many GPUs
    chips: Given[tuple[str, ...]] | Waived
    modes: Given[tuple[GpuMode, ...]] | Waived
    min_driver: Given[str] | Waived
    denied_vbios: Given[tuple[str, ...]] | Waived
    devices: Given[tuple[str, ...]] | Waived  # UEIDs of the only acceptable devices
    revocation: Given[str] | Waived
    rims: Given[tuple[bytes, ...]] | Waived  # SHA-256 of the only acceptable RIM files
    firmware_identity: Given[bool] | Waived  # must be reported and equal the certificate's
    disabled_decoder: Given[bool] | Waived  # index 35 must match although the decoder is disabled
    mismatch: Mapping[int, str]  # indices whose golden value may differ, each with its reason
    uncovered: Mapping[int, str]  # indices that no RIM need cover, each with its reason

    @classmethod
    def parse(cls, value: object, where: str) -> GpuPolicy:
        """Read the section. Raises PolicyInvalid; every field is given, or waived with a reason."""
        d = require_keys(value, where, required=_FIELDS)
        fresh = d["fresh"]
        if not isinstance(fresh, str) or fresh not in FRESHNESS:
            raise PolicyInvalid(f"{where}.fresh", want=" or ".join(FRESHNESS), got=type(fresh).__name__)
        chips = tuple(chip.product for chip in CHIPS if chip.kind == "gpu")
        return cls(
            fresh=fresh,
            count=_clause(d, "count", where, _count),
            chips=_clause(d, "chips", where, lambda v, w: _list(v, w, lambda x, y: _word(x, y, chips))),
            modes=_clause(d, "modes", where, lambda v, w: _list(v, w, _mode)),
            min_driver=_clause(d, "min_driver", where, lambda v, w: _matching(v, w, _VERSION)),
            denied_vbios=_clause(
                d, "denied_vbios", where,
                lambda v, w: _list(v, w, lambda x, y: _matching(x, y, re.compile(r"[0-9A-F]{2}(\.[0-9A-F]{2}){4}"))),
            ),
            devices=_clause(
                d, "devices", where,
                lambda v, w: _list(v, w, lambda x, y: _matching(x, y, re.compile(r"[1-9][0-9]{0,49}"))),
            ),
            revocation=_clause(d, "revocation", where, lambda v, w: _word(v, w, REVOCATION)),
            rims=_clause(d, "rims", where, lambda v, w: _list(v, w, _digest)),
            firmware_identity=_clause(d, "firmware_identity", where, _required),
            disabled_decoder=_clause(d, "disabled_decoder", where, _required),
            mismatch=_indices(d["mismatch"], f"{where}.mismatch"),
            uncovered=_indices(d["uncovered"], f"{where}.uncovered"),
        )  # fmt: skip

    @staticmethod
    def strict_template() -> dict[str, object]:
        """Give the strictest section that a genuine single-GPU machine can satisfy, as JSON values."""
        why = {"waived": "any genuine device that satisfies every other clause"}
        return {
            "fresh": "client",
            "count": 1,
            "chips": [chip.product for chip in CHIPS if chip.kind == "gpu"],
            "modes": [str(GpuMode.SINGLE)],
            "min_driver": "550.90.07",
            "denied_vbios": {"waived": "no firmware version is known to be unacceptable"},
            "devices": why,
            "revocation": "ocsp",
            "rims": {"waived": "any reference values that the vendor signed and has not let expire"},
            "firmware_identity": "required",
            "disabled_decoder": {"waived": "index 35 means nothing while the decoder is disabled"},
            "mismatch": {},
            "uncovered": {},
        }


def _clause(
    section: Mapping[str, object], field: str, where: str, read: Callable[[object, str], T]
) -> Given[T] | Waived:
    place = f"{where}.{field}"
    value = waived_or(section[field], place)
    return value if isinstance(value, Waived) else Given(read(value, place))


def _count(value: object, where: str) -> int:
    if type(value) is not int or not 1 <= value <= MAX_DEVICES:
        raise PolicyInvalid(where, want=f"1 to {MAX_DEVICES}", got=type(value).__name__)
    return value


def _list(value: object, where: str, read: Callable[[object, str], T]) -> tuple[T, ...]:
    if not isinstance(value, list) or not 1 <= len(value) <= _MAX_ITEMS:
        raise PolicyInvalid(where, want=f"a list of 1 to {_MAX_ITEMS}", got=type(value).__name__)
    return tuple(read(item, f"{where}[{i}]") for i, item in enumerate(value))


def _word(value: object, where: str, words: tuple[str, ...]) -> str:
    if not isinstance(value, str) or value not in words:
        raise PolicyInvalid(where, want=" or ".join(words), got=type(value).__name__)
    return value


def _mode(value: object, where: str) -> GpuMode:
    return GpuMode(_word(value, where, tuple(str(mode) for mode in GpuMode)))


def _matching(value: object, where: str, shape: re.Pattern[str]) -> str:
    if not isinstance(value, str) or not shape.fullmatch(value):
        raise PolicyInvalid(where, want=f"text like {shape.pattern}", got=type(value).__name__)
    return value


def _digest(value: object, where: str) -> bytes:
    return bytes.fromhex(_matching(value, where, re.compile(r"[0-9a-f]{64}")))


def _required(value: object, where: str) -> bool:
    if value != "required":
        raise PolicyInvalid(where, want="required, or waived", got=type(value).__name__)
    return True


def _indices(value: object, where: str) -> dict[int, str]:
    """Read {"index": "reason"}: a waiver for each index by itself."""
    if not isinstance(value, dict) or len(value) > ENTRIES:
        raise PolicyInvalid(where, want='an object of {"index": "reason"}', got=type(value).__name__)
    found: dict[int, str] = {}
    for key, reason in value.items():
        if not isinstance(key, str) or not re.fullmatch(r"0|[1-9][0-9]?", key) or int(key) >= ENTRIES:
            raise PolicyInvalid(where, want=f"indices 0 to {ENTRIES - 1}", got=str(key)[:16])
        if not isinstance(reason, str) or not reason.strip() or len(reason) > _MAX_REASON:
            raise PolicyInvalid(f"{where}.{key}", want="a reason of 1 to 500 characters", got=type(reason).__name__)
        found[int(key)] = reason
    return found
