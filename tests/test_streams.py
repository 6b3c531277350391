# SPDX-License-Identifier: Apache-2.0
"""Answers bent on their way: the first false frame ends the stream by name, and the enclave goes on serving others."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from attestation.channel.header import Padding
from attestation.channel.response import CELL_PLAINTEXT, ResponseOpener
from attestation.errors import AttestationError, Untrusted
from attestation.exchange import Delta
from attestation.receipt import SignedReceipt
from client.errors import RunOutcomeUnknown
from client.exchange import SEALED_PATH
from client.memory import ReceiptMemory
from enclave.keys import ReceiptSigner
from enclave.metrics import Count, Gauge
from tests.relay import faithful, relayed
from tests.sealed_by_hand import sealed_for
from tests.served import Served, served

QUESTION = "many words that come back one by one"
FRAME = 4 + CELL_PLAINTEXT + 16
NONCE = 32


@pytest.fixture(scope="module")
def enclave(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("enclave")) as running:
        yield running


def frame(number: int) -> slice:
    return slice(NONCE + number * FRAME, NONCE + (number + 1) * FRAME)


def flipped(at: int) -> Callable[[bytes], bytes]:
    def bend(data: bytes) -> bytes:
        bent = bytearray(data)
        bent[at] ^= 1
        return bytes(bent)

    return bend


def swapped(data: bytes) -> bytes:
    one, two = data[frame(1)], data[frame(2)]
    return data[: frame(1).start] + two + one + data[frame(2).stop :]


def longer_frame(data: bytes) -> bytes:
    return data[: frame(1).start] + (2**32 - 1).to_bytes(4, "big") + data[frame(1).start + 4 :]


BENT: list[tuple[str, Callable[[bytes], bytes], str, int]] = [
    ("a flipped bit in the nonce", flipped(3), "FrameAuthenticationFailed", 4),
    ("a flipped bit in the first frame", flipped(NONCE + 9), "FrameAuthenticationFailed", 4),
    ("a flipped bit in the middle", flipped(NONCE + 2 * FRAME + 50), "FrameAuthenticationFailed", 4),
    ("a flipped bit in the last tag", flipped(-1), "FrameAuthenticationFailed", 4),
    ("two frames swapped", swapped, "FrameAuthenticationFailed", 4),
    ("a frame twice", lambda d: d[: frame(1).stop] + d[frame(1)] + d[frame(1).stop :], "FrameAuthenticationFailed", 4),
    ("a frame left out", lambda d: d[: frame(1).start] + d[frame(1).stop :], "FrameAuthenticationFailed", 4),
    ("no final frame", lambda d: d[:-FRAME], "StreamTruncated", 4),
    ("cut in a frame", lambda d: d[:-10], "StreamTruncated", 4),
    ("cut after the first frame", lambda d: d[: frame(0).stop], "StreamTruncated", 4),
    ("a frame after the final one", lambda d: d + d[-FRAME:], "FrameAuthenticationFailed", 4),
    ("a byte after the final frame", lambda d: d + b"\0", "StreamOverrun", 4),
    ("a frame of impossible length", longer_frame, "MalformedFrame", 3),
    ("something else", lambda _: b"<html>" + bytes(500), "MalformedFrame", 3),
]


@pytest.mark.parametrize(("bend", "code", "exit_code"), [row[1:] for row in BENT], ids=[row[0] for row in BENT])
def test_a_bent_answer_is_refused_by_name(
    enclave: Served, bend: Callable[[bytes], bytes], code: str, exit_code: int
) -> None:
    with relayed(enclave, lambda path, data: (200, bend(data) if path == SEALED_PATH else data)) as relay:
        run = enclave.run(QUESTION, target=relay.target)
        with pytest.raises(AttestationError) as e:
            list(run.items())
        assert (e.value.code, e.value.exit_code) == (code, exit_code)
        assert not run.complete
        assert run.witness is None  # and nothing of it can become a dossier
        assert relay.paths.count(SEALED_PATH) == 1  # nor is it asked again
    assert text_of(enclave, "still here") == "still here"


@pytest.mark.parametrize("cut", [0, 10, NONCE, NONCE + FRAME - 1])
def test_an_answer_cut_before_its_first_frame_leaves_the_outcome_unknown(enclave: Served, cut: int) -> None:
    with relayed(enclave, lambda path, data: (200, data[:cut] if path == SEALED_PATH else data)) as relay:
        run = enclave.run(QUESTION, target=relay.target)
        with pytest.raises(RunOutcomeUnknown) as e:
            list(run.items())
        assert e.value.exit_code == 6
        assert relay.paths.count(SEALED_PATH) == 2  # the second attempt had the same run id


def test_the_answer_to_another_request_is_refused(enclave: Served) -> None:
    kept: list[bytes] = []

    def bend(path: str, data: bytes) -> tuple[int, bytes]:
        if path == SEALED_PATH:
            kept.append(data)
        return 200, kept[0] if path == SEALED_PATH else data

    with relayed(enclave, bend) as relay:
        list(enclave.run(QUESTION, target=relay.target).items())
        with pytest.raises(Untrusted, match="FrameAuthenticationFailed"):
            list(enclave.run(QUESTION, target=relay.target).items())


def text_of(enclave: Served, question: str, **fields: Any) -> str:
    return "".join(item.text for item in enclave.run(question, **fields).items() if isinstance(item, Delta))


# ---- requests that stop halfway


@pytest.mark.parametrize("part", ["head", "body", "whole"])
@pytest.mark.parametrize("listener", ["http", "unix"])
def test_a_peer_that_stops_sending_has_gone(tmp_path: Path, listener: str, part: str) -> None:
    """Half-closed in the head, in the body or after the last byte: its connection ends, its slot is free."""
    with served(tmp_path, delay=0.02) as enclave:
        sealed, _ = sealed_for(enclave, "word " * 200)
        head = f"POST {SEALED_PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(sealed.wire)}\r\n\r\n".encode()
        wire = head + sealed.wire
        size = {"head": len(head) // 2, "body": len(wire) - 20, "whole": len(wire)}[part]
        with dial(enclave, listener) as sock:
            sock.sendall(wire[:size])
            if part == "whole":
                eventually(lambda: enclave.call(lambda: enclave.floor.pump.live) == 1)
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(65536):
                pass
        eventually(lambda: enclave.call(lambda: enclave.floor.pump.live) == 0)
        eventually(lambda: enclave.call(lambda: enclave.floor.metrics.read(Gauge.CONNECTIONS_OPEN)) == 0)
        assert enclave.count(Count.RUNS_COMPLETE) == 0
        assert text_of(enclave, "still here") == "still here"
        if part == "body":  # the relay that cut it could not use it up
            status, wire = enclave.post(sealed.wire)
            assert status == 200


def dial(enclave: Served, listener: str) -> socket.socket:
    target = enclave.service.targets[listener]
    if listener == "unix":
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(target.removeprefix("unix:"))
        sock.settimeout(10)
        return sock
    host, port = target.removeprefix("http://").rsplit(":", 1)
    return socket.create_connection((host, int(port)), timeout=10)


def eventually(holds: Callable[[], bool]) -> None:
    for _ in range(500):
        if holds():
            return
        time.sleep(0.02)
    raise AssertionError("it never came to hold")


# ---- what the wire shows


def frames_of(wire: bytes) -> list[int]:
    sizes, at = [], NONCE
    while at < len(wire):
        sizes.append(int.from_bytes(wire[at : at + 4], "big"))
        at += 4 + sizes[-1]
    return sizes


@pytest.mark.parametrize("padding", [Padding.CELL, Padding.GRID])
def test_answers_refusals_and_dummies_look_the_same_on_the_wire(tmp_path: Path, padding: Padding) -> None:
    """Captured bytes: one length everywhere, and no byte but the length that any two captures share."""
    captured = []
    with served(tmp_path, delay=0.01) as enclave:
        asked: list[dict[str, Any]] = [{}, {}, {"request": {"frobnicate": 1}}, {"maximum_total": 0}, {"first_epoch": 9}]
        for changes in asked:
            sealed, opener = sealed_for(enclave, "a few words", header={"padding": padding}, **changes)
            status, wire = enclave.post(sealed.wire)
            assert status == 200
            opener.feed(wire)
            opener.close()
            captured.append(wire)
    assert {size for wire in captured for size in frames_of(wire)} == {CELL_PLAINTEXT + 16}
    clear = {wire[frame(n).start : frame(n).start + 4] for wire in captured for n in range(len(frames_of(wire)))}
    assert clear == {(CELL_PLAINTEXT + 16).to_bytes(4, "big")}
    bodies = [wire[frame(n)][4:] for wire in captured for n in range(len(frames_of(wire)))]
    for at in range(CELL_PLAINTEXT + 16):
        assert len({body[at] for body in bodies}) > 1  # no position tells a type


def test_without_padding_frames_are_as_long_as_they_need(enclave: Served) -> None:
    sealed, opener = sealed_for(enclave, "w" * 3000, header={"padding": Padding.OFF})
    _, wire = enclave.post(sealed.wire)
    opener.feed(wire)
    opener.close()
    assert len(set(frames_of(wire))) > 2


def test_a_grid_goes_on_while_the_engine_thinks(tmp_path: Path) -> None:
    with served(tmp_path, delay=0.3) as enclave:
        sealed, opener = sealed_for(enclave, "slow slow slow", header={"padding": Padding.GRID})
        _, wire = enclave.post(sealed.wire)
        opener.feed(wire)
        opener.close()
    assert len(frames_of(wire)) > 4 * 4  # dummies between two words that are 0.3 s apart


# ---- two receipts that cannot both be


def receipts(enclave: Served) -> tuple[SignedReceipt, SignedReceipt]:
    found = []
    for question in ("one", "two"):
        run = enclave.run(question)
        list(run.items())
        assert run.receipt is not None
        found.append(run.receipt)
    return found[0], found[1]


@pytest.mark.parametrize("field", ["serial", "previous"])
def test_equivocation_is_detected_refused_and_kept(enclave: Served, tmp_path: Path, field: str) -> None:
    first, second = receipts(enclave)
    signer = ReceiptSigner()
    key = signer.public
    changed = (
        replace(second.receipt, previous=bytes(32))
        if field == "serial"
        else replace(second.receipt, serial=second.receipt.serial + 7)
    )
    honest, lie = signer.receipt(second.receipt), signer.receipt(changed)
    memory = ReceiptMemory(tmp_path / "receipts.sqlite")
    memory.remember(key, first)
    memory.remember(key, honest)
    memory.remember(key, honest)  # the same one again is no news
    with pytest.raises(Untrusted) as e:
        memory.remember(key, lie)
    assert (e.value.code, e.value.where) == ("ReceiptEquivocation", f"receipt.{field}")
    assert str(tmp_path) in e.value.got
    memory.close()
    again = ReceiptMemory(tmp_path / "receipts.sqlite")
    kept = [SignedReceipt.decode(item).receipt.hash for item in again.evidence_of_equivocation(key, lie)]
    assert sorted(kept) == sorted([honest.receipt.hash, lie.receipt.hash])
    assert len(again.evidence_of_equivocation(key, first)) == 1
    again.close()


def test_receipts_of_two_keys_or_out_of_order_are_no_equivocation(enclave: Served) -> None:
    first, second = receipts(enclave)
    memory = ReceiptMemory(None)
    memory.remember(bytes(32), second)
    memory.remember(bytes(32), first)
    memory.remember(bytes(31) + b"\1", replace(first, receipt=replace(first.receipt, previous=bytes(32))))
    memory.close()


def test_a_run_whose_receipt_contradicts_an_earlier_one_is_refused(enclave: Served) -> None:
    run = enclave.run("the true one")
    list(run.items())
    assert run.receipt is not None
    key = enclave.booted.boot.receipt_key
    forged = replace(run.receipt.receipt, serial=run.receipt.receipt.serial + 1, price=1)
    memory = ReceiptMemory(enclave.folder / "receipts.sqlite")
    memory.remember(key, SignedReceipt(receipt=replace(forged, previous=bytes(31) + b"\1"), signature=bytes(64)))
    memory.close()
    after = enclave.run("another serial of the same number")
    with pytest.raises(Untrusted, match="ReceiptEquivocation"):
        list(after.items())
    assert not after.complete


def test_the_relay_that_changes_nothing_changes_nothing(enclave: Served) -> None:
    with relayed(enclave, faithful) as relay:
        assert text_of(enclave, QUESTION, target=relay.target) == QUESTION


def test_an_opener_takes_nothing_after_its_end() -> None:
    from tests.seals import sealed

    opener = ResponseOpener(sealed().schedule, padding=Padding.CELL)
    with pytest.raises(Untrusted, match="StreamTruncated"):
        opener.close()
