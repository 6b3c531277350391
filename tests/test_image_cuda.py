# SPDX-License-Identifier: Apache-2.0
"""CUDA's compiler for the GPU image: what its lock holds, what is laid out of it, and what an image cannot run."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import subprocess
import tarfile
import zipfile
from hashlib import sha256
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from attestation.image import PROPRIETARY
from enclave.image.deb import PackageUnusable
from enclave.image.fetch import Fetch
from enclave.image.lock import ImageLock, LockedPackage, LockedWheel
from tests.test_image_files import package

ROOT = Path(__file__).parent.parent
LOCK: Any = json.loads((ROOT / "requirements" / "cuda-toolkit.lock.json").read_text())
ROWS = {row["name"]: row for row in [*LOCK["packages"], *LOCK["wheels"]]}
IMAGE = {part.name: part for part in ImageLock.parse(
    (ROOT / "enclave" / "data" / "image-gpu-hopper.lock.json").read_bytes()).packages}  # fmt: skip


@pytest.fixture
def script() -> ModuleType:
    loader = SourceFileLoader("cuda_toolkit", str(ROOT / "scripts" / "cuda-toolkit"))
    spec = importlib.util.spec_from_loader("cuda_toolkit", loader)
    assert spec
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def test_the_compiler_is_of_the_release_whose_runtime_the_image_has() -> None:
    assert ROWS["nvidia-cuda-toolkit"]["version"].startswith("12.4.")
    for wheel, library in (("nvidia-cublas-cu12", "libcublas12"), ("nvidia-cuda-runtime-cu12", "libcudart12")):
        assert IMAGE[library].version.startswith(f"{ROWS[wheel]['version']}~"), library
    assert ROWS["nvidia-cuda-nvcc-cu12"]["version"] == ROWS["nvidia-cuda-toolkit"]["version"].partition("~")[0]
    assert ROWS["libcuda1"]["sha256"] == IMAGE["libcuda1"].sha256.hex()


def test_everything_is_pinned_with_its_licence_and_no_host(script: ModuleType) -> None:
    text = (ROOT / "requirements" / "cuda-toolkit.lock.json").read_text()
    assert "://" not in text
    assert ".org" not in text
    parts = list(script.parts())
    assert len(parts) == len(ROWS) == 8
    for part in parts:
        assert len(part.sha256) == 32
        assert part.size > 0
        assert isinstance(part, LockedWheel) or part.snapshot.endswith(part.pool)
        free = isinstance(part, LockedPackage) and "/non-free/" not in part.pool
        assert part.licence.startswith(PROPRIETARY) != free, part.name


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("usr/bin/ptxas", "bin/ptxas"),
        ("usr/bin/nvcc", None),  # a wrapper that names folders of an installed toolkit
        ("usr/bin/nvdisasm", None),
        ("usr/lib/nvidia-cuda-toolkit/bin/nvcc", "bin/nvcc"),
        ("usr/lib/nvidia-cuda-toolkit/bin/crt/link.stub", "bin/crt/link.stub"),
        ("usr/lib/nvidia-cuda-toolkit/bin/gcc", None),
        ("usr/lib/nvidia-cuda-toolkit/bin/cicc", "nvvm/bin/cicc"),
        ("usr/lib/nvidia-cuda-toolkit/libdevice/libdevice.10.bc", "nvvm/libdevice/libdevice.10.bc"),
        ("usr/include/cub/cub.cuh", "include/cub/cub.cuh"),
        ("usr/include/nvvm.h", None),
        ("usr/lib/x86_64-linux-gnu/nvidia/current/libcuda.so.550.163.01", "lib64/stubs/libcuda.so"),
        ("nvidia/cublas/include/cublas_v2.h", "include/cublas_v2.h"),
        ("nvidia/cuda_nvcc/include/crt/mma.h", "include/crt/mma.h"),
        ("nvidia/cuda_nvcc/include/__init__.py", None),
        ("nvidia/cuda_nvcc/include/crt/__init__.py", None),
        ("nvidia/cuda_nvcc/bin/ptxas", None),
        ("nvidia/cuda_runtime/lib/libcudart.so.12", "lib64/libcudart.so.12"),
        ("nvidia/cublas/lib/libnvblas.so.12", None),
    ],
)
def test_a_file_has_one_place_or_none(path: str, place: str | None, script: ModuleType) -> None:
    assert script.placed(path) == place


NVCC = b"#!/bin/sh\nexit ${NVCC_ENDS_WITH:-0}\n"


def deb(name: str, *files: tuple[str, bytes, int]) -> tuple[LockedPackage, bytes]:
    entries = []
    for path, content, mode in files:
        info = tarfile.TarInfo(f"./{path}")
        info.mode = mode
        entries.append((info, content))
    data = package(*entries)
    pool = f"pool/main/x/{name}_1_amd64.deb"
    part = LockedPackage(name=name, version="1", sha256=sha256(data).digest(), size=len(data), pool=pool,
                         snapshot=f"archive/debian/T/{pool}", licence="MIT")  # fmt: skip
    return part, data


def wheel(*files: tuple[str, bytes]) -> tuple[LockedWheel, bytes]:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        for path, content in files:
            archive.writestr(path, content)
    data = held.getvalue()
    return LockedWheel(name="w", version="1", sha256=sha256(data).digest(), size=len(data), file="w-1.whl",
                       licence="MIT"), data  # fmt: skip


def fetched(tmp_path: Path, script: ModuleType, monkeypatch: pytest.MonkeyPatch, *given: tuple[Any, bytes]) -> Fetch:
    """Put parts where a fetch finds them first, and make them the lock's."""
    (tmp_path / "image").mkdir()
    for part, data in given:
        (tmp_path / "image" / f"{part.sha256.hex()[:16]}-{part.file}").write_bytes(data)
    monkeypatch.setattr(script, "parts", lambda: iter([part for part, _ in given]))
    return Fetch(cache=tmp_path)


COMPILER = deb("c", ("usr/lib/nvidia-cuda-toolkit/bin/nvcc", NVCC, 0o755), ("usr/include/cub/a.cuh", b"a", 0o644))
LIBRARIES = wheel(("nvidia/cublas/lib/libcublas.so.12", b"cublas"), ("nvidia/cublas/include/crt/b.h", b"b"))


def test_a_toolkit_is_laid_out_as_its_compiler_looks_for_it(
    tmp_path: Path, script: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "root"
    script.unpack(fetched(tmp_path, script, monkeypatch, COMPILER, LIBRARIES), root)
    files = {str(path.relative_to(root)) for path in root.rglob("*") if not path.is_dir()}
    assert files == {
        "bin/nvcc", "bin/nvcc.profile", "include/cub/a.cuh", "include/crt/b.h", "lib64/libcublas.so",
        "lib64/libcublas.so.12", "lib64/libcudadevrt.a",
    }  # fmt: skip
    assert os.access(root / "bin/nvcc", os.X_OK)
    assert (root / "lib64/libcublas.so").read_bytes() == b"cublas"


def test_a_compiler_that_does_not_start_is_no_toolkit(
    tmp_path: Path, script: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NVCC_ENDS_WITH", "1")
    with pytest.raises(subprocess.CalledProcessError):
        script.unpack(fetched(tmp_path, script, monkeypatch, COMPILER, LIBRARIES), tmp_path / "root")


@pytest.mark.parametrize(
    ("path", "bound", "why"),
    [("nvidia/cublas/include/../../../../x", 1 << 30, "leaves the root"), ("nvidia/cublas/x", 3, "more than 3 bytes")],
)
def test_a_wheel_that_is_none_is_refused(
    path: str, bound: int, why: str, tmp_path: Path, script: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "MAX_UNPACKED", bound)
    with pytest.raises(PackageUnusable, match=why):
        script.unpack(fetched(tmp_path, script, monkeypatch, wheel((path, b"1234"))), tmp_path / "root")


def test_two_parts_never_share_a_file(tmp_path: Path, script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    twice = wheel(("nvidia/cublas/include/crt/b.h", b"another"))
    with pytest.raises(FileExistsError):
        script.unpack(fetched(tmp_path, script, monkeypatch, COMPILER, LIBRARIES, twice), tmp_path / "root")


def test_what_is_missing_is_named_by_file_and_digest(
    tmp_path: Path, script: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SERICIN_CACHE", str(tmp_path))
    monkeypatch.setattr("enclave.image.fetch.mirrors", list)
    part, _ = deb("absent", ("usr/bin/ptxas", b"", 0o755))
    monkeypatch.setattr(script, "parts", lambda: iter([part]))
    with pytest.raises(SystemExit, match=rf"absent_1_amd64\.deb \(SHA-256 {part.sha256.hex()}\)"):
        script.main()
    assert not list((tmp_path / "cuda-toolkit").iterdir())


@pytest.mark.parametrize(
    ("needs", "why"),
    [
        ("GLIBC_2.2.5 GLIBC_2.36 GLIBCXX_3.4.30 CXXABI_1.3.13 GCC_3.0", ""),
        ("GLIBC_2.4 GLIBC_2.38", "needs GLIBC_2.38, and an image has GLIBC_2.36"),
        ("GLIBC_2.17 GLIBCXX_3.4.32", "needs GLIBCXX_3.4.32"),
        ("GLIBC_2.17 CXXABI_1.3.15", "needs CXXABI_1.3.15"),
        ("GLIBC_2.17 GCC_13.0.0", "needs GCC_13.0.0"),
        ("", "finds no library"),
    ],
)
def test_a_library_for_a_newer_debian_is_refused(needs: str, why: str, tmp_path: Path) -> None:
    (tmp_path / "libx.so.0").write_bytes(b"")
    told = "\\n".join(f"Name: {name}  Flags: none" for name in needs.split())
    (tmp_path / "readelf").write_text(f"#!/bin/sh\nprintf '{told}\\n'\n")
    (tmp_path / "readelf").chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    command = [str(ROOT / "scripts" / "build-llama"), "--fits", str(tmp_path)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    assert (done.returncode, why in done.stderr) == (1 if why else 0, True), done.stderr


def test_a_build_for_gpus_names_its_architecture_and_nothing_of_this_host() -> None:
    environment = {**os.environ, "SERICIN_CUDA": "90-real", "SERICIN_ISA": "avx2"}
    command = [str(ROOT / "scripts" / "build-llama"), "--flags"]
    said = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout.split()
    assert {"-DGGML_CUDA=ON", "-DCMAKE_CUDA_ARCHITECTURES=90-real", "-DGGML_CUDA_NCCL=OFF"} <= set(said)
    assert "-DGGML_NATIVE=OFF" in said
