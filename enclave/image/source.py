# SPDX-License-Identifier: Apache-2.0
"""Our own part of an image: the packages as one commit has them, whatever lies about in the working tree."""

from __future__ import annotations

import io
import shutil
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOMS: Final = ("attestation", "client", "enclave")
_TAKEN: Final = (*ROOMS, "LICENSE", "pyproject.toml")
_SECONDS: Final = 60


class SourceUnusable(Exception):
    """There is no checkout to build from. The message says what was tried."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The files of one commit that an image takes, and the checkout they came from."""

    checkout: Path
    commit: str  # 40 hex digits
    files: dict[str, bytes]
    changed: tuple[str, ...]  # files of the working tree that differ from the commit: not in the image

    def read(self, path: str) -> bytes:
        """Give one file. Raises SourceUnusable when the commit has none such."""
        try:
            return self.files[path]
        except KeyError:
            raise SourceUnusable(f"{path}: not in commit {self.commit}") from None

    @property
    def version(self) -> str:
        """The project's version."""
        lines = self.read("pyproject.toml").decode().splitlines()
        return next(line.split('"')[1] for line in lines if line.startswith("version = "))


def read_source(commit: str = "HEAD", *, checkout: Path | None = None) -> Source:
    """Read a commit of the checkout that this module lies in. Raises SourceUnusable."""
    root = checkout or Path(__file__).resolve().parent.parent.parent
    identity = _git(root, "rev-parse", "--verify", f"{commit}^{{commit}}").decode().strip()
    archive = _git(root, "archive", "--format=tar", identity, "--", *_TAKEN)
    files = {}
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:") as tar:
        for info in tar:
            file = tar.extractfile(info) if info.isreg() else None
            if file is not None:
                files[info.name] = file.read()
    changed = _git(root, "status", "--porcelain", "--untracked-files=no", "--", *_TAKEN).decode().splitlines()
    return Source(checkout=root, commit=identity, files=files, changed=tuple(line[3:] for line in changed))


def _git(root: Path, *words: str) -> bytes:
    git = shutil.which("git")
    if git is None:
        raise SourceUnusable("git is not installed: an image is built from a commit of a checkout")
    try:
        done = subprocess.run(
            [git, "-C", str(root), *words],
            check=False,
            timeout=_SECONDS,
            capture_output=True,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        raise SourceUnusable(f"git {words[0]}: no answer within {_SECONDS} s") from None
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise SourceUnusable(f"{root}: git {words[0]}: {said[-1] if said else 'failed'}; build from a git checkout")
    return done.stdout
