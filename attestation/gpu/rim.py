# SPDX-License-Identifier: Apache-2.0
"""Verify reference integrity manifests (TCG RIM in ISO/IEC 19770-2 SWID) and read golden measurements from them.

A RIM is parsed, its chain and signature are verified, and the canonical bytes that the signature covers are parsed
again: every typed value comes from those bytes and from nowhere else.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import sha256
from types import MappingProxyType
from typing import Final

from cryptography import x509

from ..errors import Malformed
from ..window import Window
from .anchor import GpuTrustAnchor
from .certificate import p384_key, require_chain, validity
from .pem import load_certificate
from .revocation import Link, links_of
from .rimxml import Element, parse_xml
from .xmldsig import find_signature, signed_document

SWID: Final = "http://standards.iso.org/iso/19770/-2/2015/schema.xsd"
TCG_RIM: Final = "https://trustedcomputinggroup.org/resource/tcg-reference-integrity-manifest-rim-information-model/"
SHA384_NAMESPACE: Final = "http://www.w3.org/2001/04/xmlenc#sha384"
NVIDIA_ENTERPRISE: Final = "5703"  # IANA private enterprise number
ENTRIES: Final = 64
RIM_CHAIN_LENGTH: Final = 4
MAX_ALTERNATIVES: Final = 16
_CACHED_RIMS: Final = 32

_CODE: Final = "MalformedRim"
_VBIOS_VERSION: Final = re.compile(r"[0-9A-F]{2}(\.[0-9A-F]{2}){4}")
_DRIVER_VERSION: Final = re.compile(r"[0-9]{1,5}(\.[0-9]{1,5}){1,3}")
_HASH: Final = re.compile(r"[0-9a-f]{96}")


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedRim:
    """Golden measurements whose signature holds. The window is for `require_valid` at every use."""

    component: str  # "driver", "vbios" or "switch"
    product: str  # the chip
    version: str
    tag_id: str
    golden: Mapping[int, tuple[bytes, ...]] = field(repr=False)  # active indices: every acceptable SHA-384
    sha256: bytes  # 32, of the file
    root_spki: bytes  # 32
    window: Window
    certificates: tuple[x509.Certificate, ...] = field(repr=False)  # leaf first
    links: tuple[Link, ...] = field(repr=False)  # whose revocation can be asked about


@lru_cache(maxsize=_CACHED_RIMS)
def verify_rim(data: bytes, *, anchor: GpuTrustAnchor) -> VerifiedRim:
    """Verify one RIM file, without regard to time.

    The answer for the same bytes and the same anchor never changes, so it is remembered; refusals are not. Raises
    Malformed(MalformedRim | MalformedCertificate), Untrusted(UntrustedRoot | CertificateAlgorithm |
    CertificateRoleMismatch | RimChainInvalid | RimSignatureInvalid).
    """
    root = parse_xml(data)
    signature = find_signature(root)
    where = "rim.chain"
    certs = tuple(load_certificate(der, where=f"{where}[{i}]") for i, der in enumerate(signature.certificates))
    root_spki = require_chain(
        certs,
        length=RIM_CHAIN_LENGTH,
        roots=anchor.rim_root_spki,
        organizations=anchor.organizations,
        code="RimChainInvalid",
        where=where,
    )
    document = signed_document(root, signature, p384_key(certs[0], where=f"{where}[0]"))
    _, meta, payload = _parts(parsed := parse_xml(document))
    component, version = _component(meta)
    return VerifiedRim(
        component=component,
        product=_word(meta, ("", "product")),
        version=version,
        tag_id=_word(parsed, ("", "tagId")),
        golden=MappingProxyType(_golden(payload)),
        sha256=sha256(data).digest(),
        root_spki=root_spki,
        window=validity(certs[0]).meet(*(validity(c) for c in certs[1:])),
        certificates=certs,
        links=links_of(certs, first=0, name=f"{component} RIM chain"),
    )


def _parts(root: Element) -> list[Element]:
    if root.name != (SWID, "SoftwareIdentity"):
        raise Malformed(_CODE, "rim", want="SoftwareIdentity", got=root.name[1][:64])
    parts = root.elements()
    if [part.name for part in parts] != [(SWID, "Entity"), (SWID, "Meta"), (SWID, "Payload")]:
        got = " ".join(part.name[1] for part in parts[:8])[:128]
        raise Malformed(_CODE, "rim", want="Entity Meta Payload", got=got)
    return parts


def _component(meta: Element) -> tuple[str, str]:
    maker = meta.attributes.get((TCG_RIM, "FirmwareManufacturerId"), "")
    if maker != NVIDIA_ENTERPRISE:
        raise Malformed(_CODE, "rim.Meta.FirmwareManufacturerId", want=NVIDIA_ENTERPRISE, got=maker[:32])
    edition = meta.attributes.get(("", "edition"), "")
    version = meta.attributes.get(("", "colloquialVersion"), "")
    if edition == "SWITCH" and _VBIOS_VERSION.fullmatch(version):
        return "switch", version
    if edition == "GPU" and _VBIOS_VERSION.fullmatch(version):
        return "vbios", version
    if edition == "GPU" and _DRIVER_VERSION.fullmatch(version):
        return "driver", version
    raise Malformed(_CODE, "rim.Meta", want="the version of a GPU or SWITCH edition", got=f"{edition} {version}"[:64])


def _word(element: Element, name: tuple[str, str]) -> str:
    value = element.attributes.get(name, "")
    if not re.fullmatch(r"[A-Za-z0-9_.-]{1,128}", value):
        raise Malformed(_CODE, f"rim.{element.name[1]}.{name[1]}", want="a word", got=f"{len(value)} characters")
    return value


def _golden(payload: Element) -> dict[int, tuple[bytes, ...]]:
    resources = payload.elements()
    if len(resources) != ENTRIES:
        raise Malformed(_CODE, "rim.Payload", want=f"{ENTRIES} resources", got=len(resources))
    golden: dict[int, tuple[bytes, ...]] = {}
    for index, resource in enumerate(resources):
        hashes = _resource(resource, index)
        if hashes:
            golden[index] = hashes
    if not golden:
        raise Malformed(_CODE, "rim.Payload", want="an active resource", got="none")
    return golden


def _resource(resource: Element, index: int) -> tuple[bytes, ...]:
    """Read one resource: its acceptable hashes, or none when it is not active."""
    where = f"rim.Resource[{index}]"
    values = resource.attributes
    if resource.name != (SWID, "Resource") or resource.children:
        raise Malformed(_CODE, where, want="an empty Resource", got=resource.name[1][:64])
    for name, want in (("type", "Measurement"), ("index", str(index)), ("size", "48")):
        if values.get(("", name)) != want:
            raise Malformed(_CODE, f"{where}.{name}", want=want, got=values.get(("", name), "absent")[:32])
    active = values.get(("", "active"))
    if active not in ("True", "False"):
        raise Malformed(_CODE, f"{where}.active", want="True or False", got=str(active)[:32])
    hashes = _hashes(values, where)
    return hashes if active == "True" else ()  # an active zero says: must not have been measured


def _hashes(values: Mapping[tuple[str, str], str], where: str) -> tuple[bytes, ...]:
    count = values.get(("", "alternatives"), "")
    if not re.fullmatch(r"[1-9][0-9]?", count) or int(count) > MAX_ALTERNATIVES:
        raise Malformed(_CODE, f"{where}.alternatives", want=f"1 to {MAX_ALTERNATIVES}", got=count[:32])
    names = [(SHA384_NAMESPACE, f"Hash{i}") for i in range(int(count))]
    known = {("", name) for name in ("type", "index", "active", "alternatives", "name", "size")} | set(names)
    if values.keys() != known:
        odd = sorted(name[1] for name in values.keys() ^ known)
        raise Malformed(_CODE, where, want=f"the attributes of {count} alternatives", got=" ".join(odd)[:128])
    for name in names:
        if not _HASH.fullmatch(values[name]):
            raise Malformed(_CODE, f"{where}.{name[1]}", want="96 lower-case hex digits", got="other text")
    return tuple(bytes.fromhex(values[name]) for name in names)
