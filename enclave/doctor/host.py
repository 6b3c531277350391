# SPDX-License-Identifier: Apache-2.0
"""This machine as its files and its programs show it; or a recorded one, under another root.

Checks ask a `Host` and nothing else. What may not be looked at is `Unseen`, which is never an answer.
"""

from __future__ import annotations

import errno
import os
import re
import socket
import struct
import subprocess
from pathlib import Path
from typing import Final

MAX_FILE: Final = 1 << 20  # /proc/cpuinfo of a large host is below 1 MiB
MAX_LOG: Final = 8 << 20  # the kernel's ring buffer is 1 MiB by default
MAX_OUTPUT: Final = 1 << 20
MAX_ENTRIES: Final = 1 << 16  # processes, PCI devices
RUN_SECONDS: Final = 20.0  # the GPU tool walks every device
CONNECT_SECONDS: Final = 2.0
PROGRAM_FOLDERS: Final = ("usr/local/sbin", "usr/local/bin", "usr/sbin", "usr/bin", "sbin", "bin")
AS_ROOT: Final = "run this as root"
_RECORD: Final = re.compile(r"^\d+,\d+,\d+,[^;]*;(.*)$")


class Unseen(Exception):
    """Something could not be looked at; the text says what and why, `mend` what would let it be seen."""

    def __init__(self, why: str, mend: str | None = None) -> None:
        super().__init__(why)
        self.mend = mend


class Host:
    """The files and programs below `root`: "/" for this machine, a folder for a recorded one."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root

    def path(self, name: str) -> Path:
        """Give the place of the absolute path `name` below the root."""
        return self._root / name.lstrip("/")

    def exists(self, name: str) -> bool:
        """Say whether `name` is there, a dangling link included."""
        return os.path.lexists(self.path(name))

    def text(self, name: str, *, limit: int = MAX_FILE) -> str | None:
        """Give a small text file without the blanks around it, None where there is none. Raises Unseen."""
        try:
            with self.path(name).open("rb") as file:
                return file.read(limit).decode("utf-8", "replace").strip()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as e:
            raise Unseen(f"{name}: {e.strerror}") from None

    def names(self, name: str) -> list[str]:
        """Give the sorted names in a folder; none where there is no such folder."""
        try:
            return sorted(entry.name for entry in self.path(name).iterdir())[:MAX_ENTRIES]
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as e:
            raise Unseen(f"{name}: {e.strerror}") from None

    def link(self, name: str) -> str | None:
        """Give the last part of what the symbolic link `name` points at, None where there is none."""
        try:
            return self.path(name).readlink().name
        except OSError:
            return None

    def opens(self, name: str) -> str | None:
        """Try to open a device for reading and writing. Gives None, or why it cannot be."""
        try:
            os.close(os.open(self.path(name), os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK))
        except OSError as e:
            return str(e.strerror)
        return None

    def msr(self, register: int) -> int | None:
        """Read a model-specific register of processor 0; None where the processor has no such register.

        Raises Unseen without the msr device or without the right to read it.
        """
        raw = self._device("msr", register, 8)
        return None if raw is None else int.from_bytes(raw, "little")

    def cpuid(self, leaf: int) -> tuple[int, int, int, int]:
        """Give EAX, EBX, ECX and EDX of a CPUID leaf of processor 0. Raises Unseen without the cpuid device."""
        raw = self._device("cpuid", leaf, 16)
        if raw is None:
            raise Unseen(f"no CPUID leaf {leaf:#x}")
        eax, ebx, ecx, edx = struct.unpack("<4I", raw)
        return eax, ebx, ecx, edx

    def _device(self, kind: str, at: int, size: int) -> bytes | None:
        """Read what the msr and cpuid devices give at an offset, which is the register's or leaf's number."""
        device = f"/dev/cpu/0/{kind}"
        try:
            fd = os.open(self.path(device), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise Unseen(f"no {device}", f"run `modprobe {kind}` as root, then look again") from None
        except OSError as e:
            raise Unseen(f"{device}: {e.strerror}", AS_ROOT) from None
        try:
            raw = os.pread(fd, size, at)
        except OSError as e:
            if e.errno == errno.EIO:
                return None
            raise Unseen(f"{device}: {e.strerror}") from None
        finally:
            os.close(fd)
        if len(raw) != size:
            raise Unseen(f"{device}: {at:#x} gave {len(raw)} bytes")
        return raw

    def kernel_log(self) -> tuple[str, ...]:
        """Give the messages of this boot's kernel, the oldest first. Raises Unseen where nobody may read them."""
        lines = self._ring()
        if not any("Linux version" in line for line in lines) and self.program("journalctl"):
            lines = self.output("journalctl", "--dmesg", "--boot", "--output=cat", "--no-pager").splitlines() or lines
        return tuple(lines)

    def _ring(self) -> list[str]:
        parts, size = [], 0
        try:
            fd = os.open(self.path("/dev/kmsg"), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as e:
            raise Unseen(f"/dev/kmsg: {e.strerror}", AS_ROOT) from None
        try:
            while size < MAX_LOG:
                try:
                    part = os.read(fd, 8192)  # one record a read
                except BlockingIOError:
                    break
                except BrokenPipeError:
                    continue  # older records went while we were reading
                if not part:
                    break
                size += len(part)
                parts.append(part)
        except OSError as e:
            raise Unseen(f"/dev/kmsg: {e.strerror}", AS_ROOT) from None
        finally:
            os.close(fd)
        records = b"".join(parts).decode("utf-8", "replace").splitlines()
        return [found[1] for line in records if (found := _RECORD.match(line))]

    def program(self, name: str) -> Path | None:
        """Find a program by its name, or by its path when it has one."""
        if "/" in name:
            return self.path(name) if os.access(self.path(name), os.X_OK) else None
        for folder in PROGRAM_FOLDERS:
            place = self._root / folder / name
            if os.access(place, os.X_OK) and place.is_file():
                return place
        return None

    def output(self, name: str, *arguments: str) -> str:
        """Run a program and give what it says on both its outputs. Raises Unseen when it is absent or fails."""
        place = self.program(name)
        if place is None:
            raise Unseen(f"{name} is not installed")
        try:
            done = subprocess.run(
                [str(place), *arguments],
                check=False,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=RUN_SECONDS,
                env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"},
            )
        except subprocess.TimeoutExpired:
            raise Unseen(f"{name} did not answer within {RUN_SECONDS:.0f} s") from None
        except OSError as e:
            raise Unseen(f"{name}: {e.strerror}") from None
        text = done.stdout[:MAX_OUTPUT].decode("utf-8", "replace")
        if done.returncode != 0:
            lines = text.strip().splitlines() or ["no word"]
            raise Unseen(f"{name} ended with {done.returncode}: {plain(lines[-1])}")
        return text

    def process(self, name: str) -> int | None:
        """Give the id of a running process by its short name, None where none runs."""
        for entry in self.names("/proc"):
            if entry.isdigit() and self.text(f"/proc/{entry}/comm") == name:
                return int(entry)
        return None

    def reaches(self, name: str, port: int) -> str | None:
        """Connect to a TCP port by name and hang up. Gives None, or why it cannot be."""
        try:
            socket.create_connection((name, port), timeout=CONNECT_SECONDS).close()
        except OSError as e:
            return e.strerror or str(e) or type(e).__name__
        return None

    def accepts(self, name: str) -> str | None:
        """Connect to a unix stream socket and hang up. Gives None, or why it cannot be."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as door:
            door.settimeout(CONNECT_SECONDS)
            try:
                door.connect(str(self.path(name)))
            except OSError as e:
                return e.strerror or str(e)
        return None


def plain(text: str, limit: int = 200) -> str:
    """Give text that a terminal can show: printable, and not long."""
    shown = "".join(c if c.isprintable() else "?" for c in text.strip())
    return shown if len(shown) <= limit else shown[: limit - 3] + "..."
