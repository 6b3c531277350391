# SPDX-License-Identifier: Apache-2.0
"""The extensions of a certificate in the one form that Intel writes, recognised as bytes.

Intel SGX PCK Certificate and CRL Profile, section 1.3: authority key, distribution point, subject key, key usage, basic
constraints and, in a PCK certificate, the SGX extension. Whatever looks otherwise is for the X.509 library to read.
"""

from __future__ import annotations

import re
from typing import Final

_LENGTH: Final = rb"(?:[\x00-\x7f]|\x81.|\x82..)"  # the library has read the whole: it holds elements and nothing else
_AUTHORITY_KEY: Final = rb"\x30\x1f\x06\x03\x55\x1d\x23\x04\x18\x30\x16\x80\x14.{20}"
_DISTRIBUTION_POINT: Final = (
    rb"\x30(.)\x06\x03\x55\x1d\x1f\x04(.)\x30(.)\x30(.)\xa0(.)\xa0(.)\x86(.)(?P<url>[\x20-\x7e]{1,110})"
)
_SUBJECT_KEY: Final = rb"\x30\x1d\x06\x03\x55\x1d\x0e\x04\x16\x04\x14.{20}"
_SGX: Final = rb"\x30\x82(..)\x06\x09\x2a\x86\x48\x86\xf8\x4d\x01\x0d\x01\x04\x82(..)(?P<sgx>.{256,})"
_OBJECT_SIZE: Final = 11  # of the SGX extension's identifier


def _critical(usage: str, basic: str) -> bytes:
    """Encode key usage and basic constraints, both critical."""
    fields = (("551d0f", bytes.fromhex(usage)), ("551d13", bytes.fromhex(basic)))
    encoded = b""
    for oid, value in fields:
        body = bytes.fromhex("0603" + oid + "0101ff04") + bytes((len(value),)) + value
        encoded += bytes((0x30, len(body))) + body
    return encoded


_CONSTRAINTS: Final = {
    None: _critical("030206c0", "3000"),  # digitalSignature and nonRepudiation; CA:FALSE
    0: _critical("03020106", "30060101ff020100"),  # keyCertSign and cRLSign; CA:TRUE, pathLen 0
    1: _critical("03020106", "30060101ff020101"),
}
_ORDINARY: Final = re.compile(
    rb"\xa3" + _LENGTH + rb"\x30" + _LENGTH + _AUTHORITY_KEY + b"(?:" + _DISTRIBUTION_POINT + b")?" + _SUBJECT_KEY
    + b"(?P<constraints>" + b"|".join(re.escape(encoded) for encoded in _CONSTRAINTS.values()) + b")"
    + b"(?:" + _SGX + b")?",
    re.DOTALL,
)  # fmt: skip


def ordinary_extensions(block: bytes, path_length: int | None) -> bytes | None:
    """Give the value of the SGX extension, empty without one, if `block` is the ordinary one of a role; else None.

    `block` is the last element of a TBSCertificate of version 3 whose DER the library has read. `path_length` None is
    the role of a leaf, 0 and 1 those of a CA and of the root: the constraints are that role's.
    """
    found = _ORDINARY.fullmatch(block)
    if found is None or found["constraints"] != _CONSTRAINTS.get(path_length):
        return None
    *point, url, _, outer, inner, sgx = found.groups()
    if url is not None:
        size = len(url)
        if b"".join(point) != bytes((size + 17, size + 10, size + 8, size + 6, size + 4, size + 2, size)):
            return None
    if sgx is None:
        return b""
    sizes = (_OBJECT_SIZE + 4 + len(sgx)).to_bytes(2, "big"), len(sgx).to_bytes(2, "big")
    return sgx if (outer, inner) == sizes else None
