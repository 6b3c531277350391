# SPDX-License-Identifier: Apache-2.0
"""Compile the guest's Python files with the guest's own interpreter, out of the pinned packages.

Bytecode differs between patch releases, so whatever Python runs the build must not decide it; without bytecode a guest
under emulation would spend most of its start compiling. The interpreter runs unpacked, through the pinned loader.
"""

from __future__ import annotations

import os
import stat
import subprocess
import tempfile
from pathlib import Path
from typing import Final

from .tree import Tree

LIBRARIES: Final = "usr/lib/x86_64-linux-gnu"
FOLDERS: Final = ("usr/lib/python3.11", "usr/lib/python3/dist-packages")
_SECONDS: Final = 600


class CompilerFailed(Exception):
    """The pinned interpreter did not run here, or could not compile a file. The message says which."""


def add_bytecode(tree: Tree) -> None:
    """Put a .pyc beside every .py below FOLDERS, valid without a look at the source. Raises CompilerFailed."""
    with tempfile.TemporaryDirectory(prefix="sericin-image-") as name:
        stage = Path(name)
        _unpack(tree, stage)
        _compile(stage)
        for folder in FOLDERS:
            for path in sorted((stage / folder).rglob("*.pyc")):
                tree.file(str(path.relative_to(stage)), path.read_bytes())


def _unpack(tree: Tree, stage: Path) -> None:
    """Write what the interpreter needs of the tree into a folder."""
    for path, node in tree.walk():
        place = stage / path
        if node.is_folder:
            place.mkdir(exist_ok=True)
        elif isinstance(node.content, Path):
            continue
        elif stat.S_ISLNK(node.mode):
            place.symlink_to(node.content.decode())
        else:
            place.write_bytes(node.content)
            place.chmod(node.mode & 0o777)


def _compile(stage: Path) -> None:
    loader = stage / LIBRARIES / "ld-linux-x86-64.so.2"
    command = [
        str(loader), "--library-path", str(stage / LIBRARIES), str(stage / "usr/bin/python3.11"),
        "-S", "-B", "-m", "compileall", "-f", "-q", "-j", "1", "--invalidation-mode", "unchecked-hash",
        "-s", str(stage), "-p", "/",
        *(str(stage / folder) for folder in FOLDERS),
    ]  # fmt: skip
    environment = {"PYTHONHOME": str(stage / "usr"), "PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8", "PATH": os.defpath}
    try:
        done = subprocess.run(
            command, check=False, timeout=_SECONDS, capture_output=True, text=True, env=environment, cwd=stage
        )
    except (OSError, subprocess.TimeoutExpired) as e:
        raise CompilerFailed(f"the image's own Python does not run here: {e}; an x86-64 Linux is needed") from None
    if done.returncode:
        said = (done.stdout + done.stderr).strip()
        raise CompilerFailed(f"the image's own Python could not compile: {said[-400:]}")
