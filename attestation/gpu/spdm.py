# SPDX-License-Identifier: Apache-2.0
"""Parse a device's attestation report: one SPDM 1.1 GET_MEASUREMENTS request and its response (DMTF DSP0274).

NVML gives both as one string. The signature covers the request and the response up to the signature, and nothing else.
All integers are little-endian.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ..errors import Malformed
from ..wire import Reader
from .evidence import KINDS, MAX_REPORT_BYTES

SPDM_1_1: Final = 0x11
GET_MEASUREMENTS: Final = 0xE0
MEASUREMENTS: Final = 0x60
SIGNATURE_REQUESTED: Final = 0x01
ALL_MEASUREMENTS: Final = 0xFF
BLOCK_SIZE: Final = 55
DIGEST_SIZE: Final = 48
SIGNATURE_SIZE: Final = 96  # r || s, 48 bytes big-endian each
MAX_PADDING: Final = 4  # zero bytes that drivers are known to leave after the signature
BLOCKS: Final = {"gpu": 64, "switch": 31}

_BLOCK_HEADER: Final = bytes([1, DIGEST_SIZE + 3, 0, 1, DIGEST_SIZE, 0])  # what follows a block's index
_CODE: Final = "MalformedGpuReport"
_LAYOUT: Final = "UnsupportedGpuReport"


@dataclass(frozen=True, slots=True, kw_only=True)
class SpdmReport:
    """A report taken apart. Nothing in it is verified."""

    kind: str  # "gpu" or "switch", as the caller said
    nonce: bytes  # 32, the requester's
    responder_nonce: bytes  # 32, the device's own
    measurements: tuple[bytes, ...]  # block i + 1 is measurements[i], SHA-384, 48 bytes each
    opaque: bytes  # TLVs
    signed: bytes  # what the signature covers
    signature: bytes  # 96
    padding: int  # zero bytes after the signature


def parse_report(data: bytes, *, kind: str) -> SpdmReport:
    """Take a report apart, structurally. Raises Malformed(MalformedGpuReport | UnsupportedGpuReport).

    The signature is what follows the opaque data; at most four zero bytes may follow it.
    """
    if kind not in KINDS:
        raise ValueError(f"not a kind of device: {kind}")
    if len(data) > MAX_REPORT_BYTES:
        raise Malformed(_CODE, "report", want=f"at most {MAX_REPORT_BYTES} bytes", got=len(data))
    r = Reader(data, what="report", code=_CODE)
    nonce = _request(r)
    measurements = _measurements(r, BLOCKS[kind])
    responder_nonce = r.take(32, "responder_nonce")
    opaque = r.take(r.u16le("opaque_length"), "opaque")
    signed = r.taken()
    signature = r.take(SIGNATURE_SIZE, "signature")
    padding = r.rest()
    if len(padding) > MAX_PADDING or any(padding):
        want = f"nothing, or at most {MAX_PADDING} zero bytes, after the signature"
        raise Malformed("TrailingData", "report", want=want, got=f"{len(padding)} more bytes")
    return SpdmReport(
        kind=kind,
        nonce=nonce,
        responder_nonce=responder_nonce,
        measurements=measurements,
        opaque=opaque,
        signed=signed,
        signature=signature,
        padding=len(padding),
    )


def _request(r: Reader) -> bytes:
    _require(r.u8("request.version"), SPDM_1_1, "request.version")
    _require(r.u8("request.code"), GET_MEASUREMENTS, "request.code")
    _require(r.u8("request.param1"), SIGNATURE_REQUESTED, "request.param1")
    _require(r.u8("request.param2"), ALL_MEASUREMENTS, "request.param2")
    nonce = r.take(32, "request.nonce")
    _require(r.u8("request.slot"), 0, "request.slot")
    return nonce


def _measurements(r: Reader, blocks: int) -> tuple[bytes, ...]:
    _require(r.u8("response.version"), SPDM_1_1, "response.version")
    _require(r.u8("response.code"), MEASUREMENTS, "response.code")
    _require(r.u8("response.param1"), 0, "response.param1")
    _require(r.u8("response.param2"), 0, "response.param2")
    _require(r.u8("response.number_of_blocks"), blocks, "response.number_of_blocks")
    _require(r.uint(3, "response.record_length", "little"), blocks * BLOCK_SIZE, "response.record_length")
    return tuple(_block(r, i) for i in range(1, blocks + 1))


def _block(r: Reader, index: int) -> bytes:
    """Read one block; its seven bytes of header have one legal value, and another one is named field by field."""
    where = f"block[{index}]"
    header, value = r.take(BLOCK_SIZE - DIGEST_SIZE, where), r.take(DIGEST_SIZE, where)
    if header != bytes([index, *_BLOCK_HEADER]):
        _require(header[0], index, f"{where}.index")
        _require(header[1], 1, f"{where}.specification")  # DMTF
        _require(int.from_bytes(header[2:4], "little"), DIGEST_SIZE + 3, f"{where}.size")
        _require(header[4], 1, f"{where}.value_type")  # digest of mutable firmware
        _require(int.from_bytes(header[5:], "little"), DIGEST_SIZE, f"{where}.value_size")
    return value


def _require(got: int, want: int, field: str) -> None:
    if got != want:
        raise Malformed(_LAYOUT, f"report.{field}", want=want, got=got)
