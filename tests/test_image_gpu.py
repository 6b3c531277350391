# SPDX-License-Identifier: Apache-2.0
"""The GPU image: what its lock holds, how its modules are asked for, what is refused before, and who may hand it on."""

from __future__ import annotations

import dataclasses
import io
import os
import stat
import subprocess
import tarfile
import time
from hashlib import sha256
from pathlib import Path

import pytest

from attestation.image import PROPRIETARY, Component, ImageManifest
from attestation.shape import Shape
from enclave.agent.gpu_nodes import make_gpu_nodes
from enclave.agent.refusal import BootRefused
from enclave.image import gpu_modules
from enclave.image.deb import Entry, PackageUnusable
from enclave.image.gpu_modules import PORT, SOURCE_PACKAGE, ModulesFailed, build_gpu_modules, ported
from enclave.image.lock import ImageLock
from enclave.image.modules import WANTED, module_order
from tests.image_forms import MANIFEST, canonical

DATA = Path(__file__).parent.parent / "enclave" / "data"
LOCK = ImageLock.parse((DATA / "image-gpu-hopper.lock.json").read_bytes())
SOURCE = next(part for part in LOCK.toolchain if part.name == SOURCE_PACKAGE)


def test_driver_firmware_and_libraries_are_one_release() -> None:
    driver = [part for part in LOCK.packages if part.licence == "LicenseRef-NVIDIA-Driver"]
    assert {part.version for part in driver} == {SOURCE.version}
    assert {"firmware-nvidia-gsp", "libcuda1", "libnvidia-ml1", "libnvidia-pkcs11-openssl3"} <= {p.name for p in driver}
    release = tuple(int(word) for word in SOURCE.version.split("-")[0].split("."))
    assert release >= (550, 54, 14), "confidential computing on Hopper is in general availability from here on"


def test_headers_and_their_tools_are_those_of_the_locked_kernel() -> None:
    version = LOCK.kernel.removesuffix("-cloud-amd64")
    names = {part.name: part for part in LOCK.toolchain}
    modules = next(part for part in LOCK.packages if part.name == f"linux-modules-{LOCK.kernel}")
    for name in (f"linux-headers-{LOCK.kernel}", f"linux-headers-{version}-common", f"linux-kbuild-{version}"):
        assert names[name].version == modules.version


def test_every_blob_states_a_licence_and_what_nvidia_alone_hands_on_is_marked() -> None:
    for part in (*LOCK.packages, *LOCK.toolchain):
        proprietary = "/non-free" in part.pool
        assert part.licence.startswith(PROPRIETARY) == proprietary, part.name
    assert not any("/non-free" in part.pool for part in LOCK.toolchain)
    cpu = ImageLock.parse((DATA / "image-cpu.lock.json").read_bytes())
    assert not cpu.toolchain
    assert not any(part.licence.startswith(PROPRIETARY) for part in cpu.packages)
    assert not any(part.licence.startswith(PROPRIETARY) for part in cpu.wheels)


def test_the_runtime_of_cuda_is_one_that_the_driver_takes() -> None:
    runtime = [part for part in LOCK.packages if part.licence == "LicenseRef-NVIDIA-CUDA"]
    assert {part.name for part in runtime} == {"libcudart12", "libcublas12", "libcublaslt12"}
    assert all(part.version.startswith("12.4.") for part in runtime)


def sources() -> dict[str, tuple[bytes, bool]]:
    files: dict[str, bytes] = {}
    for name, old, _, times in PORT:
        files[name] = files.get(name, b"") + f"{old};\n".encode() * times
    return {f"modules/nvidia-open-kernel/{name}": (data, False) for name, data in files.items()}


def test_the_port_changes_every_place_it_names() -> None:
    changed = ported(sources())
    text = b"".join(data for data, _ in changed.values())
    for gone in (b"in_irq()", b" strncpy(", b"map_resource", b"WRITE 0"):
        assert gone not in text
    assert changed != sources()


@pytest.mark.parametrize("number", range(len(PORT)))
@pytest.mark.parametrize("more", [True, False])
def test_a_driver_that_the_port_is_not_for_is_refused(number: int, *, more: bool) -> None:
    files = sources()
    name, old, _, _ = PORT[number]
    path = f"modules/nvidia-open-kernel/{name}"
    data = files[path][0]
    files[path] = (data + old.encode() if more else data.replace(old.encode(), b"", 1), False)
    with pytest.raises(ModulesFailed, match="another driver release"):
        ported(files)


def archive(*members: tarfile.TarInfo, data: bytes = b"") -> dict[str, list[Entry]]:
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w:xz") as tar:
        for member in members:
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    entry = Entry(path="usr/src/nvidia-open-kernel.tar.xz", mode=stat.S_IFREG | 0o644, data=held.getvalue())
    return {SOURCE_PACKAGE: [entry]}


def test_a_source_package_without_a_source_is_refused() -> None:
    with pytest.raises(ModulesFailed, match=SOURCE_PACKAGE):
        build_gpu_modules({}, kernel="1", jobs=1)
    entry = Entry(path="usr/src/nvidia-open-kernel.tar.xz", mode=stat.S_IFREG | 0o644, data=b"no archive")
    with pytest.raises(PackageUnusable):
        build_gpu_modules({SOURCE_PACKAGE: [entry]}, kernel="1", jobs=1)
    with pytest.raises(PackageUnusable, match="leaves the root"):
        build_gpu_modules(archive(tarfile.TarInfo("../../x")), kernel="1", jobs=1)


def test_a_source_has_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_modules, "MAX_SOURCE", 5)
    with pytest.raises(PackageUnusable, match="5 bytes"):
        build_gpu_modules(archive(tarfile.TarInfo("a"), data=b"123456"), kernel="1", jobs=1)
    monkeypatch.setattr(gpu_modules, "MAX_FILES", 1)
    with pytest.raises(PackageUnusable, match="1 files"):
        build_gpu_modules(archive(tarfile.TarInfo("a"), tarfile.TarInfo("b")), kernel="1", jobs=1)


@pytest.mark.parametrize(
    ("script", "why"),
    [
        (None, "unshare is not installed"),
        ("echo 'unshare: unshare failed: Operation not permitted' >&2; exit 1", "must allow user namespaces"),
        ("echo 'x.c:1: error: no' >&2; exit 2", "did not compile:\nx.c:1: error: no"),
    ],
)
def test_why_the_modules_were_not_built_is_said(
    script: str | None, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if script:
        (tmp_path / "unshare").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "unshare").chmod(0o755)
    monkeypatch.setattr(os, "defpath", str(tmp_path))
    monkeypatch.setattr(gpu_modules, "_SBIN", "")
    monkeypatch.setattr(gpu_modules, "ported", lambda files: files)
    with pytest.raises(ModulesFailed, match=why):
        build_gpu_modules(archive(tarfile.TarInfo("a")), kernel="1", jobs=1)


def test_a_build_that_takes_too_long_leaves_nothing_running(monkeypatch: pytest.MonkeyPatch) -> None:
    if subprocess.run(["unshare", "--user", "--map-root-user", "--pid", "--fork", "true"], check=False).returncode:
        pytest.skip("this machine allows no user namespaces")
    monkeypatch.setattr(gpu_modules, "ported", lambda files: files)
    monkeypatch.setattr(gpu_modules, "_ENTER", 'eval "$2"')
    monkeypatch.setattr(gpu_modules, "_BUILD", "sleep 3 & sleep 3")
    monkeypatch.setattr(gpu_modules, "_SECONDS", 0.5)
    begun = time.monotonic()
    with pytest.raises(ModulesFailed, match=r"not done within 0\.5 s"):
        build_gpu_modules(archive(tarfile.TarInfo("a")), kernel="1", jobs=1)
    assert time.monotonic() - begun < 2.5, "what the compiler started went on, and was waited for"


def kernel_module(*depends: str) -> bytes:
    return b"\x7fELF\0depends=" + ",".join(depends).encode() + b"\0"


def test_the_drivers_modules_come_after_what_they_need() -> None:
    names = (*WANTED, "gcm", "ghash")
    entries = [
        Entry(path=f"usr/lib/modules/1/kernel/{name}.ko", mode=stat.S_IFREG | 0o644,
              data=kernel_module(*(["ghash"] if name == "gcm" else [])))
        for name in names
    ]  # fmt: skip
    built = {"nvidia_uvm": kernel_module("nvidia"), "nvidia": kernel_module()}
    order = [name for name, _ in module_order(entries, release="1", more=("gcm",), built=built)]
    assert order == [*WANTED, "ghash", "gcm", "nvidia", "nvidia_uvm"]
    with pytest.raises(PackageUnusable, match="ecdh_generic"):
        module_order(entries, release="1", more=("ecdh_generic",))


def test_a_manifest_says_what_is_not_to_be_handed_on() -> None:
    manifest = ImageManifest.parse(canonical(MANIFEST))
    assert manifest.unpublished == ()
    blob = Component(name="firmware", version="1", sha256=sha256(b"").digest(), licence=f"{PROPRIETARY}Driver")
    assert dataclasses.replace(manifest, components=(*manifest.components, blob)).unpublished == ("firmware",)


def test_the_gpu_images_shape_holds_one_gpu() -> None:
    shape = Shape.parse((DATA / "shape-tdx-hopper.json").read_bytes())
    assert [device.gpu for device in shape.devices if device.type == "gpu"] == ["h100"]


def driver(folder: Path, *minors: str, devices: str = "195 nvidia\n511 nvidia-uvm\n") -> Path:
    for number, minor in enumerate(minors):
        gpu = folder / "driver" / "nvidia" / "gpus" / f"0000:0{number}:00.0"
        gpu.mkdir(parents=True)
        (gpu / "information").write_text(f"Model: \t NVIDIA H100 PCIe\nDevice Minor: \t {minor}\n")
    (folder / "devices").write_text(f"Character devices:\n{devices}\nBlock devices:\n")
    return folder


def test_the_drivers_nodes_are_made(tmp_path: Path) -> None:
    made: dict[str, tuple[int, int]] = {}

    def mknod(path: Path, mode: int, device: int) -> None:
        assert mode == stat.S_IFCHR | 0o600
        made[path.name] = (os.major(device), os.minor(device))

    assert make_gpu_nodes(proc=driver(tmp_path, "0", "1"), dev=tmp_path, mknod=mknod) == 2
    assert made == {"nvidia0": (195, 0), "nvidia1": (195, 1), "nvidiactl": (195, 255), "nvidia-uvm": (511, 0)}


def test_a_machine_without_the_driver_gets_no_node(tmp_path: Path) -> None:
    assert make_gpu_nodes(proc=tmp_path, dev=tmp_path, mknod=lambda *_: pytest.fail("a node was made")) == 0


@pytest.mark.parametrize(
    ("minors", "devices", "why"),
    [
        (("0", "0"), "511 nvidia-uvm\n", "2 GPUs and 1 minor"),
        (tuple(map(str, range(17))), "511 nvidia-uvm\n", "17 GPUs"),
        (("255",), "511 nvidia-uvm\n", "no device minor"),
        (("x",), "511 nvidia-uvm\n", "no device minor"),
        (("0",), "511 nvidia-uvm-tools\n", "nvidia-uvm, is not loaded"),
    ],
)
def test_a_driver_that_says_something_else_is_refused(
    tmp_path: Path, minors: tuple[str, ...], devices: str, why: str
) -> None:
    with pytest.raises(BootRefused, match=why):
        make_gpu_nodes(proc=driver(tmp_path, *minors, devices=devices), dev=tmp_path, mknod=lambda *_: None)
