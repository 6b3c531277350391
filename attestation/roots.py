# SPDX-License-Identifier: Apache-2.0
"""The one root set of a policy: Intel's and NVIDIA's as compiled in, or one simulator's. Never a mixture."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from .errors import PolicyInvalid
from .findings import require_keys
from .gpu.anchor import GpuTrustAnchor
from .tdx.anchor import SIMULATED_NAMES, TdxTrustAnchor
from .trust.intel import INTEL_ANCHOR
from .trust.nvidia import NVIDIA_ANCHOR
from .verdict import Root

COMPILED_IN: Final[frozenset[bytes]] = frozenset(
    {INTEL_ANCHOR.root_sha256, *NVIDIA_ANCHOR.device_root_spki, *NVIDIA_ANCHOR.rim_root_spki}
)
"""SHA-256 of every root of this release: of the certificate for Intel's, of the SubjectPublicKeyInfo for NVIDIA's."""

MAX_PEM: Final = 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyRoots:
    """Where verification ends."""

    kind: str  # "intel+nvidia" or "simulated"
    tdx: TdxTrustAnchor
    gpu: GpuTrustAnchor

    @property
    def simulated(self) -> bool:
        """Whether these are a simulator's. For messages only: confidentiality is computed from the roots used."""
        return self.kind == "simulated"


def parse_roots(value: object, where: str) -> PolicyRoots:
    """Read the section `roots`. Raises PolicyInvalid, also when a simulator's section holds a real root."""
    if isinstance(value, dict) and value.get("kind") == "intel+nvidia":
        require_keys(value, where, required=("kind",))
        return PolicyRoots(kind="intel+nvidia", tdx=INTEL_ANCHOR, gpu=NVIDIA_ANCHOR)
    d = require_keys(value, where, required=("kind", "tdx_root", "gpu_device_root", "gpu_rim_root"))
    if d["kind"] != "simulated":
        raise PolicyInvalid(f"{where}.kind", want="intel+nvidia or simulated", got="another")
    tdx = _certificate(d["tdx_root"], f"{where}.tdx_root")
    device = _certificate(d["gpu_device_root"], f"{where}.gpu_device_root")
    rim = _certificate(d["gpu_rim_root"], f"{where}.gpu_rim_root")
    root_sha256 = sha256(tdx.public_bytes(Encoding.DER)).digest()
    spki = [_spki_sha256(c) for c in (tdx, device, rim)]
    if COMPILED_IN & {root_sha256, *spki}:
        raise PolicyInvalid(where, want="one simulator's roots alone", got="a root of this release among them")
    return PolicyRoots(
        kind="simulated",
        tdx=TdxTrustAnchor(root_sha256=root_sha256, names=SIMULATED_NAMES),
        gpu=GpuTrustAnchor.of_simulator(device_root_spki=frozenset({spki[1]}), rim_root_spki=frozenset({spki[2]})),
    )


def used_roots(*, tdx: bytes, gpu: Iterable[bytes] = ()) -> tuple[Root, ...]:
    """Name the roots that a verification actually ended in."""
    roots = [Root(role="tdx", sha256=tdx, compiled_in=tdx in COMPILED_IN)]
    roots += [Root(role="gpu", sha256=spki, compiled_in=spki in COMPILED_IN) for spki in sorted(gpu)]
    return tuple(roots)


def _certificate(value: object, where: str) -> x509.Certificate:
    if not isinstance(value, str) or len(value) > MAX_PEM:
        raise PolicyInvalid(where, want="a PEM certificate", got=type(value).__name__)
    try:
        return x509.load_pem_x509_certificate(value.encode("ascii"))
    except (ValueError, x509.InvalidVersion):
        raise PolicyInvalid(where, want="a PEM certificate", got="something else") from None


def _spki_sha256(certificate: x509.Certificate) -> bytes:
    try:
        key = certificate.public_key()
    except ValueError:
        return bytes(32)
    return sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()
