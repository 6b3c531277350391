# SPDX-License-Identifier: Apache-2.0
"""A quote as auditors read it: every field by its Intel name, and the documented JSON of `quote verify`."""

from __future__ import annotations

from typing import Final

from attestation.tdx.pck import SGX_TYPES, Platform
from attestation.tdx.quote import Quote
from attestation.tdx.tcb import Evaluation, Tcb
from attestation.tdx.tcbinfo import Standing
from attestation.window import rfc3339

TD_ATTRIBUTES: Final = {
    0: "DEBUG",
    27: "LASS",
    28: "SEPT_VE_DISABLE",
    29: "MIGRATABLE",
    30: "PKS",
    31: "KL",
    62: "TPA",
    63: "PERFMON",
}
BODY_TYPES: Final = {2: "TD report 1.0", 3: "TD report 1.5", 4: "TD report 1.5 extended"}


def quote_json(quote: Quote) -> dict[str, object]:
    """Give every field of a quote: bytes in hex."""
    report = quote.report
    names = (
        "tee_tcb_svn mr_seam mr_signer_seam seam_attributes td_attributes xfam mr_td mr_config_id mr_owner "
        "mr_owner_config report_data"
    )
    fields: dict[str, object] = {
        "version": quote.version,
        "body_type": quote.body_type,
        "qe_vendor_id": quote.qe_vendor_id.hex(),
        "user_data": quote.user_data.hex(),
        "padding": quote.padding,
        "digest": quote.digest.hex(),
        **{name: getattr(report, name).hex() for name in names.split()},
        "rtmr": [value.hex() for value in report.rtmr],
        "td_attributes_names": attribute_names(report.td_attributes),
    }
    if report.tee_tcb_svn_2 is not None and report.mr_service_td is not None:
        fields |= {"tee_tcb_svn_2": report.tee_tcb_svn_2.hex(), "mr_service_td": report.mr_service_td.hex()}
    qe = quote.auth.qe_report
    fields["qe"] = {
        "mr_enclave": qe.mr_enclave.hex(),
        "mr_signer": qe.mr_signer.hex(),
        "isv_prod_id": qe.isv_prod_id,
        "isv_svn": qe.isv_svn,
    }
    return fields


def attribute_names(td_attributes: bytes) -> list[str]:
    """Name the bits that are set."""
    bits = int.from_bytes(td_attributes, "little")
    return [TD_ATTRIBUTES.get(i, f"bit {i}") for i in range(64) if bits >> i & 1]


def platform_json(platform: Platform, pck_ca: str) -> dict[str, object]:
    """Give what the PCK certificate says of the platform."""
    instance = platform.platform_instance_id
    return {
        "fmspc": platform.fmspc.hex(),
        "ppid": platform.ppid.hex(),
        "pce_id": platform.pce_id.hex(),
        "pce_svn": platform.pce_svn,
        "cpu_svn": platform.cpu_svn.hex(),
        "platform_instance_id": instance.hex() if instance else None,
        "sgx_type": SGX_TYPES.get(platform.sgx_type, str(platform.sgx_type)),
        "dynamic_platform": platform.dynamic_platform,
        "cached_keys": platform.cached_keys,
        "smt_enabled": platform.smt_enabled,
        "pck_ca": pck_ca,
    }


def tcb_json(tcb: Tcb) -> dict[str, object]:
    """Give the TCB with its parts, launch and current apart."""
    return {
        "status": str(tcb.status),
        "date": rfc3339(tcb.date),
        "advisories": list(tcb.advisories),
        "evaluation_data_number": tcb.evaluation_data_number,
        "launch": _evaluation(tcb.launch),
        "current": _evaluation(tcb.current) if tcb.current else None,
        "qe": _standing(tcb.qe),
    }


def _evaluation(evaluation: Evaluation) -> dict[str, object]:
    return {
        "svn": evaluation.svn.hex(),
        "status": str(evaluation.status),
        "platform": _standing(evaluation.platform),
        "module": _standing(evaluation.module) | {"id": evaluation.module_id} if evaluation.module else None,
        "shortfalls": [
            {"component": short.component, "have": short.have, "highest_level_needs": short.need}
            for short in evaluation.shortfalls
        ],
    }


def _standing(standing: Standing) -> dict[str, object]:
    date, advisories = rfc3339(standing.date), list(standing.advisories)
    return {"status": str(standing.status), "date": date, "advisories": advisories}
