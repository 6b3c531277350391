# SPDX-License-Identifier: Apache-2.0
"""From the files of an image to its manifest: digests, parts, and registers in the shapes that come with it."""

from __future__ import annotations

from hashlib import sha256, sha384
from pathlib import Path
from typing import Final

from attestation.image import FileRecord, Firmware, ImageManifest, Measurement, Rootfs
from attestation.shape import Shape
from attestation.tdx.measure import BootFiles, predict
from attestation.tdx.measure_firmware import Firmware as FirmwareFile
from attestation.tdx.measure_kernel import authenticode

from ..models.verity import SALT
from .build import CMDLINE, FIRMWARE, INITRD, KERNEL, ROOTFS, VERITY, BuildFailed, Parts
from .lock import ImageLock
from .source import Source

MANIFEST: Final = "manifest.json"
FILES: Final = (FIRMWARE, CMDLINE, INITRD, KERNEL, ROOTFS, VERITY)
SHAPES: Final = {"cpu": ("emulated", "tdx"), "gpu-hopper": ("tdx-hopper",)}
_PORTION: Final = 1 << 20


def make_manifest(parts: Parts, *, source: Source, lock: ImageLock) -> ImageManifest:
    """Give the manifest of built parts. Raises BuildFailed where a register cannot be computed, Malformed, OSError."""
    firmware, kernel, initrd = ((parts.folder / name).read_bytes() for name in (FIRMWARE, KERNEL, INITRD))
    files = BootFiles(firmware=firmware, kernel=kernel, initrd=initrd, cmdline=parts.cmdline)
    measured = FirmwareFile.parse(firmware)
    shapes = [Shape.parse(source.read(f"enclave/data/shape-{name}.json")) for name in SHAPES[lock.profile]]
    manifest = ImageManifest(
        name=f"sericin-{lock.profile}",
        version=source.version,
        profile=lock.profile,
        platform="qemu",
        commit=source.commit,
        lock_sha256=lock.digest,
        files=tuple(record(parts.folder / name) for name in sorted(FILES)),
        components=parts.components,
        firmware=Firmware(
            file=FIRMWARE,
            mr_td_single_pass=measured.mr_td(single_pass=True),
            mr_td_two_pass=measured.mr_td(single_pass=False),
        ),
        kernel_file=KERNEL,
        kernel_authenticode=authenticode(kernel),
        initrd_file=INITRD,
        initrd_sha384=sha384(initrd).digest(),
        cmdline_file=CMDLINE,
        cmdline=parts.cmdline,
        rootfs=Rootfs(
            file=ROOTFS,
            format="erofs",
            verity_file=VERITY,
            root_hash=parts.root_hash,
            salt=SALT,
            data_blocks=parts.data_blocks,
        ),
        measurements=tuple(_measurement(files, shape) for shape in shapes),
    )
    return ImageManifest.parse(manifest.encode())


def _measurement(files: BootFiles, shape: Shape) -> Measurement:
    """Compute the registers for one shape; RTMR0 needs ACPI tables of a QEMU, which a build does not ask for."""
    prediction = predict(files, shape, acpi=None)
    measurement = prediction.record(shape, None)
    if measurement is None:
        why = prediction.unknown or "an event has no digest"
        raise BuildFailed(f"shape {shape.name}: RTMR1 and RTMR2 cannot be computed: {why}")
    return measurement


def record(path: Path) -> FileRecord:
    """Give what a manifest says of a file. Raises OSError."""
    total, size = sha256(), 0
    with path.open("rb") as file:
        while portion := file.read(_PORTION):
            total.update(portion)
            size += len(portion)
    return FileRecord(path=path.name, sha256=total.digest(), size=size)
