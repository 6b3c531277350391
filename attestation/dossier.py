# SPDX-License-Identifier: Apache-2.0
"""The dossier: one file from which somebody who was not there can check everything (docs/protocol.md, Dossier)."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from . import cbor
from .channel.header import MAX_HEADER_BYTES
from .errors import Malformed
from .evidence import MAX_EVIDENCE
from .policy import MAX_POLICY

FORMAT: Final = "sericin-dossier/1"
MAX_DOSSIER: Final = 1024 * 1024
_CODE: Final = "MalformedDossier"


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class DisclosedSalts:
    """Salts that the dossier's owner chose to disclose, 32 bytes each."""

    request: bytes | None = None
    response: bytes | None = None
    tokens: bytes | None = None

    def to_map(self) -> dict[int, object]:
        """Give the map under key 9."""
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
    """Trust never comes out of a dossier: the policy in it is shown, not used. Has no repr: it holds the prompt."""

    evidence: bytes
    nonce: bytes  # 32: the client's, in that evidence
    verified_at: int  # unix seconds, the client's clock
    header: bytes
    ciphertext_hash: bytes  # 32
    transcript_hash: bytes  # 32
    request: bytes
    response: bytes
    salts: DisclosedSalts
    receipt: bytes
    policy: bytes
    anchoring: bytes | None = None

    def encode(self) -> bytes:
        """Give the file. Raises ValueError beyond 1 MiB."""
        m: dict[int, object] = {
            1: FORMAT,
            2: self.evidence,
            3: self.nonce,
            4: self.verified_at,
            5: self.header,
            6: [self.ciphertext_hash, self.transcript_hash],
            7: self.request,
            8: self.response,
            9: self.salts.to_map(),
            10: self.receipt,
            11: self.policy,
        }
        if self.anchoring is not None:
            m[12] = self.anchoring
        data = cbor.encode(m)
        if len(data) > MAX_DOSSIER:
            raise ValueError(f"a dossier has at most {MAX_DOSSIER} bytes; this one would have {len(data)}")
        return data

    @classmethod
    def decode(cls, data: bytes) -> Dossier:
        """Read a file of at most 1 MiB. Raises Malformed(MalformedDossier), for unknown keys from 64 on too."""
        m = cbor.decode_map(data, limit=MAX_DOSSIER, what="dossier", code=_CODE, required=range(1, 12), optional=(12,))
        if m.keys() - set(range(1, 13)):
            raise Malformed(_CODE, "dossier", want="known keys only", got="others")  # every byte is used
        if m[1] != FORMAT:
            raise Malformed(_CODE, "dossier.format", want=FORMAT, got="another format")
        hashes = cbor.as_list(m[6], "dossier.hashes", code=_CODE, limit=2, least=2)
        return cls(
            evidence=cbor.as_bytes(m[2], "dossier.evidence", code=_CODE, limit=MAX_EVIDENCE),
            nonce=cbor.as_bytes(m[3], "dossier.nonce", code=_CODE, size=32),
            verified_at=cbor.as_uint(m[4], "dossier.verified_at", code=_CODE, limit=2**40),
            header=cbor.as_bytes(m[5], "dossier.header", code=_CODE, limit=MAX_HEADER_BYTES),
            ciphertext_hash=cbor.as_bytes(hashes[0], "dossier.ciphertext_hash", code=_CODE, size=32),
            transcript_hash=cbor.as_bytes(hashes[1], "dossier.transcript_hash", code=_CODE, size=32),
            request=cbor.as_bytes(m[7], "dossier.request", code=_CODE),
            response=cbor.as_bytes(m[8], "dossier.response", code=_CODE),
            salts=DisclosedSalts.from_map(m[9]),
            receipt=cbor.as_bytes(m[10], "dossier.receipt", code=_CODE),
            policy=cbor.as_bytes(m[11], "dossier.policy", code=_CODE, limit=MAX_POLICY),
            anchoring=cbor.as_bytes(m[12], "dossier.anchoring", code=_CODE) if 12 in m else None,
        )

    @property
    def sha256(self) -> bytes:
        """SHA-256 of the file."""
        return sha256(self.encode()).digest()
