# SPDX-License-Identifier: Apache-2.0
"""Write an EROFS file system: uncompressed, read-only, the same bytes for the same tree everywhere.

On-disk format of Linux, fs/erofs/erofs_fs.h: 4096-byte blocks, extended inodes, every content in blocks of its own
(EROFS_INODE_FLAT_PLAIN), no extended attributes. Times and owners are zero.
"""

from __future__ import annotations

import stat
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from .tree import Node, Tree

BLOCK: Final = 4096
MAGIC: Final = 0xE0F5E1E2
_SUPER_AT: Final = 1024
_INODE: Final = 64
_SLOT: Final = 32  # node numbers count 32-byte slots from the start of the device
_FIRST_INODE: Final = BLOCK  # after the block of the superblock
_EXTENDED_PLAIN: Final = 1  # i_format: bit 0 extended, data layout 0
_DIRENT: Final = struct.Struct("<QHBB")
_TYPES: Final = {stat.S_IFREG: 1, stat.S_IFDIR: 2, stat.S_IFLNK: 7}
_PORTION: Final = 1 << 20


class _Layout:
    """Where every inode and every content lies: decided first, written in one pass afterwards."""

    def __init__(self, tree: Tree) -> None:
        self.nodes = [tree.root, *(node for _, node in tree.walk())]
        self.number = {id(node): (_FIRST_INODE + i * _INODE) // _SLOT for i, node in enumerate(self.nodes)}
        self.parent = {id(child): node for node in self.nodes for child in node.children.values()}
        self.folders = {id(node): self._dirents(node) for node in self.nodes if node.is_folder}
        self.sizes = [len(self.folders[id(node)]) if node.is_folder else node.size for node in self.nodes]
        block = blocks(_FIRST_INODE + len(self.nodes) * _INODE)
        self.starts: list[int] = []
        for size in self.sizes:
            self.starts.append(block if size else 0)
            block += blocks(size)
        self.total = block

    def _dirents(self, folder: Node) -> bytes:
        """Give a folder's content: blocks of entries, each block's names behind its entries, all in order of names."""
        children = [(name.encode(), child) for name, child in folder.children.items()]
        around = [(b".", folder), (b"..", self.parent.get(id(folder), folder))]
        out, held, used = [], list[tuple[bytes, Node]](), 0
        for name, node in sorted(around + children, key=lambda item: item[0]):
            need = _DIRENT.size + len(name)
            if used + need > BLOCK:
                out.append(self._dirent_block(held).ljust(BLOCK, b"\0"))
                held, used = [], 0
            held.append((name, node))
            used += need
        return b"".join([*out, self._dirent_block(held)])

    def _dirent_block(self, entries: list[tuple[bytes, Node]]) -> bytes:
        at = _DIRENT.size * len(entries)
        heads, names = [], []
        for name, node in entries:
            heads.append(_DIRENT.pack(self.number[id(node)], at, _TYPES[stat.S_IFMT(node.mode)], 0))
            names.append(name)
            at += len(name)
        return b"".join(heads + names)

    def inode(self, index: int) -> bytes:
        """Give one extended inode, 64 bytes (struct erofs_inode_extended)."""
        node = self.nodes[index]
        links = 2 + sum(child.is_folder for child in node.children.values()) if node.is_folder else 1
        head = struct.pack("<HHHHQIIII", _EXTENDED_PLAIN, 0, node.mode, 0, self.sizes[index], self.starts[index],
                           index + 1, 0, 0)  # fmt: skip
        return head + struct.pack("<QII16x", 0, 0, links)

    def superblock(self) -> bytes:
        """Give the superblock, 128 bytes (struct erofs_super_block), without optional features."""
        root = self.number[id(self.nodes[0])]
        head = struct.pack("<IIIBBHQQI", MAGIC, 0, 0, BLOCK.bit_length() - 1, 0, root, len(self.nodes), 0, 0)
        return (head + struct.pack("<III", self.total, 0, 0)).ljust(128, b"\0")


def write_erofs(tree: Tree) -> Iterator[bytes]:
    """Give the file system in portions; together a whole number of blocks. Reads files of the host as it goes.

    Raises OSError, and ValueError when a file changed its size meanwhile.
    """
    layout = _Layout(tree)
    yield (bytes(_SUPER_AT) + layout.superblock()).ljust(BLOCK, b"\0")
    yield _padded(b"".join(layout.inode(i) for i in range(len(layout.nodes))))
    for node, size in zip(layout.nodes, layout.sizes, strict=True):
        if node.is_folder:
            yield _padded(layout.folders[id(node)])
        elif isinstance(node.content, Path):
            yield from _file(node.content, size)
        elif size:
            yield _padded(node.content)


def blocks(size: int) -> int:
    """Give how many blocks `size` bytes take."""
    return -(-size // BLOCK)


def _file(path: Path, size: int) -> Iterator[bytes]:
    done = 0
    with path.open("rb") as file:
        while portion := file.read(_PORTION):
            done += len(portion)
            yield portion
    if done != size:
        raise ValueError(f"{path}: changed while it was read")
    yield bytes(-size % BLOCK)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % BLOCK)
