# SPDX-License-Identifier: Apache-2.0
"""What ties GPU evidence to an enclave: the nonce that devices sign, the digest that the quote carries."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256
from typing import Final

from .. import cbor
from ..errors import Untrusted
from ..wire import label
from .evidence import NONCE_CLIENT, NONCE_EPOCH, GpuDeviceEvidence
from .pem import load_certificate, split_pem
from .spdm import parse_report

__all__ = [
    "DEVICE_CHAIN_LENGTH",
    "NONCE_CLIENT",
    "NONCE_EPOCH",
    "NONCE_GATE",
    "gpu_nonce",
    "gpu_set_digest",
    "leaf_serial",
]

NONCE_GATE: Final = 0
DEVICE_CHAIN_LENGTH: Final = 5
_BODY_SIZES: Final = {NONCE_GATE: 16, NONCE_EPOCH: 32, NONCE_CLIENT: 64}


def gpu_nonce(kind: int, body: bytes) -> bytes:
    """Give SHA-256(L(gpu-nonce) || u8 kind || body), 32 bytes.

    kind 0, boot gate: body is the instance id (16 bytes); 1, epoch: the keyset digest (32); 2, client: keyset digest ||
    client nonce (64). Another kind or size is the caller's bug: ValueError.
    """
    if _BODY_SIZES.get(kind) != len(body):
        raise ValueError(f"no body of {len(body)} bytes for GPU nonce kind {kind}")
    return sha256(label("gpu-nonce") + bytes([kind]) + body).digest()


def gpu_set_digest(devices: Iterable[GpuDeviceEvidence]) -> bytes:
    """Give SHA-256(L(gpu-set) || CBOR(list)), 32 bytes; empty for no devices.

    The list holds [signed bytes, chain, CC state] per device, sorted by leaf serial. Signatures are left out: an ECDSA
    signature has a twin, and the identity of evidence must not. Raises Malformed, and Untrusted(GpuDuplicateDevice).
    """
    entries: dict[int, list[object]] = {}
    for device in devices:
        serial = leaf_serial(device.chain)
        if serial in entries:
            raise Untrusted(
                "GpuDuplicateDevice", "gpu.devices", want="each device once", got=f"leaf serial {serial:x} twice"
            )
        signed = parse_report(device.report, kind=device.kind).signed
        entries[serial] = [signed, device.chain, dict(device.cc_state)]
    if not entries:
        return b""
    return sha256(label("gpu-set") + cbor.encode([entries[serial] for serial in sorted(entries)])).digest()


def leaf_serial(chain: bytes) -> int:
    """Give the serial number of a device chain's leaf. Raises Malformed(MalformedCertificate)."""
    return load_certificate(
        split_pem(chain, count=DEVICE_CHAIN_LENGTH, where="gpu.chain")[0], where="gpu.chain[0]"
    ).serial_number
