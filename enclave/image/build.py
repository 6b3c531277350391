# SPDX-License-Identifier: Apache-2.0
"""From a commit and a lock to the files of an image: the same bytes on every machine with the same compiler."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Final

from attestation.image import Component

from ..models.verity import VerityRoot
from .bytecode import LIBRARIES, add_bytecode
from .cpio import write_cpio
from .deb import Entry, read_deb
from .devices import OUTLETS
from .erofs import write_erofs
from .fetch import Fetch
from .gpu_modules import CRYPTO, SOURCE_PACKAGE, ModulesFailed, build_gpu_modules
from .lock import ImageLock, LockedPackage
from .modules import module_order
from .names import add_names
from .source import ROOMS, Source
from .tree import Tree
from .wheel import content_digest, read_wheel, shared_names

FIRMWARE: Final = "OVMF.fd"
KERNEL: Final = "vmlinuz"
INITRD: Final = "initrd"
CMDLINE: Final = "cmdline"
ROOTFS: Final = "rootfs.img"
VERITY: Final = "rootfs.verity"
PACKAGES: Final = "usr/lib/python3/dist-packages"
GPU_PROFILE: Final = "gpu-hopper"
CUDA_ARCHITECTURE: Final = "90-real"  # Hopper's own code, and none that the driver would compile on the machine
DRIVER: Final = "usr/lib/x86_64-linux-gnu/nvidia/current"

# What the launcher measures with it, the root's hash behind: no kvmclock, whose pages the host writes; a crash ends the
# machine; no command line that a boot menu could change, for there is none.
CMDLINE_WORDS: Final = (
    "console=hvc0", "panic=-1", "no-kvmclock", "clocksource=tsc", "random.trust_cpu=on", "ipv6.disable=1", "loglevel=5",
)  # fmt: skip
INIT_FLAGS: Final = (
    "-std=c11", "-Os", "-ffreestanding", "-fno-stack-protector", "-fno-pie", "-fno-asynchronous-unwind-tables",
    "-fcf-protection=none", "-static", "-no-pie", "-nostdlib", "-Wl,--build-id=none", "-Wl,-z,noexecstack", "-s",
)  # fmt: skip
_LEFT: Final = ("usr/share/", "usr/lib/x86_64-linux-gnu/gconv/", "usr/lib/x86_64-linux-gnu/audit/",
                "usr/lib/python3.11/test/", "usr/lib/python3.11/venv/", "usr/lib/python3.11/pydoc_data/")  # fmt: skip
_ROOT_FILES: Final = {
    "etc/passwd": b"root:x:0:0:root:/run:/usr/sbin/nologin\n",
    "etc/group": b"root:x:0:\n",
}
_SECONDS: Final = 4 * 3600  # the compiled library on a slow machine: for a GPU two hours of one core


class BuildFailed(Exception):
    """The image cannot be built here. The message says what is missing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """The files of an image but the manifest, written into `folder`, and what they are made of."""

    folder: Path
    cmdline: str
    root_hash: bytes  # 32
    data_blocks: int
    components: tuple[Component, ...]


@dataclass(slots=True, kw_only=True)
class _Build:
    source: Source
    lock: ImageLock
    fetch: Fetch
    say: Callable[[str], None]
    components: list[Component] = field(default_factory=list)
    tree: Tree = field(default_factory=Tree)

    def package(self, part: LockedPackage) -> list[Entry]:
        """Fetch and read one Debian package."""
        self.components.append(
            Component(name=part.name, version=part.version, sha256=part.sha256, licence=part.licence)
        )
        return list(read_deb(self.fetch.package(part), name=part.file))


def build_parts(source: Source, lock: ImageLock, folder: Path, *, fetch: Fetch, say: Callable[[str], None]) -> Parts:
    """Write the files of an image into an empty folder.

    Raises BuildFailed, PartMissing, PackageUnusable, TreeConflict, CompilerFailed and OSError.
    """
    build = _Build(source=source, lock=lock, fetch=fetch, say=say)
    cuda = _cuda_compiler(build) if lock.profile == GPU_PROFILE else ""  # before minutes are spent
    packages = {part.name: part for part in lock.packages}
    kernel = [packages.pop(f"linux-binary-{lock.kernel}"), packages.pop(f"linux-modules-{lock.kernel}")]
    say("firmware and kernel")
    _write(folder / FIRMWARE, _only(build.package(packages.pop("ovmf")), "usr/share/ovmf/OVMF.fd"))
    _write(folder / KERNEL, _only(build.package(kernel[0]), f"usr/lib/modules/{lock.kernel}/vmlinuz"))
    say("the first program and its modules")
    _write(folder / INITRD, _initrd(build, build.package(kernel[1])))
    _root_file_system(build, list(packages.values()), cuda=cuda)
    say("writing the root file system")
    root, blocks = _write_root(build.tree, folder)
    cmdline = " ".join([*CMDLINE_WORDS, f"roothash={root.hex()}", f"rootblocks={blocks}"])
    _write(folder / CMDLINE, cmdline.encode())
    components = sorted(build.components, key=lambda c: (c.name, c.version, c.sha256))
    return Parts(folder=folder, cmdline=cmdline, root_hash=root, data_blocks=blocks, components=tuple(components))


def _only(entries: list[Entry], path: str) -> bytes:
    """Give the content of the one file that is taken from a package, links within the package followed."""
    found = {entry.path: entry for entry in entries}
    entry = found.get(path)
    if entry is None or not entry.data:
        raise BuildFailed(f"{path}: not in its package")
    return entry.data


def _initrd(build: _Build, entries: list[Entry]) -> bytes:
    tree = Tree()
    for name in ("dev", "proc", "sys", "root", "modules"):
        tree.folder(name)
    tree.file("init", _first_program(build), executable=True)
    built = _gpu_modules(build) if build.lock.toolchain else {}
    more = CRYPTO if built else ()
    order = module_order(entries, release=build.lock.kernel, more=more, built=built)
    for number, (_, content) in enumerate(order):
        tree.file(f"modules/{number:02d}.ko", content)
    return write_cpio(tree)


def _gpu_modules(build: _Build) -> dict[str, bytes]:
    """Compile the driver's modules; the manifest names its source, and what came out of it."""
    packages = {}
    for part in build.lock.toolchain:
        build.say(f"unpacking {part.name}")
        packages[part.name] = list(read_deb(build.fetch.package(part), name=part.file))
    build.say("the driver's modules: compiling them takes minutes")
    try:
        built = build_gpu_modules(packages, kernel=build.lock.kernel, jobs=os.cpu_count() or 1)
    except ModulesFailed as e:
        raise BuildFailed(str(e)) from None
    source = next(part for part in build.lock.toolchain if part.name == SOURCE_PACKAGE)
    build.components += [
        Component(name=f"{name}.ko", version=source.version, sha256=sha256(data).digest(), licence=source.licence)
        for name, data in built.items()
    ]
    return built


def _cuda_compiler(build: _Build) -> str:
    """Unpack the pinned CUDA compiler; give its name and version, as the manifest does. Raises BuildFailed."""
    build.say("CUDA's compiler")
    printed = _run([sys.executable, str(build.source.checkout / "scripts" / "cuda-toolkit")], "CUDA's compiler")
    said = _run([f"{printed.strip()}/bin/nvcc", "--version"], "CUDA's compiler")
    found = re.search(r"V(\d+\.\d+\.\d+)", said)
    if found is None:
        raise BuildFailed("CUDA's compiler: nvcc does not say its version")
    return f"nvcc {found[1]}"


def _first_program(build: _Build) -> bytes:
    """Compile init.c, without a C library: the compiler alone decides the bytes, and the manifest names it."""
    with tempfile.TemporaryDirectory() as name:
        source, program = Path(name) / "init.c", Path(name) / "init"
        source.write_bytes(build.source.read("enclave/data/init.c"))
        _run(["cc", *INIT_FLAGS, "-o", str(program), str(source)], "the first program")
        data = program.read_bytes()
    build.components.append(
        Component(name="sericin-init", version=compiler(), sha256=sha256(data).digest(), licence="Apache-2.0")
    )
    return data


def compiler() -> str:
    """Give the first line of the compiler's own version, at most 96 characters. Raises BuildFailed."""
    return _run(["cc", "--version"], "a C compiler").splitlines()[0][:96]


def _root_file_system(build: _Build, packages: list[LockedPackage], *, cuda: str) -> None:
    tree = build.tree
    for name in ("dev", "proc", "sys", "run", "tmp", "etc", "usr/lib", "usr/lib64", "usr/bin", "usr/sbin"):
        tree.folder(name)
    for name in ("lib", "lib64", "bin", "sbin"):
        tree.link(name, f"usr/{name}")
    for path, content in _ROOT_FILES.items():
        tree.file(path, content)
    add_names(tree, OUTLETS if cuda else ())
    for part in packages:
        build.say(f"unpacking {part.name}")
        _add_package(tree, part.name, build.package(part))
    if cuda:
        _link_driver(tree)
    for wheel in build.lock.wheels:
        build.say(f"unpacking {wheel.name}")
        data = build.fetch.wheel(wheel)
        build.components.append(
            Component(name=wheel.name, version=wheel.version, sha256=wheel.sha256, licence=wheel.licence)
        )
        _add_files(tree, dict(read_wheel(data, name=wheel.file)))
    _add_library(build, cuda=cuda)
    own = {path: data for path, data in build.source.files.items() if path.partition("/")[0] in ROOMS}
    _add_files(tree, own)
    build.components.append(
        Component(name="sericin", version=build.source.version, sha256=content_digest(own), licence="Apache-2.0")
    )
    build.say("compiling Python files with the image's own Python")
    add_bytecode(tree)


def _add_package(tree: Tree, name: str, entries: list[Entry]) -> None:
    """Take a package's files, its licence among them, and nothing else of its documentation."""
    for entry in entries:
        path = entry.path
        if path == f"usr/share/doc/{name}/copyright" and entry.data:
            tree.file(path, entry.data)
        elif stat.S_ISDIR(entry.mode) or path.startswith(_LEFT):
            continue
        elif stat.S_ISLNK(entry.mode):
            tree.link(path, entry.target)
        else:
            tree.file(path, entry.data, executable=bool(entry.mode & 0o111))


def _link_driver(tree: Tree) -> None:
    """Put the driver's libraries where the loader looks: Debian's maintainer scripts, which never run, link them."""
    for name, node in sorted(tree.folder(DRIVER).children.items()):
        if re.fullmatch(r"lib.+\.so\.\d+", name) and not node.is_folder:
            tree.link(f"{LIBRARIES}/{name}", f"{DRIVER.removeprefix(LIBRARIES + '/')}/{name}")


def _add_files(tree: Tree, files: dict[str, bytes]) -> None:
    for path, content in files.items():
        tree.file(f"{PACKAGES}/{path}", content)


def _add_library(build: _Build, *, cuda: str) -> None:
    """Take llama-cpp-python with the library that scripts/build-llama compiled for the lock's instruction set."""
    build.say(f"llama.cpp: building it takes {'an hour or two' if cuda else 'minutes'}, once")
    script = build.source.checkout / "scripts" / "build-llama"
    environment = {**os.environ, "SERICIN_ISA": build.lock.isa, "SERICIN_CUDA": CUDA_ARCHITECTURE if cuda else ""}
    printed = _run([str(script), sys.executable], "llama.cpp", environment=environment)
    path = Path(printed.strip().splitlines()[-1])
    files, links = shared_names(dict(read_wheel(path.read_bytes(), name=path.name)))
    _add_files(build.tree, files)
    for place, target in links.items():
        build.tree.link(f"{PACKAGES}/{place}", target)
    version = path.name.split("-")[1]
    build.components.append(
        Component(
            name=f"llama-cpp-python+{build.lock.isa}" + ("+cuda" if cuda else ""),
            version=" ".join(filter(None, (version, compiler(), cuda)))[:96],
            sha256=content_digest(files),
            licence="MIT",
        )
    )


def _write_root(tree: Tree, folder: Path) -> tuple[bytes, int]:
    """Write the root file system and its hash tree; give (root hash, data blocks)."""
    verity = VerityRoot()
    with (folder / ROOTFS).open("xb") as file:
        for portion in write_erofs(tree):
            file.write(portion)
            verity.update(portion)
    root, hashes = verity.tree()
    _write(folder / VERITY, hashes)
    return root, verity.blocks


def _write(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)


def _run(command: list[str], what: str, *, environment: dict[str, str] | None = None) -> str:
    try:
        done = subprocess.run(
            command, check=False, timeout=_SECONDS, capture_output=True, text=True, env=environment,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except FileNotFoundError:
        raise BuildFailed(f"{what}: {command[0]} is not installed") from None
    except subprocess.TimeoutExpired:
        raise BuildFailed(f"{what}: not done within {_SECONDS} s") from None
    if done.returncode:
        raise BuildFailed(f"{what}: {command[0]} failed:\n{done.stderr.strip()[-2000:]}")
    return done.stdout
