# SPDX-License-Identifier: Apache-2.0
"""A certificate in the one form that Intel writes, recognised as bytes.

Intel SGX PCK Certificate and CRL Profile, section 1.3: version 3, a serial number of 20 octets, ECDSA with SHA-256,
both names as `usual_der` encodes them, validity in UTCTime, a key of P-256 and the ordinary extensions. Every element
up to the extensions has one length, so that the pattern steps from each to the next as a parser would. A certificate
that looks otherwise is for the X.509 library to read.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final, NamedTuple

from .anchor import DistinguishedName, usual_der
from .extensions import ordinary_extensions

_ALGORITHM: Final = bytes.fromhex("300a06082a8648ce3d040302")  # ecdsa-with-SHA256
_KEY: Final = bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d030107034200")
"""What SubjectPublicKeyInfo holds before the point for P-256 (RFC 5480, section 2), uncompressed."""

_HEADERS: Final = 8  # of Certificate and TBSCertificate, each with a length of two octets


class Form(NamedTuple):
    """What stands in a certificate of the usual form."""

    signed: bytes  # TBSCertificate
    subject: DistinguishedName
    point: bytes  # 65, of P-256: 4, x, y
    sgx: bytes  # value of the SGX extension; empty without one


@lru_cache(maxsize=32)
def _pattern(subject: DistinguishedName, issuer: DistinguishedName) -> re.Pattern[bytes]:
    """Give the pattern of a certificate of `subject` by `issuer` up to its extensions; the point is captured."""
    return re.compile(
        rb"\x30\x82..\x30\x82(..)\xa0\x03\x02\x01\x02\x02(?:\x14|\x15\x00).{20}"
        + re.escape(_ALGORITHM + usual_der(issuer))
        + rb"\x30\x1e\x17\x0d.{13}\x17\x0d.{13}"
        + re.escape(usual_der(subject) + _KEY)
        + rb"(\x04.{64})",
        re.DOTALL,
    )


def usual_form(
    der: bytes, subjects: tuple[DistinguishedName, ...], issuer: DistinguishedName, path_length: int | None
) -> Form | None:
    """Recognise a certificate of one of `subjects` by `issuer` whose DER the library has read; None if it is another.

    `path_length` None is the role of a leaf, 0 and 1 those of a CA and of the root.
    """
    for subject in subjects:
        found = _pattern(subject, issuer).match(der)
        if found is not None:
            size, point = found.groups()
            end = _HEADERS + int.from_bytes(size, "big")
            sgx = ordinary_extensions(der[found.end() : end], path_length)
            if sgx is None or not der.startswith(_ALGORITHM, end):
                return None
            return Form(der[4:end], subject, point, sgx)
    return None
