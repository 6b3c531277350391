# SPDX-License-Identifier: Apache-2.0
"""The files of a root file system, normalised: no owner, no time, no order but that of names."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

FOLDER: Final = stat.S_IFDIR | 0o755
MAX_LINKS: Final = 16


class TreeConflict(Exception):
    """Two parts of an image want different things at one path. The message names it."""


@dataclass(slots=True, kw_only=True)
class Node:
    """One file, folder or symbolic link. A file's content is bytes, or a file on the host."""

    mode: int
    content: bytes | Path = b""
    children: dict[str, Node] = field(default_factory=dict)

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder."""
        return stat.S_ISDIR(self.mode)

    @property
    def size(self) -> int:
        """Bytes of content: for a link, of its target."""
        return self.content.stat().st_size if isinstance(self.content, Path) else len(self.content)


class Tree:
    """A root file system under construction."""

    def __init__(self) -> None:
        self.root = Node(mode=FOLDER)

    def folder(self, path: str, *, followed: int = 0) -> Node:
        """Give the folder at `path`, made with its parents where missing; links to folders are followed."""
        node = self.root
        parts = path.split("/") if path else []
        for depth, part in enumerate(parts):
            found = node.children.setdefault(part, Node(mode=FOLDER))
            if stat.S_ISLNK(found.mode) and isinstance(found.content, bytes):
                found = self._follow(parts[:depth], found.content.decode(), followed + 1)
            if not found.is_folder:
                raise TreeConflict(f"/{path}: {part} is not a folder")
            node = found
        return node

    def _follow(self, parents: list[str], target: str, followed: int) -> Node:
        """Follow a link such as lib -> usr/lib, as merged-usr systems have them."""
        where = [] if target.startswith("/") else list(parents)
        for part in target.strip("/").split("/"):
            if part == "..":
                where = where[:-1]
            elif part not in {"", "."}:
                where.append(part)
        if followed > MAX_LINKS:
            raise TreeConflict(f"/{'/'.join(where)[:80]}: links that lead nowhere")
        return self.folder("/".join(where), followed=followed)

    def file(self, path: str, content: bytes | Path, *, executable: bool = False) -> None:
        """Put a file. Raises TreeConflict where something else is."""
        self._put(path, Node(mode=stat.S_IFREG | (0o755 if executable else 0o644), content=content))

    def link(self, path: str, target: str) -> None:
        """Put a symbolic link. Raises TreeConflict where something else is."""
        self._put(path, Node(mode=stat.S_IFLNK | 0o777, content=target.encode()))

    def _put(self, path: str, node: Node) -> None:
        parent, _, name = path.rpartition("/")
        children = self.folder(parent).children
        there = children.get(name)
        if there is not None and (there.mode, there.content) != (node.mode, node.content):
            raise TreeConflict(f"/{path}: two parts bring it")
        children[name] = node

    def walk(self) -> Iterator[tuple[str, Node]]:
        """Give every (path, node) below the root, folders before their contents, in the order of names as bytes."""
        waiting = [("", self.root)]
        while waiting:
            path, node = waiting.pop()
            if path:
                yield path, node
            names = sorted(node.children, key=str.encode, reverse=True)
            waiting += [(f"{path}/{name}".lstrip("/"), node.children[name]) for name in names]


def write_tree(tree: Tree, stage: Path) -> None:
    """Write the tree into an empty folder, for programs of it to run there; files of the host are left out."""
    for path, node in tree.walk():
        place = stage / path
        if node.is_folder:
            place.mkdir(exist_ok=True)
        elif isinstance(node.content, Path):
            continue
        elif stat.S_ISLNK(node.mode):
            place.symlink_to(node.content.decode())
        else:
            place.write_bytes(node.content)
            place.chmod(node.mode & 0o777)
