# SPDX-License-Identifier: Apache-2.0
"""The image manifest `sericin-image/1`: the files of an image, and what they measure to.

Its SHA-256 is the image id. A manifest is shown and never believed: an auditor computes it from the files anew.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from . import document, strict_json
from .errors import Malformed

SCHEMA: Final = "sericin-image/1"
PROFILES: Final = ("cpu", "gpu-hopper")
PLATFORMS: Final = ("qemu",)  # our own firmware under QEMU; a cloud's firmware would be another platform
FILESYSTEMS: Final = ("squashfs", "erofs")
PROPRIETARY: Final = "LicenseRef-NVIDIA-"  # licences of NVIDIA's firmware, libraries and CUDA runtime
MAX_MANIFEST: Final = 64 * 1024  # what evidence carries
MAX_FILES: Final = 32
MAX_FILE_SIZE: Final = 1 << 36  # 64 GiB: a root file system with GPU libraries is a tenth of it
MAX_COMPONENTS: Final = 256
MAX_MEASUREMENTS: Final = 32
MAX_CMDLINE: Final = 2047  # what Linux takes on x86, its zero byte left out
BLOCK_SIZE: Final = 4096  # of the dm-verity tree, data and hashes
REGISTER_SIZE: Final = 48

_CODE: Final = "MalformedManifest"
_PATH: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_TEXT: Final = re.compile(r"[\x20-\x7e]+")
_RESERVED: Final = frozenset({"manifest.json", "manifest.sig"})


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRecord:
    """One file of the image directory, which is flat."""

    path: str
    sha256: bytes  # 32
    size: int  # bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Component:
    """One thing that went into the image: a Debian package, a wheel, a library, a blob."""

    name: str
    version: str
    sha256: bytes  # 32, of the package or file as it was taken
    licence: str  # SPDX expression, or LicenseRef-...


@dataclass(frozen=True, slots=True, kw_only=True)
class Firmware:
    """The firmware and MRTD in both page orders (docs/measure.md)."""

    file: str
    mr_td_single_pass: bytes  # 48
    mr_td_two_pass: bytes  # 48


@dataclass(frozen=True, slots=True, kw_only=True)
class Rootfs:
    """The read-only root file system and its dm-verity tree (SHA-256, 4096-byte blocks, no superblock)."""

    file: str
    format: str  # one of FILESYSTEMS
    verity_file: str
    root_hash: bytes  # 32
    salt: bytes  # 32
    data_blocks: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AcpiDigests:
    """SHA-384 of the ACPI blobs that QEMU makes for one shape, in the order the firmware measures them."""

    loader: bytes  # 48, etc/table-loader
    rsdp: bytes  # 48, etc/acpi/rsdp
    tables: bytes  # 48, etc/acpi/tables


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """The registers of this image launched in one shape. `rtmr0` is None where no ACPI digests are known."""

    shape_name: str
    shape_sha256: bytes  # 32, Shape.digest
    acpi: AcpiDigests | None
    mr_td: bytes  # 48
    rtmr0: bytes | None  # 48
    rtmr1: bytes  # 48
    rtmr2: bytes  # 48


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageManifest:
    """A parsed manifest."""

    name: str
    version: str
    profile: str  # one of PROFILES
    platform: str  # one of PLATFORMS
    commit: str  # 40 hex digits: the source that built it
    lock_sha256: bytes  # 32
    files: tuple[FileRecord, ...]  # ascending by path
    components: tuple[Component, ...]
    firmware: Firmware
    kernel_file: str
    kernel_authenticode: bytes  # 48, SHA-384 of the kernel as shipped (PE/COFF image hash)
    initrd_file: str
    initrd_sha384: bytes  # 48
    cmdline_file: str
    cmdline: str
    rootfs: Rootfs
    measurements: tuple[Measurement, ...]

    def file(self, path: str) -> FileRecord:
        """Give the record of a file that the manifest lists. Raises KeyError for another."""
        return {record.path: record for record in self.files}[path]

    def encode(self) -> bytes:
        """Give the canonical JSON: the bytes of manifest.json, whose SHA-256 is the image id."""
        return strict_json.canonical(_manifest_json(self))

    @property
    def unpublished(self) -> tuple[str, ...]:
        """Names of the components whose licence does not let whoever built the image hand it on."""
        return tuple(part.name for part in self.components if part.licence.startswith(PROPRIETARY))

    @property
    def image_id(self) -> bytes:
        """SHA-256 of the canonical manifest, 32 bytes."""
        return sha256(self.encode()).digest()

    @classmethod
    def parse(cls, data: bytes) -> ImageManifest:
        """Read a manifest of at most 64 KiB in its one canonical encoding. Raises Malformed."""
        value = strict_json.loads_canonical(data, limit=MAX_MANIFEST, what="manifest")
        with document.coded(_CODE):
            manifest = _manifest(value)
        _require_consistent(manifest)
        return manifest


def _manifest(value: object) -> ImageManifest:
    keys = (
        "schema", "name", "version", "profile", "platform", "source", "files", "components", "firmware", "kernel",
        "initrd", "cmdline", "rootfs", "measurements",
    )  # fmt: skip
    m = document.fields(value, keys, "manifest")
    document.choice(m["schema"], "manifest.schema", (SCHEMA,))
    source = document.fields(m["source"], ("commit", "lock_sha256"), "manifest.source")
    kernel = document.fields(m["kernel"], ("file", "authenticode_sha384"), "manifest.kernel")
    initrd = document.fields(m["initrd"], ("file", "sha384"), "manifest.initrd")
    cmdline = document.fields(m["cmdline"], ("file", "text"), "manifest.cmdline")
    components = document.items(m["components"], "manifest.components", least=1, most=MAX_COMPONENTS)
    measured = document.items(m["measurements"], "manifest.measurements", least=1, most=MAX_MEASUREMENTS)
    return ImageManifest(
        name=_text(m["name"], "manifest.name", 64),
        version=_text(m["version"], "manifest.version", 64),
        profile=document.choice(m["profile"], "manifest.profile", PROFILES),
        platform=document.choice(m["platform"], "manifest.platform", PLATFORMS),
        commit=document.digest(source["commit"], "manifest.source.commit", size=20).hex(),
        lock_sha256=document.digest(source["lock_sha256"], "manifest.source.lock_sha256", size=32),
        files=_files(m["files"]),
        components=tuple(_component(row, f"manifest.components[{i}]") for i, row in enumerate(components)),
        firmware=_firmware(m["firmware"]),
        kernel_file=_path(kernel["file"], "manifest.kernel.file"),
        kernel_authenticode=_register(kernel["authenticode_sha384"], "manifest.kernel.authenticode_sha384"),
        initrd_file=_path(initrd["file"], "manifest.initrd.file"),
        initrd_sha384=_register(initrd["sha384"], "manifest.initrd.sha384"),
        cmdline_file=_path(cmdline["file"], "manifest.cmdline.file"),
        cmdline=_text(cmdline["text"], "manifest.cmdline.text", MAX_CMDLINE),
        rootfs=_rootfs(m["rootfs"]),
        measurements=tuple(_measurement(row, f"manifest.measurements[{i}]") for i, row in enumerate(measured)),
    )


def _text(value: object, where: str, limit: int) -> str:
    text = document.text(value, where, limit=limit)
    if not _TEXT.fullmatch(text):
        raise Malformed(_CODE, where, want="printable ASCII", got="other characters")
    return text


def _path(value: object, where: str) -> str:
    path = document.text(value, where, limit=64)
    if not _PATH.fullmatch(path) or path in _RESERVED:
        raise Malformed(_CODE, where, want="a file name of [A-Za-z0-9._-], not the manifest's own", got="another")
    return path


def _register(value: object, where: str) -> bytes:
    return document.digest(value, where, size=REGISTER_SIZE)


def _files(value: object) -> tuple[FileRecord, ...]:
    where = "manifest.files"
    if not isinstance(value, dict) or not 1 <= len(value) <= MAX_FILES:
        raise Malformed(_CODE, where, want=f"an object of 1 to {MAX_FILES} files", got=type(value).__name__)
    found = []
    for path in sorted(value):
        at = f"{where}.{_path(path, where)}"
        m = document.fields(value[path], ("sha256", "size"), at)
        size = document.integer(m["size"], f"{at}.size", low=1, high=MAX_FILE_SIZE)
        found.append(FileRecord(path=path, sha256=document.digest(m["sha256"], f"{at}.sha256", size=32), size=size))
    return tuple(found)


def _component(value: object, where: str) -> Component:
    m = document.fields(value, ("name", "version", "sha256", "licence"), where)
    return Component(
        name=_text(m["name"], f"{where}.name", 96),
        version=_text(m["version"], f"{where}.version", 96),
        sha256=document.digest(m["sha256"], f"{where}.sha256", size=32),
        licence=_text(m["licence"], f"{where}.licence", 256),
    )


def _firmware(value: object) -> Firmware:
    where = "manifest.firmware"
    m = document.fields(value, ("file", "mr_td"), where)
    orders = document.fields(m["mr_td"], ("single_pass", "two_pass"), f"{where}.mr_td")
    return Firmware(
        file=_path(m["file"], f"{where}.file"),
        mr_td_single_pass=_register(orders["single_pass"], f"{where}.mr_td.single_pass"),
        mr_td_two_pass=_register(orders["two_pass"], f"{where}.mr_td.two_pass"),
    )


def _rootfs(value: object) -> Rootfs:
    where = "manifest.rootfs"
    m = document.fields(value, ("file", "format", "verity"), where)
    keys = ("file", "root_hash", "salt", "data_blocks")
    v = document.fields(m["verity"], keys, f"{where}.verity")
    return Rootfs(
        file=_path(m["file"], f"{where}.file"),
        format=document.choice(m["format"], f"{where}.format", FILESYSTEMS),
        verity_file=_path(v["file"], f"{where}.verity.file"),
        root_hash=document.digest(v["root_hash"], f"{where}.verity.root_hash", size=32),
        salt=document.digest(v["salt"], f"{where}.verity.salt", size=32),
        data_blocks=document.integer(
            v["data_blocks"], f"{where}.verity.data_blocks", low=1, high=MAX_FILE_SIZE // BLOCK_SIZE
        ),
    )


def _measurement(value: object, where: str) -> Measurement:
    m = document.fields(value, ("shape", "acpi", "mr_td", "rtmr0", "rtmr1", "rtmr2"), where)
    shape = document.fields(m["shape"], ("name", "sha256"), f"{where}.shape")
    acpi, rtmr0 = m["acpi"], m["rtmr0"]
    return Measurement(
        shape_name=_text(shape["name"], f"{where}.shape.name", 64),
        shape_sha256=document.digest(shape["sha256"], f"{where}.shape.sha256", size=32),
        acpi=None if acpi is None else read_acpi(acpi, f"{where}.acpi"),
        mr_td=_register(m["mr_td"], f"{where}.mr_td"),
        rtmr0=None if rtmr0 is None else _register(rtmr0, f"{where}.rtmr0"),
        rtmr1=_register(m["rtmr1"], f"{where}.rtmr1"),
        rtmr2=_register(m["rtmr2"], f"{where}.rtmr2"),
    )


def read_acpi(value: object, where: str) -> AcpiDigests:
    """Read ``{"loader", "rsdp", "tables"}``, 96 hex digits each. Raises Malformed."""
    names = ("loader", "rsdp", "tables")
    m = document.fields(value, names, where)
    return AcpiDigests(**{name: _register(m[name], f"{where}.{name}") for name in names})


def acpi_json(acpi: AcpiDigests) -> dict[str, str]:
    """Give what `read_acpi` reads."""
    return {"loader": acpi.loader.hex(), "rsdp": acpi.rsdp.hex(), "tables": acpi.tables.hex()}


def _require_consistent(manifest: ImageManifest) -> None:
    """Require that the parts of a manifest speak of the same files. Raises Malformed."""
    rootfs = manifest.rootfs
    named = {
        "manifest.firmware.file": manifest.firmware.file,
        "manifest.kernel.file": manifest.kernel_file,
        "manifest.initrd.file": manifest.initrd_file,
        "manifest.cmdline.file": manifest.cmdline_file,
        "manifest.rootfs.file": rootfs.file,
        "manifest.rootfs.verity.file": rootfs.verity_file,
    }
    listed = {record.path: record for record in manifest.files}
    for where, path in named.items():
        if path not in listed:
            raise Malformed(_CODE, where, want="a file that manifest.files lists", got=path)
    if len(set(named.values())) != len(named):
        raise Malformed(_CODE, "manifest", want="a file of its own for each part", got="one twice")
    text, record = manifest.cmdline.encode("ascii"), listed[manifest.cmdline_file]
    if (record.sha256, record.size) != (sha256(text).digest(), len(text)):
        raise Malformed(_CODE, "manifest.cmdline", want="text equal to the file's bytes", got="another digest")
    # The root hash is measured only because the measured command line holds it.
    roots = [word for word in manifest.cmdline.split(" ") if word.startswith("roothash=")]
    if roots != [f"roothash={rootfs.root_hash.hex()}"]:
        raise Malformed(_CODE, "manifest.cmdline.text", want="the root hash in one word roothash=", got="not that")
    if listed[rootfs.file].size != rootfs.data_blocks * BLOCK_SIZE:
        raise Malformed(_CODE, "manifest.rootfs.verity.data_blocks", want="the file's size", got=rootfs.data_blocks)
    components = [(c.name, c.version, c.sha256) for c in manifest.components]
    if sorted(set(components)) != components:
        raise Malformed(_CODE, "manifest.components", want="each once, ascending by name", got="another order")
    if len({m.shape_sha256 for m in manifest.measurements}) != len(manifest.measurements):
        raise Malformed(_CODE, "manifest.measurements", want="each shape once", got="one twice")


def _manifest_json(m: ImageManifest) -> dict[str, object]:
    rootfs = m.rootfs
    return {
        "schema": SCHEMA,
        "name": m.name,
        "version": m.version,
        "profile": m.profile,
        "platform": m.platform,
        "source": {"commit": m.commit, "lock_sha256": m.lock_sha256.hex()},
        "files": {f.path: {"sha256": f.sha256.hex(), "size": f.size} for f in m.files},
        "components": [
            {"name": c.name, "version": c.version, "sha256": c.sha256.hex(), "licence": c.licence} for c in m.components
        ],
        "firmware": {
            "file": m.firmware.file,
            "mr_td": {
                "single_pass": m.firmware.mr_td_single_pass.hex(),
                "two_pass": m.firmware.mr_td_two_pass.hex(),
            },
        },
        "kernel": {"file": m.kernel_file, "authenticode_sha384": m.kernel_authenticode.hex()},
        "initrd": {"file": m.initrd_file, "sha384": m.initrd_sha384.hex()},
        "cmdline": {"file": m.cmdline_file, "text": m.cmdline},
        "rootfs": {
            "file": rootfs.file,
            "format": rootfs.format,
            "verity": {
                "file": rootfs.verity_file,
                "root_hash": rootfs.root_hash.hex(),
                "salt": rootfs.salt.hex(),
                "data_blocks": rootfs.data_blocks,
            },
        },
        "measurements": [_measurement_json(row) for row in m.measurements],
    }


def _measurement_json(m: Measurement) -> dict[str, object]:
    return {
        "shape": {"name": m.shape_name, "sha256": m.shape_sha256.hex()},
        "acpi": None if m.acpi is None else acpi_json(m.acpi),
        "mr_td": m.mr_td.hex(),
        "rtmr0": None if m.rtmr0 is None else m.rtmr0.hex(),
        "rtmr1": m.rtmr1.hex(),
        "rtmr2": m.rtmr2.hex(),
    }
