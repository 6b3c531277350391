# SPDX-License-Identifier: Apache-2.0
"""Write and sign reference values: a SWID document already in canonical form, and an enveloped XML Signature.

Because the text is written canonically to begin with, no canonicalizer is needed, and none is shared with the code that
reads reference values.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha384
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from .gpu_report import sign_raw

_SWID: Final = "http://standards.iso.org/iso/19770/-2/2015/schema.xsd"
_TCG: Final = "https://trustedcomputinggroup.org/resource/tcg-reference-integrity-manifest-rim-information-model/"
_HASH: Final = "http://www.w3.org/2001/04/xmlenc#sha384"
_DSIG: Final = "http://www.w3.org/2000/09/xmldsig#"
_MORE: Final = "http://www.w3.org/2001/04/xmldsig-more#"
_C14N: Final = "http://www.w3.org/2006/12/xml-c14n11"
_SCOPE: Final = f'xmlns="{_SWID}" xmlns:ds="{_DSIG}" xmlns:ns0="{_SWID}" xmlns:ns2="{_HASH}"'
END: Final = "</SoftwareIdentity>"


@dataclass(frozen=True, slots=True, kw_only=True)
class RimFields:
    """What a RIM says."""

    product: str
    version: str
    edition: str  # "GPU" or "SWITCH"
    golden: Mapping[int, tuple[bytes, ...]]  # active indices
    entries: int = 64


def encode_rim(fields: RimFields) -> str:
    """Write the document without its signature, canonically."""
    tag = sha384(f"{fields.product} {fields.version}".encode()).hexdigest()
    resources = "\n".join(encode_resource(i, fields.golden.get(i, ())) for i in range(fields.entries))
    return (
        f'<SoftwareIdentity xmlns="{_SWID}" xmlns:ns0="{_SWID}" xmlns:ns2="{_HASH}" corpus="false" '
        f'name="{fields.product}" patch="false" supplemental="false" tagId="{tag}" tagVersion="0" version="1.0">\n'
        '<ns0:Entity name="SIMULATED - NOT CONFIDENTIAL" role="softwareCreator tagCreator"></ns0:Entity>\n'
        f'<ns0:Meta xmlns:ns1="{_TCG}" PayloadType="direct" colloquialVersion="{fields.version}" '
        f'edition="{fields.edition}" product="{fields.product}" revision="r1" ns1:BindingSpec="RIMIM" '
        'ns1:FirmwareManufacturerId="5703"></ns0:Meta>\n'
        f"<ns0:Payload>\n{resources}\n</ns0:Payload>\n{END}"
    )


def encode_resource(index: int, hashes: Sequence[bytes]) -> str:
    """Write one resource; without hashes it is not active."""
    shown = [h.hex() for h in hashes] or ["0" * 96]
    named = sorted((f"ns2:Hash{i}", value) for i, value in enumerate(shown))  # canonical: Hash10 before Hash2
    values = " ".join(f'{name}="{value}"' for name, value in named)
    return (
        f'<ns0:Resource active="{bool(hashes)}" alternatives="{len(shown)}" index="{index}" '
        f'name="Measurement_{index}" size="48" type="Measurement" {values}></ns0:Resource>'
    )


def sign_rim(document: str, key: ec.EllipticCurvePrivateKey, chain: Sequence[x509.Certificate]) -> bytes:
    """Sign a canonical document and put the signature in as the last child of its root."""
    signed_info = encode_signed_info(sha384(document.encode()).digest())
    return with_signature(document, signed_info, sign_raw(key, signed_info.encode()), chain)


def encode_signed_info(digest: bytes) -> str:
    """Write SignedInfo canonically, as it is signed: with every namespace that is in scope at its place."""
    return (
        f"<ds:SignedInfo {_SCOPE}>"
        f'<ds:CanonicalizationMethod Algorithm="{_C14N}"></ds:CanonicalizationMethod>'
        f'<ds:SignatureMethod Algorithm="{_MORE}ecdsa-sha384"></ds:SignatureMethod>'
        '<ds:Reference URI=""><ds:Transforms>'
        f'<ds:Transform Algorithm="{_DSIG}enveloped-signature"></ds:Transform>'
        f'<ds:Transform Algorithm="{_C14N}"></ds:Transform></ds:Transforms>'
        f'<ds:DigestMethod Algorithm="{_MORE}sha384"></ds:DigestMethod>'
        f"<ds:DigestValue>{b64encode(digest).decode()}</ds:DigestValue></ds:Reference></ds:SignedInfo>"
    )


def with_signature(document: str, signed_info: str, value: bytes, chain: Sequence[x509.Certificate]) -> bytes:
    """Put a Signature element into a document."""
    return document.replace(END, encode_signature(signed_info, value, chain) + END).encode()


def encode_signature(signed_info: str, value: bytes, chain: Sequence[x509.Certificate]) -> str:
    """Write the Signature element."""
    certificates = "".join(
        f"<ds:X509Certificate>{b64encode(c.public_bytes(Encoding.DER)).decode()}</ds:X509Certificate>" for c in chain
    )
    return (
        f'<ds:Signature xmlns:ds="{_DSIG}">{signed_info.replace(" " + _SCOPE, "")}'
        f"<ds:SignatureValue>{b64encode(value).decode()}</ds:SignatureValue>"
        f"<ds:KeyInfo><ds:X509Data>{certificates}</ds:X509Data></ds:KeyInfo></ds:Signature>"
    )
