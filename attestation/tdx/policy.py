# SPDX-License-Identifier: Apache-2.0
"""The section `tdx` of a policy: what its author accepts of a TDX quote, or gave up with a reason (docs/policy.md)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias, TypeVar

from ..errors import PolicyInvalid
from ..findings import Given, Waived, require_keys, waived_or
from .quote import BODY_SIZES
from .tcbinfo import TcbStatus

T = TypeVar("T")
Clause: TypeAlias = "Given[T] | Waived"

_FIELDS: Final = (
    "quote_versions",
    "body_types",
    "tcb_status",
    "max_tcb_age_seconds",
    "min_evaluation_data_number",
    "max_collateral_age_seconds",
    "rejected_advisories",
    "min_tee_tcb_svn",
    "min_module_isvsvn",
    "mr_seam",
    "td_attributes",
    "xfam",
    "mr_owner",
    "mr_owner_config",
    "fmspc",
    "ppid",
    "platform_instance_id",
    "sgx_type",
    "dynamic_platform",
    "cached_keys",
    "smt",
)
_MAX_ITEMS: Final = 256
_MAX_SECONDS: Final = 10 * 366 * 24 * 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskedValue:
    """Bits that must equal `value` where `mask` is set."""

    value: bytes  # 8, as in the report
    mask: bytes  # 8

    def holds(self, got: bytes) -> bool:
        """Whether `got` has the value under the mask."""
        pairs = zip(got, self.mask, self.value, strict=True)
        return all((g & m) == (v & m) for g, m, v in pairs)


@dataclass(frozen=True, slots=True, kw_only=True)
class TdxPolicy:
    """What is accepted of a quote. Debug, migratable and reserved bits are refused before any policy is asked."""

    quote_versions: Clause[tuple[int, ...]]
    body_types: Clause[tuple[int, ...]]
    tcb_status: tuple[TcbStatus, ...]  # never waived
    max_tcb_age: Clause[int]  # seconds since the TCB date of the oldest part
    min_evaluation_data_number: Clause[int]
    max_collateral_age: Clause[int]  # seconds since the older issue date
    rejected_advisories: Clause[tuple[str, ...]]
    min_tee_tcb_svn: Clause[bytes]  # 16, component by component
    min_module_isvsvn: Clause[Mapping[str, int]]
    mr_seam: Clause[tuple[bytes, ...]]
    td_attributes: Clause[MaskedValue]
    xfam: Clause[bytes]  # 8: bits that may be set
    mr_owner: Clause[tuple[bytes, ...]]
    mr_owner_config: Clause[tuple[bytes, ...]]
    fmspc: Clause[tuple[bytes, ...]]
    ppid: Clause[tuple[bytes, ...]]
    platform_instance_id: Clause[tuple[bytes, ...]]
    sgx_type: Clause[tuple[int, ...]]
    dynamic_platform: Clause[bool]  # given: must be off
    cached_keys: Clause[bool]
    smt: Clause[bool]

    @classmethod
    def parse(cls, value: object, where: str) -> TdxPolicy:
        """Read the section. Raises PolicyInvalid; every field is given, or waived with a reason."""
        d = require_keys(value, where, required=_FIELDS)

        def read(field: str, reader: Callable[[object, str], T]) -> Given[T] | Waived:
            given = waived_or(d[field], f"{where}.{field}")
            return given if isinstance(given, Waived) else Given(reader(given, f"{where}.{field}"))

        return cls(
            quote_versions=read("quote_versions", _listed(_one_of((4, 5)))),
            body_types=read("body_types", _listed(_one_of(tuple(BODY_SIZES)))),
            tcb_status=_listed(_status)(d["tcb_status"], f"{where}.tcb_status"),
            max_tcb_age=read("max_tcb_age_seconds", _uint(_MAX_SECONDS)),
            min_evaluation_data_number=read("min_evaluation_data_number", _uint(2**31)),
            max_collateral_age=read("max_collateral_age_seconds", _uint(_MAX_SECONDS)),
            rejected_advisories=read("rejected_advisories", _listed(_matching(re.compile(r"INTEL-SA-[0-9]{5}")))),
            min_tee_tcb_svn=read("min_tee_tcb_svn", _hexa(16)),
            min_module_isvsvn=read("min_module_isvsvn", _modules),
            mr_seam=read("mr_seam", _listed(_hexa(48))),
            td_attributes=read("td_attributes", _masked),
            xfam=read("xfam", _hexa(8)),
            mr_owner=read("mr_owner", _listed(_hexa(48))),
            mr_owner_config=read("mr_owner_config", _listed(_hexa(48))),
            fmspc=read("fmspc", _listed(_hexa(6))),
            ppid=read("ppid", _listed(_hexa(16))),
            platform_instance_id=read("platform_instance_id", _listed(_hexa(16))),
            sgx_type=read("sgx_type", _listed(_one_of((0, 1, 2)))),
            dynamic_platform=read("dynamic_platform", _forbidden),
            cached_keys=read("cached_keys", _forbidden),
            smt=read("smt", _forbidden),
        )

    @staticmethod
    def strict_template() -> dict[str, object]:
        """Give the strictest section that a genuine up-to-date machine can satisfy, as JSON values."""
        any_platform = {"waived": "any genuine platform; list machines here to guard against physical attacks"}
        every_host = {"waived": "hosts of every kind set it"}
        return {
            "quote_versions": [4, 5],
            "body_types": [2, 3],
            "tcb_status": [str(TcbStatus.UP_TO_DATE)],
            "max_tcb_age_seconds": {"waived": "Intel's status says whether a TCB is current"},
            "min_evaluation_data_number": 17,
            "max_collateral_age_seconds": 30 * 24 * 3600,
            "rejected_advisories": {"waived": "an UpToDate platform has none that Intel has mended"},
            "min_tee_tcb_svn": {"waived": "Intel's levels decide"},
            "min_module_isvsvn": {"waived": "Intel's levels decide"},
            "mr_seam": {"waived": "the module is identified by Intel's signed module identity"},
            "td_attributes": {"value": "0000001000000000", "mask": "ffffffffffffffff"},
            "xfam": "e7db060000000000",
            "mr_owner": ["00" * 48],
            "mr_owner_config": ["00" * 48],
            "fmspc": any_platform,
            "ppid": any_platform,
            "platform_instance_id": any_platform,
            "sgx_type": [1, 2],
            "dynamic_platform": every_host,
            "cached_keys": every_host,
            "smt": every_host,
        }


def _listed(read: Callable[[object, str], T]) -> Callable[[object, str], tuple[T, ...]]:
    def reader(value: object, where: str) -> tuple[T, ...]:
        if not isinstance(value, list) or not 1 <= len(value) <= _MAX_ITEMS:
            raise PolicyInvalid(where, want=f"a list of 1 to {_MAX_ITEMS}", got=type(value).__name__)
        return tuple(read(item, f"{where}[{i}]") for i, item in enumerate(value))

    return reader


def _one_of(allowed: tuple[int, ...]) -> Callable[[object, str], int]:
    def reader(value: object, where: str) -> int:
        if type(value) is not int or value not in allowed:
            raise PolicyInvalid(where, want=" or ".join(map(str, allowed)), got=type(value).__name__)
        return value

    return reader


def _uint(limit: int) -> Callable[[object, str], int]:
    def reader(value: object, where: str) -> int:
        if type(value) is not int or not 0 <= value <= limit:
            raise PolicyInvalid(where, want=f"0 to {limit}", got=type(value).__name__)
        return value

    return reader


def _matching(shape: re.Pattern[str]) -> Callable[[object, str], str]:
    def reader(value: object, where: str) -> str:
        if not isinstance(value, str) or not shape.fullmatch(value):
            raise PolicyInvalid(where, want=f"text like {shape.pattern}", got=type(value).__name__)
        return value

    return reader


def _hexa(size: int) -> Callable[[object, str], bytes]:
    text = _matching(re.compile(f"[0-9a-f]{{{2 * size}}}"))
    return lambda value, where: bytes.fromhex(text(value, where))


def _status(value: object, where: str) -> TcbStatus:
    legal = [status for status in TcbStatus if status is not TcbStatus.REVOKED]
    if not isinstance(value, str) or value not in legal:
        raise PolicyInvalid(where, want=" or ".join(legal), got=type(value).__name__)
    return TcbStatus(value)


def _modules(value: object, where: str) -> Mapping[str, int]:
    if not isinstance(value, dict) or not value:
        raise PolicyInvalid(where, want='an object such as {"TDX_03": 9}', got=type(value).__name__)
    name = _matching(re.compile(r"TDX_[0-9A-F]{2}"))
    return {name(key, where): _uint(255)(least, f"{where}.{key}") for key, least in value.items()}


def _masked(value: object, where: str) -> MaskedValue:
    d = require_keys(value, where, required=("value", "mask"))
    return MaskedValue(value=_hexa(8)(d["value"], f"{where}.value"), mask=_hexa(8)(d["mask"], f"{where}.mask"))


def _forbidden(value: object, where: str) -> bool:
    if value != "forbidden":
        raise PolicyInvalid(where, want="forbidden, or waived", got=type(value).__name__)
    return True
