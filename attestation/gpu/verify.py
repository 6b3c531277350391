# SPDX-License-Identifier: Apache-2.0
"""Is GPU evidence true? From bytes to verified devices and sets; no opinion about whether they are acceptable.

What the caller must still do: appraise the result (`appraise_gpus`) - a measurement that differs from its golden value
is a true statement of the device - and tie the nonce and the set's digest to a quote (`binding`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA384

from ..errors import Untrusted
from ..window import Window, require_aware
from .anchor import GpuTrustAnchor
from .binding import gpu_set_digest
from .certificate import require_valid
from .chain import DeviceChain, verify_chain
from .chip import driver_rim_id, firmware_rim_id, reports_fwid
from .evidence import MAX_DEVICES, GpuDeviceEvidence, GpuEndorsementSet
from .measure import Comparison, compare
from .opaque import GpuMode, OpaqueData, decode_opaque
from .revocation import CertificateStatus, Link, LinkKey, check_revocation
from .rim import VerifiedRim, verify_rim
from .spdm import SpdmReport, parse_report
from .topology import require_topology


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedDevice:
    """One device whose signature, chain and reference values hold. Made by this module alone."""

    kind: str  # "gpu" or "switch"
    product: str  # the chip, as its reference values name it
    architecture: str
    hwmodel: str
    serial: int  # of the leaf certificate; as a decimal number the device's UEID
    pdi: bytes  # 8
    nonce: bytes  # 32, the requester's, as signed
    driver_version: str  # empty for a switch
    vbios_version: str
    mode: GpuMode | None  # None for a switch
    linked_pdis: frozenset[bytes]  # the devices that it says are at the other end of its links
    fwid: bytes | None  # 48, as reported
    fwid_compared: bool  # with the certificate's; False where the report carries none
    unknown_fields: tuple[int, ...]
    cc_state: Mapping[str, int]  # what NVML said; the device did not sign it
    driver_rim_id: str  # empty for a switch
    firmware_rim_id: str
    measurements: Comparison | None  # None without reference values
    rims: tuple[VerifiedRim, ...]
    revocation: tuple[CertificateStatus, ...]
    roots_used: frozenset[bytes]  # SPKI digests, 32 each
    window: Window
    certificates: tuple[x509.Certificate, ...] = field(repr=False)

    @property
    def ueid(self) -> str:
        """The device's universal entity id."""
        return str(self.serial)


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedGpuSet:
    """The devices of one machine, sorted by leaf serial. Made by `verify_set` alone."""

    devices: tuple[VerifiedDevice, ...]
    mode: GpuMode
    digest: bytes  # 32, gpu_set_digest
    roots_used: frozenset[bytes]
    window: Window

    @property
    def gpus(self) -> tuple[VerifiedDevice, ...]:
        """The GPUs alone."""
        return tuple(d for d in self.devices if d.kind == "gpu")


def verify_device(
    report: bytes,
    chain_pem: bytes,
    *,
    kind: str,
    nonce: bytes | None,
    rims: Sequence[bytes],
    ocsp: Sequence[bytes] = (),
    crls: Sequence[bytes] = (),
    cc_state: Mapping[str, int] | None = None,
    anchor: GpuTrustAnchor,
    now: datetime,
) -> VerifiedDevice:
    """Verify one device's report at `now` against `anchor`.

    `nonce` is what the report must have signed, or None to leave that to the caller. Without any RIM nothing is
    compared (`measurements` is None); with RIMs the device's own must be among them. Raises Malformed and Untrusted.
    """
    evidence = GpuDeviceEvidence(kind=kind, report=report, chain=chain_pem, cc_state=dict(cc_state or {}))
    endorsements = GpuEndorsementSet(rims=tuple(rims), ocsp=tuple(ocsp), crls=tuple(crls))
    return _verify_all([evidence], endorsements, nonce=nonce, anchor=anchor, now=now)[0]


def verify_set(
    reports: Sequence[GpuDeviceEvidence],
    endorsements: GpuEndorsementSet,
    *,
    nonce: bytes | None,
    anchor: GpuTrustAnchor,
    now: datetime,
) -> VerifiedGpuSet:
    """Verify every device of a machine at `now`, one nonce for all, and that together they make one machine.

    Raises Malformed and Untrusted, at the first thing that does not hold.
    """
    if not 1 <= len(reports) <= MAX_DEVICES:
        raise Untrusted("GpuEvidenceMissing", "gpu.set", want=f"1 to {MAX_DEVICES} devices", got=len(reports))
    digest = gpu_set_digest(reports)
    verified = _verify_all(reports, endorsements, nonce=nonce, anchor=anchor, now=now)
    devices = tuple(sorted(verified, key=lambda d: d.serial))
    mode = require_topology(devices)
    return VerifiedGpuSet(
        devices=devices,
        mode=mode,
        digest=digest,
        roots_used=frozenset().union(*(d.roots_used for d in devices)),
        window=devices[0].window.meet(*(d.window for d in devices[1:])),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Device:
    evidence: GpuDeviceEvidence
    report: SpdmReport
    opaque: OpaqueData
    chain: DeviceChain
    rims: tuple[VerifiedRim, ...]

    def links(self) -> list[Link]:
        """Everything whose revocation can be asked about."""
        return [*self.chain.links, *(link for rim in self.rims for link in rim.links)]


def _verify_all(
    reports: Sequence[GpuDeviceEvidence],
    endorsements: GpuEndorsementSet,
    *,
    nonce: bytes | None,
    anchor: GpuTrustAnchor,
    now: datetime,
) -> list[VerifiedDevice]:
    now = require_aware(now)
    rims = []
    for i, data in enumerate(endorsements.rims):
        rims.append(verify_rim(data, anchor=anchor))
        require_valid(rims[i].certificates, now, where=f"rim[{i}].chain")
    devices = [_open(evidence, rims, nonce=nonce, anchor=anchor, now=now) for evidence in reports]
    statuses = check_revocation(
        [link for device in devices for link in device.links()],
        responses=endorsements.ocsp,
        crls=endorsements.crls,
        organizations=anchor.organizations,
        now=now,
    )
    return [_close(device, statuses) for device in devices]


def _open(
    evidence: GpuDeviceEvidence,
    rims: Sequence[VerifiedRim],
    *,
    nonce: bytes | None,
    anchor: GpuTrustAnchor,
    now: datetime,
) -> _Device:
    """Verify one device but for revocation: chain, signature, nonce, firmware identity; choose its RIMs."""
    report = parse_report(evidence.report, kind=evidence.kind)
    chain = verify_chain(evidence.chain, kind=evidence.kind, anchor=anchor)
    require_valid(chain.certificates, now, where="gpu.chain")
    _require_signature(report, chain)
    if nonce is not None and report.nonce != nonce:
        raise Untrusted("GpuNonceMismatch", "report.request.nonce", want=nonce.hex(), got=report.nonce.hex())
    opaque = decode_opaque(report.opaque, kind=evidence.kind)
    _require_identity(opaque, chain)
    chosen = _choose(rims, opaque, chain) if rims else ()
    return _Device(evidence=evidence, report=report, opaque=opaque, chain=chain, rims=chosen)


def _require_signature(report: SpdmReport, chain: DeviceChain) -> None:
    r, s = (int.from_bytes(half, "big") for half in (report.signature[:48], report.signature[48:]))
    try:
        chain.leaf_key.verify(encode_dss_signature(r, s), report.signed, ec.ECDSA(SHA384()))
    except InvalidSignature:
        raise Untrusted("GpuReportSignatureInvalid", "report.signature", want="by the leaf", got="invalid") from None


def _require_identity(opaque: OpaqueData, chain: DeviceChain) -> None:
    """Require the firmware identity and, on a switch, the device identifier to be those of the certificates."""
    if opaque.fwid is None:
        if reports_fwid(chain.chip, opaque):
            raise Untrusted("GpuFwidMismatch", "report.fwid", want="present", got="absent")
    elif opaque.fwid != chain.fwid:
        want = chain.fwid.hex() if chain.fwid else "one in the certificate"
        raise Untrusted("GpuFwidMismatch", "report.fwid", want=want, got=opaque.fwid.hex())
    if opaque.device_pdi is not None and opaque.device_pdi != chain.pdi:
        got = opaque.device_pdi.hex()
        raise Untrusted("GpuTopologyInvalid", "report.device_pdi", want=chain.pdi.hex(), got=got)


def _choose(rims: Sequence[VerifiedRim], opaque: OpaqueData, chain: DeviceChain) -> tuple[VerifiedRim, ...]:
    """Choose the device's RIMs by component, product and version: exactly one for each component."""
    if chain.chip.kind == "switch":
        wanted = [("switch", opaque.vbios_version)]
    else:
        wanted = [("driver", opaque.driver_version), ("vbios", opaque.vbios_version)]
    chosen = []
    for component, version in wanted:
        want = f"{component} {chain.chip.product} {version}"
        of_component = [rim for rim in rims if rim.component == component]
        if not of_component:
            raise Untrusted("RimMissing", "rims", want=want, got="none of this component")
        found = [rim for rim in of_component if (rim.product, rim.version) == (chain.chip.product, version)]
        if len(found) != 1:
            got = ", ".join(f"{rim.component} {rim.product} {rim.version}" for rim in of_component)
            raise Untrusted("RimMismatch", "rims", want=f"one of {want}", got=got)
        chosen.append(found[0])
    return tuple(chosen)


def _close(device: _Device, statuses: Mapping[LinkKey, CertificateStatus]) -> VerifiedDevice:
    """Compare measurements and put together what is known."""
    evidence, opaque, chain, rims = device.evidence, device.opaque, device.chain, device.rims
    mine = tuple(statuses[link.key] for link in device.links())
    windows = [rim.window for rim in rims]
    windows += [w for status in mine for w in (status.ocsp, status.crl) if w is not None]
    compared = compare(device.report.measurements, rims, nvdec0_enabled=opaque.nvdec0_enabled) if rims else None
    return VerifiedDevice(
        kind=evidence.kind,
        product=chain.chip.product,
        architecture=chain.chip.architecture,
        hwmodel=chain.hwmodel,
        serial=chain.serial,
        pdi=chain.pdi,
        nonce=device.report.nonce,
        driver_version=opaque.driver_version,
        vbios_version=opaque.vbios_version,
        mode=opaque.mode,
        linked_pdis=opaque.switch_pdis | opaque.gpu_pdis,
        fwid=opaque.fwid,
        fwid_compared=opaque.fwid is not None,
        unknown_fields=opaque.unknown,
        cc_state=dict(evidence.cc_state),
        driver_rim_id=driver_rim_id(chain.chip, opaque),
        firmware_rim_id=firmware_rim_id(chain.chip, opaque),
        measurements=compared,
        rims=rims,
        revocation=mine,
        roots_used=frozenset({chain.root_spki, *(rim.root_spki for rim in rims)}),
        window=chain.window.meet(*windows),
        certificates=chain.certificates,
    )
