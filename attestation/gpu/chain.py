# SPDX-License-Identifier: Apache-2.0
"""Verify a device's certificate chain: exactly five certificates, each in its role, down from a pinned root key."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ..errors import Malformed, Untrusted
from ..window import Window
from . import der
from .anchor import GpuTrustAnchor
from .binding import DEVICE_CHAIN_LENGTH
from .certificate import common_name, p384_key, require_chain, validity
from .chip import DICE_TCB_INFO, Chip, chip_of
from .pem import load_certificate, split_pem
from .revocation import Link, links_of

_SHA384: Final = bytes.fromhex("608648016503040202")  # content of the object identifier
_FWID_SIZE: Final = 48
_WHERE: Final = "gpu.chain"
_CACHED_CHAINS: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceChain:
    """A chain whose signatures hold. Its windows are for `require_valid` at every use."""

    chip: Chip
    leaf_key: ec.EllipticCurvePublicKey = field(repr=False)
    serial: int  # of the leaf; as a decimal number it is the device's UEID
    pdi: bytes  # 8, the device's identifier
    hwmodel: str  # CN of the device's own CA
    fwid: bytes | None  # 48, measured by the boot ROM into the leaf
    root_spki: bytes  # 32
    window: Window
    certificates: tuple[x509.Certificate, ...] = field(repr=False)  # leaf first
    links: tuple[Link, ...] = field(repr=False)  # whose revocation can be asked about: no service covers the leaf


@lru_cache(maxsize=_CACHED_CHAINS)
def verify_chain(pem: bytes, *, kind: str, anchor: GpuTrustAnchor) -> DeviceChain:
    """Verify a chain for a "gpu" or a "switch", without regard to time.

    The answer for the same bytes and the same anchor never changes, so it is remembered; refusals are not. Raises
    Malformed(MalformedCertificate), Untrusted(UntrustedRoot | CertificateAlgorithm | CertificateRoleMismatch |
    GpuChainInvalid | GpuFwidMismatch).
    """
    ders = split_pem(pem, count=DEVICE_CHAIN_LENGTH, where=_WHERE)
    certs = tuple(load_certificate(d, where=f"{_WHERE}[{i}]") for i, d in enumerate(ders))
    root = require_chain(
        certs,
        length=DEVICE_CHAIN_LENGTH,
        roots=anchor.device_root_spki,
        organizations=anchor.organizations,
        code="GpuChainInvalid",
        where=_WHERE,
    )
    chip = chip_of(tuple(common_name(c) for c in certs), kind=kind, where=_WHERE)
    return DeviceChain(
        chip=chip,
        leaf_key=p384_key(certs[0], where=f"{_WHERE}[0]"),
        serial=certs[0].serial_number,
        pdi=_pdi(certs[1], chip),
        hwmodel=common_name(certs[1]),
        fwid=_fwid(certs, chip),
        root_spki=root,
        window=validity(certs[0]).meet(*(validity(c) for c in certs[1:])),
        certificates=certs,
        links=links_of(certs, first=1, name=f"{kind} {certs[0].serial_number:x} chain"),
    )


def _pdi(cert: x509.Certificate, chip: Chip) -> bytes:
    serial = cert.serial_number
    if serial >> 64 != chip.pdi_tag:
        want = f"a serial number of 9 bytes beginning with {chip.pdi_tag:#04x}"
        raise Untrusted("CertificateRoleMismatch", f"{_WHERE}[1].serial", want=want, got=f"{serial:x}")
    return (serial & (2**64 - 1)).to_bytes(8, "big")


def _fwid(certs: tuple[x509.Certificate, ...], chip: Chip) -> bytes | None:
    """Read the leaf's firmware identity from the one extension that the chip family uses."""
    for extension in certs[0].extensions:
        if extension.oid.dotted_string == chip.fwid_oid and isinstance(extension.value, x509.UnrecognizedExtension):
            value = extension.value.value
            if chip.fwid_oid == DICE_TCB_INFO:
                return _tcb_info_fwid(value)
            return _composite_fwid(value, p384_key(certs[1], where=f"{_WHERE}[1]"))
    return None


def _composite_fwid(value: bytes, device_key: ec.EllipticCurvePublicKey) -> bytes:
    """Read CompositeDeviceID: version, the device's public key, one FWID. The key must be that of the leaf's issuer."""
    what = f"{_WHERE}[0].composite_device_id"
    parts = der.children(der.element(value, der.SEQUENCE, what=what), what=what)
    if [tag for tag, _, _ in parts] != [der.INTEGER, der.SEQUENCE, der.SEQUENCE]:
        raise Malformed("MalformedCertificate", what, want="version, deviceID, fwid", got="other elements")
    if parts[1][2] != device_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo):
        raise Untrusted("GpuFwidMismatch", f"{what}.device_id", want="the key of the leaf's issuer", got="another key")
    return _digest(parts[2][1], f"{what}.fwid")


def _tcb_info_fwid(value: bytes) -> bytes:
    """Read the first of DiceTcbInfo's fwids: the firmware. A second one, where present, is unused."""
    what = f"{_WHERE}[0].dice_tcb_info"
    fwids = [c for tag, c, _ in der.children(der.element(value, der.SEQUENCE, what=what), what=what) if tag == 0xA6]
    if len(fwids) != 1:
        raise Malformed("MalformedCertificate", what, want="fwids once", got=len(fwids))
    digests = der.children(fwids[0], what=f"{what}.fwids")
    if not digests or digests[0][0] != der.SEQUENCE:
        raise Malformed("MalformedCertificate", f"{what}.fwids", want="a list of digests", got="others")
    return _digest(digests[0][1], f"{what}.fwids[0]")


def _digest(content: bytes, what: str) -> bytes:
    parts = der.children(content, what=what)
    if [tag for tag, _, _ in parts] != [der.OBJECT_IDENTIFIER, der.OCTET_STRING]:
        raise Malformed("MalformedCertificate", what, want="algorithm and digest", got="other elements")
    if parts[0][1] != _SHA384 or len(parts[1][1]) != _FWID_SIZE:
        raise Malformed("MalformedCertificate", what, want="a SHA-384 digest", got=f"{len(parts[1][1])} bytes")
    return parts[1][1]
