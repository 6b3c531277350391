# SPDX-License-Identifier: Apache-2.0
"""TCB levels, modules, JSON and TD attributes with one thing wrong: rows N50 to N94."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from enclave.simulator.tdx_ca import sign_raw
from enclave.simulator.tdx_collateral import svn_level
from tests.tdx_cases import PLATFORM, Case
from tests.tdx_rows import ORDER, Row, both, info, platform, qe, set_fields

INFO = "TcbInfoInvalid"


def report(**changes: Any) -> Callable[[Case], None]:
    """Change fields of the TD report."""
    return lambda case: set_fields(case.quote.report, changes)


def text(name: str, bend: Callable[[str], str]) -> Callable[[Case], None]:
    """Bend a document's exact text and sign it again."""

    def change(case: Case) -> None:
        def bent(document: dict[str, str]) -> None:
            document[name] = bend(document[name])
            document[f"{name}_signature"] = sign_raw(case.ca.tcb_signer.key, document[name].encode()).hex()

        case.document_after.append(bent)

    return change


def respelled(document: dict[str, str]) -> None:
    """Indent the text and keep its old signature."""
    document["tcb_info"] = document["tcb_info"].replace('{"id"', '{ "id"')


def status(where: int, name: str) -> Callable[[Case], None]:
    """Give a platform level another status."""
    return lambda case: case.levels[where].update(tcbStatus=name)


def module(*levels: dict[str, object]) -> Callable[[Case], None]:
    """Give the module other levels."""
    return lambda case: case.module.update(tcbLevels=list(levels))


def component(value: object) -> Callable[[Case], None]:
    """Write one component SVN of the first level."""
    return lambda case: case.levels[0]["tcb"]["sgxtcbcomponents"][0].update(svn=value)


def fifteen(case: Case) -> None:
    case.levels[0]["tcb"]["sgxtcbcomponents"].pop()


def without_module(case: Case) -> None:
    del case.collateral.tcb_info["tdxModule"]


def old_signature(case: Case) -> None:
    case.document_after.append(respelled)


def added(extra: str) -> Callable[[Case], None]:
    """Write another field at the end of the TCB info."""
    return text("tcb_info", lambda t: t[:-1] + "," + extra + "}")


def bits(number: int) -> Callable[[Case], None]:
    """Set the TD attributes."""
    return lambda case: case.bits(number)


def xfam(number: int) -> Callable[[Case], None]:
    """Set XFAM."""
    return report(xfam=number.to_bytes(8, "little"))


def low_or_high(case: Case) -> None:
    """Use the other of the two signatures that verify."""

    def twin(data: bytes) -> bytes:
        r, s = int.from_bytes(data[636:668], "big"), int.from_bytes(data[668:700], "big")
        again = decode_dss_signature(encode_dss_signature(r, ORDER - s))
        return data[:668] + again[1].to_bytes(32, "big") + data[700:]

    case.quote_after.append(twin)


SEPT = 1 << 28
OLD = bytes.fromhex("050103" + "00" * 13)
LOW = bytes.fromhex("040103" + "00" * 13)
NOW_SVN = bytes.fromhex("070103" + "00" * 13)
OUT = svn_level(7, "OutOfDate", advisories=["INTEL-SA-90009"])

TCB_ROWS: list[Row] = [
    Row("N50 tcbInfo with a key twice", "JsonDuplicateKey", added('"pceId":"0000"')),
    Row(
        "N50 the document with a key twice", "JsonDuplicateKey",
        lambda c: c.text_after.append(lambda d: d[:-1] + b',"tcb_info":"{}"}'), accepts=True,
    ),
    Row("N51 a key in another case", "JsonUnexpectedKey", info(Fmspc="000000000000"), accepts=True),
    Row("N52 another text under the old signature", "CollateralSignatureInvalid", old_signature),
    Row("N52 NaN", "JsonInvalid", text("tcb_info", lambda t: t.replace('"tcbType":0', '"tcbType":NaN'))),
    Row("N52 a byte order mark", "JsonInvalid", text("tcb_info", lambda t: "\ufeff" + t)),
    Row("N52 junk behind", "JsonInvalid", text("tcb_info", lambda t: t + "x")),
    Row("N52 a date without a zone", INFO, info(issueDate="2026-09-30T00:00:00")),
    Row("N52 a date that is none", INFO, info(issueDate="2026-02-30T00:00:00Z")),
    Row("N52 nested deep", "JsonInvalid", added('"x":' + "[" * 99 + "]" * 99), accepts=True),
    Row("N52 an integer of 400 digits", "JsonInvalid", added('"x":1' + "0" * 400), accepts=True),
    Row("N53 fifteen components", INFO, fifteen, accepts=True),
    Row("N53 a negative SVN", INFO, component(-1)),
    Row("N53 SVN 256", INFO, component(256)),
    Row("N53 an SVN as text", INFO, component("5")),
    Row("N53 an SVN that is true", INFO, component(True)),
    Row("N53 a module SVN above a byte", INFO, module(svn_level(7, "UpToDate"), svn_level(256, "UpToDate"))),
    Row("N53 an unknown status", INFO, status(0, "Fine")),
    Row("N53 a derived status", INFO, status(0, "TDRelaunchAdvised"), accepts=True),
    Row("N53 no levels", INFO, info(tcbLevels=[])),
    Row("N53 no tdxModule", INFO, without_module),
    Row("N53 one level twice", INFO, lambda c: c.levels.append(c.levels[0]), accepts=True),
    Row("N54 an unknown key", None, info(newThing={"a": 1})),
    Row("N60 MRSIGNERSEAM", "TdxModuleMismatch", report(mr_signer_seam=b"\1" * 48)),
    Row("N60 SEAMATTRIBUTES", "TdxModuleMismatch", report(seam_attributes=b"\1" + bytes(7))),
    Row("N61 an unknown module", "TdxModuleUnknown", report(tee_tcb_svn=bytes.fromhex("070203" + "00" * 13))),
    Row("N61 no module identities", "TdxModuleUnknown", info(tdxModuleIdentities=[])),
    Row("N62 a module below every level", "TdxModuleTcbNotSupported", report(tee_tcb_svn=LOW)),
    Row("N64 module revoked", "TcbRevoked", module(svn_level(7, "Revoked"))),
    Row("N64 platform revoked", "TcbRevoked", status(0, "Revoked")),
    Row("N64 a platform below every level", "TcbNotSupported", platform(components=(0,) * 16)),
    Row("N64 PCESVN below every level", "TcbNotSupported", platform(pce_svn=4)),
    Row("N71b now below launch", "MalformedTcb", report(tee_tcb_svn_2=OLD), 5, accepts=True),
    Row(
        "N72 no level for now", "TcbNotSupported",
        both(report(tee_tcb_svn=bytes.fromhex("05000200" + "00" * 12)), lambda c: c.levels.pop(),
                lambda c: c.levels.pop(), report(tee_tcb_svn_2=NOW_SVN), platform(pce_svn=11),
                lambda c: c.levels[0]["tcb"]["tdxtcbcomponents"][2].update(svn=4)), 5,
    ),
    Row("N73 MRSERVICETD", "MigratableTd", report(mr_service_td=b"\1" * 48), 5),
    Row("N80 DEBUG", "DebugTd", bits(SEPT | 1)),
    Row("N80 a TUD bit", "TdAttributesReserved", bits(SEPT | 1 << 4)),
    Row("N81 bit 8", "TdAttributesReserved", bits(SEPT | 1 << 8)),
    Row("N81 bit 32", "TdAttributesReserved", bits(SEPT | 1 << 32)),
    Row("N81 bit 39", "TdAttributesReserved", bits(SEPT | 1 << 39)),
    Row("N82 MIGRATABLE", "MigratableTd", bits(SEPT | 1 << 29)),
    Row("N83 SEPT_VE_DISABLE clear", "SeptVeDisableRequired", bits(0)),
    Row("N85 XFAM 0", "XfamInvalid", xfam(0), accepts=True),
    Row("N85 XFAM bit 63", "XfamInvalid", xfam(3 | 1 << 63), accepts=True),
    Row("N94 the twin of a signature", None, low_or_high),
]  # fmt: skip


HIGHER = replace(PLATFORM, components=(9, *PLATFORM.components[1:]))
STATUSES: list[tuple[str, str, Callable[[Case], None], int]] = [
    ("N45 QE out of date", "OutOfDate", qe(isv_svn=3), 4),
    ("N63 module out of date", "OutOfDate", report(tee_tcb_svn=OLD), 4),
    ("N65 base module", "UpToDate", report(tee_tcb_svn=bytes.fromhex("050002" + "00" * 13)), 4),
    (
        "N66 a numbered module's own SVNs are its identity's", "UpToDate",
        lambda c: c.levels[0]["tcb"]["tdxtcbcomponents"][0].update(svn=9), 4,
    ),
    ("N67 platform out of date, module not", "OutOfDate", platform(pce_svn=6), 4),
    ("N68 levels the other way round", "UpToDate", lambda c: c.levels.reverse(), 4),
    (
        "N69 configuration needed and the module out of date", "OutOfDateConfigurationNeeded",
        both(status(0, "ConfigurationNeeded"), report(tee_tcb_svn=OLD)), 4,
    ),
    (
        "N69 hardening needed and the module out of date", "OutOfDate",
        both(status(0, "SWHardeningNeeded"), report(tee_tcb_svn=OLD)), 4,
    ),
    ("N70 old launch, up to date now", "TDRelaunchAdvised", report(tee_tcb_svn=OLD), 5),
    (
        "N70 old launch, configuration needed now", "TDRelaunchAdvisedConfigurationNeeded",
        both(status(0, "ConfigurationNeeded"), report(tee_tcb_svn=OLD)), 5,
    ),
    ("hardening needed", "SWHardeningNeeded", status(0, "SWHardeningNeeded"), 4),
    ("configuration needed", "ConfigurationNeeded", status(0, "ConfigurationNeeded"), 5),
    (
        "configuration and hardening needed", "ConfigurationAndSWHardeningNeeded",
        status(0, "ConfigurationAndSWHardeningNeeded"), 4,
    ),
    ("out of date, configuration needed", "OutOfDateConfigurationNeeded", status(0, "OutOfDateConfigurationNeeded"), 4),
    ("everything out of date", "OutOfDate", both(module(OUT), platform(pce_svn=6), qe(isv_svn=3)), 5),
    ("a platform above every level", "UpToDate", lambda c: c.pck(HIGHER), 4),
]  # fmt: skip
