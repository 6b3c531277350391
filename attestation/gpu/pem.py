# SPDX-License-Identifier: Apache-2.0
"""Split a PEM chain into certificates: exactly the blocks, nothing before, between or after them but line ends."""

from __future__ import annotations

import re
from base64 import b64decode
from binascii import Error
from typing import Final

from cryptography import x509

from ..certificate import UNREADABLE, load_der, require_one_algorithm
from ..errors import Malformed
from .evidence import MAX_CHAIN_BYTES

_BEGIN: Final = b"-----BEGIN CERTIFICATE-----"
_END: Final = b"-----END CERTIFICATE-----"
_BLOCK: Final = re.compile(rb"[\r\n]*" + _BEGIN + rb"\r?\n([A-Za-z0-9+/=\r\n]{1,8192}?)" + _END + rb"(?:\r?\n|\Z)")
_CODE: Final = "MalformedCertificate"


def split_pem(chain: bytes, *, count: int, where: str) -> tuple[bytes, ...]:
    """Give the DER of exactly `count` certificates. Raises Malformed(MalformedCertificate)."""
    if len(chain) > MAX_CHAIN_BYTES:
        raise Malformed(_CODE, where, want=f"at most {MAX_CHAIN_BYTES} bytes", got=len(chain))
    found: list[bytes] = []
    at = 0
    while at < len(chain) and chain[at:].strip(b"\r\n"):
        block = _BLOCK.match(chain, at)
        if block is None or len(found) == count:
            raise Malformed(_CODE, where, want=f"exactly {count} PEM certificates and nothing else", got="other data")
        try:
            found.append(b64decode(re.sub(rb"[\r\n]", b"", block[1]), validate=True))
        except Error:
            raise Malformed(_CODE, f"{where}[{len(found)}]", want="base64", got="other data") from None
        at = block.end()
    if len(found) != count:
        raise Malformed(_CODE, where, want=f"exactly {count} PEM certificates", got=len(found))
    return tuple(found)


def load_certificate(der: bytes, *, where: str) -> x509.Certificate:
    """Load one DER certificate, names, window and extensions included. Raises Malformed(MalformedCertificate)."""
    try:
        certificate = load_der(der)
        if certificate.version is x509.Version.v3:  # another is refused with its role
            require_one_algorithm(der)
        # The library reads these on demand; a certificate whose parts cannot be read goes no further.
        parts = (certificate.subject, certificate.issuer, certificate.extensions)
        window = (certificate.not_valid_before_utc, certificate.not_valid_after_utc)
    except UNREADABLE as e:
        raise Malformed(_CODE, where, want="a DER certificate", got=type(e).__name__) from None
    if not all(parts[:2]) or window[0] > window[1]:
        raise Malformed(_CODE, where, want="names, and a window that is not empty", got="others")
    return certificate
