# SPDX-License-Identifier: Apache-2.0
"""The disks that the launcher attached: documents read whole, models opened through dm-verity.

Everything on a disk is the host's. A document is only bytes here, hashed and parsed by others; a model's file system is
mounted after the kernel was told the root that its every block must hash to.
"""

from __future__ import annotations

import fcntl
import os
import struct
from pathlib import Path
from typing import Final

from attestation.config import DiskPin
from attestation.verity import BLOCK

from ..models.verity import SALT
from .kernel import MS_NODEV, MS_NOEXEC, MS_NOSUID, MS_RDONLY, mount
from .refusal import BootRefused

SECTOR: Final = 512
BLOCK_DEVICES: Final = Path("/sys/block")
DEVICES: Final = Path("/dev")
CONTROL: Final = Path("/dev/mapper/control")
MAX_DISKS: Final = 64
# Linux, include/uapi/linux/dm-ioctl.h: struct dm_ioctl and struct dm_target_spec, _IOWR(0xfd, n, struct dm_ioctl).
_DM: Final = struct.Struct("<3I2IIiIIIQ128s129s7s")
_TARGET: Final = struct.Struct("<QQiI16s")
_CREATE: Final = 0xC138FD03
_RESUME: Final = 0xC138FD06
_LOAD: Final = 0xC138FD09
_READ_ONLY: Final = 1


def find_disk(serial: str, *, root: Path = BLOCK_DEVICES) -> str | None:
    """Give the name of the virtio disk with this serial, such as vda; None without one. Raises BootRefused for two."""
    found = []
    for device in sorted(root.glob("vd*"))[:MAX_DISKS]:
        try:
            text = (device / "serial").read_bytes()
        except OSError:
            continue
        if text.rstrip(b"\0\n") == serial.encode():
            found.append(device.name)
    if len(found) > 1:
        raise BootRefused("disk_twice", f"two disks have the serial {serial}")
    return found[0] if found else None


def read_document(serial: str, *, limit: int, root: Path = BLOCK_DEVICES, devices: Path = DEVICES) -> bytes | None:
    """Give a document without the zeros that pad it to whole sectors; None without such a disk.

    Raises BootRefused for one longer than `limit`, and OSError.
    """
    name = find_disk(serial, root=root)
    if name is None:
        return None
    most = limit + SECTOR
    with (devices / name).open("rb") as file:
        data = file.read(most + 1)
    text = data.rstrip(b"\0")
    if len(data) > most or len(text) > limit:
        raise BootRefused("document_too_long", f"the disk {serial} holds more than {limit} bytes")
    return text


def open_model(serial: str, pin: DiskPin, place: Path, *, name: str) -> None:
    """Mount a model's file system, checked against the config's root. Raises BootRefused."""
    disk = find_disk(serial)
    if disk is None:
        raise BootRefused("model_missing", f"model {name}: no disk has the serial {serial}")
    size = int((BLOCK_DEVICES / disk / "size").read_text()) * SECTOR
    if size <= pin.blocks * BLOCK:
        raise BootRefused("model_wrong", f"model {name}: its disk has {size} bytes, too few for the config's root")
    device = _verity(DEVICES / disk, pin, serial)
    try:
        mount("erofs", place, source=str(device), flags=MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC)
    except OSError as e:
        raise BootRefused(
            "model_wrong", f"model {name}: its disk does not hash to the config's root {pin.root.hex()} ({e.strerror})"
        ) from None


def _verity(disk: Path, pin: DiskPin, name: str) -> Path:
    """Make a dm-verity device whose data and hash tree lie one behind the other on `disk`."""
    words = (1, disk, disk, BLOCK, BLOCK, pin.blocks, pin.blocks, "sha256", pin.root.hex(), SALT.hex())
    params = " ".join(str(word) for word in words).encode() + b"\0"
    params += bytes(-len(params) % 8)
    target = _TARGET.pack(0, pin.blocks * BLOCK // SECTOR, 0, _TARGET.size + len(params), b"verity") + params
    control = os.open(CONTROL, os.O_RDWR | os.O_CLOEXEC)
    try:
        made = bytearray(_request(name))
        fcntl.ioctl(control, _CREATE, made)
        number = _DM.unpack(made[: _DM.size])[10]
        fcntl.ioctl(control, _LOAD, bytearray(_request(name, flags=_READ_ONLY, target=target)))
        fcntl.ioctl(control, _RESUME, bytearray(_request(name)))
    except OSError as e:
        raise BootRefused("model_wrong", f"disk {name}: dm-verity: {e.strerror}") from None
    finally:
        os.close(control)
    return DEVICES / f"dm-{number & 0xFF | number >> 12 & ~0xFF}"


def _request(name: str, *, flags: int = 0, target: bytes = b"") -> bytes:
    size = _DM.size + len(target)
    head = _DM.pack(4, 0, 0, size, _DM.size, bool(target), 0, flags, 0, 0, 0, name.encode(), b"", b"")
    return head + target
