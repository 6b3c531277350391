# SPDX-License-Identifier: Apache-2.0
"""The trust anchor of a TDX verification: a root certificate and the names that its hierarchy must carry."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final, TypeAlias

from cryptography import x509

DistinguishedName: TypeAlias = tuple[tuple[str, str], ...]
"""(dotted OID, value) pairs, sorted: a name compared as a set of attributes, each present once."""

COMMON_NAME: Final = "2.5.4.3"
ORGANIZATION: Final = "2.5.4.10"
LOCALITY: Final = "2.5.4.7"
STATE: Final = "2.5.4.8"
COUNTRY: Final = "2.5.4.6"

SIMULATED_ORGANIZATION: Final = "SIMULATED - NOT CONFIDENTIAL"


def intel_style_name(common_name: str, organization: str) -> DistinguishedName:
    """Give a name as Intel's SGX hierarchy writes them: CN and O, L=Santa Clara, ST=CA, C=US."""
    pairs = {
        COMMON_NAME: common_name,
        ORGANIZATION: organization,
        LOCALITY: "Santa Clara",
        STATE: "CA",
        COUNTRY: "US",
    }
    return tuple(sorted(pairs.items()))


@lru_cache(maxsize=32)
def usual_der(name: DistinguishedName) -> bytes:
    """Encode a name as Intel's certificates do: CN, O, L, ST, C, each UTF-8 but the country.

    Another encoding may say the same name: that these bytes are equal proves it, that they differ proves nothing.
    """
    order = (COMMON_NAME, ORGANIZATION, LOCALITY, STATE, COUNTRY)
    values = dict(name)
    return x509.Name([x509.NameAttribute(x509.ObjectIdentifier(oid), values[oid]) for oid in order]).public_bytes()


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateNames:
    """The exact subject of each role in the hierarchy (Intel SGX PCK Certificate and CRL Profile, section 1.3)."""

    root: DistinguishedName
    platform_ca: DistinguishedName
    processor_ca: DistinguishedName
    pck: DistinguishedName
    tcb_signing: DistinguishedName

    @classmethod
    def of_organization(cls, organization: str) -> CertificateNames:
        """Give Intel's common names under `organization`."""
        return cls(
            root=intel_style_name("Intel SGX Root CA", organization),
            platform_ca=intel_style_name("Intel SGX PCK Platform CA", organization),
            processor_ca=intel_style_name("Intel SGX PCK Processor CA", organization),
            pck=intel_style_name("Intel SGX PCK Certificate", organization),
            tcb_signing=intel_style_name("Intel SGX TCB Signing", organization),
        )


INTEL_NAMES: Final = CertificateNames.of_organization("Intel Corporation")
SIMULATED_NAMES: Final = CertificateNames.of_organization(SIMULATED_ORGANIZATION)


@dataclass(frozen=True, slots=True, kw_only=True)
class TdxTrustAnchor:
    """The one root that a PCK chain and a TCB signing chain may end in, by the SHA-256 of its DER."""

    root_sha256: bytes  # 32 bytes
    names: CertificateNames
