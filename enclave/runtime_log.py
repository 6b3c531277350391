# SPDX-License-Identifier: Apache-2.0
"""The runtime log and RTMR3 of a machine whose registers this process keeps: the simulated one."""

from __future__ import annotations

import threading
from hashlib import sha384

from attestation.runtime_log import MAX_EVENTS, REGISTER_SIZE, Event, encode, require_event


class MemoryRuntimeLog:
    """RTMR3 in memory, behind the RuntimeLog seam: appended and extended under one lock."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._events: list[Event] = []
        self._closed = False
        self.rtmr3 = bytes(REGISTER_SIZE)

    def extend(self, name: str, payload: bytes) -> None:
        """Append the event and extend RTMR3 by its digest. Raises RuntimeError once closed or full."""
        event = require_event(name, payload, "runtime_log")
        with self._lock:
            if self._closed or len(self._events) >= MAX_EVENTS:
                raise RuntimeError("the runtime log is closed")
            self._events.append(event)
            self.rtmr3 = sha384(self.rtmr3 + event.digest).digest()

    def close(self) -> None:
        """Accept no further event."""
        with self._lock:
            self._closed = True

    def bytes(self) -> bytes:
        """Give the log exactly as it is hashed into the claims."""
        with self._lock:
            return encode(self._events)
