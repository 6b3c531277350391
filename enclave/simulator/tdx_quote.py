# SPDX-License-Identifier: Apache-2.0
"""Quotes v4 and v5 that really sign: every field open to change, then signed as it stands (TDX DCAP, appendix A)."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from .tdx_ca import SimulatedCa, new_key, pem_chain, sign_raw

TEE_TCB_SVN: Final = bytes.fromhex("0701030000000000" + "00" * 8)  # module TDX_01, SVN 7
QE_MR_SIGNER: Final = sha256(b"SIMULATED quoting enclave").digest()
MR_SEAM: Final = sha256(b"SIMULATED TDX module").digest() + bytes(16)
_VENDOR: Final = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")
_BODY_SIZES: Final = {2: 584, 3: 648, 4: 885}


@dataclass(kw_only=True)
class ReportPlan:
    """A TD report before it is quoted. Widths as in TDREPORT."""

    tee_tcb_svn: bytes = TEE_TCB_SVN
    mr_seam: bytes = MR_SEAM
    mr_signer_seam: bytes = bytes(48)
    seam_attributes: bytes = bytes(8)
    td_attributes: bytes = (1 << 28).to_bytes(8, "little")
    xfam: bytes = bytes.fromhex("e702060000000000")
    mr_td: bytes = bytes(48)
    mr_config_id: bytes = bytes(48)
    mr_owner: bytes = bytes(48)
    mr_owner_config: bytes = bytes(48)
    rtmr: tuple[bytes, bytes, bytes, bytes] = (bytes(48), bytes(48), bytes(48), bytes(48))
    report_data: bytes = bytes(64)
    tee_tcb_svn_2: bytes = TEE_TCB_SVN
    mr_service_td: bytes = bytes(48)
    extended: bytes = bytes(237)

    def encode(self, body_type: int) -> bytes:
        """Give the body of a quote."""
        body = self.tee_tcb_svn + self.mr_seam + self.mr_signer_seam + self.seam_attributes + self.td_attributes
        body += self.xfam + self.mr_td + self.mr_config_id + self.mr_owner + self.mr_owner_config
        body += b"".join(self.rtmr) + self.report_data
        if body_type >= 3:
            body += self.tee_tcb_svn_2 + self.mr_service_td
        return body + (self.extended if body_type == 4 else b"")


@dataclass(kw_only=True)
class QePlan:
    """The quoting enclave's report before the PCK signs it. `report_data` follows key and auth data unless given."""

    cpu_svn: bytes = bytes(16)
    misc_select: int = 0
    attributes: bytes = bytes.fromhex("11000000000000000000000000000000")
    mr_enclave: bytes = sha256(b"SIMULATED quoting enclave code").digest()
    mr_signer: bytes = QE_MR_SIGNER
    isv_prod_id: int = 2
    isv_svn: int = 4
    auth: bytes = bytes(range(32))
    report_data: bytes | None = None

    def encode(self, attestation_key: bytes) -> bytes:
        """Give the 384 bytes of the report."""
        data = self.report_data or sha256(attestation_key + self.auth).digest() + bytes(32)
        report = self.cpu_svn + self.misc_select.to_bytes(4, "little") + bytes(28) + self.attributes + self.mr_enclave
        report += bytes(32) + self.mr_signer + bytes(96)
        report += self.isv_prod_id.to_bytes(2, "little") + self.isv_svn.to_bytes(2, "little")
        return report + bytes(60) + data


@dataclass(kw_only=True)
class QuotePlan:
    """A quote before it is signed. What no signature covers can be bent here too."""

    report: ReportPlan
    pck_key: ec.EllipticCurvePrivateKey = field(repr=False)
    chain: bytes  # PEM
    key: ec.EllipticCurvePrivateKey = field(default_factory=new_key, repr=False)
    qe: QePlan = field(default_factory=QePlan)
    version: int = 4
    body_type: int = 2
    body_size: int | None = None
    key_type: int = 2
    tee_type: int = 0x81
    reserved: bytes = bytes(4)
    vendor: bytes = _VENDOR
    user_data: bytes = field(default_factory=lambda: secrets.token_bytes(16) + bytes(4))
    attestation_key: bytes | None = None  # 64; follows `key` unless given
    outer_type: int = 6
    inner_type: int = 5
    inner_extra: bytes = b""  # inside the quoting enclave's certification data
    outer_extra: bytes = b""  # inside the authentication data
    padding: bytes = b""  # after the quote
    certified: list[tuple[ec.EllipticCurvePrivateKey, bytes, bytes]] = field(default_factory=list, repr=False)

    @classmethod
    def of(cls, ca: SimulatedCa, report: ReportPlan, *, version: int = 4) -> QuotePlan:
        """Plan a quote of the simulated platform: v4, or v5 with a TD 1.5 body."""
        chain = pem_chain(ca.pck.certificate, ca.platform_ca.certificate, ca.root.certificate) + b"\0"
        return cls(report=report, pck_key=ca.pck.key, chain=chain, version=version, body_type=2 if version == 4 else 3)

    def sign(self) -> bytes:
        """Sign everything as it stands and give the quote."""
        signed = self.header() + self.report.encode(self.body_type)
        key = self.attestation_key or raw_public(self.key.public_key())
        qe = self.qe.encode(key)
        inner = qe + self._certification(qe) + _sized(self.qe.auth, 2)
        inner += self.inner_type.to_bytes(2, "little") + _sized(self.chain, 4) + self.inner_extra
        auth = sign_raw(self.key, signed) + key + self.outer_type.to_bytes(2, "little") + _sized(inner, 4)
        return signed + _sized(auth + self.outer_extra, 4) + self.padding

    def _certification(self, qe: bytes) -> bytes:
        """Sign the quoting enclave's report once: Intel's keeps what certifies its key beside the key."""
        for key, report, signature in self.certified:
            if key is self.pck_key and report == qe:
                return signature
        signature = sign_raw(self.pck_key, qe)
        self.certified[:] = [(self.pck_key, qe, signature)]
        return signature

    def header(self) -> bytes:
        """Give the header, and in a quote v5 the body's descriptor."""
        words = self.version.to_bytes(2, "little") + self.key_type.to_bytes(2, "little")
        head = words + self.tee_type.to_bytes(4, "little") + self.reserved + self.vendor + self.user_data
        if self.version != 5:
            return head
        size = _BODY_SIZES.get(self.body_type, 584) if self.body_size is None else self.body_size
        return head + self.body_type.to_bytes(2, "little") + size.to_bytes(4, "little")

    def but(self, **changes: object) -> QuotePlan:
        """Give a copy with some fields changed."""
        return replace(self, **changes)  # type: ignore[arg-type]  # the caller names the fields


def raw_public(key: ec.EllipticCurvePublicKey) -> bytes:
    """Give a P-256 key as x || y (64 bytes)."""
    return key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)[1:]


def _sized(data: bytes, width: int) -> bytes:
    return len(data).to_bytes(width, "little") + data
