# SPDX-License-Identifier: Apache-2.0
"""How current is this platform? Intel's TCB evaluation: platform, module and quoting enclave, at launch and now.

Rules: Intel SGX/TDX DCAP Quote Verification Library, 4.1.2.5.2 (TCB status converging) and its TD relaunch rule.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from operator import ge
from typing import Final, NamedTuple

from ..errors import Untrusted
from .pck import Platform
from .qeidentity import QeIdentity
from .quote import TdReport
from .tcbinfo import ModuleIdentity, Standing, SvnLevel, TcbInfo, TcbLevel, TcbStatus

_OUTDATED: Final = {
    TcbStatus.UP_TO_DATE: TcbStatus.OUT_OF_DATE,
    TcbStatus.SW_HARDENING_NEEDED: TcbStatus.OUT_OF_DATE,
    TcbStatus.CONFIGURATION_NEEDED: TcbStatus.OUT_OF_DATE_CONFIGURATION_NEEDED,
    TcbStatus.CONFIGURATION_AND_SW_HARDENING_NEEDED: TcbStatus.OUT_OF_DATE_CONFIGURATION_NEEDED,
}
_OUT: Final = frozenset({TcbStatus.OUT_OF_DATE, TcbStatus.OUT_OF_DATE_CONFIGURATION_NEEDED})
_CONFIGURE: Final = frozenset(
    {
        TcbStatus.CONFIGURATION_NEEDED,
        TcbStatus.CONFIGURATION_AND_SW_HARDENING_NEEDED,
        TcbStatus.OUT_OF_DATE_CONFIGURATION_NEEDED,
    }
)


class Svns(NamedTuple):
    """Everything of a quote and its platform that a TCB is judged by: with the same documents, the same answer."""

    launch: bytes  # TEE_TCB_SVN, 16
    current: bytes | None  # TEE_TCB_SVN_2, 16, body types 3 and 4
    mr_signer_seam: bytes  # 48
    seam_attributes: bytes  # 8
    components: tuple[int, ...]  # 16, of the PCK certificate
    pce_svn: int
    qe: int  # ISVSVN of the quoting enclave

    @classmethod
    def of(cls, report: TdReport, platform: Platform, qe: int) -> Svns:
        """Take them from where they stand."""
        module = (report.mr_signer_seam, report.seam_attributes)
        return cls(report.tee_tcb_svn, report.tee_tcb_svn_2, *module, platform.tcb_components, platform.pce_svn, qe)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shortfall:
    """One component that is below the highest level, and what it would have to be."""

    component: str
    have: int
    need: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """One set of TEE_TCB_SVN against TCB info: each part by itself, and converged."""

    svn: bytes  # 16
    status: TcbStatus
    platform: Standing
    module: Standing | None  # None for the base module, which has no levels of its own
    module_id: str  # "TDX_03", or "" for the base module
    shortfalls: tuple[Shortfall, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tcb:
    """The TCB of a quote: converged over everything, with its parts."""

    status: TcbStatus
    date: datetime  # the oldest of the parts
    advisories: tuple[str, ...]  # of all parts, sorted
    launch: Evaluation
    current: Evaluation | None  # body types 3 and 4
    qe: Standing
    evaluation_data_number: int


def evaluate(svns: Svns, info: TcbInfo, identity: QeIdentity) -> Tcb:
    """Evaluate a quote's TCB. Raises Untrusted for no match, a revoked level, or what cannot be."""
    qe = _reached(identity.levels, svns.qe)
    if qe is None:
        raise Untrusted("QeTcbNotSupported", "qe.isv_svn", want="a level that it reaches", got=svns.qe)
    launch = _evaluate("launch", svns.launch, svns, info, qe.standing)
    current, later = None, svns.current
    if later is not None:
        if any(now < then for now, then in zip(later, svns.launch, strict=True)):
            raise Untrusted("MalformedTcb", "tee_tcb_svn_2", want=f"at least {svns.launch.hex()}", got=later.hex())
        current = _evaluate("current", later, svns, info, qe.standing)
    status = relaunch(launch.status, current.status) if current else launch.status
    parts = [qe.standing]
    for evaluation in (launch, current):
        if evaluation is not None:
            parts.append(evaluation.platform)
            if evaluation.module is not None:
                parts.append(evaluation.module)
    return Tcb(
        status=status,
        date=min([part.date for part in parts]),
        advisories=tuple(sorted({advisory for part in parts for advisory in part.advisories})),
        launch=launch,
        current=current,
        qe=qe.standing,
        evaluation_data_number=info.evaluation_data_number,
    )


def converge(platform: TcbStatus, parts: Iterable[TcbStatus]) -> TcbStatus:
    """Converge a platform's status with those of the module and the quoting enclave."""
    found = {platform, *parts}
    if TcbStatus.REVOKED in found:
        return TcbStatus.REVOKED
    return _OUTDATED.get(platform, platform) if TcbStatus.OUT_OF_DATE in found else platform


def relaunch(launch: TcbStatus, current: TcbStatus) -> TcbStatus:
    """Merge launch and current: an old launch on a machine that is in order now wants a relaunch."""
    if launch not in _OUT or current in _OUT or current is TcbStatus.REVOKED:
        return launch
    if {launch, current} & _CONFIGURE:
        return TcbStatus.TD_RELAUNCH_ADVISED_CONFIGURATION_NEEDED
    return TcbStatus.TD_RELAUNCH_ADVISED


def _evaluate(when: str, svn: bytes, svns: Svns, info: TcbInfo, qe: Standing) -> Evaluation:
    identity = _module_identity(when, svn, info)
    _require_module(svns, identity)
    module = _reached(identity.levels, svn[0]) if identity.id else None
    if identity.id and module is None:
        want = f"a level of {identity.id} that it reaches"
        raise Untrusted("TdxModuleTcbNotSupported", f"{when}.module.isv_svn", want=want, got=svn[0])
    level = next((level for level in info.levels if _reaches(level, svns, svn)), None)
    if level is None:
        names = ", ".join(f"{s.component} {s.have} < {s.need}" for s in _missing(info.levels[-1], svns, svn))
        raise Untrusted("TcbNotSupported", f"{when}.tcb", want="a level that the platform reaches", got=names[:200])
    standing = module.standing if module else None
    status = converge(level.standing.status, [s.status for s in (standing, qe) if s])
    if status is TcbStatus.REVOKED:
        raise Untrusted("TcbRevoked", f"{when}.tcb", want="not revoked", got=status)
    highest = info.levels[0]
    shortfalls = [] if level is highest else _missing(highest, svns, svn)
    shortfalls += _module_shortfall(identity, svn[0])
    return Evaluation(
        svn=svn,
        status=status,
        platform=level.standing,
        module=standing,
        module_id=identity.id,
        shortfalls=tuple(shortfalls),
    )


def _module_identity(when: str, svn: bytes, info: TcbInfo) -> ModuleIdentity:
    """Find the identity of the module's major version, TEE_TCB_SVN[1]; version 0 is the base module."""
    if svn[1] == 0:
        return info.module
    name = f"TDX_{svn[1]:02X}"
    found = next((identity for identity in info.modules if identity.id == name), None)
    if found is None:
        known = ", ".join(identity.id for identity in info.modules) or "no numbered module"
        raise Untrusted("TdxModuleUnknown", f"{when}.module", want=known, got=name)
    return found


def _require_module(svns: Svns, identity: ModuleIdentity) -> None:
    if svns.mr_signer_seam != identity.mr_signer:
        want, got = identity.mr_signer.hex(), svns.mr_signer_seam.hex()
        raise Untrusted("TdxModuleMismatch", "mr_signer_seam", want=want, got=got)
    seam = svns.seam_attributes
    if any(seam) or any(identity.attributes):  # all zero, and so under any mask
        want = f"0 and {identity.attributes.hex()}"
        raise Untrusted("TdxModuleMismatch", "seam_attributes", want=want, got=seam.hex())


def _reached(levels: tuple[SvnLevel, ...], isv_svn: int) -> SvnLevel | None:
    return next((level for level in levels if level.isv_svn <= isv_svn), None)


def _reaches(level: TcbLevel, svns: Svns, svn: bytes) -> bool:
    """Whether a platform reaches `level`. A numbered module's own two SVNs are judged by its identity."""
    first = 2 if svn[1] else 0
    return (
        all(map(ge, svns.components, level.sgx))
        and svns.pce_svn >= level.pce_svn
        and all(map(ge, svn[first:], level.tdx[first:]))
    )


def _missing(level: TcbLevel, svns: Svns, svn: bytes) -> list[Shortfall]:
    """List what keeps a platform below `level`."""
    if _reaches(level, svns, svn):
        return []
    first = 2 if svn[1] else 0
    wants = [(f"sgx[{i}]", svns.components[i], level.sgx[i], level.kinds[i]) for i in range(16)]
    wants.append(("pcesvn", svns.pce_svn, level.pce_svn, ""))
    wants += [(f"tdx[{i}]", svn[i], level.tdx[i], level.kinds[16 + i]) for i in range(first, 16)]
    return [
        Shortfall(component=f"{name} ({kind})" if kind else name, have=have, need=need)
        for name, have, need, kind in wants
        if have < need
    ]


def _module_shortfall(identity: ModuleIdentity, isv_svn: int) -> list[Shortfall]:
    if not identity.levels or isv_svn >= identity.levels[0].isv_svn:
        return []
    return [Shortfall(component=f"module {identity.id}", have=isv_svn, need=identity.levels[0].isv_svn)]
