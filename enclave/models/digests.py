# SPDX-License-Identifier: Apache-2.0
"""Answers: which numbers name this model file? One pass over the bytes, and a child that reads the header."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .gguf import GgufFacts
from .gguf_child import read_facts
from .refusal import ModelRefused
from .verity import VerityRoot

_PORTION = 4 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class FileDigests:
    """SHA-256 and dm-verity root of a file."""

    size: int
    sha256: bytes  # 32
    verity_root: bytes  # 32


def digest_file(path: Path, *, progress: Callable[[int], None]) -> tuple[FileDigests, GgufFacts]:
    """Digest `path` and read its header; `progress` is told how many more bytes are done. Raises ModelRefused."""
    total, tree, size = hashlib.sha256(), VerityRoot(), 0
    try:
        with path.open("rb") as file:
            facts = read_facts(file.fileno())
            while portion := file.read(_PORTION):
                total.update(portion)
                tree.update(portion)
                size += len(portion)
                progress(len(portion))
    except OSError as error:
        raise ModelRefused("model_missing", f"{path}: {error.strerror}") from None
    return FileDigests(size=size, sha256=total.digest(), verity_root=tree.root()), facts
