# SPDX-License-Identifier: Apache-2.0
"""Read an image directory: every file as its manifest says, and the manifest as its files say."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256, sha384
from pathlib import Path
from typing import Final

from attestation.errors import Untrusted
from attestation.image import MAX_MANIFEST, ImageManifest
from attestation.image_signature import MAX_SIGNATURE, ImageSignature
from attestation.tdx.measure import BootFiles
from attestation.tdx.measure_firmware import MAX_FIRMWARE, Firmware
from attestation.tdx.measure_kernel import MAX_KERNEL, authenticode
from attestation.verity import BLOCK, Tree

from .errors import UsageFault
from .output import read_file

MANIFEST: Final = "manifest.json"
SIGNATURE: Final = "manifest.sig"
MAX_INITRD: Final = 1 << 30
_PORTION: Final = 256 * BLOCK
_CODE: Final = "ManifestMismatch"

Progress = Callable[[str, int], None]
"""Is told a file's name and how many more of its bytes were read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFiles:
    """An image whose files are what its manifest says."""

    manifest: ImageManifest
    image_id: bytes  # 32
    files: BootFiles
    signer: bytes | None  # the key of a valid manifest.sig: shown, trusted only if the caller named it


def no_progress(_name: str, _size: int) -> None:
    """Show nothing."""


def read_image(folder: Path, *, key: bytes | None = None, progress: Progress = no_progress) -> ImageFiles:
    """Read an image directory and check its signature, where it has one, and every file against its manifest.

    `key` (32 bytes) must have signed the manifest, when given. Raises Untrusted for a file or signature that is not as
    the manifest says, Malformed for a manifest or boot file that is none, UsageFault for a file that cannot be read.
    """
    data = read_file(folder / MANIFEST, limit=MAX_MANIFEST)
    return _read(folder, data, signer=_signer(folder, data, key), progress=progress)


def check_image(folder: Path, *, progress: Progress = no_progress) -> ImageFiles:
    """Check every file of an image against its manifest, whoever signed it. Raises as `read_image` does."""
    return _read(folder, read_file(folder / MANIFEST, limit=MAX_MANIFEST), signer=None, progress=progress)


def _read(folder: Path, data: bytes, *, signer: bytes | None, progress: Progress) -> ImageFiles:
    """Hold a directory to the manifest `data`.

    1. the manifest, canonical
    2. size and SHA-256 of every file
    3. the root file system's hash tree, and the tree file
    4. firmware, kernel and initrd measure to what the manifest says
    """
    manifest = ImageManifest.parse(data)  # 1
    rootfs = manifest.rootfs
    tree = Tree(rootfs.salt)
    for record in manifest.files:  # 2
        digest, size = sha256(), 0
        for portion in _portions(folder / record.path, record.size):
            digest.update(portion)
            size += len(portion)
            progress(record.path, len(portion))
            # A part of a block is the end of a file whose size is wrong, which is said below.
            if record.path == rootfs.file and not len(portion) % BLOCK:
                tree.add(portion)
        _require(f"{record.path} (size)", record.size, size)
        _require(record.path, record.sha256.hex(), digest.hexdigest())
    root, area = tree.finish()  # 3
    _require("rootfs root hash", rootfs.root_hash.hex(), root.hex())
    _require(rootfs.verity_file, sha256(area).hexdigest(), manifest.file(rootfs.verity_file).sha256.hex())
    files = BootFiles(
        firmware=read_file(folder / manifest.firmware.file, limit=MAX_FIRMWARE),
        kernel=read_file(folder / manifest.kernel_file, limit=MAX_KERNEL),
        initrd=read_file(folder / manifest.initrd_file, limit=MAX_INITRD),
        cmdline=manifest.cmdline,
    )
    _require_measured(manifest, files)  # 4
    return ImageFiles(manifest=manifest, image_id=sha256(data).digest(), files=files, signer=signer)


def _signer(folder: Path, manifest: bytes, key: bytes | None) -> bytes | None:
    path = folder / SIGNATURE
    if not path.is_file():
        if key is not None:
            raise Untrusted("ManifestSignatureInvalid", SIGNATURE, want=f"signed by {key.hex()}", got="no signature")
        return None
    signature = ImageSignature.parse(read_file(path, limit=MAX_SIGNATURE))
    signature.verify(manifest, key=signature.key if key is None else key)
    return signature.key


def _portions(path: Path, size: int) -> Iterator[bytes]:
    """Give a file's bytes, no more than one portion beyond `size`."""
    if not path.is_file():  # a pipe would be waited for
        raise UsageFault(f"{path}: no such file, or not a regular one")
    try:
        with path.open("rb") as file:
            while size >= 0 and (portion := file.read(_PORTION)):
                size -= len(portion)
                yield portion
    except OSError as e:
        raise UsageFault(f"{path}: {e.strerror}") from None


def _require_measured(manifest: ImageManifest, files: BootFiles) -> None:
    firmware = Firmware.parse(files.firmware)
    says = manifest.firmware
    _require("firmware.mr_td.single_pass", firmware.mr_td(single_pass=True).hex(), says.mr_td_single_pass.hex())
    _require("firmware.mr_td.two_pass", firmware.mr_td(single_pass=False).hex(), says.mr_td_two_pass.hex())
    _require("kernel.authenticode_sha384", authenticode(files.kernel).hex(), manifest.kernel_authenticode.hex())
    _require("initrd.sha384", sha384(files.initrd).hexdigest(), manifest.initrd_sha384.hex())


def _require(where: str, want: object, got: object) -> None:
    if want != got:
        raise Untrusted(_CODE, where, want=want, got=got)
