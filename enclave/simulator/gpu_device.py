# SPDX-License-Identifier: Apache-2.0
"""Simulated devices: a boot ROM identity, a leaf that carries the firmware identity, and reports signed by it."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha384
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from .gpu_authority import GpuAuthority, Issuer, new_key, spki
from .gpu_report import ReportFields, sign_report
from .gpu_rim import RimFields, encode_rim, sign_rim

DRIVER_VERSION: Final = "999.1.0"
GPU_VBIOS: Final = "96.00.00.00.01"
SWITCH_BIOS: Final = "96.10.00.00.01"
DRIVER_INDICES: Final = (7, *range(21, 41))
VBIOS_INDICES: Final = (*range(7), *range(8, 13))
SWITCH_INDICES: Final = tuple(range(31))

_SHA384_FWID: Final = bytes.fromhex("303d06096086480165030402020430")  # SEQUENCE of OID sha384 and a digest
_MODE_FLAGS: Final = {"spt": 0, "mpt": 1, "ppcie": 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedDevice:
    """One device: what it is, and its leaf key."""

    kind: str
    product: str
    mode: str
    pdi: bytes
    leaf: Issuer
    chain: tuple[x509.Certificate, ...]  # leaf first
    fwid: bytes
    linked: tuple[bytes, ...] = field(default=())  # identifiers of the devices at the other end of its links

    @property
    def pem(self) -> bytes:
        """The chain as NVML gives it."""
        return b"".join(c.public_bytes(Encoding.PEM) for c in self.chain)

    def fields(self, nonce: bytes) -> ReportFields:
        """Give what this device would report over `nonce`."""
        switch = self.kind == "switch"
        indices = SWITCH_INDICES if switch else (*DRIVER_INDICES, *VBIOS_INDICES)
        values = [golden(self.product, i) if i in indices else bytes(48) for i in range(31 if switch else 64)]
        return ReportFields(
            nonce=nonce,
            responder_nonce=secrets.token_bytes(32),
            measurements=tuple(values),
            opaque=_switch_opaque(self) if switch else _gpu_opaque(self),
        )

    def report(self, nonce: bytes) -> bytes:
        """Sign a report over `nonce`."""
        return sign_report(self.leaf.key, self.fields(nonce))


def golden(product: str, index: int) -> bytes:
    """Give the measurement that every simulated device of a product has."""
    return sha384(f"SIMULATED {product} measurement {index}".encode()).digest()


def _gpu_opaque(device: SimulatedDevice) -> tuple[tuple[int, bytes], ...]:
    found = [
        (6, _vbios_bytes(GPU_VBIOS)),
        (14, bytes(4)),
        (15, b"882\0"),
        (16, b"0\0"),
        (17, b"SIM0\0"),
        (18, b"0001\0"),
        (3, DRIVER_VERSION.encode() + b"\0"),
        (12, bytes(256)),
        (11, b"\xaa"),
        (20, device.fwid),
    ]
    if device.product == "GH100":
        found.append((21, b"\xaa" if device.mode == "ppcie" else b"\x55"))
    else:
        found += [(35, b"GB100\0")]
    found += [(34, b"\1\0"), (36, bytes([_MODE_FLAGS[device.mode], 0]))]
    if device.linked:
        links = b"".join(pdi[::-1] for pdi in device.linked)
        found.append((22, links.ljust(144, b"\0")))
    return tuple(found)


def _vbios_bytes(version: str) -> bytes:
    parts = bytes(int(part, 16) for part in version.split("."))
    return (bytes(3) + parts[4:] + parts[:4])[::-1]


def _switch_opaque(device: SimulatedDevice) -> tuple[tuple[int, bytes], ...]:
    listed = b"".join(device.linked).ljust(64, b"\0")
    return ((6, SWITCH_BIOS.encode()), (22, device.pdi), (12, bytes(104)), (26, listed + b"\xff" * 64))


def make_device(
    authority: GpuAuthority,
    *,
    kind: str = "gpu",
    product: str = "GH100",
    mode: str = "spt",
    pdi: bytes | None = None,
    linked: tuple[bytes, ...] = (),
) -> SimulatedDevice:
    """Make a device with fresh keys under `authority`."""
    pdi = pdi or secrets.token_bytes(8)
    unit, family, tag = ("FSP", "LS_10", 0x50) if kind == "switch" else ("GSP", product, 0x41)
    ica = authority.issuers[f"{product}-ica"]
    serial = int.from_bytes(bytes([tag]) + pdi, "big")
    brom_key, leaf_key = new_key(), new_key()
    brom = Issuer(
        key=brom_key,
        certificate=ica.issue(
            f"{family} A01 {unit} BROM", brom_key.public_key(), usage=("key_cert_sign",), ca=True, serial=serial
        ),
    )
    fwid = sha384(f"SIMULATED {product} firmware".encode()).digest()
    leaf = brom.issue(
        f"{family} A01 {unit} FMC LF",
        leaf_key.public_key(),
        usage=("digital_signature",),
        ca=False,
        extensions=(fwid_extension(product, brom_key.public_key(), fwid),),
    )
    chain = (leaf, brom.certificate, *authority.chain(f"{product}-ica", f"{product}-identity", "device-root"))
    return SimulatedDevice(
        kind=kind,
        product=product,
        mode=mode,
        pdi=pdi,
        leaf=Issuer(key=leaf_key, certificate=leaf),
        chain=chain,
        fwid=fwid,
        linked=linked,
    )


def fwid_extension(product: str, device_key: ec.EllipticCurvePublicKey, fwid: bytes) -> x509.UnrecognizedExtension:
    """Give the extension that carries the firmware identity: CompositeDeviceID, or DiceTcbInfo on Blackwell."""
    digest = _SHA384_FWID + fwid
    if product == "GB100":
        oid, body = (
            "2.23.133.5.4.1.1",
            b"\x83\x01\x01\xa6" + bytes([2 * len(digest)]) + digest + _SHA384_FWID + bytes(48),
        )
    else:
        oid, body = "2.23.133.5.4.1", b"\x02\x01\x01" + spki(device_key) + digest
    return x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), b"\x30\x81" + bytes([len(body)]) + body)


def make_machine(authority: GpuAuthority, *, mode: str, count: int = 1) -> tuple[SimulatedDevice, ...]:
    """Make the devices of one machine: "spt" (one Hopper GPU), "mpt" (Blackwell GPUs), "ppcie" (eight and four)."""
    if mode == "spt":
        return (make_device(authority),)
    if mode == "mpt":
        return tuple(make_device(authority, product="GB100", mode="mpt") for _ in range(count))
    gpus, switches = ([secrets.token_bytes(8) for _ in range(n)] for n in (8, 4))
    return tuple(
        [make_device(authority, mode="ppcie", pdi=pdi, linked=tuple(switches)) for pdi in gpus]
        + [make_device(authority, kind="switch", product="LS10", pdi=pdi, linked=tuple(gpus)) for pdi in switches]
    )


def rim_fields(product: str) -> list[RimFields]:
    """Give the reference values of a product's devices: driver and VBIOS, or the switch's firmware."""
    if product == "LS10":
        parts = [("SWITCH", SWITCH_BIOS, SWITCH_INDICES)]
    else:
        parts = [("GPU", DRIVER_VERSION, DRIVER_INDICES), ("GPU", GPU_VBIOS, VBIOS_INDICES)]
    return [
        RimFields(product=product, version=version, edition=edition, golden={i: (golden(product, i),) for i in indices})
        for edition, version, indices in parts
    ]


def make_rims(authority: GpuAuthority, products: Sequence[str]) -> tuple[bytes, ...]:
    """Sign the reference values of several products."""
    chain = authority.chain("rim-signer", "rim-l3", "rim-ca", "rim-root")
    signer = authority.issuers["rim-signer"].key
    return tuple(sign_rim(encode_rim(f), signer, chain) for product in products for f in rim_fields(product))
