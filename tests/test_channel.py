# SPDX-License-Identifier: Apache-2.0
"""The sealed exchange: what is not exactly what was sealed does not open."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st

from attestation import cbor
from attestation.channel.frames import LENGTH_SIZE, TAG_SIZE, Direction, FrameOpener, FrameSealer, FrameType, padme
from attestation.channel.header import MAX_HEADER_BYTES, Header, Padding
from attestation.channel.request import seal_request
from attestation.channel.response import CELL_PLAINTEXT, MAX_ERROR_ITEM, ResponseOpener, ResponseSealer
from attestation.channel.schedule import SEALED_SEED_SIZE, DirectionKey, Schedule, open_seed, public_key_from_bytes
from attestation.errors import AttestationError, Malformed, Untrusted
from attestation.exchange import Delta, Start, Usage
from tests.seals import header, make_pair, open_all, pair, sealed

NONCE = bytes(range(32))
BODY = b"b" * 40_000  # several request frames


def split(wire: bytes) -> tuple[bytes, list[bytes]]:
    """Cut a sealed request into its head (length, header, sealed seed) and its frames."""
    head = 4 + int.from_bytes(wire[:4], "big") + SEALED_SEED_SIZE
    return wire[:head], cut(wire[head:])


def cut(wire: bytes) -> list[bytes]:
    parts = []
    while wire:
        size = LENGTH_SIZE + int.from_bytes(wire[:LENGTH_SIZE], "big")
        parts.append(wire[:size])
        wire = wire[size:]
    return parts


def refuse(wire: bytes, kind: type[AttestationError] = AttestationError) -> AttestationError:
    with pytest.raises(kind) as caught:
        opener, _ = open_all(wire)
        opener.finish()
    return caught.value


@pytest.mark.parametrize("size", [0, 1, 255, 256, 257, 16381, 16382, 40_000, 300_000])
@pytest.mark.parametrize("step", [None, 1000])
def test_a_request_opens_to_what_was_sealed(size: int, step: int | None) -> None:
    request = sealed(b"x" * size)
    opener, schedule = open_all(request.wire, step=step)
    assert opener.finish() == b"x" * size
    assert schedule is not None
    assert opener.ciphertext_hash == request.ciphertext_hash
    assert opener.commitment == request.commitment


def test_short_requests_have_one_size_and_all_frames_of_a_request_too() -> None:
    assert len({len(sealed(b"x" * n).wire) for n in (0, 1, 100, 256)}) == 1
    _, parts = split(sealed(BODY).wire)
    assert len({len(p) for p in parts}) == 1
    assert len(parts) > 2


@pytest.mark.parametrize(
    ("size", "padded"), [(0, 0), (1, 1), (2, 2), (9, 10), (257, 272), (1000, 1024), (100_000, 100_352)]
)
def test_padme(size: int, padded: int) -> None:
    assert padme(size) == padded


@given(st.integers(2, 2**24))
def test_padme_adds_at_most_an_eighth(size: int) -> None:
    assert size <= padme(size) <= size * 1.125 + 1
    assert padme(padme(size)) == padme(size)


@given(st.integers(0, 10**6), st.integers(0, 7))
@settings(max_examples=60)
def test_any_flipped_bit_of_a_request_is_refused(at: int, bit: int) -> None:
    wire = bytearray(sealed().wire)
    wire[at % len(wire)] ^= 1 << bit
    refuse(bytes(wire))


def test_truncated_anywhere_is_refused() -> None:
    wire = sealed().wire
    for size in (0, 3, 4, 50, 1200, len(wire) - 300, len(wire) - 1):
        with pytest.raises(AttestationError):
            opener, _ = open_all(wire[:size])
            opener.finish()


def test_reordered_duplicated_dropped_and_foreign_frames_are_refused() -> None:
    head, parts = split(sealed(BODY).wire)
    _, others = split(sealed(BODY, seed=bytes(32)).wire)
    for bent in (
        [parts[1], parts[0], *parts[2:]],
        [parts[0], parts[0], *parts[1:]],
        parts[1:],
        [*parts[:1], *parts[2:]],
        [others[0], *parts[1:]],
        [*parts, parts[-1]],
    ):
        refuse(head + b"".join(bent))
    assert refuse(head + b"".join(parts) + b"\0", Untrusted).code == "StreamOverrun"


def test_a_request_without_final_is_not_complete() -> None:
    head, parts = split(sealed(BODY).wire)
    assert refuse(head + b"".join(parts[:-1]), Untrusted).code == "StreamTruncated"


def seal_frames(kinds: list[tuple[FrameType, bytes, int]]) -> bytes:
    request = sealed()
    sealer = FrameSealer(request.schedule.request, ctx=request.schedule.ctx, direction=Direction.REQUEST)
    return split(request.wire)[0] + b"".join(sealer.seal(k, p, plaintext_size=s) for k, p, s in kinds)


@pytest.mark.parametrize(
    "kinds",
    [
        [(FrameType.FINAL, b"", 64)],
        [(FrameType.DATA, b"x", 64), (FrameType.FINAL, b"", 65)],
        [(FrameType.DATA, b"x", 64), (FrameType.DATA, b"x", 60), (FrameType.FINAL, b"", 64)],
        [(FrameType.DUMMY, b"", 64), (FrameType.FINAL, b"", 64)],
        [(FrameType.DATA, b"x", 64), (FrameType.ERROR, b"x", 64)],
        [(FrameType.DATA, b"x", 64), (FrameType.FINAL, b"", 64), (FrameType.FINAL, b"", 64)],
        [(FrameType.DATA, b"x", 64), (FrameType.FINAL, b"", 64), (FrameType.DATA, b"x", 64)],
    ],
    ids=[
        "final alone",
        "final of another size",
        "data of another size",
        "dummy",
        "error",
        "final twice",
        "data after final",
    ],
)
def test_properly_sealed_frames_in_a_wrong_order_are_refused(kinds: list[tuple[FrameType, bytes, int]]) -> None:
    assert refuse(seal_frames(kinds)).code in {"MalformedFrame", "StreamOverrun"}


def test_a_seed_does_not_open_under_another_header_or_key() -> None:
    request = sealed()
    opener, _ = open_all(request.wire)
    with pytest.raises(Untrusted, match="HpkeOpenFailed"):
        open_seed(opener.sealed_seed, pair().private, header_hash=bytes(32))
    with pytest.raises(Untrusted, match="HpkeOpenFailed"):
        open_seed(opener.sealed_seed, make_pair(2).private, header_hash=opener.header_hash)
    with pytest.raises(Untrusted, match="HpkeOpenFailed"):
        open_seed(b"short", pair().private, header_hash=opener.header_hash)


def test_a_seed_of_another_size_is_refused() -> None:
    wire = seal_request(header(), b"", public_key=pair().public, seed=bytes(31)).wire
    with pytest.raises(AttestationError):
        open_all(wire)


def test_bounds_of_the_opener() -> None:
    wire = sealed().wire
    open_all(wire, max_bytes=len(wire))
    with pytest.raises(Malformed, match="MalformedRequest"):
        open_all(wire, max_bytes=len(wire) - 1)
    with pytest.raises(Malformed, match="MalformedHeader"):
        open_all((MAX_HEADER_BYTES + 1).to_bytes(4, "big"))


@pytest.mark.parametrize(
    "change",
    [{1: 2}, {2: [0x647A, 1, 3]}, {2: [0x20, 1, 2]}, {3: b"short"}, {4: bytes(31)}, {5: bytes(17)}, {6: "now"},
     {7: 3}, {8: 1}, {9: "m" * 65}, {10: 1}, {63: 1}],
)  # fmt: skip
def test_header_fields_are_strict(change: dict[int, object]) -> None:
    value = cbor.decode(header().encode(), limit=1024, what="header")
    assert isinstance(value, dict)
    assert Header.decode(cbor.encode(value)) == header()
    with pytest.raises(Malformed, match="MalformedHeader"):
        Header.decode(cbor.encode(value | change))


def test_header_carries_unknown_keys_from_64_on() -> None:
    value = cbor.decode(header().encode(), limit=1024, what="header")
    assert isinstance(value, dict)
    assert Header.decode(cbor.encode(value | {64: b"later"})) == header()


def test_a_public_key_has_its_size() -> None:
    with pytest.raises(ValueError, match="1216"):
        public_key_from_bytes(bytes(1215))


# The response.


def answer(schedule: Schedule, padding: Padding = Padding.CELL) -> tuple[list[bytes], ResponseSealer]:
    s = ResponseSealer(schedule, resp_nonce=NONCE, padding=padding)
    parts = [s.preamble]
    parts += [s.data(Start(created=1, prompt_ids=(1, 2), params={"seed": 1}).encode()), s.dummy()]
    parts += [
        s.data(Delta(text="hello " * 50, ids=(3,)).encode()),
        s.data(Usage(prompt=2, cached=0, completion=1, reasoning=0).encode()),
    ]
    parts += [s.receipt(b"r" * 500), s.final()]
    return parts, s


@pytest.mark.parametrize("padding", [Padding.OFF, Padding.CELL, Padding.GRID])
@pytest.mark.parametrize("step", [1, 7, 100_000])
def test_an_answer_in_any_chunking(padding: Padding, step: int) -> None:
    schedule = sealed().schedule
    sealer = ResponseSealer(schedule, resp_nonce=NONCE, padding=padding)
    wire = sealer.preamble + sealer.data(Delta(text="hé" * 200).encode())
    wire += sealer.data(Delta(text="!").encode())
    transcript = sealer.transcript_hash
    wire += sealer.receipt(b"receipt") + sealer.final()
    opener = ResponseOpener(schedule, padding=padding)
    items: list[Any] = [item for at in range(0, len(wire), step) for item in opener.feed(wire[at : at + step])]
    opener.close()
    assert [item[7] for item in items if isinstance(item, dict)] == ["hé" * 200, "!"]
    assert opener.receipt_item == b"receipt"
    assert opener.transcript_hash == transcript
    assert opener.commitment == sealer.commitment


def test_in_cell_mode_every_frame_has_one_size_and_shows_nothing() -> None:
    schedule = sealed().schedule
    sealer = ResponseSealer(schedule, resp_nonce=NONCE, padding=Padding.CELL)
    pieces = [
        sealer.data(b"\x01" * 300),
        sealer.dummy(),
        sealer.error(b"e"),
        sealer.receipt(b"r" * 300),
        sealer.final(),
    ]
    parts = cut(b"".join(pieces))
    assert {len(p) for p in parts} == {LENGTH_SIZE + CELL_PLAINTEXT + TAG_SIZE}
    assert len({p[:LENGTH_SIZE] for p in parts}) == 1


def open_answer(wire: bytes, schedule: Schedule, padding: Padding = Padding.CELL) -> None:
    opener = ResponseOpener(schedule, padding=padding)
    opener.feed(wire)
    opener.close()


def test_a_bent_answer_is_refused_by_name() -> None:
    schedule = sealed().schedule
    parts, _ = answer(schedule)
    open_answer(b"".join(parts), schedule)
    wire = b"".join(parts)
    with pytest.raises(Untrusted, match="StreamTruncated"):
        open_answer(b"".join(parts[:-1]), schedule)
    with pytest.raises(Untrusted, match="FrameAuthenticationFailed"):
        open_answer(b"".join([parts[0], *parts[2:]]), schedule)
    with pytest.raises(Untrusted, match="FrameAuthenticationFailed"):
        open_answer(bytes(32) + wire[32:], schedule)
    with pytest.raises(AttestationError):
        open_answer(wire + parts[-1], schedule)
    with pytest.raises(Untrusted, match="StreamOverrun"):
        open_answer(wire + b"\0", schedule)
    with pytest.raises(Untrusted, match="FrameAuthenticationFailed"):
        open_answer(wire, sealed(seed=bytes(32)).schedule)


def test_a_broken_stream_stays_broken() -> None:
    schedule = sealed().schedule
    parts, _ = answer(schedule)
    opener = ResponseOpener(schedule, padding=Padding.CELL)
    opener.feed(parts[0])
    bent = bytearray(parts[1])
    bent[10] ^= 1
    with pytest.raises(Untrusted):
        opener.feed(bytes(bent))
    with pytest.raises(Untrusted):
        opener.feed(parts[1])


def raw_answer(kinds: list[tuple[FrameType, bytes]], schedule: Schedule) -> bytes:
    sealer = FrameSealer(schedule.response(NONCE), ctx=schedule.ctx, direction=Direction.RESPONSE)
    return NONCE + b"".join(sealer.seal(k, p, plaintext_size=CELL_PLAINTEXT) for k, p in kinds)


@pytest.mark.parametrize(
    "kinds",
    [
        [(FrameType.ERROR, b"e"), (FrameType.DATA, b"\x01"), (FrameType.FINAL, b"")],
        [(FrameType.RECEIPT, b"r"), (FrameType.DATA, b"\x01"), (FrameType.FINAL, b"")],
        [(FrameType.RECEIPT, b"r"), (FrameType.DUMMY, b""), (FrameType.FINAL, b"")],
        [(FrameType.RECEIPT, b"r"), (FrameType.ERROR, b"e"), (FrameType.FINAL, b"")],
        [(FrameType.FINAL, b""), (FrameType.DUMMY, b"")],
        [(FrameType.DATA, b"\x18"), (FrameType.FINAL, b"")],
        [(FrameType.ERROR, b"e" * 100)] * (MAX_ERROR_ITEM // 100 + 1),
        [(FrameType.RECEIPT, b"e" * 120)] * 40,
    ],
    ids=["data after error", "data after receipt", "dummy after receipt", "error after receipt", "frame after final",
         "half an item", "error too long", "receipt too long"],
)  # fmt: skip
def test_properly_sealed_answers_in_a_wrong_order_are_refused(kinds: list[tuple[FrameType, bytes]]) -> None:
    schedule = sealed().schedule
    with pytest.raises(AttestationError, match=r"MalformedFrame|StreamOverrun"):
        open_answer(raw_answer(kinds, schedule), schedule)


@pytest.mark.parametrize(
    "plaintext",
    [
        b"\x05\0\0" + bytes(125),
        b"\0\0\x7e" + bytes(125),
        b"\0\0\x01a" + bytes(123) + b"\x01",
        b"\x01\0\x01a" + bytes(124),
    ],
    ids=["unknown type", "length past the end", "padding not zero", "a dummy with payload"],
)
def test_properly_sealed_nonsense_is_refused(plaintext: bytes) -> None:
    key = DirectionKey(key=bytes(32), iv=bytes(12))
    box = AESGCM(key.key).encrypt(key.iv, plaintext, bytes(32) + bytes([Direction.RESPONSE]) + bytes(8))
    opener = FrameOpener(key, ctx=bytes(32), direction=Direction.RESPONSE, plaintext_size=128, what="test")
    opener.push(len(box).to_bytes(4, "big") + box)
    with pytest.raises(Malformed, match="MalformedFrame"):
        opener.next()


@pytest.mark.parametrize("size", [0, 18, 145, 143, 2**32 - 1])
def test_frame_lengths_are_bounded_before_anything_is_buffered(size: int) -> None:
    key = DirectionKey(key=bytes(32), iv=bytes(12))
    opener = FrameOpener(key, ctx=bytes(32), direction=Direction.RESPONSE, plaintext_size=128, what="test")
    opener.push(size.to_bytes(4, "big"))
    with pytest.raises(Malformed, match="MalformedFrame"):
        opener.next()


def test_directions_are_apart() -> None:
    key = DirectionKey(key=bytes(32), iv=bytes(12))
    wire = FrameSealer(key, ctx=bytes(32), direction=Direction.REQUEST).seal(FrameType.DATA, b"x", plaintext_size=8)
    opener = FrameOpener(key, ctx=bytes(32), direction=Direction.RESPONSE, plaintext_size=8, what="test")
    opener.push(wire)
    with pytest.raises(Untrusted, match="FrameAuthenticationFailed"):
        opener.next()


def test_the_sealer_keeps_the_order_of_stages() -> None:
    sealer = ResponseSealer(sealed().schedule, resp_nonce=NONCE, padding=Padding.OFF)
    sealer.error(b"e")
    late: list[Callable[[], bytes]] = [lambda: sealer.data(b"x"), lambda: sealer.error(b"e")]
    for wrong in late:
        with pytest.raises(RuntimeError):
            wrong()
    sealer.receipt(b"r")
    late = [sealer.dummy, lambda: sealer.receipt(b"r")]
    for wrong in late:
        with pytest.raises(RuntimeError):
            wrong()
    sealer.final()
    with pytest.raises(RuntimeError):
        sealer.final()
    with pytest.raises(ValueError, match="resp_nonce"):
        ResponseSealer(sealed().schedule, resp_nonce=b"short", padding=Padding.OFF)


def test_secrets_have_no_face() -> None:
    request = sealed()
    for secret in (request, request.schedule, request.schedule.salts, request.schedule.request):
        assert request.schedule.capability.hex() not in repr(secret)
        assert "b'" not in repr(secret)
