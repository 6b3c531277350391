# SPDX-License-Identifier: Apache-2.0
"""A built image holds what an enclave runs, and nothing that somebody could log in with, or that could change it.

Needs a built image (`SERICIN_IMAGE`, which scripts/test-image sets) and erofs-utils.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from enclave.image.build import CMDLINE_WORDS

IMAGE = Path(os.environ.get("SERICIN_IMAGE", ""))
LOGINS = re.compile(
    r"(ba|da|z|k|c|tc|a|fi)?sh|busybox|toybox|sshd?(-.*)?|scp|sftp.*|dropbear|telnetd?|a?getty|login|su|sudo|doas|init|systemd.*"
)
TOOLS = re.compile(
    r"apt(-.*)?|dpkg(-.*)?|pip[0-9.]*|u?mount|modprobe|insmod|kmod|losetup|dmsetup|curl|wget|nc|netcat.*|socat|gdb|strace|perl[0-9.]*|crond?"
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Unpack the root file system with other people's tool."""
    if not os.environ.get("SERICIN_IMAGE"):
        pytest.skip("no built image: scripts/test-image builds one")
    fsck = shutil.which("fsck.erofs")
    if fsck is None:
        pytest.skip("not installed: fsck.erofs (Debian: erofs-utils)")
    out = tmp_path_factory.mktemp("contents") / "root"
    subprocess.run([fsck, f"--extract={out}", "--preserve", IMAGE / "rootfs.img"], check=True, capture_output=True)
    return out


def test_nobody_can_log_in(root: Path) -> None:
    found = {path.name for path in root.rglob("*") if not path.is_dir()}
    assert not {name for name in found if LOGINS.fullmatch(name) or TOOLS.fullmatch(name)}
    assert (root / "etc" / "passwd").read_text() == "root:x:0:0:root:/run:/usr/sbin/nologin\n"
    assert not (root / "etc" / "shadow").exists()
    assert not (root / "usr/sbin/nologin").exists()


def test_the_interpreter_is_the_only_program(root: Path) -> None:
    """Python is the one thing to execute; the loader and libraries are executable files, too."""
    programs = [path for folder in ("usr/bin", "usr/sbin") for path in (root / folder).iterdir()]
    assert [path.relative_to(root).as_posix() for path in programs if not path.is_symlink()] == ["usr/bin/python3.11"]
    others = [
        path.relative_to(root).as_posix()
        for path in root.rglob("*")
        if path.is_file() and not path.is_symlink() and path.read_bytes()[:4] == b"\x7fELF"
    ]
    assert [name for name in others if not re.search(r"\.so(\.[0-9.]+)?$", name)] == ["usr/bin/python3.11"]


def test_nothing_has_more_rights_than_another(root: Path) -> None:
    for path in root.rglob("*"):
        found = path.lstat()
        assert (found.st_uid, found.st_gid) == (os.geteuid(), os.getegid()) or (found.st_uid, found.st_gid) == (0, 0)
        kind = stat.S_IFMT(found.st_mode)
        assert kind in {stat.S_IFDIR, stat.S_IFREG, stat.S_IFLNK}, f"{path} is a device, a pipe or a socket"
        if kind != stat.S_IFLNK:
            assert stat.S_IMODE(found.st_mode) in {0o755, 0o644}, f"{path}: writable by others, or with set-user bits"


def members(archive: bytes) -> Iterator[tuple[str, int]]:
    """Give (name, mode) of each member of a newc archive."""
    at = 0
    while archive[at : at + 6] == b"070701":
        fields = [int(archive[at + 6 + 8 * i : at + 14 + 8 * i], 16) for i in range(13)]
        name = archive[at + 110 : at + 109 + fields[11]].decode()
        if name == "TRAILER!!!":
            return
        yield name, fields[1]
        at = (at + 110 + fields[11] + 3) // 4 * 4
        at = (at + fields[6] + 3) // 4 * 4
    raise AssertionError("no end")


@pytest.mark.usefixtures("root")
def test_the_initial_file_system_has_a_first_program_and_modules() -> None:
    found = dict(members((IMAGE / "initrd").read_bytes()))
    files = sorted(name for name, mode in found.items() if not stat.S_ISDIR(mode))
    assert files[0] == "init"
    assert files[1:] == [f"modules/{number:02d}.ko" for number in range(len(files) - 1)]
    assert len(files) > 5


@pytest.mark.usefixtures("root")
def test_the_command_line_gives_the_host_no_say() -> None:
    words = (IMAGE / "cmdline").read_text().split()
    assert words[: len(CMDLINE_WORDS)] == list(CMDLINE_WORDS)
    assert [word.partition("=")[0] for word in words[len(CMDLINE_WORDS) :]] == ["roothash", "rootblocks"]
    assert {"no-kvmclock", "clocksource=tsc", "panic=-1"} <= set(words)
    assert not {word.partition("=")[0] for word in words} & {"init", "rdinit", "root", "debug", "earlyprintk", "ima"}
