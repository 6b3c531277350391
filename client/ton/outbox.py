# SPDX-License-Identifier: Apache-2.0
"""The one transfer that is under way: written before it is sent, taken away when what became of it is proved.

After a crash the same bytes are sent again, and never others with the same sequence number while these can still run.
"""

from __future__ import annotations

import base64
import binascii
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from attestation.errors import AttestationError
from attestation.strict_json import canonical, loads
from attestation.ton.registry import Address

from ..errors import UsageFault
from ..output import read_file

SCHEMA: Final = "sericin-outbox/1"
MAX_OUTBOX: Final = 256 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Pending:
    """A signed transfer. `goals` are the seqnos that the registry has for each receipt key once it ran."""

    registry: str
    wallet_seqno: int
    valid_until: int  # unix seconds of the chain
    boc: bytes
    goals: dict[bytes, int]

    def encode(self) -> bytes:
        """Give the file."""
        return canonical(
            {
                "schema": SCHEMA,
                "registry": self.registry,
                "wallet_seqno": self.wallet_seqno,
                "valid_until": self.valid_until,
                "boc": base64.b64encode(self.boc).decode(),
                "goals": {key.hex(): seqno for key, seqno in self.goals.items()},
            }
        )

    @classmethod
    def decode(cls, data: bytes, path: Path) -> Pending:
        """Read the file. Raises UsageFault: nobody may guess what was under way."""
        try:
            d: Any = loads(data, limit=MAX_OUTBOX, what=str(path))
            if d["schema"] != SCHEMA:
                raise KeyError(SCHEMA)
            return cls(
                registry=str(d["registry"]),
                wallet_seqno=int(d["wallet_seqno"]),
                valid_until=int(d["valid_until"]),
                boc=base64.b64decode(d["boc"], validate=True),
                goals={bytes.fromhex(key): int(seqno) for key, seqno in d["goals"].items()},
            )
        except (AttestationError, KeyError, TypeError, ValueError, AttributeError, binascii.Error):
            raise UsageFault(
                f"{path}: damaged; it says which transfer is under way. Look in an explorer whether the wallet's last "
                "message ran, then remove the file"
            ) from None


class Outbox:
    """The file of one wallet on one network. One process at a time holds it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self) -> Pending | None:
        """Give the transfer that is under way, if any. Raises UsageFault."""
        if not self._path.exists():
            return None
        return Pending.decode(read_file(self._path, limit=MAX_OUTBOX), self._path)

    def save(self, pending: Pending) -> None:
        """Keep a transfer, on the disk before this returns. Raises UsageFault."""
        beside = self._path.with_suffix(".part")
        try:
            with beside.open("wb") as file:
                file.write(pending.encode())
                file.flush()
                os.fsync(file.fileno())
            beside.replace(self._path)
            folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as e:
            raise UsageFault(f"{self._path}: {e.strerror}; nothing was sent") from None

    def clear(self) -> None:
        """Forget the transfer: what became of it is proved."""
        self._path.unlink(missing_ok=True)


@contextmanager
def held_outbox(folder: Path, wallet: Address, global_id: int) -> Iterator[Outbox]:
    """Hold the outbox of a wallet on the network with `global_id`. Raises UsageFault when another process does."""
    name = f"{wallet.account.hex()}{global_id:+d}"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = (folder / f"{name}.lock").open("w")
    except OSError as e:
        raise UsageFault(f"{folder}: {e.strerror}") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageFault("another anchor command uses this wallet; wait for it to end") from None
        yield Outbox(folder / f"{name}.json")
