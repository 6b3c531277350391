# SPDX-License-Identifier: Apache-2.0
"""A small image directory whose every part is real in form: firmware, kernel, tree, manifest; and its parts to bend."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256, sha384
from pathlib import Path

import pytest

from attestation.image import Component, FileRecord, Firmware, ImageManifest, Measurement, Rootfs
from attestation.shape import Shape
from attestation.tdx import measure_layout
from attestation.tdx.measure import BootFiles, predict
from attestation.tdx.measure_firmware import Firmware as FirmwareFile
from attestation.tdx.measure_kernel import authenticode
from tests.firmware_forms import Build
from tests.kernel_forms import Kernel

DEBIAN_13 = "14954040cc754ade0c625ac3470ea46d4c14318b5b1396de4ef77090203d76db"
SALT = bytes(range(32))
ROOTFS = hashlib.shake_128(b"rootfs").digest(130 * 4096)  # two levels of hashes


def know_firmware(monkeypatch: pytest.MonkeyPatch, firmware: bytes) -> None:
    """Make a firmware known: it writes the events that Debian 13's does."""
    layout = measure_layout._LAYOUTS[DEBIAN_13]
    monkeypatch.setitem(measure_layout._LAYOUTS, sha256(firmware).hexdigest(), layout)


def hash_tree(data: bytes, salt: bytes = SALT) -> tuple[bytes, bytes]:
    """Compute a dm-verity root and hash area, levels from the bottom up."""
    levels: list[bytes] = []
    level = data
    while True:
        blocks = [level[i : i + 4096] for i in range(0, len(level), 4096)]
        digests = b"".join(sha256(salt + block).digest() for block in blocks)
        if len(digests) == 32:
            return digests, b"".join(reversed(levels))
        level = digests + bytes(-len(digests) % 4096)
        levels.append(level)


def boot_files() -> BootFiles:
    """Give the files that are measured."""
    root, _ = hash_tree(ROOTFS)
    return BootFiles(
        firmware=Build().data(),
        kernel=Kernel().data(),
        initrd=b"initrd" * 100,
        cmdline=f"console=hvc0 roothash={root.hex()}",
    )


def write_image(folder: Path, shapes: Sequence[Shape], files: BootFiles | None = None) -> ImageManifest:
    """Write an image directory and give its manifest. The firmware must be known."""
    files = files or boot_files()
    root, area = hash_tree(ROOTFS)
    contents = {
        "OVMF.fd": files.firmware,
        "cmdline": files.cmdline.encode(),
        "initrd": files.initrd,
        "rootfs.img": ROOTFS,
        "rootfs.verity": area,
        "vmlinuz": files.kernel,
    }
    folder.mkdir(exist_ok=True)
    for name, data in contents.items():
        (folder / name).write_bytes(data)
    firmware = FirmwareFile.parse(files.firmware)
    manifest = ImageManifest(
        name="small",
        version="1",
        profile="cpu",
        platform="qemu",
        commit="0f" * 20,
        lock_sha256=bytes(32),
        files=tuple(
            FileRecord(path=name, sha256=sha256(data).digest(), size=len(data)) for name, data in contents.items()
        ),
        components=(Component(name="small", version="1", sha256=bytes(32), licence="Apache-2.0"),),
        firmware=Firmware(
            file="OVMF.fd",
            mr_td_single_pass=firmware.mr_td(single_pass=True),
            mr_td_two_pass=firmware.mr_td(single_pass=False),
        ),
        kernel_file="vmlinuz",
        kernel_authenticode=authenticode(files.kernel),
        initrd_file="initrd",
        initrd_sha384=sha384(files.initrd).digest(),
        cmdline_file="cmdline",
        cmdline=files.cmdline,
        rootfs=Rootfs(
            file="rootfs.img",
            format="erofs",
            verity_file="rootfs.verity",
            root_hash=root,
            salt=SALT,
            data_blocks=len(ROOTFS) // 4096,
        ),
        measurements=tuple(measurement(files, shape) for shape in shapes),
    )
    write_manifest(folder, manifest)
    return manifest


def measurement(files: BootFiles, shape: Shape) -> Measurement:
    """Give a manifest's record of one shape."""
    found = predict(files, shape, acpi=None).record(shape, None)
    assert found is not None
    return found


def write_manifest(folder: Path, manifest: ImageManifest) -> None:
    """Write a manifest beside its files."""
    (folder / "manifest.json").write_bytes(manifest.encode())


def with_record(manifest: ImageManifest, path: str, data: bytes) -> ImageManifest:
    """Give a manifest that lists another content for one file: a lie that hangs together."""
    record = FileRecord(path=path, sha256=sha256(data).digest(), size=len(data))
    return replace(manifest, files=tuple(record if f.path == path else f for f in manifest.files))
