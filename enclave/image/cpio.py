# SPDX-License-Identifier: Apache-2.0
"""Write an initramfs: a cpio archive of the "newc" format (Linux, driver-api/early-userspace/buffer-format)."""

from __future__ import annotations

import stat

from .tree import Tree

_TRAILER = "TRAILER!!!"


def write_cpio(tree: Tree) -> bytes:
    """Give the archive of a tree whose contents are bytes: owners and times zero, inodes numbered by name order."""
    out = bytearray()
    for number, (path, node) in enumerate(tree.walk(), start=1):
        if not isinstance(node.content, bytes):
            raise TypeError(f"{path}: an initramfs holds bytes, not files of the host")
        links = 2 if stat.S_ISDIR(node.mode) else 1
        out += _member(path, number, node.mode, links, node.content)
    return bytes(out + _member(_TRAILER, 0, 0, 1, b""))


def _member(name: str, inode: int, mode: int, links: int, data: bytes) -> bytes:
    text = name.encode() + b"\0"
    fields = (inode, mode, 0, 0, links, 0, len(data), 0, 0, 0, 0, len(text), 0)
    head = b"070701" + b"".join(b"%08X" % value for value in fields) + text
    head += bytes(-len(head) % 4)
    return head + data + bytes(-len(data) % 4)
