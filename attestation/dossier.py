# SPDX-License-Identifier: Apache-2.0
"""The dossier: one file from which somebody who was not there can check everything (docs/protocol.md, Dossier)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import Final

from . import cbor
from .channel.header import Header
from .errors import Malformed
from .policy import MAX_POLICY
from .wire import Reader

FORMAT: Final = "sericin-dossier/1"
MAX_DOSSIER: Final = 1024 * 1024
MAX_TIME: Final = 2**37  # unix seconds: the year 6325, which a datetime still holds
_CODE: Final = "MalformedDossier"


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class DisclosedSalts:
    """Salts that the dossier's owner chose to disclose, 32 bytes each."""

    request: bytes | None = None
    response: bytes | None = None
    tokens: bytes | None = None

    def to_map(self) -> dict[int, object]:
        """Give the map under key 8."""
        salts = enumerate((self.request, self.response, self.tokens), start=1)
        return {key: salt for key, salt in salts if salt is not None}

    @classmethod
    def from_map(cls, value: cbor.Value) -> DisclosedSalts:
        """Read the map. Raises Malformed(MalformedDossier)."""
        m = cbor.int_map(value, what="dossier.salts", code=_CODE, required=(), optional=(1, 2, 3))
        salts = [cbor.as_bytes(m[k], "dossier.salts", code=_CODE, size=32) if k in m else None for k in (1, 2, 3)]
        return cls(request=salts[0], response=salts[1], tokens=salts[2])


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Dossier:
    """Trust never comes out of a dossier: the policy in it is shown, not used. Has no repr: it holds the prompt.

    The request stands in it as it was sent, too: the receipt's ciphertext hash covers every byte of its clear header.
    """

    evidence: bytes
    nonce: bytes  # 32: the client's, in that evidence
    sealed: bytes  # the request as it was sent, header first
    transcript_hash: bytes  # 32
    request: bytes
    response: bytes
    salts: DisclosedSalts
    receipt: bytes
    policy: bytes
    anchoring: bytes | None = None
    collateral: bytes | None = None  # what the client fetched for evidence that staples none

    def encode(self) -> bytes:
        """Give the file. Raises ValueError beyond 1 MiB."""
        m: dict[int, object] = {
            1: FORMAT,
            2: self.evidence,
            3: self.nonce,
            4: self.sealed,
            5: self.transcript_hash,
            6: self.request,
            7: self.response,
            8: self.salts.to_map(),
            9: self.receipt,
            10: self.policy,
        }
        if self.anchoring is not None:
            m[11] = self.anchoring
        if self.collateral is not None:
            m[12] = self.collateral
        data = cbor.encode(m)
        if len(data) > MAX_DOSSIER:
            raise ValueError(f"a dossier has at most {MAX_DOSSIER} bytes; this one would have {len(data)}")
        return data

    @classmethod
    def decode(cls, data: bytes) -> Dossier:
        """Read a file of at most 1 MiB. Raises Malformed(MalformedDossier), for unknown keys from 64 on too."""
        m = cbor.decode_map(
            data, limit=MAX_DOSSIER, what="dossier", code=_CODE, required=range(1, 11), optional=(11, 12)
        )
        if m[1] != FORMAT:
            raise Malformed(_CODE, "dossier.format", want=FORMAT, got="another format")
        dossier = cls(
            evidence=cbor.as_bytes(m[2], "dossier.evidence", code=_CODE),
            nonce=cbor.as_bytes(m[3], "dossier.nonce", code=_CODE, size=32),
            sealed=cbor.as_bytes(m[4], "dossier.sealed", code=_CODE),
            transcript_hash=cbor.as_bytes(m[5], "dossier.transcript_hash", code=_CODE, size=32),
            request=cbor.as_bytes(m[6], "dossier.request", code=_CODE),
            response=cbor.as_bytes(m[7], "dossier.response", code=_CODE),
            salts=DisclosedSalts.from_map(m[8]),
            receipt=cbor.as_bytes(m[9], "dossier.receipt", code=_CODE),
            policy=cbor.as_bytes(m[10], "dossier.policy", code=_CODE, limit=MAX_POLICY),
            anchoring=cbor.as_bytes(m[11], "dossier.anchoring", code=_CODE) if 11 in m else None,
            collateral=cbor.as_bytes(m[12], "dossier.collateral", code=_CODE) if 12 in m else None,
        )
        if dossier.encode() != data:
            raise Malformed(_CODE, "dossier", want="known fields alone", got="others")  # every byte is used
        return dossier

    def header(self) -> Header:
        """Read the clear header off the sealed request. Raises Malformed(MalformedHeader)."""
        reader = Reader(self.sealed, what="dossier.sealed", code="MalformedHeader")
        header = Header.decode(reader.take(reader.u32be("header length"), "header"))
        if header.time > MAX_TIME:
            raise Malformed("MalformedHeader", "header.time", want=f"at most {MAX_TIME}", got=header.time)
        return header

    def sealed_at(self) -> datetime:
        """Give the time in the header: when the client, having verified the enclave, sealed. Raises Malformed."""
        return datetime.fromtimestamp(self.header().time, UTC)

    @property
    def evidence_digest(self) -> bytes:
        """SHA-256 of the evidence, then of the collateral that was fetched for it, 32 bytes."""
        return sha256(self.evidence + (self.collateral or b"")).digest()

    @property
    def ciphertext_hash(self) -> bytes:
        """SHA-256 of the whole sealed request, 32 bytes."""
        return sha256(self.sealed).digest()

    @property
    def sha256(self) -> bytes:
        """SHA-256 of the file."""
        return sha256(self.encode()).digest()
