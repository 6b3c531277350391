# SPDX-License-Identifier: Apache-2.0
"""Unpack a wheel into the guest's packages without running an installer (PyPA, binary distribution format)."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Iterator
from hashlib import sha256
from typing import Final

from .deb import PackageUnusable, require_inside

MAX_FILES: Final = 20_000
MAX_UNPACKED: Final = 1 << 30
_SHARED: Final = re.compile(r"(.+\.so)((?:\.[0-9]+)*)")
_LEFT: Final = re.compile(
    r"(^|/)(tests?|testing/tests|docs?|examples?)/|^(lib|bin|include)/|\.data/(scripts|headers|data)/|\.dist-info/RECORD$"
    r"|\.(pyi|pyx|pxd|pyc|c|h|a)$"
)
"""Not needed to run: tests, stubs, sources of compiled parts, and the record of an installer that never ran."""


def read_wheel(data: bytes, *, name: str) -> Iterator[tuple[str, bytes]]:
    """Give (path below the packages folder, content), ascending by path. Raises PackageUnusable."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = sorted(archive.infolist(), key=lambda info: info.filename)
            if len(members) > MAX_FILES or sum(info.file_size for info in members) > MAX_UNPACKED:
                raise PackageUnusable(f"{name}: more than {MAX_FILES} files or {MAX_UNPACKED} bytes")
            for info in members:
                path = require_inside(info.filename, name)
                if not info.is_dir() and not _LEFT.search(path):
                    yield re.sub(r"^[^/]+\.data/(purelib|platlib)/", "", path), archive.read(info)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as e:
        raise PackageUnusable(f"{name}: {e}") from None


def shared_names(files: dict[str, bytes]) -> tuple[dict[str, bytes], dict[str, str]]:
    """Give (files, links): of libraries that lie there as X.so, X.so.0 and X.so.0.1, X.so.0 alone, and links to it."""
    groups: dict[tuple[str, bytes], list[str]] = {}
    kept = {}
    for path, content in files.items():
        found = _SHARED.fullmatch(path)
        if found is None:
            kept[path] = content
        else:
            groups.setdefault((found[1], sha256(content).digest()), []).append(path)
    links: dict[str, str] = {}
    for paths in groups.values():
        real, *others = sorted(paths, key=lambda path: (abs(path.rpartition(".so")[2].count(".") - 1), path))
        kept[real] = files[real]
        links |= {other: real.rpartition("/")[2] for other in others}
    return kept, links


def content_digest(files: dict[str, bytes]) -> bytes:
    """Give SHA-256 over the SHA-256 of every path and content: a wheel's own digest depends on when it was packed."""
    total = sha256()
    for path, content in sorted(files.items()):
        total.update(sha256(path.encode()).digest() + sha256(content).digest())
    return total.digest()
