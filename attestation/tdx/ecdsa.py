# SPDX-License-Identifier: Apache-2.0
"""Is this ECDSA P-256 signature over these bytes genuine? Keys and signatures are raw big-endian pairs."""

from __future__ import annotations

from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

from ..errors import Untrusted

_ORDER: Final = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
_ALGORITHM: Final = ec.ECDSA(SHA256())
CURVE: Final = ec.SECP256R1()


def raw_key(point: bytes, where: str) -> ec.EllipticCurvePublicKey:
    """Give the key of x || y (64 bytes). Raises Untrusted(AttestationKeyInvalid) for what is no point of the curve."""
    try:
        return ec.EllipticCurvePublicKey.from_encoded_point(CURVE, b"\x04" + point)
    except ValueError:
        raise Untrusted("AttestationKeyInvalid", where, want="a point of P-256", got="none") from None


def require_raw(key: ec.EllipticCurvePublicKey, signature: bytes, data: bytes, *, code: str, where: str) -> None:
    """Require r || s (64 bytes) by `key` over `data` (SHA-256). High and low s are one signature. Raises Untrusted."""
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
    if not (0 < r < _ORDER and 0 < s < _ORDER):
        raise Untrusted(code, where, want="r and s from 1 to n - 1", got="another")
    require_der(key, encode_dss_signature(r, s), data, code=code, where=where)


def require_der(key: ec.EllipticCurvePublicKey, signature: bytes, data: bytes, *, code: str, where: str) -> None:
    """Require a DER signature by `key` over `data` (SHA-256). Raises Untrusted."""
    try:
        key.verify(signature, data, _ALGORITHM)
    except InvalidSignature:
        raise Untrusted(code, where, want="a signature that verifies", got="one that does not") from None
