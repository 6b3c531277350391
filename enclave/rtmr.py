# SPDX-License-Identifier: Apache-2.0
"""RTMR3 of a real guest, through the kernel's measurement files (Linux 6.16 and later, tdx_guest)."""

from __future__ import annotations

import builtins
import os
import threading
from hashlib import sha384
from pathlib import Path
from typing import Final

from attestation.runtime_log import MAX_EVENTS, REGISTER_SIZE, Event, encode, require_event

from .seams import QuoteUnavailable

MEASUREMENTS: Final = Path("/sys/devices/virtual/misc/tdx_guest/measurements")
REGISTER: Final = "rtmr3:sha384"


class SysfsRuntimeLog:
    """The RuntimeLog seam over RTMR3: the log is kept first, then the register extended and read back."""

    def __init__(self, root: Path = MEASUREMENTS) -> None:
        """Require RTMR3 to be untouched, so that the log holds everything measured. Raises QuoteUnavailable."""
        self._path = root / REGISTER
        self._lock = threading.Lock()
        self._events: list[Event] = []
        self._closed = False
        self._value = self._read()
        if self._value != bytes(REGISTER_SIZE):
            raise QuoteUnavailable("RTMR3 was extended before this process: nobody can replay it; start the guest anew")

    def extend(self, name: str, payload: bytes) -> None:
        """Append the event and extend RTMR3. Raises RuntimeError once closed, QuoteUnavailable from the kernel."""
        event = require_event(name, payload, "runtime_log")
        with self._lock:
            if self._closed or len(self._events) >= MAX_EVENTS:
                raise RuntimeError("the runtime log is closed")
            self._events.append(event)
            wanted = sha384(self._value + event.digest).digest()
            self._write(event.digest)
            self._value = self._read()
            if self._value != wanted:
                self._closed = True
                raise QuoteUnavailable("RTMR3 is not what this process extended it to: somebody else extends it too")

    def close(self) -> None:
        """Accept no further event."""
        with self._lock:
            self._closed = True

    def bytes(self) -> bytes:
        """Give the log exactly as it is hashed into the claims."""
        with self._lock:
            return encode(self._events)

    def _read(self) -> builtins.bytes:
        try:
            value = self._path.read_bytes()
        except OSError as e:
            raise QuoteUnavailable(f"{self._path}: {e.strerror}; a kernel from 6.16 on is needed") from None
        if len(value) != REGISTER_SIZE:
            raise QuoteUnavailable(f"{self._path}: {len(value)} bytes, not {REGISTER_SIZE}")
        return value

    def _write(self, digest: builtins.bytes) -> None:
        try:
            fd = os.open(self._path, os.O_WRONLY | os.O_CLOEXEC)
            try:
                written = os.write(fd, digest)
            finally:
                os.close(fd)
        except OSError as e:
            raise QuoteUnavailable(f"{self._path}: cannot extend ({e.strerror})") from None
        if written != len(digest):
            raise QuoteUnavailable(f"{self._path}: a short write")
