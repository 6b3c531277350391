# SPDX-License-Identifier: Apache-2.0
"""What does this quote say? Quote v4 and v5 with a TD report (Intel TDX DCAP Quoting Library API, appendix A)."""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import sha256
from struct import Struct
from typing import Final

from ..errors import Malformed
from ..wire import Reader
from .authdata import AuthData

MAX_QUOTE: Final = 16 * 1024  # real ones take 5 KB; some hosts pad with zeros to 8 KB
TEE_TDX: Final = 0x81
ECDSA_P256: Final = 2
QE_VENDOR_INTEL: Final = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")
BODY_TD10: Final = 2
BODY_TD15: Final = 3
BODY_TD15_EX: Final = 4
BODY_SIZES: Final = {BODY_TD10: 584, BODY_TD15: 648, BODY_TD15_EX: 885}

_CODE: Final = "MalformedQuote"
_HEADER: Final = Struct("<HI4s16s20s")  # what follows the version
_REPORT: Final = Struct("16s48s48s8s8s8s48s48s48s48s48s48s48s48s64s")  # what every body begins with, 584 bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class TdReport:
    """The body of a TDX quote: widths in bytes as in Intel's TDREPORT; attribute fields little-endian."""

    tee_tcb_svn: bytes  # 16
    mr_seam: bytes  # 48
    mr_signer_seam: bytes  # 48
    seam_attributes: bytes  # 8
    td_attributes: bytes  # 8
    xfam: bytes  # 8
    mr_td: bytes  # 48
    mr_config_id: bytes  # 48
    mr_owner: bytes  # 48
    mr_owner_config: bytes  # 48
    rtmr: tuple[bytes, bytes, bytes, bytes]  # 48 each
    report_data: bytes  # 64
    tee_tcb_svn_2: bytes | None  # 16, body type 3 and 4: the TCB now; tee_tcb_svn is that of the launch
    mr_service_td: bytes | None  # 48, body type 3 and 4
    extended: bytes | None  # 237, body type 4: identities of service TDs and of the initial platform

    @classmethod
    def read(cls, r: Reader, body_type: int) -> TdReport:
        """Take a report of `body_type` off `r`."""
        f = r.unpack(_REPORT, "report")
        later = body_type != BODY_TD10
        return cls(
            tee_tcb_svn=f[0],
            mr_seam=f[1],
            mr_signer_seam=f[2],
            seam_attributes=f[3],
            td_attributes=f[4],
            xfam=f[5],
            mr_td=f[6],
            mr_config_id=f[7],
            mr_owner=f[8],
            mr_owner_config=f[9],
            rtmr=f[10:14],
            report_data=f[14],
            tee_tcb_svn_2=r.take(16, "tee_tcb_svn_2") if later else None,
            mr_service_td=r.take(48, "mr_service_td") if later else None,
            extended=r.take(237, "extended") if body_type == BODY_TD15_EX else None,
        )

    def encode(self) -> bytes:
        """Give the bytes that were parsed."""
        first = (self.tee_tcb_svn, self.mr_seam, self.mr_signer_seam, self.seam_attributes, self.td_attributes)
        second = (self.xfam, self.mr_td, self.mr_config_id, self.mr_owner, self.mr_owner_config, *self.rtmr)
        last = (self.report_data, self.tee_tcb_svn_2 or b"", self.mr_service_td or b"", self.extended or b"")
        return b"".join((*first, *second, *last))


@dataclass(frozen=True, slots=True, kw_only=True)
class Quote:
    """A parsed quote. Nothing in it is verified."""

    version: int  # 4 or 5
    body_type: int  # 2, 3 or 4; a quote v4 has 2
    qe_vendor_id: bytes  # 16
    user_data: bytes  # 20
    report: TdReport
    auth: AuthData
    signed: bytes  # header and body exactly as they came: what the attestation key signed
    padding: int  # zero bytes after the quote
    raw: bytes = field(repr=False)  # exactly as it came, without the padding

    @classmethod
    def parse(cls, data: bytes) -> Quote:
        """Parse a quote of at most 16 KiB; zeros after it are allowed, anything else is not. Raises Malformed."""
        if len(data) > MAX_QUOTE:
            raise Malformed(_CODE, "quote", want=f"at most {MAX_QUOTE} bytes", got=len(data))
        r = Reader(data, what="quote", code=_CODE)
        version, vendor, user_data = _header(r)
        body_type = _body_type(r) if version == 5 else BODY_TD10
        report = TdReport.read(r, body_type)
        signed = r.taken()
        auth = AuthData.parse(r.take(r.u32le("auth_data_size"), "auth_data"))
        raw = r.taken()
        trailer = r.rest()
        if trailer.strip(b"\0"):
            raise Malformed("TrailingData", "quote", want="nothing but zeros after it", got=f"{len(trailer)} bytes")
        return cls(
            version=version,
            body_type=body_type,
            qe_vendor_id=vendor,
            user_data=user_data,
            report=report,
            auth=auth,
            signed=signed,
            padding=len(trailer),
            raw=raw,
        )

    def encode(self) -> bytes:
        """Give the bytes that were parsed, put together from the fields."""
        head = b"".join(
            (
                self.version.to_bytes(2, "little"),
                ECDSA_P256.to_bytes(2, "little"),
                TEE_TDX.to_bytes(4, "little"),
                bytes(4),
                self.qe_vendor_id,
                self.user_data,
            )
        )
        body, auth = self.report.encode(), self.auth.encode()
        if self.version == 5:
            head += self.body_type.to_bytes(2, "little") + len(body).to_bytes(4, "little")
        return head + body + len(auth).to_bytes(4, "little") + auth + bytes(self.padding)

    @property
    def digest(self) -> bytes:
        """SHA-256 of the quote without its padding (32 bytes)."""
        return sha256(self.raw).digest()


def _header(r: Reader) -> tuple[int, bytes, bytes]:
    version = r.u16le("version")
    if version not in (4, 5):
        raise Malformed("UnsupportedVersion", "quote.version", want="4 or 5", got=version)
    key_type, tee, reserved, vendor, user_data = r.unpack(_HEADER, "header")
    if key_type != ECDSA_P256:
        raise Malformed("UnsupportedAttestationKeyType", "quote.attestation_key_type", want=ECDSA_P256, got=key_type)
    if tee != TEE_TDX:
        raise Malformed("UnsupportedTeeType", "quote.tee_type", want=f"{TEE_TDX:#x}", got=f"{tee:#x}")
    if any(reserved):
        raise Malformed("ReservedNotZero", "quote.reserved", want="00000000", got=reserved.hex())
    if vendor != QE_VENDOR_INTEL:
        raise Malformed("UnknownQeVendor", "quote.qe_vendor_id", want=QE_VENDOR_INTEL.hex(), got=vendor.hex())
    return version, vendor, user_data


def _body_type(r: Reader) -> int:
    body_type, size = r.u16le("body_type"), r.u32le("body_size")
    if body_type not in BODY_SIZES:
        raise Malformed("UnsupportedBodyType", "quote.body_type", want="2, 3 or 4", got=body_type)
    if size != BODY_SIZES[body_type]:
        raise Malformed(_CODE, "quote.body_size", want=BODY_SIZES[body_type], got=size)
    return body_type
