# SPDX-License-Identifier: Apache-2.0
"""From `--model FILE` to the disks that the config names: a model file becomes a disk, a made disk is checked.

A file that begins as GGUF is a model: its SHA-256 must be one of the config's, and its disk (docs/image.md, Model disk)
is made in the cache, once. Every other file must be such a disk itself. Either way the disk that is attached has the
Merkle root that the measured config names, the hash tree behind it included.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from attestation.config import DiskPin, EnclaveConfig, ModelPin
from attestation.verity import BLOCK

from ..image.model_disk import digest_model_disk, write_model_disk
from ..models.verity import VerityRoot
from .refusal import LaunchRefused

MAGIC: Final = b"GGUF"
PORTION: Final = 1 << 20
Progress = Callable[[str, int, int], None]
"""Told (what is being read or written, bytes of it so far, its size)."""


def disk_folder() -> Path:
    """Give the folder of model disks: $SERICIN_CACHE/disks, or ~/.cache/sericin/disks."""
    base = os.environ.get("SERICIN_CACHE")
    return (Path(base) if base else Path.home() / ".cache" / "sericin") / "disks"


def model_disks(
    config: EnclaveConfig, files: Sequence[Path], *, folder: Path, write: bool, progress: Progress
) -> tuple[Path, ...]:
    """Give the disks in the order in which the config names their models.

    `write` false makes nothing and names the place where a disk would be. Raises LaunchRefused(mismatch or usage).
    """
    if not files:
        return ()
    places: dict[bytes, Path] = {}
    for path in files:
        pin, disk = _disk(config, path, folder=folder, write=write, progress=progress)
        places[pin.sha256] = disk
    if missing := [pin.name for pin in config.models if pin.sha256 not in places]:
        raise LaunchRefused("mismatch", f"the config names the model {missing[0]}: give its file with --model")
    return tuple(places[pin.sha256] for pin in config.models)


def _disk(config: EnclaveConfig, path: Path, *, folder: Path, write: bool, progress: Progress) -> tuple[ModelPin, Path]:
    try:
        with path.open("rb") as file:
            is_model = file.read(len(MAGIC)) == MAGIC
        if is_model:
            pin = _pin_of_model(config, path, progress)
            return pin, _made(pin, path, folder=folder, write=write, progress=progress)
        return _pin_of_disk(config, path, progress), path
    except OSError as e:
        raise LaunchRefused("usage", f"{e.filename or path}: {e.strerror}") from None


def _pin_of_model(config: EnclaveConfig, path: Path, progress: Progress) -> ModelPin:
    digest = sha256_of(path, progress)
    for pin in config.models:
        if pin.sha256 == digest:
            return pin
    names = ", ".join(pin.name for pin in config.models)
    raise LaunchRefused("mismatch", f"{path}: SHA-256 {digest.hex()} is none of the config's models ({names})")


def _made(pin: ModelPin, model: Path, *, folder: Path, write: bool, progress: Progress) -> Path:
    """Give the disk of a model, made unless a right one is there."""
    want = _required(pin)
    place = folder / f"model-{want.root.hex()[:16]}.img"
    if place.exists() and _holds(place, want, progress):
        return place
    size = want.blocks * BLOCK
    told = _Sum(f"disk of {pin.name}", size, progress)
    if write:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        made, got = write_model_disk(model, folder, progress=told)
    else:
        made, got = place, digest_model_disk(model, progress=told)
    if got != want:
        if write:
            made.unlink(missing_ok=True)
        raise LaunchRefused(
            "mismatch",
            f"{model}: its disk has root {got.root.hex()} and {got.blocks} blocks, the config says "
            f"{want.root.hex()} and {want.blocks}",
        )
    return made


def _required(pin: ModelPin) -> DiskPin:
    if pin.disk is None:
        raise LaunchRefused("mismatch", f"the config names no disk for the model {pin.name}: an image opens no other")
    return pin.disk


def _pin_of_disk(config: EnclaveConfig, path: Path, progress: Progress) -> ModelPin:
    for pin in config.models:
        if pin.disk is not None and _holds(path, pin.disk, progress):
            return pin
    raise LaunchRefused(
        "mismatch", f"{path}: neither a GGUF model nor a disk with the Merkle root of one of the config's models"
    )


def _holds(path: Path, pin: DiskPin, progress: Progress) -> bool:
    """Say whether a disk holds the file system that a config names, its hash tree behind, and nothing more."""
    size, whole = pin.blocks * BLOCK, path.stat().st_size
    verity, left = VerityRoot(), size
    with path.open("rb") as file:
        while left:
            portion = file.read(min(PORTION, left))
            if not portion:
                return False
            verity.update(portion)
            left -= len(portion)
            progress(path.name, size - left, size)
        root, hashes = verity.tree()
        return root == pin.root and whole == size + len(hashes) and file.read(len(hashes)) == hashes


def sha256_of(path: Path, progress: Progress) -> bytes:
    """Give the SHA-256 of a file. Raises OSError."""
    digest, done, size = hashlib.sha256(), 0, path.stat().st_size
    with path.open("rb") as file:
        while portion := file.read(PORTION):
            digest.update(portion)
            done += len(portion)
            progress(path.name, done, size)
    return digest.digest()


class _Sum:
    """Turns portions into a running sum."""

    def __init__(self, what: str, size: int, progress: Progress) -> None:
        self._what, self._size, self._progress, self._done = what, size, progress, 0

    def __call__(self, portion: int) -> None:
        self._done += portion
        self._progress(self._what, self._done, self._size)
