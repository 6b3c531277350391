# SPDX-License-Identifier: Apache-2.0
"""Which kernel modules does the first program load, and in which order? From what the modules say of themselves."""

from __future__ import annotations

import lzma
from collections.abc import Mapping
from typing import Final

from .deb import Entry, PackageUnusable

WANTED: Final = (
    "virtio_blk", "dm_verity", "erofs", "virtio_net", "vmw_vsock_virtio_transport", "configfs", "tsm_report",
    "qemu_fw_cfg", "button", "evdev", "tdx_guest",
)  # fmt: skip
"""Disks, checked root file system, network, vsock, quotes, an emulated platform's values, power button, TDX guest."""
MAX_MODULE: Final = 32 << 20
MAX_MODULES: Final = 99  # as many as the first program looks for


def module_order(
    entries: list[Entry], *, release: str, more: tuple[str, ...] = (), built: Mapping[str, bytes] | None = None
) -> list[tuple[str, bytes]]:
    """Give (name, content) of the wanted modules and all they depend on, each after what it needs.

    Wanted are WANTED, then `more` of the kernel's own, then those `built` for it, by name.
    Raises PackageUnusable when one is missing.
    """
    folder = f"usr/lib/modules/{release}/kernel/"
    packed = {_name(entry.path): entry.data for entry in entries if entry.path.startswith(folder) and entry.data}
    packed |= built or {}
    order: dict[str, bytes] = {}
    for name in (*WANTED, *more, *(built or ())):
        _add(name, packed, order, depth=0)
    if len(order) > MAX_MODULES:
        raise PackageUnusable(f"modules of {release}: more than {MAX_MODULES} are needed")
    return list(order.items())


def _add(name: str, packed: dict[str, bytes], order: dict[str, bytes], *, depth: int) -> None:
    if name in order:
        return
    if name not in packed or depth > 16:
        raise PackageUnusable(f"module {name}: not among the kernel's modules")
    content = _unpack(packed[name], name)
    for needed in _depends(content):
        _add(needed, packed, order, depth=depth + 1)
    order[name] = content


def _name(path: str) -> str:
    return path.rpartition("/")[2].partition(".ko")[0].replace("-", "_")


def _unpack(data: bytes, name: str) -> bytes:
    """Give the module as the kernel takes it: unpacked here, so that the guest needs no decompressor."""
    if data[:6] != b"\xfd7zXZ\0":
        return data
    unpacker = lzma.LZMADecompressor(format=lzma.FORMAT_XZ)
    content = unpacker.decompress(data, max_length=MAX_MODULE)
    if not unpacker.eof:
        raise PackageUnusable(f"module {name}: more than {MAX_MODULE} bytes")
    return content


def _depends(content: bytes) -> list[str]:
    """Read `depends=` of the section .modinfo, whose entries end with a zero byte."""
    for word in content.split(b"\0"):
        if word.startswith(b"depends="):
            return [name.replace("-", "_") for name in word[8:].decode("ascii", "replace").split(",") if name]
    return []
