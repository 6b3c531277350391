# SPDX-License-Identifier: Apache-2.0
"""What may be logged: events by name, with ids, sizes, durations and codes. Nothing else can be passed."""

from __future__ import annotations

import json
import re
import sys
from enum import StrEnum
from typing import Final, TextIO

from .seams import Clock

_CODE: Final = re.compile(r"[A-Za-z_]{1,48}")
MAX_ID: Final = 32  # bytes


def kind_of(error: BaseException) -> str:
    """Give an error's kind as a code: its class by name, for its message may hold anything."""
    return re.sub(r"[^A-Za-z_]", "", type(error).__name__)[:48]


class Happening(StrEnum):
    """What can have happened."""

    STARTING = "starting"
    MODEL_READY = "model_ready"
    LISTENING = "listening"
    EPOCH = "epoch"
    EPOCH_DROPPED = "epoch_dropped"
    EPOCH_FAILED = "epoch_failed"
    GPU_REFUSED = "gpu_refused"
    RUN = "run"
    REFUSED = "refused"
    BATCH = "batch"
    LEDGER_ERROR = "ledger_error"
    DRAINING = "draining"
    STOPPED = "stopped"
    INTERNAL_ERROR = "internal_error"
    HYGIENE = "hygiene"


class Journal:
    """Writes JSON lines. `code` is a word of ours, `id` bytes of at most 32, the rest whole numbers."""

    def __init__(self, clock: Clock, *, out: TextIO | None = None) -> None:
        self._clock = clock
        self._out = out if out is not None else sys.stderr

    def write(
        self,
        happening: Happening,
        *,
        code: str = "",
        id: bytes = b"",  # noqa: A002 - the field's name in the log
        number: int | None = None,
        size: int | None = None,
        ms: int | None = None,
    ) -> None:
        """Write one line. Raises TypeError for a field that is not what the list allows."""
        if type(happening) is not Happening or not (code == "" or _CODE.fullmatch(code)):
            raise TypeError("a happening of the list, and a code of letters")
        if type(id) is not bytes or len(id) > MAX_ID:
            raise TypeError(f"an id has at most {MAX_ID} bytes")
        numbers = {"number": number, "size": size, "ms": ms}
        if any(value is not None and type(value) is not int for value in numbers.values()):
            raise TypeError("whole numbers")
        line: dict[str, object] = {"time": self._clock.wall(), "event": str(happening)}
        line.update({"code": code} if code else {})
        line.update({"id": id.hex()} if id else {})
        line.update({name: value for name, value in numbers.items() if value is not None})
        try:
            self._out.write(json.dumps(line) + "\n")  # in one piece
            self._out.flush()
        except (OSError, ValueError):
            return  # nobody reads the log any more; the enclave goes on
