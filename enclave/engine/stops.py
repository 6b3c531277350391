# SPDX-License-Identifier: Apache-2.0
"""Answers: which bytes of what was generated may leave now? Never part of a stop string, never half a character."""

from __future__ import annotations

import codecs
from collections.abc import Sequence


class TextOut:
    """Turns the bytes of tokens into text.

    Cuts at stop strings, holds back what could become one, and keeps UTF-8 characters whole. Bytes that are no
    UTF-8 become U+FFFD.
    """

    def __init__(self, stops: Sequence[bytes] = ()) -> None:
        self._stops = tuple(stops)
        self._longest = max(map(len, self._stops), default=0)
        self._held = b""
        self._partway = False  # the decoder holds the beginning of a character
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.stopped = False

    def feed(self, piece: bytes) -> str:
        """Take the bytes of one token; give the text that is now certain. Sets `stopped` at a stop string."""
        if self.stopped:
            return ""
        if not self._stops:
            if piece.isascii() and not self._partway:  # nearly always, and cheaper by half
                return piece.decode("ascii")
            text = self._decoder.decode(piece)
            self._partway = bool(self._decoder.getstate()[0])
            return text
        data = self._held + piece
        found = [at for at in map(data.find, self._stops) if at >= 0]
        if found:
            self.stopped = True
            self._held = b""
            return self._decoder.decode(data[: min(found)], True)
        keep = self._partial(data)
        self._held = data[len(data) - keep :]
        return self._decoder.decode(data[: len(data) - keep])

    def finish(self) -> str:
        """Give what was held back: generation ended without the stop string coming true."""
        held, self._held = self._held, b""
        return "" if self.stopped else self._decoder.decode(held, True)

    def _partial(self, data: bytes) -> int:
        """Give the length of the longest end of `data` with which a stop string could begin."""
        for size in range(min(self._longest - 1, len(data)), 0, -1):
            end = data[-size:]
            if any(stop.startswith(end) for stop in self._stops if len(stop) > size):
                return size
        return 0
