# SPDX-License-Identifier: Apache-2.0
"""The authorities of an emulated machine: made on the host, carried into the guest on a disk, shown to clients.

They belong to the host, which is why an emulated machine is not confidential. What a client needs to know of it goes
into `public.json`, with the registers of the image's manifest and never those that a guest claims.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from hashlib import sha384
from pathlib import Path
from typing import Final

from attestation.config import EnclaveConfig
from attestation.image import ImageManifest
from attestation.shape import Shape

from ..models.digests import digest_file
from ..simulator.gpu_authority import GpuAuthority
from ..simulator.public import PUBLIC_FILE, write_public_of
from ..simulator.tdx_ca import SimulatedCa
from .state_disk import pack_state

RTMR0_WHY: Final = "an emulated machine's TPM and QEMU make tables that nobody predicts"


class AuthoritiesUnusable(Exception):
    """Config, shape, image and models do not belong together. The message says which."""


def make_authorities(
    state: Path,
    *,
    manifest: ImageManifest,
    shape: Shape,
    config: bytes,
    models: Sequence[Path],
    now: datetime,
    progress: Callable[[int], None],
) -> bytes:
    """Make or load the authorities of a state directory, write `public.json`, and give the disk for the guest.

    Raises AuthoritiesUnusable, ModelRefused, Malformed and OSError.
    """
    parsed = EnclaveConfig.parse(config)
    if parsed.machine != "simulated" or shape.machine != "emulated":
        raise AuthoritiesUnusable("only an emulated shape with config.machine simulated has authorities of its own")
    image = _image(manifest, shape)
    named = _models(parsed, models, progress)
    ca = SimulatedCa.load_or_create(state, now=now)
    GpuAuthority.load_or_make(state, now=now)
    write_public_of(
        state,
        image,
        root_pem=ca.root_pem,
        gpus=parsed.gpu.count,
        config_sha384=sha384(config).digest(),
        engine=parsed.engine.kind,
        models=named,
    )
    return pack_state(state, leave=frozenset({PUBLIC_FILE}))


def _image(manifest: ImageManifest, shape: Shape) -> dict[str, object]:
    for row in manifest.measurements:
        if row.shape_sha256 == shape.digest:
            return {
                "name": f"{manifest.name} {manifest.version} emulated",
                "image_id": manifest.image_id.hex(),
                "mr_td": row.mr_td.hex(),
                "rtmr0": {"waived": RTMR0_WHY} if row.rtmr0 is None else [row.rtmr0.hex()],
                "rtmr1": row.rtmr1.hex(),
                "rtmr2": row.rtmr2.hex(),
            }
    known = ", ".join(row.shape_name for row in manifest.measurements)
    raise AuthoritiesUnusable(f"the manifest has no measurement of shape {shape.name} as given; it has {known}")


def _models(
    config: EnclaveConfig, files: Sequence[Path], progress: Callable[[int], None]
) -> list[tuple[str, bytes, bytes]]:
    found = {}
    for path in files:
        digests, facts = digest_file(path, progress=progress)
        found[digests.sha256] = facts.template
    if missing := [pin.name for pin in config.models if pin.sha256 not in found]:
        raise AuthoritiesUnusable(f"the config names the model {missing[0]}: give its file with --model")
    return [(pin.name, pin.sha256, found[pin.sha256]) for pin in config.models]
