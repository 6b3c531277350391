# SPDX-License-Identifier: Apache-2.0
"""Is this image what its commit builds? Build it again and compare, first files, then the manifest field by field."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from attestation.evidence import MAX_MANIFEST
from attestation.image import ImageManifest

from .build import compiler
from .manifest import FILES, MANIFEST, record


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """The first thing in which an image differs from what was built."""

    where: str
    want: str  # what the build gave
    got: str  # what the image has
    hint: str


def read_manifest(image: Path) -> ImageManifest:
    """Read an image's manifest. Raises Malformed, OSError."""
    with (image / MANIFEST).open("rb") as file:
        return ImageManifest.parse(file.read(MAX_MANIFEST + 1))


def first_difference(image: Path, built: Path) -> Difference | None:
    """Compare two image folders; None when they are the same. Raises Malformed, OSError."""
    theirs, mine = read_manifest(image), read_manifest(built)
    hint = _hint(theirs, mine)
    present = {path.name for path in image.iterdir()}
    for name in FILES:
        place = image / name
        if not place.is_file():
            return Difference(where=name, want="a file", got="none", hint=hint)
        want, size = record(built / name), place.stat().st_size
        # One of another size is not read: it may be of any size.
        digest = record(place).sha256 if size == want.size else None
        if digest != want.sha256:
            return Difference(
                where=name,
                want=f"{want.size} bytes, SHA-256 {want.sha256.hex()}",
                got=f"{size} bytes" + (f", SHA-256 {digest.hex()}" if digest else ""),
                hint=hint,
            )
    if theirs.encode() != mine.encode():
        return Difference(
            where=MANIFEST, want=f"image id {mine.image_id.hex()}", got=f"image id {theirs.image_id.hex()}", hint=hint
        )
    if surplus := sorted(present - {*FILES, MANIFEST, "manifest.sig"}):
        return Difference(where=surplus[0], want="no such file", got="a file that no manifest lists", hint="")
    return None


def _hint(theirs: ImageManifest, mine: ImageManifest) -> str:
    """Name the part that differs, where the manifests tell: most often the compiler."""
    there = {(part.name, part.version): part.sha256 for part in theirs.components}
    for part in mine.components:
        if (digest := there.get((part.name, part.version))) is None:
            others = [other.version for other in theirs.components if other.name == part.name]
            return f"{part.name} is {part.version} here, and {', '.join(others) or 'absent'} in the image"
        if digest != part.sha256:
            return f"{part.name} {part.version} has other bytes here (compiler: {compiler()})"
    return ""
