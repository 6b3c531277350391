# SPDX-License-Identifier: Apache-2.0
"""Read one X.509 certificate as RFC 5280 wants it where the library does not; what may be in it is its reader's."""

from __future__ import annotations

import re
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

from .der import first_elements

UNREADABLE: Final = (
    ValueError,
    TypeError,  # a name whose attribute has a type that it may not have
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)
"""What the library raises for certificates and CRLs that it cannot read, some of it only when a part is asked for."""

_LENGTH: Final = rb"(?:[\x00-\x7f]|\x81.|\x82..)"
_POSITIVE: Final = re.compile(
    rb"\x30" + _LENGTH + rb"\x30" + _LENGTH + rb"(?:\xa0\x03\x02\x01.)?"  # Certificate, TBSCertificate, version
    rb"\x02(?:\x01[\x01-\x7f]|[\x02-\x14][\x00-\x7f]|\x15\x00)",  # an octet of sign may come before 20 octets
    re.DOTALL,
)


class InvalidSerialNumber(ValueError):
    """The serial number is not positive, or longer than 20 octets."""


def load_der(der: bytes) -> x509.Certificate:
    """Load one certificate in DER, below 64 KiB, whose serial number is positive and of at most 20 octets.

    RFC 5280, 4.1.2.2. The library only warns, and anew each time that the number is read: so the bytes are judged
    before it sees them. Raises one of UNREADABLE, at a later reading of a part, too.
    """
    certificate = x509.load_der_x509_certificate(der) if _POSITIVE.match(der) else None
    if certificate is None:
        raise InvalidSerialNumber
    return certificate


class AlgorithmMismatch(ValueError):
    """What was signed names another algorithm than stands beside its signature."""


def require_one_algorithm(der: bytes) -> None:
    """Require of a certificate of version 3 that its AlgorithmIdentifiers are the same (RFC 5280, 4.1.1.2).

    The library, which must have read it, looks at the one beside the signature alone; of a CRL it compares both. Raises
    AlgorithmMismatch, a ValueError.
    """
    signed, beside = first_elements(der, 2)
    _, _, inside = first_elements(signed, 3)  # version, serial number, algorithm
    if inside != beside:
        raise AlgorithmMismatch
