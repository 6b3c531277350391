# SPDX-License-Identifier: Apache-2.0
"""Write attestation reports as a device's firmware does: SPDM 1.1 request and response, opaque data, signature.

Every field can be bent, so that a test can sign correctly what is wrong in one thing. Nothing here is shared with the
code that reads reports.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA384


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportFields:
    """What a report says. None: the value that follows from the rest."""

    nonce: bytes
    responder_nonce: bytes
    measurements: tuple[bytes, ...]  # block i + 1 holds measurement i
    opaque: tuple[tuple[int, bytes], ...]  # (type, value)
    request: tuple[int, int, int, int] = (0x11, 0xE0, 0x01, 0xFF)  # version, code, param1, param2
    slot: int = 0
    response: tuple[int, int, int, int] = (0x11, 0x60, 0, 0)
    number_of_blocks: int | None = None
    record_length: int | None = None
    opaque_length: int | None = None
    blocks: Mapping[int, bytes] = field(default_factory=dict)  # whole blocks in place of the regular ones


def encode_opaque(fields: tuple[tuple[int, bytes], ...]) -> bytes:
    """Write type-length-value fields."""
    return b"".join(struct.pack("<HH", number, len(value)) + value for number, value in fields)


def encode_block(index: int, value: bytes, *, specification: int = 1, value_type: int = 1) -> bytes:
    """Write one measurement block."""
    return struct.pack("<BBHBH", index, specification, len(value) + 3, value_type, len(value)) + value


def encode_report(fields: ReportFields) -> bytes:
    """Write request || response without its signature: the bytes that are signed."""
    regular = {i: encode_block(i, value) for i, value in enumerate(fields.measurements, start=1)}
    record = b"".join((regular | dict(fields.blocks)).values())
    opaque = encode_opaque(fields.opaque)
    count = len(fields.measurements) if fields.number_of_blocks is None else fields.number_of_blocks
    record_length = len(record) if fields.record_length is None else fields.record_length
    opaque_length = len(opaque) if fields.opaque_length is None else fields.opaque_length
    return (
        bytes(fields.request)
        + fields.nonce
        + bytes([fields.slot, *fields.response, count])
        + record_length.to_bytes(3, "little")
        + record
        + fields.responder_nonce
        + opaque_length.to_bytes(2, "little")
        + opaque
    )


def sign_raw(key: ec.EllipticCurvePrivateKey, data: bytes) -> bytes:
    """Sign with ECDSA and SHA-384 and give r || s, 48 bytes big-endian each."""
    r, s = decode_dss_signature(key.sign(data, ec.ECDSA(SHA384())))
    return r.to_bytes(48, "big") + s.to_bytes(48, "big")


def sign_report(key: ec.EllipticCurvePrivateKey, fields: ReportFields) -> bytes:
    """Write a whole report."""
    signed = encode_report(fields)
    return signed + sign_raw(key, signed)
