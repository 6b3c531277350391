# SPDX-License-Identifier: Apache-2.0
"""Liveness: the attested identity key speaks now, on this TLS connection (docs/protocol.md, Liveness)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from . import cbor
from .errors import Malformed, Untrusted
from .wire import label

EXPORTER_LABEL: Final = b"EXPORTER-sericin-live"
EXPORTER_SIZE: Final = 32
_PURPOSE: Final = label("live").decode()
_CODE: Final = "MalformedLiveness"


@dataclass(frozen=True, slots=True, kw_only=True)
class Liveness:
    """A liveness statement. `exporter` is None without TLS."""

    exporter: bytes | None  # 32
    nonce: bytes  # 32
    keyset_digest: bytes  # 32
    time: int  # unix seconds, the host's claim

    def encode(self) -> bytes:
        """Give the bytes that are signed."""
        return cbor.encode([_PURPOSE, self.exporter, self.nonce, self.keyset_digest, self.time])


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedLiveness:
    """A statement with its signature by the identity key."""

    statement: bytes
    signature: bytes  # 64

    def encode(self) -> bytes:
        """Give the answer of the live endpoint."""
        return cbor.encode({1: self.statement, 2: self.signature})

    @classmethod
    def decode(cls, data: bytes) -> SignedLiveness:
        """Read the answer. Raises Malformed(MalformedLiveness)."""
        m = cbor.decode_map(data, limit=1024, what="liveness", code=_CODE, required=(1, 2))
        return cls(
            statement=cbor.as_bytes(m[1], "liveness.statement", code=_CODE, limit=512),
            signature=cbor.as_bytes(m[2], "liveness.signature", code=_CODE, size=64),
        )

    def verify(self, identity_key: bytes, *, nonce: bytes, keyset_digest: bytes, exporter: bytes | None) -> Liveness:
        """Require the identity key's signature over our nonce, this epoch and this connection's exporter.

        `exporter` None means that the caller accepts a statement without one (no TLS); a strict client never does.
        Raises Untrusted(LivenessInvalid).
        """
        try:
            Ed25519PublicKey.from_public_bytes(identity_key).verify(self.signature, self.statement)
        except InvalidSignature:
            raise Untrusted("LivenessInvalid", "liveness.signature") from None
        parts = cbor.as_list(
            cbor.decode(self.statement, limit=512, what="liveness", code=_CODE),
            "liveness",
            code=_CODE,
            limit=5,
            least=5,
        )
        if parts[0] != _PURPOSE:
            raise Malformed(_CODE, "liveness.purpose", want=_PURPOSE, got="another purpose")
        for field, want, got in (("nonce", nonce, parts[2]), ("keyset_digest", keyset_digest, parts[3])):
            if want != got:
                raise Untrusted("LivenessInvalid", f"liveness.{field}", want=want.hex(), got="another")
        if parts[1] != exporter:
            raise Untrusted("LivenessInvalid", "liveness.exporter", want="this connection's", got="another")
        time = cbor.as_uint(parts[4], "liveness.time", code=_CODE, limit=2**40)
        return Liveness(exporter=exporter, nonce=nonce, keyset_digest=keyset_digest, time=time)
