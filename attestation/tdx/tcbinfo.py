# SPDX-License-Identifier: Apache-2.0
"""What does Intel say of this platform's TCB levels? TCB info v3 with id TDX (Intel PCS API v4, Get TDX TCB Info)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from .. import strict_json
from .signed_json import Fields, Names

MAX_TCB_INFO: Final = 256 * 1024
MAX_LEVELS: Final = 64
MAX_MODULES: Final = 32
MAX_ADVISORIES: Final = 256
COMPONENTS: Final = 16

_NAMES: Final = Names(
    "id", "version", "issueDate", "nextUpdate", "fmspc", "pceId", "tcbType", "tcbEvaluationDataNumber", "tdxModule",
    "tcbLevels", optional=("tdxModuleIdentities",),
)  # fmt: skip
_TUPLES: Final = {tuple}
_LEVEL: Final = Names("tcb", "tcbDate", "tcbStatus", optional=("advisoryIDs",))
_TCB: Final = Names("sgxtcbcomponents", "pcesvn", "tdxtcbcomponents")
_COMPONENT: Final = Names("svn", optional=("category", "type"))
_ISV_SVN: Final = Names("isvsvn")
_BASE_MODULE: Final = Names("mrsigner", "attributes", "attributesMask")
_IDENTITY: Final = Names("id", *_BASE_MODULE.required, "tcbLevels")
_MODULE: Final = re.compile(r"[Tt][Dd][Xx]_[0-9A-Fa-f]{2}")  # upper() would make letters of others
_CODE: Final = "TcbInfoInvalid"
_UNSUPPORTED: Final = "TcbInfoUnsupported"


class TcbStatus(StrEnum):
    """Intel's names; the last two are derived from launch and current TCB together."""

    UP_TO_DATE = "UpToDate"
    SW_HARDENING_NEEDED = "SWHardeningNeeded"
    CONFIGURATION_NEEDED = "ConfigurationNeeded"
    CONFIGURATION_AND_SW_HARDENING_NEEDED = "ConfigurationAndSWHardeningNeeded"
    OUT_OF_DATE = "OutOfDate"
    OUT_OF_DATE_CONFIGURATION_NEEDED = "OutOfDateConfigurationNeeded"
    REVOKED = "Revoked"
    TD_RELAUNCH_ADVISED = "TDRelaunchAdvised"
    TD_RELAUNCH_ADVISED_CONFIGURATION_NEEDED = "TDRelaunchAdvisedConfigurationNeeded"


PLATFORM_STATUSES: Final = frozenset(TcbStatus) - {
    TcbStatus.TD_RELAUNCH_ADVISED,
    TcbStatus.TD_RELAUNCH_ADVISED_CONFIGURATION_NEEDED,
}
_STATUSES: Final = {status.value: status for status in TcbStatus}
ENCLAVE_STATUSES: Final = frozenset({TcbStatus.UP_TO_DATE, TcbStatus.OUT_OF_DATE, TcbStatus.REVOKED})


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What Intel says of one level: its status, since when, and which advisories it is open to."""

    status: TcbStatus
    date: datetime
    advisories: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TcbLevel:
    """A platform level: the least SVNs that reach it."""

    sgx: tuple[int, ...]  # 16
    pce_svn: int
    tdx: tuple[int, ...]  # 16
    kinds: tuple[str, ...]  # 32: what each component is, SGX then TDX; empty where Intel does not say
    standing: Standing


@dataclass(frozen=True, slots=True, kw_only=True)
class SvnLevel:
    """A level of a module or an enclave: the least ISVSVN that reaches it."""

    isv_svn: int
    standing: Standing


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleIdentity:
    """Who signed a TDX module, and for numbered modules its levels, highest first."""

    id: str  # "TDX_03", or "" for the base module
    mr_signer: bytes  # 48
    attributes: bytes  # 8
    attributes_mask: bytes  # 8
    levels: tuple[SvnLevel, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TcbInfo:
    """Parsed TCB info. Its signature is the verifier's business."""

    issue_date: datetime
    next_update: datetime
    fmspc: bytes  # 6
    pce_id: bytes  # 2
    evaluation_data_number: int
    module: ModuleIdentity
    modules: tuple[ModuleIdentity, ...]
    levels: tuple[TcbLevel, ...]  # highest first
    unknown_fields: frozenset[str]

    @classmethod
    def parse(cls, data: bytes) -> TcbInfo:
        """Parse the exact signed text. Raises Malformed."""
        value = strict_json.loads(data, limit=MAX_TCB_INFO, what="tcb_info", each=_object)
        f = Fields(value, "tcb_info", _NAMES, code=_CODE)
        for name, want in (("id", "TDX"), ("version", 3), ("tcbType", 0)):
            f.require(name, want, code=_UNSUPPORTED)
        levels = [
            _level(v, f"tcb_info.tcbLevels[{i}]") for i, v in enumerate(f.items("tcbLevels", least=1, most=MAX_LEVELS))
        ]
        # Intel lists the highest first. Sorting makes the verdict independent of that.
        by_svns = {(level.sgx, level.tdx, level.pce_svn): level for level in levels}
        if len(by_svns) != len(levels):
            raise f.refuse("tcbLevels", want="each level once", got="one twice")
        modules = f.items("tdxModuleIdentities", least=0, most=MAX_MODULES) if "tdxModuleIdentities" in f else []
        identities = tuple(_identity(v, f"tcb_info.tdxModuleIdentities[{i}]") for i, v in enumerate(modules))
        if len({identity.id for identity in identities}) != len(identities):
            raise f.refuse("tdxModuleIdentities", want="each id once", got="one twice")
        return cls(
            issue_date=f.time("issueDate"),
            next_update=f.time("nextUpdate"),
            fmspc=f.hexa("fmspc", 6),
            pce_id=f.hexa("pceId", 2),
            evaluation_data_number=f.uint("tcbEvaluationDataNumber", 2**31),
            module=_base_module(f.raw("tdxModule")),
            modules=identities,
            levels=tuple(by_svns[svns] for svns in sorted(by_svns, reverse=True)),
            unknown_fields=f.unknown,
        )


def read_standing(f: Fields, allowed: frozenset[TcbStatus]) -> Standing:
    """Read tcbStatus, tcbDate and advisoryIDs; an unknown status is an error, never a pass."""
    name = f.text("tcbStatus")
    status = _STATUSES.get(name)
    if status is None or status not in allowed:
        raise f.refuse("tcbStatus", want="a known status", got=name)
    advisories = f.texts("advisoryIDs", most=MAX_ADVISORIES)
    return Standing(status=status, date=f.time("tcbDate"), advisories=advisories)


def read_svn_levels(f: Fields, *, code: str, least: int, most: int) -> tuple[SvnLevel, ...]:
    """Read the tcbLevels of a module or an enclave, highest ISVSVN first, each once and up to `most`."""
    levels = []
    for i, value in enumerate(f.items("tcbLevels", least=least, most=MAX_LEVELS)):
        where = f"{f.where}.tcbLevels[{i}]"
        level = Fields(value, where, _LEVEL, code=code)
        tcb = Fields(level.raw("tcb"), f"{where}.tcb", _ISV_SVN, code=code)
        standing = read_standing(level, ENCLAVE_STATUSES)
        levels.append(SvnLevel(isv_svn=tcb.uint("isvsvn", most), standing=standing))
    if len({level.isv_svn for level in levels}) != len(levels):
        raise f.refuse("tcbLevels", want="each isvsvn once", got="one twice")
    return tuple(sorted(levels, key=lambda level: level.isv_svn, reverse=True))


def _level(value: object, where: str) -> TcbLevel:
    f = Fields(value, where, _LEVEL, code=_CODE)
    tcb = Fields(f.raw("tcb"), f"{where}.tcb", _TCB, code=_CODE)
    sgx, sgx_kinds = _components(tcb, "sgxtcbcomponents")
    tdx, tdx_kinds = _components(tcb, "tdxtcbcomponents")
    return TcbLevel(
        sgx=sgx,
        pce_svn=tcb.uint("pcesvn", 65535),
        tdx=tdx,
        kinds=sgx_kinds + tdx_kinds,
        standing=read_standing(f, PLATFORM_STATUSES),
    )


def _object(pairs: strict_json.Pairs) -> object:
    """Decode one object: a component that is written as Intel writes them, 32 in every level, to (svn, kind)."""
    if len(pairs) == 1:
        ((name, svn),) = pairs
        if name == "svn" and type(svn) is int and 0 <= svn < 256:
            return svn, ""
    elif len(pairs) == 3:
        (name, svn), (second, category), (third, kind) = pairs
        if (
            name == "svn"
            and second == "category"
            and third == "type"
            and type(svn) is int
            and 0 <= svn < 256
            and type(category) is type(kind) is str
            and len(category) <= 64
            and len(kind) <= 64
        ):
            return svn, kind or category
    return strict_json.unique(pairs)


def _components(tcb: Fields, name: str) -> tuple[tuple[int, ...], tuple[str, ...]]:
    items = tcb.items(name, least=COMPONENTS, most=COMPONENTS)
    if set(map(type, items)) != _TUPLES:
        items = [
            item if type(item) is tuple else _component(item, f"{tcb.where}.{name}[{i}]")
            for i, item in enumerate(items)
        ]
    svns, kinds = zip(*items, strict=True)
    return svns, kinds


def _component(value: object, where: str) -> tuple[int, str]:
    """Read a component that is written otherwise, or refuse it."""
    f = Fields(value, where, _COMPONENT, code=_CODE)
    svn = f.uint("svn", 255)
    category, kind = (f.text(field) if field in f else "" for field in ("category", "type"))
    return svn, kind or category


def _base_module(value: object) -> ModuleIdentity:
    f = Fields(value, "tcb_info.tdxModule", _BASE_MODULE, code=_CODE)
    return _module(f, "", ())


def _identity(value: object, where: str) -> ModuleIdentity:
    f = Fields(value, where, _IDENTITY, code=_CODE)
    name = f.text("id")
    if not _MODULE.fullmatch(name):
        raise f.refuse("id", want="TDX_ and two hex digits", got=name)
    return _module(f, name.upper(), read_svn_levels(f, code=_CODE, least=1, most=255))


def _module(f: Fields, name: str, levels: tuple[SvnLevel, ...]) -> ModuleIdentity:
    return ModuleIdentity(
        id=name,
        mr_signer=f.hexa("mrsigner", 48),
        attributes=f.hexa("attributes", 8),
        attributes_mask=f.hexa("attributesMask", 8),
        levels=levels,
    )
