# SPDX-License-Identifier: Apache-2.0
"""Find the locked packages and wheels: in the cache first, then wherever this machine's apt and pip look.

Only size and SHA-256 decide what is taken. Hosts are named by the machine: apt's own sources, or SERICIN_MIRRORS
(mirrors of the archive) and SERICIN_SNAPSHOTS (archives of old packages), addresses separated by spaces.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Final

from .lock import LockedPackage, LockedWheel

WHEEL_TAGS: Final = (
    "--only-binary", ":all:", "--python-version", "3.11", "--implementation", "cp",
    "--abi", "cp311", "--abi", "abi3", "--abi", "none",
    "--platform", "manylinux_2_36_x86_64", "--platform", "manylinux_2_35_x86_64", "--platform", "manylinux_2_34_x86_64",
    "--platform", "manylinux_2_28_x86_64", "--platform", "manylinux_2_27_x86_64", "--platform", "manylinux_2_26_x86_64",
    "--platform", "manylinux_2_17_x86_64", "--platform", "manylinux2014_x86_64", "--platform", "manylinux_2_12_x86_64",
    "--platform", "manylinux2010_x86_64", "--platform", "manylinux_2_5_x86_64", "--platform", "manylinux1_x86_64",
)  # fmt: skip
"""What the guest's interpreter takes, whatever Python runs pip here."""
APT_ARCHIVE: Final = Path("/var/cache/apt/archives")
APT_SOURCES: Final = Path("/etc/apt")
APT_HELPER: Final = Path("/usr/lib/apt/apt-helper")
_SECONDS: Final = 900  # one part, the largest 23 MB for a processor image, over a slow line


class PartMissing(Exception):
    """A locked part is nowhere to be had. The message names file and digest and says what to do."""


def cache_folder() -> Path:
    """Give the folder of what is kept between builds: $SERICIN_CACHE, or ~/.cache/sericin."""
    return Path(os.environ.get("SERICIN_CACHE") or Path.home() / ".cache" / "sericin")


def mirrors(sources: Path = APT_SOURCES) -> list[str]:
    """Give the archive addresses of apt's sources, in their order, each once."""
    found: dict[str, None] = dict.fromkeys(os.environ.get("SERICIN_MIRRORS", "").split())
    lists = [sources / "sources.list", *sorted((sources / "sources.list.d").glob("*"))]
    for path in lists:
        if path.suffix in {".list", ".sources"} and path.is_file():
            text = path.read_text(encoding="utf-8", errors="replace")
            pattern = r"^URIs:\s*(.+)$" if path.suffix == ".sources" else r"^deb\s+(?:\[[^\]]*\]\s+)?(\S+)"
            for line in re.findall(pattern, text, re.MULTILINE):
                found |= dict.fromkeys(line.split())
    return list(found)


class Fetch:
    """Fetches parts into the cache and gives their paths."""

    def __init__(self, *, cache: Path | None = None, say: Callable[[str], None] = lambda _: None) -> None:
        self._cache = (cache or cache_folder()) / "image"
        self._say = say

    def package(self, part: LockedPackage) -> bytes:
        """Give the bytes of a locked .deb. Raises PartMissing."""
        kept = self._kept(part)
        places = [kept, *(APT_ARCHIVE.glob(f"{part.name}_*.deb") if APT_ARCHIVE.is_dir() else ())]
        for place in places:
            if (data := _matching(place, part)) is not None:
                return data if place == kept else self._keep(kept, data)
        tried = []
        for address in _addresses(part):
            tried.append(address.rpartition(part.pool)[0] or address)
            self._say(f"fetching {part.file}")
            if (data := _download(address, part)) is not None:
                return self._keep(kept, data)
        raise PartMissing(
            f"{part.file} (SHA-256 {part.sha256.hex()}) is not in {kept.parent}, and "
            + (f"none of {len(tried)} mirrors of apt's sources gave it" if tried else "apt's sources name no mirror")
            + f"; put it there as {kept.name}, or name a mirror in SERICIN_MIRRORS"
        )

    def wheel(self, part: LockedWheel) -> bytes:
        """Give the bytes of a locked wheel. Raises PartMissing."""
        kept = self._kept(part)
        if (data := _matching(kept, part)) is not None:
            return data
        self._say(f"fetching {part.file}")
        with tempfile.TemporaryDirectory() as folder:
            wanted = Path(folder) / "wanted.txt"
            wanted.write_text(f"{part.name}=={part.version} --hash=sha256:{part.sha256.hex()}\n")
            command = [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", "--no-input"]
            command += ["--no-deps", "--require-hashes", "-r", str(wanted), *WHEEL_TAGS, "-d", folder]
            done = _run(command)
            if (data := _matching(Path(folder) / part.file, part)) is not None:
                return self._keep(kept, data)
        why = done.strip().splitlines()[-1] if done.strip() else "no message"
        raise PartMissing(f"{part.file} (SHA-256 {part.sha256.hex()}): pip did not give it: {why}")

    def _kept(self, part: LockedPackage | LockedWheel) -> Path:
        return self._cache / f"{part.sha256.hex()[:16]}-{part.file}"

    def _keep(self, path: Path, data: bytes) -> bytes:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".part-", delete=False) as file:
            file.write(data)
        Path(file.name).replace(path)
        return data


def _addresses(part: LockedPackage) -> Iterator[str]:
    for base in mirrors():
        yield f"{base.rstrip('/')}/{part.pool}"
    for base in os.environ.get("SERICIN_SNAPSHOTS", "").split():
        yield f"{base.rstrip('/')}/{part.snapshot}"


def _download(address: str, part: LockedPackage) -> bytes | None:
    """Let apt's own downloader fetch one file: it knows this machine's proxy and certificates."""
    if not APT_HELPER.exists() or shutil.disk_usage(tempfile.gettempdir()).free < 2 * part.size:
        return None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "part.deb"
        _run([str(APT_HELPER), "-o", "APT::Sandbox::User=root", "download-file", address, str(path),
              f"SHA256:{part.sha256.hex()}"])  # fmt: skip
        return _matching(path, part)


def _run(command: list[str]) -> str:
    """Run a downloader; its success is judged by what it brought. Gives what it said."""
    try:
        done = subprocess.run(
            command, check=False, timeout=_SECONDS, capture_output=True, text=True, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired:
        return f"no answer within {_SECONDS} s"
    return done.stderr


def _matching(path: Path, part: LockedPackage | LockedWheel) -> bytes | None:
    """Give a file's bytes if they are the part's."""
    try:
        if path.stat().st_size != part.size:
            return None
        data = path.read_bytes()
    except OSError:
        return None
    return data if sha256(data).digest() == part.sha256 else None
