# SPDX-License-Identifier: Apache-2.0
"""Verify the one XML Signature profile that reference values use, and give the bytes that were signed.

Enveloped, last child of the root; Canonical XML 1.1; one reference to the whole document; ECDSA P-384 with SHA-384; one
list of certificates. No other algorithm, transform, reference, key or place is looked at (W3C XML Signature 1.1, RFC
6931).
"""

from __future__ import annotations

from base64 import b64decode
from binascii import Error
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha384
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA384

from ..errors import Malformed, Untrusted
from .rimxml import Element, canonical

DSIG: Final = "http://www.w3.org/2000/09/xmldsig#"
C14N_11: Final = "http://www.w3.org/2006/12/xml-c14n11"
ECDSA_SHA384: Final = "http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha384"
SHA384_DIGEST: Final = "http://www.w3.org/2001/04/xmldsig-more#sha384"
ENVELOPED: Final = "http://www.w3.org/2000/09/xmldsig#enveloped-signature"
MAX_CERTIFICATES: Final = 8
_SIGNATURE_SIZE: Final = 96
_CODE: Final = "MalformedRim"


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """A signature taken apart. Nothing in it is verified."""

    element: Element
    signed_info: bytes  # canonical
    digest: bytes  # 48, of the canonical document without the signature
    value: bytes  # 96, r || s
    certificates: tuple[bytes, ...]  # DER, leaf first


def find_signature(root: Element) -> Signature:
    """Take the document's one signature apart. Raises Malformed(MalformedRim)."""
    found = [e for e in root.walk() if e.name == (DSIG, "Signature")]
    children = root.elements()
    if len(found) != 1 or not children or children[-1] is not found[0]:
        raise Malformed(_CODE, "rim.Signature", want="one, as the last child of the root", got=f"{len(found)} in all")
    signed_info, value, key_info = _children(found[0], "SignedInfo", "SignatureValue", "KeyInfo")
    method, algorithm, reference = _children(signed_info, "CanonicalizationMethod", "SignatureMethod", "Reference")
    _require_algorithm(method, C14N_11)
    _require_algorithm(algorithm, ECDSA_SHA384)
    if reference.attributes != {("", "URI"): ""}:
        raise Malformed(_CODE, "rim.Reference", want='URI="" and nothing else', got="other attributes")
    transforms, digest_method, digest = _children(reference, "Transforms", "DigestMethod", "DigestValue")
    enveloped, c14n = _children(transforms, "Transform", "Transform")
    _require_algorithm(enveloped, ENVELOPED)
    _require_algorithm(c14n, C14N_11)
    _require_algorithm(digest_method, SHA384_DIGEST)
    (x509_data,) = _children(key_info, "X509Data")
    count = min(len(x509_data.elements()), MAX_CERTIFICATES)
    certificates = _children(x509_data, *["X509Certificate"] * max(1, count))
    for bare in (found[0], signed_info, value, key_info, transforms, digest, x509_data, *certificates):
        if bare.attributes:
            raise Malformed(_CODE, f"rim.{bare.name[1]}", want="no attributes", got=len(bare.attributes))
    return Signature(
        element=found[0],
        signed_info=canonical(signed_info),
        digest=_base64(digest, 48),
        value=_base64(value, _SIGNATURE_SIZE),
        certificates=tuple(_base64(c, None) for c in certificates),
    )


def signed_document(root: Element, signature: Signature, key: ec.EllipticCurvePublicKey) -> bytes:
    """Verify the signature with `key` and give the canonical document that it covers: the only bytes to read from.

    Raises Untrusted(RimSignatureInvalid).
    """
    r, s = (int.from_bytes(half, "big") for half in (signature.value[:48], signature.value[48:]))
    try:
        key.verify(encode_dss_signature(r, s), signature.signed_info, ec.ECDSA(SHA384()))
    except InvalidSignature:
        raise Untrusted("RimSignatureInvalid", "rim.SignatureValue", want="valid", got="invalid") from None
    document = canonical(root, without=signature.element)
    digest = sha384(document).digest()
    if digest != signature.digest:
        where = "rim.DigestValue"
        raise Untrusted("RimSignatureInvalid", where, want=signature.digest.hex(), got=digest.hex())
    return document


def _children(parent: Element, *names: str) -> Sequence[Element]:
    children = parent.elements()
    if [child.name for child in children] != [(DSIG, name) for name in names]:
        got = " ".join(child.name[1] for child in children[:8])[:128]
        raise Malformed(_CODE, f"rim.{parent.name[1]}", want=" ".join(names), got=got)
    return children


def _require_algorithm(element: Element, algorithm: str) -> None:
    if element.attributes != {("", "Algorithm"): algorithm} or element.children:
        got = element.attributes.get(("", "Algorithm"), "none")[:128]
        raise Malformed(_CODE, f"rim.{element.name[1]}", want=algorithm, got=got)


def _base64(element: Element, size: int | None) -> bytes:
    where = f"rim.{element.name[1]}"
    text = element.text().translate({ord(c): None for c in " \t\r\n"})
    try:
        data = b64decode(text, validate=True)
    except (Error, ValueError):
        raise Malformed(_CODE, where, want="base64", got="other text") from None
    if size is not None and len(data) != size:
        raise Malformed(_CODE, where, want=f"{size} bytes", got=len(data))
    return data
