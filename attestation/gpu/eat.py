# SPDX-License-Identifier: Apache-2.0
"""Verify a detached entity attestation token of the vendor's remote service: one overall JWT and one for each device.

Its claims are additional. They replace no check of the evidence itself, and `appraise_eat` takes a set that was
verified here. Keys are the caller's; nothing inside a token introduces one.
"""

from __future__ import annotations

import re
from base64 import urlsafe_b64decode
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA384

from ..errors import Malformed, Untrusted
from ..findings import Finding, clause
from ..strict_json import loads
from ..window import Window, require_aware
from .evidence import MAX_DEVICES
from .verify import VerifiedGpuSet

ISSUER: Final = "https://nras.attestation.nvidia.com"
MAX_TOKEN_BYTES: Final = 256 * 1024
MAX_KEYS: Final = 64
_MAX_TIME: Final = 253402300799  # the last second of year 9999
_MALFORMED: Final = "MalformedEat"
_BASE64URL: Final = re.compile(r"[A-Za-z0-9_-]+")
_DEVICE_NAME: Final = re.compile(r"(GPU|SWITCH)-[0-9]{1,2}")


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceClaims:
    """What the service says about one device."""

    name: str
    ueid: str
    hwmodel: str
    success: bool  # measres
    debug_disabled: bool  # dbgstat
    driver_version: str
    vbios_version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedEat:
    """A token whose signatures, digests, nonces and windows hold."""

    overall: bool
    devices: tuple[DeviceClaims, ...]
    window: Window


def parse_keys(jwks: bytes) -> dict[str, ec.EllipticCurvePublicKey]:
    """Read the P-384 keys of a JWK set by key id. That they are the service's is the caller's knowledge."""
    document = loads(jwks, limit=MAX_TOKEN_BYTES, what="jwks")
    entries = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(entries, list) or not 1 <= len(entries) <= MAX_KEYS:
        raise Malformed(_MALFORMED, "jwks.keys", want=f"1 to {MAX_KEYS} keys", got=type(entries).__name__)
    keys: dict[str, ec.EllipticCurvePublicKey] = {}
    for i, entry in enumerate(entries):
        where = f"jwks.keys[{i}]"
        if not isinstance(entry, dict) or (entry.get("kty"), entry.get("crv")) != ("EC", "P-384"):
            raise Malformed(_MALFORMED, where, want="an EC key on P-384", got="another")
        kid = _text(entry, "kid", where)
        if kid in keys:
            raise Malformed(_MALFORMED, where, want="each key id once", got="twice")
        x, y = (_decode(_text(entry, axis, where), where) for axis in ("x", "y"))
        try:
            numbers = ec.EllipticCurvePublicNumbers(int.from_bytes(x, "big"), int.from_bytes(y, "big"), ec.SECP384R1())
            keys[kid] = numbers.public_key()
        except ValueError:
            raise Malformed(_MALFORMED, where, want="a point of P-384", got="another") from None
    return keys


def verify_eat(
    token: bytes,
    *,
    keys: Mapping[str, ec.EllipticCurvePublicKey],
    nonce: bytes,
    now: datetime,
) -> VerifiedEat:
    """Verify a token `[["JWT", overall], {name: device JWT, ...}]` at `now`, over `nonce` (32 bytes).

    Raises Malformed(MalformedEat | JsonInvalid | JsonDuplicateKey), Untrusted(EatSignatureInvalid | EatMismatch).
    """
    now = require_aware(now)
    overall, device_tokens = _split(loads(token, limit=MAX_TOKEN_BYTES, what="eat"))
    claims, window = _jwt(overall, keys, now, "eat.overall")
    _require_nonce(claims, nonce, "eat.overall")
    submods = claims.get("submods")
    if not isinstance(submods, dict) or submods.keys() != device_tokens.keys():
        raise Untrusted("EatMismatch", "eat.submods", want=" ".join(sorted(device_tokens)), got="other devices")
    devices = []
    for name in sorted(device_tokens):
        want = ["DIGEST", ["SHA-256", sha256(device_tokens[name].encode()).hexdigest()]]
        if submods[name] != want:
            raise Untrusted("EatMismatch", f"eat.submods.{name}", want=want[1][1], got="another digest")
        device, device_window = _jwt(device_tokens[name], keys, now, f"eat.{name}")
        _require_nonce(device, nonce, f"eat.{name}")
        devices.append(_device(name, device))
        window = window.meet(device_window)
    result = claims.get("x-nvidia-overall-att-result")
    if result is not all(device.success for device in devices):
        raise Untrusted("EatMismatch", "eat.overall", want="the conjunction of its devices", got=str(result)[:16])
    return VerifiedEat(overall=bool(result), devices=tuple(devices), window=window)


def appraise_eat(eat: VerifiedEat, verified: VerifiedGpuSet) -> list[Finding]:
    """Say whether a token speaks of exactly the devices that were verified here, and well of them."""
    want = sorted(device.ueid for device in verified.devices)
    got = sorted(device.ueid for device in eat.devices)
    findings = [clause("gpu.eat.devices", "EatMismatch", holds=got == want, want=want, got=got)]
    for device in eat.devices:
        holds = device.success and device.debug_disabled
        shown = f"success {device.success}, debugging {'disabled' if device.debug_disabled else 'not disabled'}"
        rule = f"gpu.eat.{device.name}"
        findings.append(clause(rule, "EatMismatch", holds=holds, want="success, debugging disabled", got=shown))
    return findings


def _split(document: object) -> tuple[str, dict[str, str]]:
    if isinstance(document, list) and len(document) == 2:
        head, devices = document
        if isinstance(head, list) and len(head) == 2 and head[0] == "JWT" and isinstance(head[1], str):
            names = isinstance(devices, dict) and all(_DEVICE_NAME.fullmatch(name) for name in devices)
            if names and 1 <= len(devices) <= MAX_DEVICES and all(isinstance(t, str) for t in devices.values()):
                return head[1], dict(devices)
    raise Malformed(_MALFORMED, "eat", want='[["JWT", overall], {name: JWT}]', got="another shape")


def _jwt(
    token: str, keys: Mapping[str, ec.EllipticCurvePublicKey], now: datetime, where: str
) -> tuple[dict[str, object], Window]:
    """Verify one JWT (RFC 7519): ES384 alone, by a known key, from the service, now."""
    parts = token.split(".")
    if len(parts) != 3:
        raise Malformed(_MALFORMED, where, want="three parts", got=len(parts))
    header, claims = (_object(_decode(part, where), where) for part in parts[:2])
    if header.keys() - {"typ"} != {"alg", "kid"} or header["alg"] != "ES384":
        raise Untrusted("EatSignatureInvalid", f"{where}.header", want="ES384 and a key id alone", got="another")
    key = keys.get(str(header["kid"]))
    if key is None:
        raise Untrusted("EatSignatureInvalid", f"{where}.kid", want="a known key", got=str(header["kid"])[:128])
    signature = _decode(parts[2], where)
    r, s = (int.from_bytes(half, "big") for half in (signature[:48], signature[48:]))
    try:
        if len(signature) != 96:
            raise InvalidSignature
        key.verify(encode_dss_signature(r, s), f"{parts[0]}.{parts[1]}".encode(), ec.ECDSA(SHA384()))
    except InvalidSignature:
        raise Untrusted("EatSignatureInvalid", where, want="a valid signature", got="an invalid one") from None
    if claims.get("iss") != ISSUER:
        raise Untrusted("EatMismatch", f"{where}.iss", want=ISSUER, got=str(claims.get("iss"))[:128])
    window = Window(_time(claims, "nbf", where), _time(claims, "exp", where))
    if not window.holds(now):
        got = now.isoformat()
        raise Untrusted("EatMismatch", f"{where}.window", want=" to ".join(window.to_json().values()), got=got)
    return claims, window


def _device(name: str, claims: dict[str, object]) -> DeviceClaims:
    where = f"eat.{name}"
    kind = "gpu" if name.startswith("GPU") else "switch"
    optional = {
        key: claims.get(f"x-nvidia-{kind}-{key}") for key in ("driver-version", "vbios-version", "bios-version")
    }
    return DeviceClaims(
        name=name,
        ueid=_text(claims, "ueid", where),
        hwmodel=_text(claims, "hwmodel", where),
        success=claims.get("measres") == "success",
        debug_disabled=claims.get("dbgstat") == "disabled",
        driver_version=str(optional["driver-version"] or "")[:64],
        vbios_version=str(optional["vbios-version"] or optional["bios-version"] or "")[:64],
    )


def _require_nonce(claims: dict[str, object], nonce: bytes, where: str) -> None:
    if claims.get("eat_nonce") != nonce.hex():
        got = str(claims.get("eat_nonce"))[:64]
        raise Untrusted("EatMismatch", f"{where}.eat_nonce", want=nonce.hex(), got=got)


def _time(claims: dict[str, object], name: str, where: str) -> datetime:
    value = claims.get(name)
    if type(value) is not int or not 0 <= value <= _MAX_TIME:
        raise Malformed(_MALFORMED, f"{where}.{name}", want="unix seconds", got=type(value).__name__)
    return datetime.fromtimestamp(value, UTC)


def _text(claims: Mapping[str, object], name: str, where: str) -> str:
    value = claims.get(name)
    if not isinstance(value, str) or not 1 <= len(value) <= 256:
        raise Malformed(_MALFORMED, f"{where}.{name}", want="a short text", got=type(value).__name__)
    return value


def _object(data: bytes, where: str) -> dict[str, object]:
    value = loads(data, limit=MAX_TOKEN_BYTES, what=where)
    if not isinstance(value, dict):
        raise Malformed(_MALFORMED, where, want="an object", got=type(value).__name__)
    return value


def _decode(text: str, where: str) -> bytes:
    """Decode base64url without padding."""
    if not _BASE64URL.fullmatch(text) or len(text) % 4 == 1:
        raise Malformed(_MALFORMED, where, want="base64url", got="other text")
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))
