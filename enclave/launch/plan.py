# SPDX-License-Identifier: Apache-2.0
"""What is to be launched: every file named and checked against who vouches for it, before anything starts.

1. the manifest is well formed, and every file of the image is the one that it lists, of that size and SHA-256;
2. the shape is well formed and its machine is the one asked for (TDX, or emulated);
3. the config is well formed and speaks of the same kind of machine and number of GPUs;
4. the operator document is well formed, and there is a disk for it exactly when there is one;
5. a simulated machine's authorities are well formed, and there is a disk for them exactly when they are given;
6. the model files are those that the config names, and their disks have the roots that it names, in its order.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from attestation.config import EnclaveConfig
from attestation.evidence import MAX_CONFIG, MAX_MANIFEST, MAX_OPERATOR
from attestation.image import ImageManifest
from attestation.operator import OperatorDocument
from attestation.shape import MAX_SHAPE, Shape

from ..image.state_disk import MAX_STATE, read_state
from .model_disks import Progress, model_disks, sha256_of
from .refusal import LaunchRefused

MANIFEST_FILE: Final = "manifest.json"
SECTOR: Final = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A launch whose every input was checked."""

    name: str
    shape: Shape
    manifest: ImageManifest
    image: Path
    documents: dict[str, bytes]  # disk name to exact bytes: manifest, config; operator, state where they are
    models: tuple[Path, ...]  # disks, in the order of the config

    @property
    def config_digest(self) -> bytes:
        """SHA-384 of the config's bytes: MRCONFIGID, 48 bytes."""
        return hashlib.sha384(self.documents["config"]).digest()

    @property
    def image_id(self) -> bytes:
        """SHA-256 of the manifest's bytes, 32 bytes."""
        return hashlib.sha256(self.documents["manifest"]).digest()

    @property
    def published(self) -> bool:
        """Whether the manifest tells the registers of this shape."""
        return any(row.shape_sha256 == self.shape.digest for row in self.manifest.measurements)

    @property
    def deaf_ports(self) -> tuple[int, ...]:
        """Ports of the guest that the shape forwards to, but the operator document has no listener on."""
        if "operator" not in self.documents:
            return ()
        listen = OperatorDocument.parse(self.documents["operator"]).listen
        heard = {address[1] for address in (listen.http, listen.ra_tls) if address is not None}
        return tuple(sorted({forward.guest_port for forward in self.shape.host.forward} - heard))

    def file(self, name: str) -> Path:
        """Give the place of one of the image's files."""
        return self.image / name


def read_shape(path: Path) -> Shape:
    """Read a shape file. Raises Malformed, LaunchRefused(usage)."""
    return Shape.parse(_read(path, MAX_SHAPE))


def read_manifest(image: Path) -> tuple[bytes, ImageManifest]:
    """Read an image's manifest; gives its bytes too. Raises Malformed, LaunchRefused(usage)."""
    data = _read(image / MANIFEST_FILE, MAX_MANIFEST)
    return data, ImageManifest.parse(data)


def make_plan(
    *,
    shape: Shape,
    image: Path,
    config: Path,
    operator: Path | None,
    state: Path | None,
    models: Sequence[Path],
    emulate: bool,
    name: str | None = None,
    disks: Path,
    write: bool,
    progress: Progress,
) -> Plan:
    """Check everything and give the plan. Raises Malformed for a document, LaunchRefused(usage or mismatch) else.

    `disks` is the folder of model disks; `write` false makes none there.
    """
    manifest_bytes, manifest = read_manifest(image)
    _require_machine(shape, emulate=emulate)
    documents = {"manifest": manifest_bytes, "config": _read(config, MAX_CONFIG)}
    parsed = EnclaveConfig.parse(documents["config"])
    _require_fitting(parsed, shape)
    if operator is not None:
        documents["operator"] = _read(operator, MAX_OPERATOR)
        OperatorDocument.parse(documents["operator"])
    if state is not None:
        documents["state"] = _read(state, MAX_STATE + SECTOR).rstrip(b"\0")
        read_state(documents["state"])
    _require_disks(shape, set(documents), models=len(models))
    for record in manifest.files:
        _require_file(image / record.path, size=record.size, sha256=record.sha256, progress=progress)
    return Plan(
        name=shape.name if name is None else name,
        shape=shape,
        manifest=manifest,
        image=image,
        documents=documents,
        models=model_disks(parsed, models, folder=disks, write=write, progress=progress),
    )


def _require_machine(shape: Shape, *, emulate: bool) -> None:
    if emulate and shape.machine != "emulated":
        raise LaunchRefused(
            "usage", f"shape {shape.name} is for a {shape.machine} machine: --emulate needs an emulated one"
        )
    if not emulate and shape.machine == "emulated":
        raise LaunchRefused("usage", f"shape {shape.name} is emulated: say --emulate to run it, NOT CONFIDENTIAL")


def _require_fitting(config: EnclaveConfig, shape: Shape) -> None:
    want = {"tdx": "tdx", "emulated": "simulated"}[shape.machine]
    if config.machine != want:
        raise LaunchRefused(
            "mismatch", f"config.machine is {config.machine}, but shape {shape.name} launches a {want} machine"
        )
    real = config.gpu.count if config.gpu.mode == "nvml" else 0
    if real != len(shape.gpus):
        raise LaunchRefused("mismatch", f"config.gpu asks for {real} real GPUs, but the shape has {len(shape.gpus)}")


def _require_disks(shape: Shape, given: set[str], *, models: int) -> None:
    held = [device.disk for device in shape.disks]
    for name in ("operator", "state"):
        if name in held and name not in given:
            raise LaunchRefused("usage", f"shape {shape.name} has a disk for it: --{name} FILE is needed")
        if name in given and name not in held:
            raise LaunchRefused("usage", f"shape {shape.name} has no {name} disk: leave --{name} out")
    if models != (want := held.count("model")):
        raise LaunchRefused("usage", f"shape {shape.name} has {want} model disks, and --model was given {models} times")


def _require_file(path: Path, *, size: int, sha256: bytes, progress: Progress) -> None:
    got = _size(path)
    if got != size:
        raise LaunchRefused("mismatch", f"{path}: {got} bytes, the manifest says {size}; fetch the image again")
    try:
        digest = sha256_of(path, progress)
    except OSError as e:
        raise LaunchRefused("usage", f"{path}: {e.strerror}") from None
    if digest != sha256:
        raise LaunchRefused(
            "mismatch", f"{path}: SHA-256 {digest.hex()}, the manifest says {sha256.hex()}; fetch the image again"
        )


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as e:
        raise LaunchRefused("usage", f"{path}: {e.strerror}") from None


def _read(path: Path, limit: int) -> bytes:
    """Read one byte more than a document may have, so that its parser refuses a longer one."""
    try:
        with path.open("rb") as file:
            return file.read(limit + 1)
    except OSError as e:
        raise LaunchRefused("usage", f"{path}: {e.strerror}") from None
