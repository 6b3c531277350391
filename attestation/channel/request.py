# SPDX-License-Identifier: Apache-2.0
"""Seal a request, and open one piece by piece as it arrives (docs/protocol.md, Sealed request)."""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from ..errors import Malformed, Untrusted
from .frames import MAX_PLAINTEXT, PREFIX_SIZE, Direction, FrameOpener, FrameSealer, FrameType, padme
from .header import MAX_HEADER_BYTES, Header, header_hash
from .schedule import SEALED_SEED_SIZE, Schedule, seal_seed

MIN_CAPACITY: Final = 256  # every shorter request has the same size
_DATA_CAPACITY: Final = MAX_PLAINTEXT - PREFIX_SIZE
_LENGTH_SIZE: Final = 4
_WHAT: Final = "request"


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class SealedRequest:
    """A request ready to send, and what its sender must keep to read the answer."""

    wire: bytes
    schedule: Schedule
    ciphertext_hash: bytes  # 32
    commitment: bytes  # 32
    header: Header


def seal_request(header: Header, body: bytes, *, public_key: bytes, seed: bytes) -> SealedRequest:
    """Seal `body` (a CBOR map) under `header` to a seal key. `seed` is 32 fresh random bytes, used once."""
    encoded = header.encode()
    h = header_hash(encoded)
    sealed_seed = seal_seed(seed, public_key, header_hash=h)
    schedule = Schedule.of(seed, header_hash=h, sealed_seed=sealed_seed)
    wire = len(encoded).to_bytes(_LENGTH_SIZE, "big") + encoded + sealed_seed + _seal_frames(schedule, body)
    return SealedRequest(
        wire=wire,
        schedule=schedule,
        ciphertext_hash=sha256(wire).digest(),
        commitment=hmac.digest(schedule.salts.request, body, "sha256"),
        header=header,
    )


def _seal_frames(schedule: Schedule, body: bytes) -> bytes:
    total = padme(max(len(body), MIN_CAPACITY))
    count = -(-total // _DATA_CAPACITY)
    room = -(-total // count)
    sealer = FrameSealer(schedule.request, ctx=schedule.ctx, direction=Direction.REQUEST)
    size = PREFIX_SIZE + room
    frames = [sealer.seal(FrameType.DATA, body[i * room : (i + 1) * room], plaintext_size=size) for i in range(count)]
    return b"".join([*frames, sealer.seal(FrameType.FINAL, b"", plaintext_size=size)])


class RequestOpener:
    """Opens one request as it arrives: first the header and sealed seed, then, once unlocked, the frames.

    `max_bytes` bounds the whole wire request. Before `unlock` at most the header, the seed and one read are buffered.
    """

    def __init__(self, *, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._seen = 0
        self._hash = sha256()
        self._head = bytearray()
        self._opener: FrameOpener | None = None
        self._mac: hmac.HMAC | None = None
        self._payload = bytearray()
        self._final = False
        self._frames = 0
        self.header: Header | None = None
        self.header_hash = b""
        self.sealed_seed = b""

    def feed(self, data: bytes) -> None:
        """Take bytes from the wire. Raises Malformed or Untrusted; the request is then dead."""
        self._seen += len(data)
        if self._seen > self._max_bytes:
            raise Malformed("MalformedRequest", _WHAT, want=f"at most {self._max_bytes} bytes", got="more")
        self._hash.update(data)
        if self._opener is None:
            self._head += data
            self._read_head()
        else:
            self._opener.push(data)
            self._read_frames()

    def _read_head(self) -> None:
        if self.header is not None or len(self._head) < _LENGTH_SIZE:
            return
        size = int.from_bytes(self._head[:_LENGTH_SIZE], "big")
        if size > MAX_HEADER_BYTES:
            raise Malformed("MalformedHeader", "header", want=f"at most {MAX_HEADER_BYTES} bytes", got=size)
        end = _LENGTH_SIZE + size + SEALED_SEED_SIZE
        if len(self._head) < end:
            return
        encoded = bytes(self._head[_LENGTH_SIZE : _LENGTH_SIZE + size])
        self.header = Header.decode(encoded)
        self.header_hash = header_hash(encoded)
        self.sealed_seed = bytes(self._head[_LENGTH_SIZE + size : end])
        del self._head[:end]

    def unlock(self, seed: bytes) -> Schedule:
        """Go on with the seed that `sealed_seed` held; frames that already arrived are opened at once."""
        if self.header is None or self._opener is not None:
            raise RuntimeError("unlock once, after the header")
        schedule = Schedule.of(seed, header_hash=self.header_hash, sealed_seed=self.sealed_seed)
        self._opener = FrameOpener(
            schedule.request, ctx=schedule.ctx, direction=Direction.REQUEST, plaintext_size=None, what="request.frame"
        )
        self._mac = hmac.new(schedule.salts.request, digestmod="sha256")
        self._opener.push(bytes(self._head))
        self._head.clear()
        self._read_frames()
        return schedule

    def _read_frames(self) -> None:
        if self._opener is None or self._mac is None:
            raise RuntimeError("not unlocked")
        while (opened := self._opener.next()) is not None:
            frame, wire = opened
            if self._final:
                raise Untrusted("StreamOverrun", _WHAT, want="nothing after the final frame", got="a frame")
            if self._frames == 0:
                self._opener.fix_size(wire)
            self._frames += 1
            if frame.type is FrameType.DATA:
                self._payload += frame.payload
                self._mac.update(frame.payload)
            elif frame.type is FrameType.FINAL and self._frames > 1:
                self._final = True
            else:
                raise Malformed("MalformedFrame", _WHAT, want="data frames, then final", got=frame.type.name)

    @property
    def complete(self) -> bool:
        """Whether the final frame has authenticated."""
        return self._final

    def finish(self) -> bytes:
        """Give the body once the wire has ended. Raises Untrusted(StreamTruncated), or Malformed for leftovers."""
        if not self._final or self._opener is None:
            raise Untrusted("StreamTruncated", _WHAT, want="a final frame", got="the end")
        if self._opener.buffered:
            raise Untrusted("StreamOverrun", _WHAT, want="nothing after the final frame", got="more bytes")
        return bytes(self._payload)

    @property
    def ciphertext_hash(self) -> bytes:
        """SHA-256 of everything fed so far: the whole wire request once finished."""
        return self._hash.digest()

    @property
    def commitment(self) -> bytes:
        """The request commitment, 32 bytes."""
        if self._mac is None:
            raise RuntimeError("not unlocked")
        return self._mac.digest()
