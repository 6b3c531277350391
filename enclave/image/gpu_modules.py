# SPDX-License-Identifier: Apache-2.0
"""NVIDIA's open kernel modules for the image's kernel, by the lock's own compiler, the same bytes on every machine.

Compiler, linker, shell, kernel headers and driver source are packages of the lock, unpacked into a folder that is the
compiler's whole world: the kernel's own build tools need a newer C library than many hosts have, and nothing of the
host can decide a byte. Going there takes a user namespace and no root.
"""

from __future__ import annotations

import io
import os
import re
import stat
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Final

from .deb import Entry, PackageUnusable, require_inside
from .tree import Tree, write_tree

SOURCE_PACKAGE: Final = "nvidia-open-kernel-source"
MODULES: Final = ("nvidia", "nvidia_uvm")
CRYPTO: Final = ("ecdh_generic", "gcm", "ctr", "aesni_intel")
"""What the driver asks the kernel's crypto for when it opens its session with the GPU; nobody loads modules later."""
_STRNCPY: Final = (
    "NvLength used = strnlen(src, length); memcpy(dest, src, used); memset(dest + used, 0, length - used); return dest"
)
_CHUNK: Final = "chunk_split_cache[level]"
_NAME: Final = '"uvm_gpu_chunk_t"'
PORT: Final = (
    ("common/inc/nv-mm.h", "#define NV_CAN_CALL_VMA_START_WRITE 0", "#define NV_CAN_CALL_VMA_START_WRITE 1", 1),
    ("common/inc/nv-mm.h", "#elif defined(NV_VM_AREA_STRUCT_HAS_CONST_VM_FLAGS)", "#elif 1", 2),
    ("common/inc/nv-time.h", "in_irq()", "in_hardirq()", 2),
    ("nvidia/os-interface.c", "in_irq()", "in_hardirq()", 1),
    ("nvidia/os-interface.c", "strncpy(buf, current->comm, len - 1)", "strscpy_pad(buf, current->comm, len)", 1),
    ("nvidia/nv-dma.c", "ops->map_resource", "ops->map_phys", 1),
    ("nvidia/nv-pci.c", "NV_GPU_BAR1, requested_size)", "NV_GPU_BAR1, requested_size, 0)", 1),
    ("nvidia/linux_nvswitch.c", "strncpy(regkey_val, ", "memcpy(regkey_val, ", 1),
    ("nvidia/linux_nvswitch.c", "return strncpy(dest, src, length)", _STRNCPY, 1),
    ("nvidia-uvm/uvm_pmm_gpu.c", f"strncpy({_CHUNK}.name, {_NAME}, sizeof({_CHUNK}.name) - 1)",
     f"strscpy_pad({_CHUNK}.name, {_NAME})", 1),
    ("nvidia-uvm/uvm_pmm_gpu.c", "static void devmem_page_free(struct page *page)\n{",
     "static void devmem_page_free(struct folio *folio)\n{\n    struct page *page = &folio->page;", 1),
    ("nvidia-uvm/uvm_pmm_gpu.c", ".page_free = devmem_page_free", ".folio_free = devmem_page_free", 1),
    ("nvidia-uvm/uvm_hmm.c", "zone_device_page_init(dpage)", "zone_device_page_init(dpage, page_pgmap(dpage), 0)", 1),
)  # fmt: skip
"""The driver release is older than the kernel: (file, text, text instead, how often). Linux 7 has no in_irq, strncpy
and dma_map_ops.map_resource any more, pci_resize_resource takes a set of BARs to leave alone, device memory is freed by
the folio, and a module under the MIT and the GNU licence at once may call what is exported for the latter."""
MAX_SOURCE: Final = 512 << 20  # bytes of the driver's unpacked source; it has 115 MB
MAX_FILES: Final = 20_000
_ARCHIVE: Final = "usr/src/nvidia-open-kernel.tar.xz"
_FOLDER: Final = "modules/nvidia-open-kernel"
_SECONDS: Final = 3600  # two minutes of one core; a busy machine takes its time
_BUILD: Final = """set -e
cd /build/modules/nvidia-open-kernel
make -j{jobs} ARCH=x86_64 KERNEL_UNAME={kernel} IGNORE_CC_MISMATCH=1 \
    SYSSRC=/usr/lib/modules/{kernel}/source SYSOUT=/usr/lib/modules/{kernel}/build \
    NV_EXCLUDE_KERNEL_MODULES="nvidia-modeset nvidia-drm nvidia-peermem" CONFIG_DEBUG_INFO_BTF_MODULES= modules
x86_64-linux-gnu-strip --strip-debug nvidia.ko nvidia-uvm.ko
"""
_SBIN: Final = ":/usr/sbin:/sbin"  # where chroot and mount are
_ENTER: Final = """mount --bind /dev/null "$1/dev/null" && mount --rbind /proc "$1/proc" || exit 1
exec chroot "$1" /usr/bin/env -i {words} sh -c "$2"
"""  # objtool reads its own limits from /proc
_WORDS: Final = (
    "PATH=/usr/bin LC_ALL=C TZ=UTC SOURCE_DATE_EPOCH=315532800 KBUILD_BUILD_TIMESTAMP=@315532800 "
    "KBUILD_BUILD_USER=sericin KBUILD_BUILD_HOST=sericin"
)


class ModulesFailed(Exception):
    """The modules cannot be built here. The message says what is missing, or what the compiler said."""


def build_gpu_modules(packages: dict[str, list[Entry]], *, kernel: str, jobs: int) -> dict[str, bytes]:
    """Compile MODULES for the kernel release; give their contents, unsigned and without debug information.

    `packages` are the lock's toolchain by name. Raises ModulesFailed, PackageUnusable, TreeConflict, OSError.
    """
    with tempfile.TemporaryDirectory(prefix="sericin-modules-") as name:
        root = Path(name)
        write_tree(_world(packages), root)
        _run(root, _BUILD.format(kernel=kernel, jobs=jobs))
        folder = root / "build" / _FOLDER
        return {module: (folder / f"{module.replace('_', '-')}.ko").read_bytes() for module in MODULES}


def _world(packages: dict[str, list[Entry]]) -> Tree:
    """Lay out everything that the compiler will see."""
    tree = Tree()
    for name in ("dev", "proc", "tmp", "build", "usr/bin", "usr/sbin", "usr/lib", "usr/lib64"):
        tree.folder(name)
    for name in ("bin", "sbin", "lib", "lib64"):
        tree.link(name, f"usr/{name}")
    tree.link("usr/bin/awk", "mawk")  # Debian's maintainer scripts, which never run, make this link
    tree.file("dev/null", b"")  # the host's is put over it
    for entries in packages.values():
        for entry in entries:
            if stat.S_ISDIR(entry.mode) or entry.path.startswith("usr/share/"):
                continue
            if stat.S_ISLNK(entry.mode):
                tree.link(entry.path, entry.target)
            elif entry.path != _ARCHIVE:
                tree.file(entry.path, entry.data, executable=bool(entry.mode & 0o111))
    for path, (data, executable) in ported(_driver(packages)).items():
        tree.file(f"build/{path}", data, executable=executable)
    return tree


def _driver(packages: dict[str, list[Entry]]) -> dict[str, tuple[bytes, bool]]:
    """Unpack the driver's source: path to (content, executable)."""
    archive = next((entry.data for entry in packages.get(SOURCE_PACKAGE, []) if entry.path == _ARCHIVE), None)
    if archive is None:
        raise ModulesFailed(f"{SOURCE_PACKAGE}: no {_ARCHIVE} in the lock's packages")
    files: dict[str, tuple[bytes, bool]] = {}
    total = 0
    try:
        with tarfile.open(fileobj=io.BytesIO(archive), mode="r:xz") as tar:
            for info in tar:
                total += info.size
                if len(files) >= MAX_FILES or total > MAX_SOURCE:
                    raise PackageUnusable(f"{_ARCHIVE}: more than {MAX_FILES} files or {MAX_SOURCE} bytes")
                file = tar.extractfile(info) if info.isreg() else None
                if file is not None:
                    path = require_inside(info.name.removeprefix("./"), _ARCHIVE)
                    files[path] = (file.read(), bool(info.mode & 0o111))
    except (tarfile.TarError, EOFError) as e:
        raise PackageUnusable(f"{_ARCHIVE}: {e}") from None
    return files


def ported(files: dict[str, tuple[bytes, bool]]) -> dict[str, tuple[bytes, bool]]:
    """Apply PORT; every text must be there as often as it says. Raises ModulesFailed."""
    changed = dict(files)
    for name, old, new, times in PORT:
        path = f"{_FOLDER}/{name}"
        data, executable = changed.get(path, (b"", False))
        if (got := data.count(old.encode())) != times:
            raise ModulesFailed(
                f"{name}: want {old!r} {times} times, got {got}: the port is for another driver release"
            )
        changed[path] = (data.replace(old.encode(), new.encode()), executable)
    return changed


def _run(root: Path, script: str) -> None:
    enter = _ENTER.format(words=_WORDS)
    # Processes of their own too: when the time is over, whatever the compiler started ends with its first one.
    command = ["unshare", "--user", "--map-root-user", "--mount", "--pid", "--fork", "--kill-child"]
    command += ["sh", "-c", enter, "-", str(root), script]
    try:
        done = subprocess.run(
            command, check=False, timeout=_SECONDS, capture_output=True, text=True, errors="replace",
            env={"PATH": f"{os.defpath}{_SBIN}"}, stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except FileNotFoundError:
        raise ModulesFailed("the driver's modules: unshare is not installed (util-linux)") from None
    except subprocess.TimeoutExpired:
        raise ModulesFailed(f"the driver's modules: not done within {_SECONDS} s") from None
    if done.returncode:
        said = done.stderr.strip()
        if re.match(r"unshare:", said):
            raise ModulesFailed(f"the driver's modules: {said}; this machine must allow user namespaces")
        raise ModulesFailed(f"the driver's modules did not compile:\n{said[-2000:]}")
