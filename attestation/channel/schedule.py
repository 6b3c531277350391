# SPDX-License-Identifier: Apache-2.0
"""From one sealed seed to every key of an exchange (docs/protocol.md, Sealed request)."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, MLKEM768X25519PrivateKey, MLKEM768X25519PublicKey, Suite
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand

from ..boot import SEAL_PUBLIC_KEY_SIZE
from ..errors import Untrusted
from ..wire import label

SEED_SIZE: Final = 32
SEALED_SEED_SIZE: Final = 1168  # enc 1120 || ciphertext 32 || tag 16
RESP_NONCE_SIZE: Final = 32
_MLKEM_PUBLIC_SIZE: Final = 1184

_SUITE: Final = Suite(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)


def public_key_from_bytes(raw: bytes) -> MLKEM768X25519PublicKey:
    """Read a seal public key: ML-KEM-768 encapsulation key || X25519 public key, 1216 bytes."""
    if len(raw) != SEAL_PUBLIC_KEY_SIZE:
        raise ValueError(f"a seal public key has {SEAL_PUBLIC_KEY_SIZE} bytes")
    return MLKEM768X25519PublicKey(
        MLKEM768PublicKey.from_public_bytes(raw[:_MLKEM_PUBLIC_SIZE]),
        X25519PublicKey.from_public_bytes(raw[_MLKEM_PUBLIC_SIZE:]),
    )


def seal_seed(seed: bytes, public_key: bytes, *, header_hash: bytes) -> bytes:
    """Seal a 32-byte seed to a seal key; 1168 bytes, bound to the header."""
    return _SUITE.encrypt(seed, public_key_from_bytes(public_key), info=label("request") + header_hash)


def open_seed(sealed: bytes, private_key: MLKEM768X25519PrivateKey, *, header_hash: bytes) -> bytes:
    """Open a sealed seed. Raises Untrusted(HpkeOpenFailed)."""
    try:
        seed = _SUITE.decrypt(sealed, private_key, info=label("request") + header_hash)
    except (InvalidTag, ValueError):
        raise Untrusted("HpkeOpenFailed", "request.sealed_seed") from None
    if len(seed) != SEED_SIZE:
        raise Untrusted("HpkeOpenFailed", "request.sealed_seed", want=f"{SEED_SIZE} bytes", got=len(seed))
    return seed


def _extract(seed: bytes, salt: bytes) -> bytes:
    return HKDF.extract(hashes.SHA256(), salt, seed)


def _expand(prk: bytes, name: str, size: int) -> bytes:
    return HKDFExpand(hashes.SHA256(), size, label(name)).derive(prk)


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class DirectionKey:
    """Key and iv of one direction."""

    key: bytes  # 32
    iv: bytes  # 12


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Salts:
    """What blinds the three commitments: known to client and enclave only."""

    request: bytes
    response: bytes
    tokens: bytes


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Schedule:
    """Every secret of one exchange, from its seed."""

    ctx: bytes  # 32
    request: DirectionKey
    salts: Salts
    capability: bytes  # 32: fetches the receipt later
    _seed: bytes

    @classmethod
    def of(cls, seed: bytes, *, header_hash: bytes, sealed_seed: bytes) -> Schedule:
        """Derive the schedule of the exchange that `sealed_seed` opened."""
        ctx = sha256(label("ctx") + header_hash + sealed_seed).digest()
        prk = _extract(seed, ctx)  # once: all six names share the salt
        return cls(
            ctx=ctx,
            request=DirectionKey(key=_expand(prk, "request key", 32), iv=_expand(prk, "request iv", 12)),
            salts=Salts(
                request=_expand(prk, "salt request", 32),
                response=_expand(prk, "salt response", 32),
                tokens=_expand(prk, "salt tokens", 32),
            ),
            capability=_expand(prk, "receipt capability", 32),
            _seed=seed,
        )

    def response(self, resp_nonce: bytes) -> DirectionKey:
        """Derive the response direction for the enclave's nonce (32 bytes)."""
        prk = _extract(self._seed, sha256(self.ctx + resp_nonce).digest())
        return DirectionKey(key=_expand(prk, "response key", 32), iv=_expand(prk, "response iv", 12))
