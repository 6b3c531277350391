# SPDX-License-Identifier: Apache-2.0
"""Seal an answer as it is made, and open one as it arrives (docs/protocol.md, Sealed response)."""

from __future__ import annotations

import hmac
from hashlib import sha256
from typing import Final

from .. import cbor
from ..errors import Malformed, Untrusted
from .frames import MAX_PLAINTEXT, PREFIX_SIZE, Direction, FrameOpener, FrameSealer, FrameType
from .header import Padding
from .schedule import RESP_NONCE_SIZE, Schedule

CELL_PLAINTEXT: Final = 128
CELL_CAPACITY: Final = CELL_PLAINTEXT - PREFIX_SIZE
MAX_ITEM: Final = 1024 * 1024  # one data item: an embeddings object is the largest
MAX_ANSWER: Final = 64 * 1024 * 1024  # wire bytes of one answer that a client reads
MAX_RECEIPT_ITEM: Final = 4096
MAX_ERROR_ITEM: Final = 512
_WHAT: Final = "response"


class ResponseSealer:
    """The enclave's end. Every method gives wire bytes; the order data*, error?, receipt?, final is enforced."""

    def __init__(self, schedule: Schedule, *, resp_nonce: bytes, padding: Padding) -> None:
        if len(resp_nonce) != RESP_NONCE_SIZE:
            raise ValueError(f"resp_nonce has {RESP_NONCE_SIZE} bytes")
        self._sealer = FrameSealer(schedule.response(resp_nonce), ctx=schedule.ctx, direction=Direction.RESPONSE)
        self._padding = padding
        self._mac = hmac.new(schedule.salts.response, digestmod="sha256")
        self._transcript = sha256(resp_nonce)
        self._stage = FrameType.DATA
        self.preamble = resp_nonce

    def data(self, payload: bytes) -> bytes:
        """Seal data payload bytes: whole CBOR items, of one engine step."""
        self._enter(FrameType.DATA)
        self._mac.update(payload)
        return self._logged(self._frames(FrameType.DATA, payload))

    def dummy(self) -> bytes:
        """Seal a frame that says nothing."""
        self._enter(FrameType.DATA if self._stage is FrameType.DATA else FrameType.ERROR)
        return self._logged(self._sealer.seal(FrameType.DUMMY, b"", plaintext_size=CELL_PLAINTEXT))

    def error(self, item: bytes) -> bytes:
        """Seal the one error item."""
        self._enter(FrameType.ERROR, once=True)
        return self._logged(self._frames(FrameType.ERROR, item))

    def receipt(self, item: bytes) -> bytes:
        """Seal the one receipt item. The transcript ends before it."""
        self._enter(FrameType.RECEIPT, once=True)
        return self._frames(FrameType.RECEIPT, item)

    def final(self) -> bytes:
        """Seal the final frame."""
        self._enter(FrameType.FINAL, once=True)
        return self._sealer.seal(FrameType.FINAL, b"", plaintext_size=self._size(0))

    @property
    def commitment(self) -> bytes:
        """The response commitment over all data so far."""
        return self._mac.digest()

    @property
    def transcript_hash(self) -> bytes:
        """SHA-256(resp_nonce || wire frames so far): take it before the receipt."""
        return self._transcript.digest()

    def _enter(self, stage: FrameType, *, once: bool = False) -> None:
        if stage < self._stage or (once and stage == self._stage and stage is not FrameType.DATA):
            raise RuntimeError(f"{stage.name} after {self._stage.name}")
        self._stage = stage

    def _size(self, payload: int) -> int:
        return CELL_PLAINTEXT if self._padding is not Padding.OFF else PREFIX_SIZE + payload

    def _frames(self, kind: FrameType, payload: bytes) -> bytes:
        room = (CELL_PLAINTEXT if self._padding is not Padding.OFF else MAX_PLAINTEXT) - PREFIX_SIZE
        parts = [payload[at : at + room] for at in range(0, len(payload), room)]
        return b"".join(self._sealer.seal(kind, part, plaintext_size=self._size(len(part))) for part in parts)

    def _logged(self, wire: bytes) -> bytes:
        self._transcript.update(wire)
        return wire


class ResponseOpener:
    """The client's end: takes wire bytes in any pieces, gives data items as they become whole.

    Nothing is believed before its frame authenticated; an answer without `finished` is incomplete. At most one frame
    and one item are buffered; the whole answer is bounded by MAX_ANSWER.
    """

    def __init__(self, schedule: Schedule, *, padding: Padding) -> None:
        self._schedule = schedule
        self._padding = padding
        self._nonce = bytearray()
        self._opener: FrameOpener | None = None
        self._items = cbor.SequenceDecoder(limit=MAX_ITEM, what="response.data", code="MalformedFrame")
        self._mac = hmac.new(schedule.salts.response, digestmod="sha256")
        self._transcript = sha256()
        self._stage = FrameType.DATA
        self._error = bytearray()
        self._receipt = bytearray()
        self._seen = 0
        self.finished = False
        self.authenticated = False  # whether any frame has authenticated

    def feed(self, data: bytes) -> list[cbor.Value]:
        """Take wire bytes and give the data items that are now whole. Raises Malformed or Untrusted."""
        self._seen += len(data)
        if self._seen > MAX_ANSWER:
            raise Untrusted("StreamOverrun", _WHAT, want=f"at most {MAX_ANSWER} bytes", got="more")
        if self._opener is None:
            room = RESP_NONCE_SIZE - len(self._nonce)
            self._nonce += data[:room]
            data = data[room:]
            if len(self._nonce) < RESP_NONCE_SIZE:
                return []
            self._opener = self._begin(bytes(self._nonce))
        self._opener.push(data)
        items: list[cbor.Value] = []
        while (opened := self._opener.next()) is not None:
            items += self._take(opened[0].type, opened[0].payload, opened[1])
        return items

    def _begin(self, resp_nonce: bytes) -> FrameOpener:
        self._transcript.update(resp_nonce)
        return FrameOpener(
            self._schedule.response(resp_nonce),
            ctx=self._schedule.ctx,
            direction=Direction.RESPONSE,
            plaintext_size=None if self._padding is Padding.OFF else CELL_PLAINTEXT,
            what="response.frame",
        )

    def _take(self, kind: FrameType, payload: bytes, wire: bytes) -> list[cbor.Value]:
        self.authenticated = True
        if self.finished:
            raise Untrusted("StreamOverrun", _WHAT, want="nothing after the final frame", got="a frame")
        if kind is FrameType.DUMMY:
            if self._stage > FrameType.ERROR:
                raise Malformed("MalformedFrame", _WHAT, want="no dummy after the receipt", got="a dummy")
            self._transcript.update(wire)
            return []
        if kind < self._stage:
            raise Malformed("MalformedFrame", _WHAT, want=f"nothing before {self._stage.name}", got=kind.name)
        self._stage = kind
        if kind < FrameType.RECEIPT:
            self._transcript.update(wire)
        if kind is FrameType.DATA:
            self._mac.update(payload)
            return self._items.feed(payload)
        if kind is FrameType.FINAL:
            self._items.end()
            self.finished = True
        elif kind is FrameType.ERROR:
            self._gather(self._error, payload, MAX_ERROR_ITEM)
        else:
            self._gather(self._receipt, payload, MAX_RECEIPT_ITEM)
        return []

    def _gather(self, into: bytearray, payload: bytes, limit: int) -> None:
        into += payload
        if len(into) > limit:
            raise Malformed("MalformedFrame", _WHAT, want=f"an item of at most {limit} bytes", got="more")

    def close(self) -> None:
        """Conclude: the wire has ended. Raises Untrusted(StreamTruncated) unless final came and nothing after it."""
        if not self.finished or self._opener is None:
            raise Untrusted("StreamTruncated", _WHAT, want="a final frame", got="the end")
        if self._opener.buffered:
            raise Untrusted("StreamOverrun", _WHAT, want="nothing after the final frame", got="more bytes")

    @property
    def error_item(self) -> bytes:
        """The error item, empty when there was none."""
        return bytes(self._error)

    @property
    def receipt_item(self) -> bytes:
        """The receipt item, empty when there was none."""
        return bytes(self._receipt)

    @property
    def commitment(self) -> bytes:
        """The response commitment over all data so far."""
        return self._mac.digest()

    @property
    def transcript_hash(self) -> bytes:
        """SHA-256(resp_nonce || wire frames before the first receipt frame)."""
        return self._transcript.digest()
