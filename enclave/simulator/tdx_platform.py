# SPDX-License-Identifier: Apache-2.0
"""A simulated TDX platform: what a PCK certificate says of it, as DER (Intel SGX PCK Certificate Profile, 1.3.5)."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Final

from cryptography import x509

FMSPC: Final = bytes.fromhex("51f0c0de0000")
_OID: Final = "1.2.840.113741.1.13.1"
_ENCODED: Final = bytes.fromhex("2a864886f84d010d01")


@dataclass(frozen=True, slots=True, kw_only=True)
class PlatformProfile:
    """One platform. `cpu_svn` follows the components unless a test says otherwise."""

    ppid: bytes
    platform_instance_id: bytes | None
    components: tuple[int, ...] = (2, 2, 2, 2, 3, 1, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0)
    pce_svn: int = 11
    cpu_svn: bytes | None = None
    pce_id: bytes = bytes(2)
    fmspc: bytes = FMSPC
    sgx_type: int = 1
    flags: tuple[bool, bool, bool] = (True, True, True)

    @classmethod
    def new(cls) -> PlatformProfile:
        """Make a platform with identities of its own."""
        return cls(ppid=secrets.token_bytes(16), platform_instance_id=secrets.token_bytes(16))


def sgx_extension(platform: PlatformProfile) -> x509.UnrecognizedExtension:
    """Give the SGX extension of a platform's PCK certificate."""
    return x509.UnrecognizedExtension(x509.ObjectIdentifier(_OID), _sequence(*sgx_fields(platform)))


def sgx_fields(platform: PlatformProfile) -> list[bytes]:
    """Give the fields of the SGX extension one by one: tests leave one out or write one twice."""
    tcb = [_field((2, i + 1), _integer(svn)) for i, svn in enumerate(platform.components)]
    tcb.append(_field((2, 17), _integer(platform.pce_svn)))
    cpu_svn = bytes(min(svn, 255) for svn in platform.components) if platform.cpu_svn is None else platform.cpu_svn
    tcb.append(_field((2, 18), _octets(cpu_svn)))
    fields = [
        _field((1,), _octets(platform.ppid)),
        _field((2,), _sequence(*tcb)),
        _field((3,), _octets(platform.pce_id)),
        _field((4,), _octets(platform.fmspc)),
        _field((5,), _tlv(0x0A, bytes([platform.sgx_type]))),
    ]
    if platform.platform_instance_id is not None:
        flags = [_field((7, i + 1), _tlv(0x01, b"\xff" if on else b"\0")) for i, on in enumerate(platform.flags)]
        fields += [_field((6,), _octets(platform.platform_instance_id)), _field((7,), _sequence(*flags))]
    return fields


def _field(path: tuple[int, ...], value: bytes) -> bytes:
    return _sequence(_tlv(0x06, _ENCODED + bytes(path)), value)


def _sequence(*parts: bytes) -> bytes:
    return _tlv(0x30, b"".join(parts))


def _octets(value: bytes) -> bytes:
    return _tlv(0x04, value)


def _integer(value: int) -> bytes:
    return _tlv(0x02, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def _tlv(tag: int, content: bytes) -> bytes:
    size = len(content)
    length = bytes([size]) if size < 128 else bytes([0x81, size]) if size < 256 else b"\x82" + size.to_bytes(2, "big")
    return bytes([tag]) + length + content
