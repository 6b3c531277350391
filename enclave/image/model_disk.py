# SPDX-License-Identifier: Apache-2.0
"""A model on a disk of its own: an EROFS file system that holds one file, and its hash tree behind (docs/image.md)."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

from attestation.config import DiskPin

from ..models.verity import VerityRoot
from .erofs import write_erofs
from .tree import Tree

MODEL_FILE: Final = "model.gguf"


def digest_model_disk(model: Path, *, progress: Callable[[int], None]) -> DiskPin:
    """Give what a config says of the disk with this model, writing nothing. Raises OSError, ValueError."""
    verity = VerityRoot()
    for portion in write_erofs(_tree(model)):
        verity.update(portion)
        progress(len(portion))
    return DiskPin(root=verity.root(), blocks=verity.blocks)


def write_model_disk(model: Path, folder: Path, *, progress: Callable[[int], None]) -> tuple[Path, DiskPin]:
    """Write the disk into `folder`, whole or not at all, named by its root; give the path and what a config says.

    `progress` is told how many more bytes are written. Raises OSError, ValueError.
    """
    verity = VerityRoot()
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".model-", delete=False) as file:
        try:
            for portion in write_erofs(_tree(model)):
                file.write(portion)
                verity.update(portion)
                progress(len(portion))
            pin_blocks, (root, hashes) = verity.blocks, verity.tree()
            file.write(hashes)
            file.flush()
            os.fsync(file.fileno())
        except BaseException:
            Path(file.name).unlink()
            raise
    path = folder / f"model-{root.hex()[:16]}.img"
    Path(file.name).replace(path)
    return path, DiskPin(root=root, blocks=pin_blocks)


def _tree(model: Path) -> Tree:
    tree = Tree()
    tree.file(MODEL_FILE, model)
    return tree
