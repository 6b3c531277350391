# SPDX-License-Identifier: Apache-2.0
"""What authenticates a quote? Signature, attestation key, the quoting enclave's report and the PCK chain, as bytes."""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct
from typing import Final

from ..errors import Malformed
from ..wire import Reader

QE_REPORT_CERTIFICATION_DATA: Final = 6
PCK_CERTIFICATE_CHAIN: Final = 5
QE_AUTH_SIZE: Final = 32  # Intel's quoting enclave always writes 32
MAX_CHAIN: Final = 12 * 1024
SGX_REPORT_SIZE: Final = 384

_CODE: Final = "MalformedQuote"
_HEAD: Final = Struct("<64s64sHI")  # signature, key; type and size of the certification data
_QE: Final = Struct(f"<384s64sH{QE_AUTH_SIZE}sHI")  # report, signature; size and data; the same of the chain
_SGX: Final = Struct("<16s4s28x16s32s32x32s96xHH60x64s")  # REPORT body; reserved bytes are not judged


@dataclass(frozen=True, slots=True, kw_only=True)
class QeReport:
    """The quoting enclave's SGX report body (Intel SDM volume 3D, REPORT), the fields that are judged."""

    raw: bytes  # 384, exactly as the PCK signed it
    cpu_svn: bytes  # 16
    misc_select: bytes  # 4, little-endian
    attributes: bytes  # 16
    mr_enclave: bytes  # 32
    mr_signer: bytes  # 32
    isv_prod_id: int
    isv_svn: int
    report_data: bytes  # 64

    @classmethod
    def parse(cls, raw: bytes) -> QeReport:
        """Parse exactly 384 bytes. Raises Malformed."""
        if len(raw) != SGX_REPORT_SIZE:
            raise Malformed(_CODE, "quote.qe_report", want=f"{SGX_REPORT_SIZE} bytes", got=len(raw))
        cpu_svn, misc_select, attributes, mr_enclave, mr_signer, isv_prod_id, isv_svn, report_data = _SGX.unpack(raw)
        return cls(
            raw=raw,
            cpu_svn=cpu_svn,
            misc_select=misc_select,
            attributes=attributes,
            mr_enclave=mr_enclave,
            mr_signer=mr_signer,
            isv_prod_id=isv_prod_id,
            isv_svn=isv_svn,
            report_data=report_data,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthData:
    """The authentication data of a quote v4 or v5 with an ECDSA P-256 key (TDX DCAP, appendix A.3.8)."""

    signature: bytes  # 64, r || s over header and body
    attestation_key: bytes  # 64, x || y
    qe_report: QeReport
    qe_report_signature: bytes  # 64, r || s by the PCK key
    qe_auth: bytes  # 32
    chain: bytes  # PEM, leaf first; most hosts end it with one zero byte

    @classmethod
    def parse(cls, data: bytes) -> AuthData:
        """Parse the authentication data, every byte of it. Raises Malformed."""
        r = Reader(data, what="quote.auth_data", code=_CODE)
        signature, key, kind, size = r.unpack(_HEAD, "signature_and_key")
        _require_kind(kind, QE_REPORT_CERTIFICATION_DATA, "qe")
        inner = Reader(r.take(size, "qe"), what="quote.qe", code=_CODE)
        r.end()
        report, report_signature, size, qe_auth, kind, chain_size = inner.unpack(_QE, "report")
        if size != QE_AUTH_SIZE:
            raise Malformed(_CODE, "quote.qe.auth_size", want=QE_AUTH_SIZE, got=size)
        _require_kind(kind, PCK_CERTIFICATE_CHAIN, "pck")
        chain = inner.take(chain_size, "pck")
        inner.end()
        if len(chain) > MAX_CHAIN:
            raise Malformed(_CODE, "quote.pck", want=f"at most {MAX_CHAIN} bytes", got=len(chain))
        return cls(
            signature=signature,
            attestation_key=key,
            qe_report=QeReport.parse(report),
            qe_report_signature=report_signature,
            qe_auth=qe_auth,
            chain=chain,
        )

    def encode(self) -> bytes:
        """Give the bytes that were parsed."""
        pck = _certified(PCK_CERTIFICATE_CHAIN, self.chain)
        auth = len(self.qe_auth).to_bytes(2, "little") + self.qe_auth
        qe = self.qe_report.raw + self.qe_report_signature + auth + pck
        return self.signature + self.attestation_key + _certified(QE_REPORT_CERTIFICATION_DATA, qe)


def _require_kind(found: int, kind: int, field: str) -> None:
    if found != kind:
        raise Malformed("UnsupportedCertificationData", f"quote.{field}.type", want=kind, got=found)


def _certified(kind: int, data: bytes) -> bytes:
    return kind.to_bytes(2, "little") + len(data).to_bytes(4, "little") + data
