# SPDX-License-Identifier: Apache-2.0
"""What the host may know of the guest: one line of JSON, over a virtio-serial port and over vsock. Nothing comes in.

A line holds a stage, times, codes and what the enclave's own ready line says: no prompt was ever near it.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from pathlib import Path
from typing import Final

from ..image.devices import HEALTH_PORT, HEALTH_VSOCK

PORTS: Final = Path("/sys/class/virtio-ports")
VSOCK: Final = Path("/dev/vsock")
SCHEMA: Final = "sericin-health/1"
BEAT_SECONDS: Final = 1.0
SEND_SECONDS: Final = 2.0  # a reader that takes no line within them is left


class Health:
    """Keeps the latest line and says it to whoever listens."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._fields: dict[str, object] = {"stage": "starting"}

    def set(self, stage: str, **fields: object) -> None:
        """Set the stage and what belongs to it."""
        with self._lock:
            self._fields = {"stage": stage, **fields}

    def line(self) -> bytes:
        """Give the line that is said now."""
        with self._lock:
            fields = dict(self._fields)
        uptime = round(time.clock_gettime(time.CLOCK_BOOTTIME), 1)
        return json.dumps({"schema": SCHEMA, "uptime": uptime, **fields}).encode() + b"\n"

    def start(self) -> None:
        """Say it from now on, from threads that end with the process."""
        if (port := find_port()) is not None:
            threading.Thread(target=self._beat, args=(port,), daemon=True).start()
        if (listener := _listen()) is not None:
            threading.Thread(target=self._answer, args=(listener,), daemon=True).start()

    def say_once(self) -> None:
        """Say the line to the port at once: the last one before the machine ends."""
        if (port := find_port()) is not None:
            with contextlib.suppress(OSError):
                _write(port, self.line())

    def _beat(self, port: Path) -> None:
        while True:
            # Nobody listens: the next beat may find somebody.
            with contextlib.suppress(OSError):
                _write(port, self.line())
            time.sleep(BEAT_SECONDS)

    def _answer(self, listener: socket.socket) -> None:
        while True:
            with contextlib.suppress(OSError):
                visitor, _ = listener.accept()
                with visitor:
                    visitor.settimeout(SEND_SECONDS)
                    visitor.sendall(self.line())


def find_port(root: Path = PORTS) -> Path | None:
    """Give the device of the health port, or None."""
    for port in sorted(root.glob("vport*")):
        name = port / "name"  # a console's port has none
        if name.exists() and name.read_text().strip() == HEALTH_PORT:
            return Path("/dev") / port.name
    return None


def _write(port: Path, line: bytes) -> None:
    handle = os.open(port, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        os.write(handle, line)
    finally:
        os.close(handle)


def _listen() -> socket.socket | None:
    """Listen on vsock, where the machine has it."""
    if not VSOCK.exists():
        return None
    listener = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
    try:
        listener.bind((socket.VMADDR_CID_ANY, HEALTH_VSOCK))
        listener.listen(4)
    except OSError:
        listener.close()
        return None
    return listener
