# SPDX-License-Identifier: Apache-2.0
"""Which platform is this? The SGX extension of a PCK certificate (Intel SGX PCK Certificate and CRL Profile, 1.3.5)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, NoReturn

from cryptography import x509

from ..certificate import UNREADABLE, load_der
from ..errors import Untrusted

SGX_EXTENSION: Final = "1.2.840.113741.1.13.1"
SGX_TYPES: Final = {0: "standard", 1: "scalable", 2: "scalable with integrity"}

_EXTENSION: Final = x509.ObjectIdentifier(SGX_EXTENSION)
_CODE: Final = "PckExtensionInvalid"
_OID: Final = bytes.fromhex("2a864886f84d010d01")  # 1.2.840.113741.1.13.1
_INTEGER: Final = 0x02
_OCTETS: Final = 0x04
_OBJECT: Final = 0x06
_ENUMERATED: Final = 0x0A
_BOOLEAN: Final = 0x01
_SEQUENCE: Final = 0x30
_REQUIRED: Final = frozenset({1, 2, 3, 4, 5})
_SCALABLE: Final = frozenset({6, 7})


def _pair(suffix: bytes, value: bytes, size: int) -> bytes:
    """Give the pattern of SEQUENCE { OID, value }; `value` is a pattern of `size` bytes, tag and length included."""
    oid = _OID + suffix
    return re.escape(bytes((_SEQUENCE, size + len(oid) + 2, _OBJECT, len(oid))) + oid) + value


def _component(n: int) -> bytes:
    field = bytes((2, n))
    low, high = _pair(field, rb"\x02\x01(?=[\x00-\x7f])", 3), _pair(field, rb"\x02\x02\x00(?=[\x80-\xff])", 4)
    return b"(?:" + low + b"|" + high + b")(.)"


_PCE_SVN: Final = b"|".join(
    (
        _pair(b"\2\x11", rb"\x02\x01[\x00-\x7f]", 3),
        _pair(b"\2\x11", rb"\x02\x02(?:\x00[\x80-\xff]|[\x01-\x7f].)", 4),
        _pair(b"\2\x11", rb"\x02\x03\x00[\x80-\xff].", 5),
    )
)
_ORDINARY: Final = re.compile(
    rb"\x30\x82(..)" + _pair(b"\1", rb"\x04\x10(.{16})", 18)  # PPID
    + rb"\x30\x82(..)" + re.escape(b"\6\x0a" + _OID + b"\2") + rb"\x30\x82(..)"
    + b"(" + b"".join(map(_component, range(1, 17)))
    + b"(" + _PCE_SVN + b")" + _pair(b"\2\x12", rb"\x04\x10(.{16})", 18) + b")"  # CPUSVN
    + _pair(b"\3", rb"\x04\x02(..)", 4)  # PCEID
    + _pair(b"\4", rb"\x04\x06(.{6})", 8)  # FMSPC
    + _pair(b"\5", rb"\x0a\x01([\x00-\x02])", 3)  # SGX type
    + b"(?:" + _pair(b"\6", rb"\x04\x10(.{16})", 18)  # platform instance
    + _pair(b"\7", rb"\x30\x36" + b"".join(_pair(bytes((7, n)), rb"\x01\x01([\x00\xff])", 3) for n in (1, 2, 3)), 56)
    + b")?",
    re.DOTALL,
)  # fmt: skip
"""The form that Intel writes: fields in order, each INTEGER in its shortest form, lengths of two octets captured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Platform:
    """The platform that a PCK certificate speaks for."""

    ppid: bytes  # 16
    tcb_components: tuple[int, ...]  # 16 SVNs of 0 to 255
    pce_svn: int
    cpu_svn: bytes  # 16, equal to the components
    pce_id: bytes  # 2
    fmspc: bytes  # 6
    sgx_type: int  # 0, 1 or 2
    platform_instance_id: bytes | None  # 16, Platform CA only
    dynamic_platform: bool | None
    cached_keys: bool | None
    smt_enabled: bool | None

    @classmethod
    def parse(cls, extension: bytes) -> Platform:
        """Parse the value of the SGX extension: every field once, of its exact type. Raises Untrusted."""
        ordinary = _at_once(extension)
        if ordinary is not None:
            return ordinary
        if len(_elements(extension, "sgx")) != 1:
            _refuse("pck.sgx", "one element", "others")
        return _platform(extension)


def platform_of(leaf: bytes) -> Platform:
    """Read the platform off a PCK certificate in DER; nothing of it is verified. Raises Untrusted."""
    try:
        extensions = load_der(leaf).extensions
    except UNREADABLE as e:
        _refuse("pck", "an X.509 certificate", type(e).__name__)
    return read_platform(extensions)


def read_platform(extensions: x509.Extensions) -> Platform:
    """Read the platform off a certificate's extensions: the SGX extension must be there once. Raises Untrusted."""
    found = [extension for extension in extensions if extension.oid == _EXTENSION]
    if len(found) != 1:
        _refuse("pck.sgx", "the SGX extension once", len(found))
    return Platform.parse(found[0].value.public_bytes())


def _at_once(extension: bytes) -> Platform | None:
    """Parse the form that Intel writes in one step; None for any other, which `_platform` reads or refuses."""
    found = _ORDINARY.fullmatch(extension)
    if found is None:
        return None
    outer, ppid, pair, inner, tcb, *components, pce_svn, cpu_svn, pce_id, fmspc, sgx_type, instance, f1, f2, f3 = (
        found.groups()
    )
    sizes = [int.from_bytes(size, "big") for size in (outer, pair, inner)]
    if sizes != [len(extension) - 4, len(tcb) + 16, len(tcb)] or b"".join(components) != cpu_svn:
        return None
    return Platform(
        ppid=ppid,
        tcb_components=tuple(cpu_svn),
        pce_svn=int.from_bytes(pce_svn[17:], "big"),  # after the identifier, tag and length
        cpu_svn=cpu_svn,
        pce_id=pce_id,
        fmspc=fmspc,
        sgx_type=sgx_type[0],
        platform_instance_id=instance,
        dynamic_platform=None if instance is None else f1 == b"\xff",
        cached_keys=None if instance is None else f2 == b"\xff",
        smt_enabled=None if instance is None else f3 == b"\xff",
    )


def _platform(extension: bytes) -> Platform:
    (sequence,) = _elements(extension, "sgx")
    fields = _fields(_content(sequence, _SEQUENCE, "sgx"), _OID, "sgx")
    if not fields.keys() >= _REQUIRED or not fields.keys() <= _REQUIRED | _SCALABLE:
        _refuse("pck.sgx", "fields 1 to 5, and 6 and 7 on scalable platforms", sorted(fields))
    components, pce_svn, cpu_svn = _tcb(fields[2])
    flags = _flags(fields[7]) if 7 in fields else (None, None, None)
    return Platform(
        ppid=_octets(fields[1], 16, "ppid"),
        tcb_components=components,
        pce_svn=pce_svn,
        cpu_svn=cpu_svn,
        pce_id=_octets(fields[3], 2, "pce_id"),
        fmspc=_octets(fields[4], 6, "fmspc"),
        sgx_type=_number(fields[5], _ENUMERATED, 2, "sgx_type"),
        platform_instance_id=_octets(fields[6], 16, "platform_instance_id") if 6 in fields else None,
        dynamic_platform=flags[0],
        cached_keys=flags[1],
        smt_enabled=flags[2],
    )


def _tcb(field: tuple[int, bytes]) -> tuple[tuple[int, ...], int, bytes]:
    parts = _fields(_content(field, _SEQUENCE, "tcb"), _OID + b"\x02", "tcb")
    if parts.keys() != set(range(1, 19)):
        _refuse("pck.tcb", "fields 1 to 18", f"{len(parts)} fields")
    components = tuple(_number(parts[i], _INTEGER, 255, f"tcb[{i}]") for i in range(1, 17))
    cpu_svn = _octets(parts[18], 16, "cpu_svn")
    if bytes(components) != cpu_svn:
        _refuse("pck.tcb.cpu_svn", bytes(components).hex(), cpu_svn.hex())
    return components, _number(parts[17], _INTEGER, 65535, "pce_svn"), cpu_svn


def _flags(field: tuple[int, bytes]) -> tuple[bool | None, bool | None, bool | None]:
    parts = _fields(_content(field, _SEQUENCE, "configuration"), _OID + b"\x07", "configuration")
    if not parts.keys() <= {1, 2, 3}:
        _refuse("pck.configuration", "fields 1 to 3", sorted(parts))
    found = [_boolean(parts[i], f"configuration[{i}]") if i in parts else None for i in (1, 2, 3)]
    return found[0], found[1], found[2]


def _fields(content: bytes, prefix: bytes, what: str) -> dict[int, tuple[int, bytes]]:
    """Read SEQUENCE OF SEQUENCE { OID prefix.n, value } into n -> (tag, content), each once."""
    found: dict[int, tuple[int, bytes]] = {}
    for tag, pair in _elements(content, what):
        parts = _elements(pair, what)
        if tag != _SEQUENCE or len(parts) != 2 or parts[0][0] != _OBJECT:
            _refuse(f"pck.{what}", "pairs of an identifier and a value", "another form")
        oid = parts[0][1]
        if len(oid) != len(prefix) + 1 or not oid.startswith(prefix) or oid[-1] & 0x80:
            _refuse(f"pck.{what}", "Intel's identifiers", oid.hex()[:40])
        if oid[-1] in found:
            _refuse(f"pck.{what}[{oid[-1]}]", "once", "twice")
        found[oid[-1]] = parts[1]
    return found


def _elements(data: bytes, what: str) -> list[tuple[int, bytes]]:
    """Split DER into (tag, content): definite lengths in their shortest form, below 65536; every byte used.

    No index is read that was not compared with the end first.
    """
    found: list[tuple[int, bytes]] = []
    at, end = 0, len(data)
    while at < end:
        if at + 2 > end:
            _refuse(f"pck.{what}", "whole DER elements", "a cut one")
        tag, size = data[at], data[at + 1]
        at += 2
        if size >= 0x80:
            width = size & 0x7F
            if width not in (1, 2) or at + width > end:
                _refuse(f"pck.{what}", "DER lengths below 65536", f"{size:#04x}")
            size = int.from_bytes(data[at : at + width], "big")
            if size < (0x80 if width == 1 else 0x100):
                _refuse(f"pck.{what}", "DER lengths in their shortest form", f"{size}")
            at += width
        if at + size > end:
            _refuse(f"pck.{what}", "whole DER elements", "a cut one")
        found.append((tag, data[at : at + size]))
        at += size
    return found


def _content(field: tuple[int, bytes], tag: int, what: str) -> bytes:
    if field[0] != tag:
        _refuse(f"pck.{what}", f"DER tag {tag:#04x}", f"{field[0]:#04x}")
    return field[1]


def _octets(field: tuple[int, bytes], size: int, what: str) -> bytes:
    value = _content(field, _OCTETS, what)
    if len(value) != size:
        _refuse(f"pck.{what}", f"{size} bytes", len(value))
    return value


def _number(field: tuple[int, bytes], tag: int, limit: int, what: str) -> int:
    value = _content(field, tag, what)
    number = int.from_bytes(value, "big", signed=True)
    shortest = len(value) == max(1, number.bit_length() // 8 + 1) if number >= 0 else False
    if not shortest or number > limit:
        _refuse(f"pck.{what}", f"0 to {limit}", value.hex()[:16])
    return number


def _boolean(field: tuple[int, bytes], what: str) -> bool:
    value = _content(field, _BOOLEAN, what)
    if value not in (b"\x00", b"\xff"):
        _refuse(f"pck.{what}", "a DER boolean", value.hex()[:16])
    return value == b"\xff"


def _refuse(where: str, want: object, got: object) -> NoReturn:
    raise Untrusted(_CODE, where, want=want, got=got)
