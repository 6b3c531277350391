# SPDX-License-Identifier: Apache-2.0
"""REPORTDATA: the one formula that ties keys, nonce, GPU set and runtime log to a quote (docs/protocol.md, Claims)."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from . import cbor
from .boot import PROFILE
from .errors import Malformed, Untrusted

MAX_CLAIMS_BYTES: Final = 1024
NONCE_SIZE: Final = 32
_CODE: Final = "MalformedClaims"
_SHA256_ID: Final = 1  # IANA Named Information hash algorithm registry


def spki_claim(spki: bytes) -> bytes:
    """Give the `pubkey-hash` claim: CBOR [1, SHA-256(SubjectPublicKeyInfo)] (CCC interoperable RA-TLS)."""
    return cbor.encode([_SHA256_ID, sha256(spki).digest()])


@dataclass(frozen=True, slots=True, kw_only=True)
class Claims:
    """What REPORTDATA is the hash of."""

    pubkey_hash: bytes  # spki_claim of the TLS key
    boot_digest: bytes  # 32
    keyset_digest: bytes  # 32
    gpu_set: bytes  # 32, or empty for none
    log_digest: bytes  # 32
    nonce: bytes | None = None  # 32

    def encode(self) -> bytes:
        """Give the deterministic CBOR."""
        claims: dict[str, bytes] = {
            "pubkey-hash": self.pubkey_hash,
            "sericin-profile": PROFILE.encode(),
            "sericin-boot": self.boot_digest,
            "sericin-keyset": self.keyset_digest,
            "sericin-gpu": self.gpu_set,
            "sericin-log": self.log_digest,
        }
        if self.nonce is not None:
            claims["nonce"] = self.nonce
        return cbor.encode(claims)

    @classmethod
    def decode(cls, data: bytes) -> Claims:
        """Read claims. Raises Malformed(MalformedClaims), also for an unknown `sericin-*` claim."""
        value = cbor.decode(data, limit=MAX_CLAIMS_BYTES, what="claims", code=_CODE)
        if not isinstance(value, dict):
            raise Malformed(_CODE, "claims", want="a map", got=type(value).__name__)
        claims = {str(k): cbor.as_bytes(v, f"claims.{k}", code=_CODE) for k, v in value.items()}
        known = {"sericin-profile", "sericin-boot", "sericin-keyset", "sericin-gpu", "sericin-log"}
        for name in sorted(claims):
            if name.startswith("sericin-") and name not in known:
                raise Malformed(_CODE, "claims", want="known sericin-* claims", got="an unknown one")
        for name in sorted({"pubkey-hash", *known} - claims.keys()):
            raise Malformed(_CODE, f"claims.{name}", want="present", got="absent")
        if claims["sericin-profile"] != PROFILE.encode():
            raise Malformed(_CODE, "claims.sericin-profile", want=PROFILE, got="another profile")
        gpu = claims["sericin-gpu"]
        return cls(
            pubkey_hash=_pubkey_hash(claims["pubkey-hash"]),
            boot_digest=cbor.as_bytes(claims["sericin-boot"], "claims.sericin-boot", code=_CODE, size=32),
            keyset_digest=cbor.as_bytes(claims["sericin-keyset"], "claims.sericin-keyset", code=_CODE, size=32),
            gpu_set=cbor.as_bytes(gpu, "claims.sericin-gpu", code=_CODE, size=32 if gpu else 0),
            log_digest=cbor.as_bytes(claims["sericin-log"], "claims.sericin-log", code=_CODE, size=32),
            nonce=cbor.as_bytes(claims["nonce"], "claims.nonce", code=_CODE, size=NONCE_SIZE)
            if "nonce" in claims
            else None,
        )


def _pubkey_hash(claim: bytes) -> bytes:
    pair = cbor.as_list(
        cbor.decode(claim, limit=64, what="claims.pubkey-hash", code=_CODE),
        "claims.pubkey-hash",
        code=_CODE,
        limit=2,
        least=2,
    )
    if pair[0] != _SHA256_ID:
        raise Malformed(_CODE, "claims.pubkey-hash", want="SHA-256 (1)", got="another algorithm")
    cbor.as_bytes(pair[1], "claims.pubkey-hash", code=_CODE, size=32)
    return claim


def report_data(claims: bytes) -> bytes:
    """Give the 64 bytes of REPORTDATA for encoded claims: SHA-256(claims) || 32 zero bytes."""
    return sha256(claims).digest() + bytes(32)


def require_report_data(got: bytes, claims: bytes) -> None:
    """Require a quote's REPORTDATA to be that of `claims`, all 64 bytes. Raises Untrusted(ReportDataMismatch)."""
    want = report_data(claims)
    if got != want:
        raise Untrusted("ReportDataMismatch", "quote.report_data", want=want.hex(), got=got.hex())
