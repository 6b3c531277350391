# SPDX-License-Identifier: Apache-2.0
"""Read a Debian package: its files, without running anything that it brings (deb(5), ar(5))."""

from __future__ import annotations

import io
import lzma
import stat
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final

_MAGIC: Final = b"!<arch>\n"
_HEADER: Final = 60
MAX_UNPACKED: Final = 1 << 30  # one package's files; the largest that an image takes has 442 MB (cuBLASLt)
MAX_ENTRIES: Final = 100_000


class PackageUnusable(Exception):
    """These bytes are no Debian package that can be unpacked. The message says where."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One file, folder or symbolic link of a package. Owners and times are not kept."""

    path: str  # relative, without a leading "./"
    mode: int  # permission bits and file type
    data: bytes = b""
    target: str = ""  # of a symbolic link


def read_deb(data: bytes, *, name: str) -> Iterator[Entry]:
    """Give the entries of a package's data archive in its order. Raises PackageUnusable.

    Hard links come as files of their own; devices, sockets and paths that leave the root are refused.
    """
    member = _data_member(data, name)
    try:
        text = io.BytesIO(_unpack(member, name))
        with tarfile.open(fileobj=text, mode="r:") as archive:
            for count, info in enumerate(archive):
                if count >= MAX_ENTRIES:
                    raise PackageUnusable(f"{name}: more than {MAX_ENTRIES} files")
                entry = _entry(archive, info, name)
                if entry is not None:
                    yield entry
    except tarfile.TarError as e:
        raise PackageUnusable(f"{name}: {e}") from None


def _data_member(data: bytes, name: str) -> bytes:
    if data[: len(_MAGIC)] != _MAGIC:
        raise PackageUnusable(f"{name}: not a Debian package")
    at = len(_MAGIC)
    while at + _HEADER <= len(data):
        header = data[at : at + _HEADER]
        size = header[48:58].strip()
        if header[58:] != b"`\n" or not size.isdigit():
            raise PackageUnusable(f"{name}: bad member header at byte {at}")
        at += _HEADER
        end = at + int(size)
        if end > len(data):
            raise PackageUnusable(f"{name}: cut short at byte {len(data)}")
        if header[:16].strip().rstrip(b"/") in {b"data.tar.xz", b"data.tar"}:
            return data[at:end]
        at = end + int(size) % 2
    raise PackageUnusable(f"{name}: no data.tar or data.tar.xz in it")


def _unpack(member: bytes, name: str) -> bytes:
    if member[:6] != b"\xfd7zXZ\0":
        return member
    unpacker = lzma.LZMADecompressor(format=lzma.FORMAT_XZ)
    try:
        text = unpacker.decompress(member, max_length=MAX_UNPACKED)
    except lzma.LZMAError as e:
        raise PackageUnusable(f"{name}: {e}") from None
    if not unpacker.eof:
        raise PackageUnusable(f"{name}: cut short, or more than {MAX_UNPACKED} bytes of files")
    return text


def _entry(archive: tarfile.TarFile, info: tarfile.TarInfo, name: str) -> Entry | None:
    path = require_inside(info.name.removeprefix("./"), name)
    if not path:
        return None
    if info.isdir():
        return Entry(path=path, mode=stat.S_IFDIR | 0o755)
    if info.issym():
        return Entry(path=path, mode=stat.S_IFLNK | 0o777, target=info.linkname)
    if info.isreg() or info.islnk():
        file = archive.extractfile(info)
        if file is None:
            raise PackageUnusable(f"{name}: {path} links to nothing")
        return Entry(path=path, mode=stat.S_IFREG | _permissions(info.mode), data=file.read())
    raise PackageUnusable(f"{name}: {path} is neither a file nor a folder nor a link")


def require_inside(path: str, name: str) -> str:
    """Give the path if it stays below the root. Raises PackageUnusable."""
    parts = PurePosixPath(path).parts
    if path.startswith("/") or ".." in parts or "\0" in path or len(path) > 1024:
        raise PackageUnusable(f"{name}: {path[:80]!r} leaves the root")
    return "/".join(parts)


def _permissions(mode: int) -> int:
    """Give 755 or 644: nothing in an image is set-uid, or writable by anybody."""
    return 0o755 if mode & 0o111 else 0o644
