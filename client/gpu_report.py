# SPDX-License-Identifier: Apache-2.0
"""GPU evidence as auditors read it: files in, devices and reference values by name out."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from attestation import strict_json
from attestation.errors import AttestationError
from attestation.gpu.evidence import MAX_CRL_BYTES, GpuDeviceEvidence
from attestation.gpu.opaque import decode_opaque
from attestation.gpu.rim import VerifiedRim
from attestation.gpu.spdm import BLOCKS, parse_report
from attestation.gpu.verify import VerifiedDevice

from .errors import UsageFault
from .output import read_file

MAX_EVIDENCE_LIST: Final = 2 * 1024 * 1024
MAX_REPORT_FILE: Final = 64 * 1024
_BLOCKS_AT: Final = 41  # of a report: the number of its measurement blocks
_PEM_CRL: Final = re.compile(rb"\s*-----BEGIN X509 CRL-----(.*)-----END X509 CRL-----\s*", re.DOTALL)
_HEX: Final = re.compile(rb"[0-9a-fA-F\s]+")


def read_report(path: Path) -> bytes:
    """Read a report, raw, hex or base64, told apart by content."""
    data = read_file(path, limit=MAX_REPORT_FILE)
    text = b"".join(data.split())
    if text and _HEX.fullmatch(text) and len(text) % 2 == 0:
        return bytes.fromhex(text.decode("ascii"))
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        return data


def read_ocsp(path: Path) -> bytes:
    """Read an OCSP response, DER or base64."""
    return _unpacked(read_file(path, limit=MAX_REPORT_FILE))


def read_crl(path: Path) -> bytes:
    """Read a certificate revocation list, DER, PEM or base64."""
    data = read_file(path, limit=2 * MAX_CRL_BYTES)
    found = _PEM_CRL.fullmatch(data)
    return _unpacked(found[1] if found else data)


def _unpacked(data: bytes) -> bytes:
    try:
        return base64.b64decode(b"".join(data.split()), validate=True)
    except binascii.Error:
        return data


def read_list(path: Path) -> list[GpuDeviceEvidence]:
    """Read a JSON list of {"certificate", "evidence"} in base64, as collectors write it. Raises UsageFault."""
    try:
        value = strict_json.loads(read_file(path, limit=MAX_EVIDENCE_LIST), limit=MAX_EVIDENCE_LIST, what=path.name)
    except AttestationError as e:
        raise UsageFault(f"{path}: {e}") from None
    items = value if isinstance(value, list) else value.get("evidences") if isinstance(value, dict) else None
    if not isinstance(items, list) or not items:
        raise UsageFault(f"{path}: not a list of GPU evidence")
    return [_listed(item, path) for item in items]


def _listed(item: object, path: Path) -> GpuDeviceEvidence:
    try:
        if not isinstance(item, dict):
            raise TypeError
        chain = base64.b64decode(item["certificate"], validate=True)
        text = "".join(str(item["evidence"]).split())
        report = bytes.fromhex(text) if re.fullmatch(r"[0-9a-fA-F]+", text) else base64.b64decode(text, validate=True)
    except (KeyError, TypeError, ValueError):
        raise UsageFault(f"{path}: every entry has certificate and evidence, in base64 or hex") from None
    return GpuDeviceEvidence(kind=kind_of(report), report=report, chain=chain, cc_state={})


def kind_of(report: bytes) -> str:
    """Tell a GPU from a switch by the number of its measurements; its chain must then be of the same kind."""
    return "switch" if report[_BLOCKS_AT : _BLOCKS_AT + 1] == bytes([BLOCKS["switch"]]) else "gpu"


def report_json(report: bytes, kind: str) -> dict[str, object]:
    """Decode a report. Nothing is verified. Raises Malformed."""
    parsed = parse_report(report, kind=kind)
    opaque = decode_opaque(parsed.opaque, kind=kind)
    return {
        "kind": kind,
        "nonce": parsed.nonce.hex(),
        "measurements": len(parsed.measurements),
        "driver": opaque.driver_version or None,
        "vbios": opaque.vbios_version,
        "mode": str(opaque.mode) if opaque.mode else None,
        "fwid": opaque.fwid.hex() if opaque.fwid else None,
        "unknown_fields": list(opaque.unknown),
    }


def device_json(device: VerifiedDevice) -> dict[str, object]:
    """Give what was verified of one device."""
    compared = device.measurements
    return {
        "kind": device.kind,
        "chip": device.product,
        "architecture": device.architecture,
        "ueid": device.ueid,
        "driver": device.driver_version or None,
        "vbios": device.vbios_version,
        "nonce": device.nonce.hex(),
        "fwid": device.fwid.hex() if device.fwid else None,
        "feature": str(device.mode) if device.mode else None,
        "driver_rim_id": device.driver_rim_id or None,
        "firmware_rim_id": device.firmware_rim_id,
        "compared": len(compared.compared) if compared else 0,
        "uncovered": list(compared.uncovered) if compared else None,
        "mismatches": [
            {"index": m.index, "golden": [g.hex() for g in m.golden], "found": m.found.hex(), "exempt": m.exempt}
            for m in (compared.mismatches if compared else ())
        ],
        "revocation": [
            {"certificate": s.name, "ocsp": s.ocsp is not None, "crl": s.crl is not None} for s in device.revocation
        ],
    }


def unanswered(devices: Sequence[VerifiedDevice]) -> list[str]:
    """Name the certificates of devices and reference values of which no OCSP response and no CRL speaks, each once."""
    statuses = (status for device in devices for status in device.revocation)
    return list(dict.fromkeys(s.name for s in statuses if s.ocsp is None and s.crl is None))


def rims_json(devices: Sequence[VerifiedDevice]) -> list[dict[str, object]]:
    """Give the reference values that were used, each once."""
    used: dict[bytes, tuple[str, VerifiedRim]] = {}
    for device in devices:
        for rim in device.rims:
            name = device.driver_rim_id if rim.component == "driver" else device.firmware_rim_id
            used[rim.sha256] = (name, rim)
    return [
        {
            "id": name,
            "component": rim.component,
            "product": rim.product,
            "version": rim.version,
            "sha256": rim.sha256.hex(),
            "window": rim.window.to_json(),
        }
        for name, rim in used.values()
    ]
