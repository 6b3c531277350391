# SPDX-License-Identifier: Apache-2.0
"""The image lock `sericin-image-lock/1`: every package and wheel of an image, by digest, without a host's name.

Written by scripts/lock-image, read by the build. A package is found again by its pool path on any Debian mirror, and by
its snapshot path in any archive of old packages.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from attestation import document, strict_json
from attestation.errors import Malformed
from attestation.image import PROFILES

SCHEMA: Final = "sericin-image-lock/1"
MAX_LOCK: Final = 256 * 1024
MAX_PARTS: Final = 200
MAX_PART: Final = 1 << 31
_PATH: Final = re.compile(r"(?:[A-Za-z0-9][A-Za-z0-9._+~:-]*/)*[A-Za-z0-9][A-Za-z0-9._+~:-]*")
_CODE: Final = "MalformedConfig"


@dataclass(frozen=True, slots=True, kw_only=True)
class LockedPackage:
    """One Debian package."""

    name: str
    version: str
    sha256: bytes  # 32, of the .deb
    size: int
    pool: str  # pool/main/..., relative to a mirror of the archive
    snapshot: str  # archive/NAME/TIME/pool/main/..., relative to an archive of snapshots
    licence: str

    @property
    def file(self) -> str:
        """The file's name."""
        return self.pool.rpartition("/")[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class LockedWheel:
    """One Python wheel."""

    name: str
    version: str
    sha256: bytes  # 32
    size: int
    file: str
    licence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageLock:
    """A parsed lock."""

    profile: str
    kernel: str  # the release whose modules are taken
    isa: str  # instruction set of the compiled library, as scripts/build-llama names it
    packages: tuple[LockedPackage, ...]
    wheels: tuple[LockedWheel, ...]
    toolchain: tuple[LockedPackage, ...]  # what compiles kernel modules, and their source; not in the image
    digest: bytes  # 32, SHA-256 of the lock file

    @classmethod
    def parse(cls, data: bytes) -> ImageLock:
        """Read a lock of at most 256 KiB. Raises Malformed."""
        keys = ("schema", "profile", "kernel", "isa", "packages", "toolchain", "wheels")
        m = document.fields(strict_json.loads(data, limit=MAX_LOCK, what="lock"), keys, "lock")
        document.choice(m["schema"], "lock.schema", (SCHEMA,))
        packages = document.items(m["packages"], "lock.packages", least=1, most=MAX_PARTS)
        wheels = document.items(m["wheels"], "lock.wheels", least=1, most=MAX_PARTS)
        toolchain = document.items(m["toolchain"], "lock.toolchain", least=0, most=MAX_PARTS)
        lock = cls(
            profile=document.choice(m["profile"], "lock.profile", PROFILES),
            kernel=_path(m["kernel"], "lock.kernel"),
            isa=document.choice(m["isa"], "lock.isa", ("avx2",)),
            packages=tuple(_package(row, f"lock.packages[{i}]") for i, row in enumerate(packages)),
            wheels=tuple(_wheel(row, f"lock.wheels[{i}]") for i, row in enumerate(wheels)),
            toolchain=tuple(_package(row, f"lock.toolchain[{i}]") for i, row in enumerate(toolchain)),
            digest=sha256(data).digest(),
        )
        _require_once([part.name for part in lock.packages] + [part.name for part in lock.wheels])
        _require_once([part.name for part in lock.toolchain])
        return lock


def _require_once(names: list[str]) -> None:
    if len(set(names)) != len(names):
        raise Malformed(_CODE, "lock", want="each part once", got="a name twice")


def _package(value: object, where: str) -> LockedPackage:
    m = document.fields(value, ("name", "version", "sha256", "size", "pool", "snapshot", "licence"), where)
    return LockedPackage(
        name=_path(m["name"], f"{where}.name"),
        version=document.text(m["version"], f"{where}.version", limit=96),
        sha256=document.digest(m["sha256"], f"{where}.sha256", size=32),
        size=document.integer(m["size"], f"{where}.size", low=1, high=MAX_PART),
        pool=_path(m["pool"], f"{where}.pool"),
        snapshot=_path(m["snapshot"], f"{where}.snapshot"),
        licence=document.text(m["licence"], f"{where}.licence", limit=200),
    )


def _wheel(value: object, where: str) -> LockedWheel:
    m = document.fields(value, ("name", "version", "sha256", "size", "file", "licence"), where)
    return LockedWheel(
        name=_path(m["name"], f"{where}.name"),
        version=document.text(m["version"], f"{where}.version", limit=96),
        sha256=document.digest(m["sha256"], f"{where}.sha256", size=32),
        size=document.integer(m["size"], f"{where}.size", low=1, high=MAX_PART),
        file=_path(m["file"], f"{where}.file"),
        licence=document.text(m["licence"], f"{where}.licence", limit=200),
    )


def _path(value: object, where: str) -> str:
    text = document.text(value, where, limit=300)
    if not _PATH.fullmatch(text):
        raise Malformed(_CODE, where, want="a relative path of plain names", got="other text")
    return text
