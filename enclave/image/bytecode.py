# SPDX-License-Identifier: Apache-2.0
"""Compile the guest's Python files with the guest's own interpreter, out of the pinned packages.

Bytecode differs between patch releases, so whatever Python runs the build must not decide it; without bytecode a guest
under emulation would spend most of its start compiling. The interpreter runs unpacked, through the pinned loader.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path
from typing import Final

from .tree import Tree, write_tree

LIBRARIES: Final = "usr/lib/x86_64-linux-gnu"
FOLDERS: Final = ("usr/lib/python3.11", "usr/lib/python3/dist-packages")
RUNS: Final = (
    "enclave.agent.__main__", "enclave.commands.serve", "enclave.machines", "enclave.guest", "enclave.engine.llama",
    "enclave.engine.echo", "enclave.simulator.machine", "enclave.simulator.gpu_source", "enclave.models.gguf_child",
)  # fmt: skip
_MAPPED: Final = (
    "print('\\n'.join({line.split(None, 5)[5].strip() for line in open('/proc/self/maps') if '/' in line}))"
)
_SECONDS: Final = 600


class CompilerFailed(Exception):
    """The pinned interpreter did not run here, or could not compile a file. The message says which."""


def add_bytecode(tree: Tree) -> None:
    """Put a .pyc beside every .py below FOLDERS, valid without a look at the source. Raises CompilerFailed."""
    with tempfile.TemporaryDirectory(prefix="sericin-image-") as name:
        stage = Path(name)
        write_tree(tree, stage)
        _compile(stage)
        _require_whole(stage)
        for folder in FOLDERS:
            for path in sorted((stage / folder).rglob("*.pyc")):
                tree.file(str(path.relative_to(stage)), path.read_bytes())


def _compile(stage: Path) -> None:
    words = ["-B", "-m", "compileall", "-f", "-q", "-j", "1", "--invalidation-mode", "unchecked-hash"]
    words += ["-s", str(stage), "-p", "/", *(str(stage / folder) for folder in FOLDERS)]
    _interpreter(stage, words, "compile")


def _require_whole(stage: Path) -> None:
    """Import what the guest will run, so that a library which no package brought is missed here and not at boot.

    The loader also looks into this machine's own folders: whatever it found there is missing from the image.
    """
    said = _interpreter(stage, ["-B", "-c", f"import {', '.join(RUNS)}\n{_MAPPED}"], "import what it is to run")
    mapped = {line for line in said.split("\n") if ".so" in line}
    if strange := sorted(path for path in mapped if not path.startswith(f"{stage}/")):
        raise CompilerFailed(f"no package of the lock brings {', '.join(strange)}")


def _interpreter(stage: Path, words: list[str], what: str) -> str:
    """Run the unpacked interpreter through the unpacked loader; give what it printed."""
    loader = stage / LIBRARIES / "ld-linux-x86-64.so.2"
    program = [str(loader), "--library-path", str(stage / LIBRARIES), str(stage / "usr/bin/python3.11")]
    environment = {
        "PYTHONHOME": str(stage / "usr"),
        "PYTHONPATH": str(stage / FOLDERS[1]),
        "PYTHONHASHSEED": "0",
        "LC_ALL": "C.UTF-8",
        "PATH": os.defpath,
        "HOME": str(stage),
    }
    try:
        done = subprocess.run(
            [*program, "-S", *words],
            check=False,
            timeout=_SECONDS,
            capture_output=True,
            text=True,
            env=environment,
            cwd=stage,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired) as e:
        raise CompilerFailed(f"the image's own Python does not run here: {e}; an x86-64 Linux is needed") from None
    if done.returncode:
        said = (done.stdout + done.stderr).strip()
        raise CompilerFailed(f"the image's own Python could not {what}: {said[-400:]}")
    return done.stdout
