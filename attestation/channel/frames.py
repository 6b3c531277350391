# SPDX-License-Identifier: Apache-2.0
"""Frames: length, then an AES-256-GCM box of type, length, payload and zeros (docs/protocol.md, Frames)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ..errors import Malformed, Untrusted
from ..wire import Reader
from .schedule import DirectionKey

TAG_SIZE: Final = 16
LENGTH_SIZE: Final = 4
PREFIX_SIZE: Final = 3  # u8 type || u16 length
MAX_PLAINTEXT: Final = 16384
MAX_FRAMES: Final = 2**32  # far below AES-GCM's bound for one key
_CODE: Final = "MalformedFrame"


class Direction(IntEnum):
    """Who sends."""

    REQUEST = 0
    RESPONSE = 1
    CONTROL = 2


class FrameType(IntEnum):
    """What a frame holds."""

    DATA = 0
    DUMMY = 1
    ERROR = 2
    RECEIPT = 3
    FINAL = 4


@dataclass(frozen=True, slots=True, repr=False)
class Frame:
    """One opened frame."""

    type: FrameType
    payload: bytes


def padme(size: int) -> int:
    """Round a size up so that at most O(log log n) bits of it leak (Nikitin et al., PURBs, section 4.3)."""
    if size < 2:
        return size
    exponent = size.bit_length() - 1
    mask = (1 << (exponent - exponent.bit_length())) - 1
    return (size + mask) & ~mask


class _Box:
    """AES-256-GCM with counted nonces for one direction of one exchange."""

    __slots__ = ("_aead", "_ctx", "_direction", "_iv", "_seq")

    def __init__(self, key: DirectionKey, *, ctx: bytes, direction: Direction) -> None:
        self._aead = AESGCM(key.key)
        self._iv = int.from_bytes(key.iv, "big")
        self._ctx = ctx
        self._direction = bytes([direction])
        self._seq = 0

    def next(self) -> tuple[bytes, bytes]:
        """Give nonce and associated data of the next frame; a sequence number is never used twice."""
        seq = self._seq
        if seq >= MAX_FRAMES:
            raise Malformed(_CODE, "frame", want=f"at most {MAX_FRAMES} frames", got="more")
        self._seq += 1
        return (self._iv ^ seq).to_bytes(12, "big"), self._ctx + self._direction + seq.to_bytes(8, "big")

    @property
    def aead(self) -> AESGCM:
        return self._aead


class FrameSealer:
    """Seals frames of one direction in order."""

    __slots__ = ("_box",)

    def __init__(self, key: DirectionKey, *, ctx: bytes, direction: Direction) -> None:
        self._box = _Box(key, ctx=ctx, direction=direction)

    def seal(self, kind: FrameType, payload: bytes, *, plaintext_size: int) -> bytes:
        """Give one wire frame whose plaintext has exactly `plaintext_size` bytes."""
        if PREFIX_SIZE + len(payload) > plaintext_size or plaintext_size > MAX_PLAINTEXT:
            raise ValueError("payload does not fit the frame")
        plaintext = bytes([kind]) + len(payload).to_bytes(2, "big") + payload
        nonce, aad = self._box.next()
        box = self._box.aead.encrypt(nonce, plaintext.ljust(plaintext_size, b"\0"), aad)
        return len(box).to_bytes(LENGTH_SIZE, "big") + box


class FrameOpener:
    """Cuts frames off a stream and opens them in order. The first that does not authenticate ends the stream.

    `plaintext_size` fixes the size of every frame; None takes any up to MAX_PLAINTEXT. At most one frame is buffered.
    """

    __slots__ = ("_box", "_broken", "_buffer", "_size", "_what")

    def __init__(
        self, key: DirectionKey, *, ctx: bytes, direction: Direction, plaintext_size: int | None, what: str
    ) -> None:
        self._box = _Box(key, ctx=ctx, direction=direction)
        self._size = plaintext_size
        self._buffer = bytearray()
        self._what = what
        self._broken = False

    @property
    def buffered(self) -> int:
        """Bytes of a frame that is not whole yet."""
        return len(self._buffer)

    def push(self, data: bytes) -> None:
        """Take bytes from the wire."""
        self._buffer += data

    def next(self) -> tuple[Frame, bytes] | None:
        """Give the next whole frame and its wire bytes, or None. Raises Malformed or Untrusted, from then on always."""
        if self._broken:
            raise Untrusted("FrameAuthenticationFailed", self._what, want="an intact stream", got="a broken one")
        self._broken = True  # until this frame has proved itself
        size = self._frame_size()
        if size is None or len(self._buffer) < LENGTH_SIZE + size:
            self._broken = False
            return None
        wire = bytes(self._buffer[: LENGTH_SIZE + size])
        del self._buffer[: LENGTH_SIZE + size]
        nonce, aad = self._box.next()
        try:
            plaintext = self._box.aead.decrypt(nonce, wire[LENGTH_SIZE:], aad)
        except InvalidTag:
            raise Untrusted("FrameAuthenticationFailed", self._what) from None
        frame = _read_plaintext(plaintext, self._what)
        self._broken = False
        return frame, wire

    def _frame_size(self) -> int | None:
        if len(self._buffer) < LENGTH_SIZE:
            return None
        size = int.from_bytes(self._buffer[:LENGTH_SIZE], "big")
        least, most = PREFIX_SIZE + TAG_SIZE, MAX_PLAINTEXT + TAG_SIZE
        if self._size is not None:
            least = most = self._size + TAG_SIZE
        if not least <= size <= most:
            raise Malformed(_CODE, f"{self._what}.length", want=f"{least} to {most}", got=size)
        return size

    def fix_size(self, wire: bytes) -> None:
        """Require every later frame to have the size of `wire`."""
        self._size = len(wire) - LENGTH_SIZE - TAG_SIZE


def _read_plaintext(plaintext: bytes, what: str) -> Frame:
    r = Reader(plaintext, what=what, code=_CODE)
    kind = r.u8("type")
    if kind > max(FrameType):
        raise Malformed(_CODE, f"{what}.type", want=f"at most {max(FrameType)}", got=kind)
    payload = r.take(r.u16be("length"), "payload")
    if any(r.rest()):
        raise Malformed(_CODE, f"{what}.padding", want="zeros", got="other bytes")
    frame = Frame(FrameType(kind), payload)
    if frame.type in (FrameType.DUMMY, FrameType.FINAL) and payload:
        raise Malformed(_CODE, f"{what}.payload", want="none in a dummy or final frame", got=f"{len(payload)} bytes")
    return frame
