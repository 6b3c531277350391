# SPDX-License-Identifier: Apache-2.0
"""What an enclave says of itself to its host: one JSON object a line, over the health port or vsock.

It is a convenience for the host and proves nothing: clients believe evidence alone.
"""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Final

from attestation import strict_json
from attestation.errors import Malformed

from ..image.devices import HEALTH_VSOCK
from .records import HEALTH, Record, replace_file
from .refusal import LaunchRefused

MAX_LINE: Final = 4096
MAX_PENDING: Final = 64 * 1024
SECONDS: Final = 5.0


class HealthLines:
    """Takes what comes out of the health port in any portions and gives whole, well-formed lines."""

    def __init__(self) -> None:
        self._pending = b""

    def feed(self, data: bytes) -> list[dict[str, object]]:
        """Take bytes; what is too long, or no JSON object, is dropped with its line."""
        *lines, self._pending = (self._pending + data).split(b"\n")
        self._pending = self._pending[:MAX_PENDING]
        return [row for line in lines if (row := parse_line(line)) is not None]


def parse_line(line: bytes) -> dict[str, object] | None:
    """Give a health line's object, None for anything else."""
    try:
        row = strict_json.loads(line, limit=MAX_LINE, what="health")
    except Malformed:
        return None
    return row if isinstance(row, dict) else None


def keep(place: Path, row: dict[str, object], *, now: int) -> None:
    """Keep the last line, with this host's time of it, for whoever asks."""
    replace_file(place / HEALTH, json.dumps({"at": now, "said": row}).encode(), sync=False)


def last(place: Path, record: Record) -> dict[str, object]:
    """Give what a running enclave says now (vsock), or said last (health port): `at`, `said`.

    Raises LaunchRefused(guest) for one that does not run, or has said nothing.
    """
    if record.state not in {"running", "orphaned"}:
        raise LaunchRefused("guest", f"{record.name} is {record.state}")
    if record.vsock_cid is not None:
        return {"at": None, "said": _over_vsock(record)}
    try:
        row = strict_json.loads((place / HEALTH).read_bytes(), limit=2 * MAX_LINE, what="health")
    except (OSError, Malformed):
        raise LaunchRefused("guest", f"{record.name} has said nothing yet") from None
    if not isinstance(row, dict) or set(row) != {"at", "said"}:
        raise LaunchRefused("guest", f"{record.name}: its last word cannot be read")
    return row


def _over_vsock(record: Record) -> dict[str, object]:
    data = b""
    try:
        with socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM) as connection:
            connection.settimeout(SECONDS)
            connection.connect((record.vsock_cid, HEALTH_VSOCK))
            while b"\n" not in data and len(data) <= MAX_LINE and (part := connection.recv(MAX_LINE)):
                data += part
    except OSError as e:
        raise LaunchRefused(
            "guest", f"{record.name} does not answer on vsock {record.vsock_cid}: {e.strerror}"
        ) from None
    row = parse_line(data.partition(b"\n")[0])
    if row is None:
        raise LaunchRefused("guest", f"{record.name} said nothing that can be read")
    return row
