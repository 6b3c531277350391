# SPDX-License-Identifier: Apache-2.0
"""Who signed an image manifest: the file `manifest.sig` beside `manifest.json` (docs/image.md, The signature)."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from . import document, strict_json
from .errors import Untrusted
from .wire import label

SCHEMA: Final = "sericin-image-signature/1"
MAX_SIGNATURE: Final = 1024
_LABEL: Final = label("image-manifest")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSignature:
    """A detached signature over a manifest."""

    key: bytes  # 32, Ed25519 public key: shown; a verifier brings its own
    signature: bytes  # 64

    @classmethod
    def sign(cls, manifest: bytes, private_key: Ed25519PrivateKey) -> ImageSignature:
        """Sign the bytes of a manifest: Ed25519 over L(image-manifest) || SHA-256(manifest)."""
        key = private_key.public_key().public_bytes_raw()
        return cls(key=key, signature=private_key.sign(_LABEL + sha256(manifest).digest()))

    def encode(self) -> bytes:
        """Give the canonical JSON of manifest.sig."""
        row = {"schema": SCHEMA, "key": self.key.hex(), "signature": self.signature.hex()}
        return strict_json.canonical(row)

    @classmethod
    def parse(cls, data: bytes) -> ImageSignature:
        """Read manifest.sig, at most 1 KiB. Raises Malformed."""
        value = strict_json.loads_canonical(data, limit=MAX_SIGNATURE, what="signature")
        with document.coded("MalformedManifest"):
            m = document.fields(value, ("schema", "key", "signature"), "signature")
            document.choice(m["schema"], "signature.schema", (SCHEMA,))
            return cls(
                key=document.digest(m["key"], "signature.key", size=32),
                signature=document.digest(m["signature"], "signature.signature", size=64),
            )

    def verify(self, manifest: bytes, *, key: bytes) -> None:
        """Verify the signature over the bytes of a manifest by `key`. Raises Untrusted(ManifestSignatureInvalid)."""
        where, code = "manifest.sig", "ManifestSignatureInvalid"
        if self.key != key:
            raise Untrusted(code, where, want=f"key {key.hex()}", got=f"key {self.key.hex()}")
        try:
            Ed25519PublicKey.from_public_bytes(key).verify(self.signature, _LABEL + sha256(manifest).digest())
        except (InvalidSignature, ValueError):
            raise Untrusted(code, where, want="an Ed25519 signature over this manifest", got="another") from None
