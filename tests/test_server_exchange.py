# SPDX-License-Identifier: Apache-2.0
"""A client and an enclave over real sockets: answers, receipts, refusals, and what no bad request can do."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from attestation.channel.response import CELL_PLAINTEXT
from attestation.errors import Untrusted
from attestation.exchange import SealedRefusal
from attestation.ledger import BATCH, RECEIPT, REGISTRATION, ReceiptRecord, StatementRecord, read_records
from attestation.receipt import SignedReceipt, Status
from client.anchored import TonTrust
from client.audit import audit
from client.dossier import dossier_of
from client.errors import Declined, RunOutcomeUnknown
from enclave.metrics import Count
from tests.sealed_by_hand import refusal, sealed_for, text_of
from tests.served import Served, served

CANARY = "canary-7b1f9e"


@pytest.fixture(scope="module")
def enclave(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("enclave")) as running:
        yield running


@pytest.mark.parametrize("listener", ["http", "unix", "ra_tls"])
def test_an_answer_comes_with_a_receipt_over_every_listener(enclave: Served, listener: str) -> None:
    run = enclave.run("five words that come back", listener)
    assert text_of(list(run.items())) == "five words that come back"
    assert run.complete
    assert run.receipt is not None
    assert run.receipt.receipt.status is Status.COMPLETE
    assert all(link.holds for link in run.links)
    assert run.attested.connection.key_exchange_group() == ("X25519MLKEM768" if listener == "ra_tls" else None)


def test_a_strict_client_is_served_over_ra_tls(enclave: Served) -> None:
    attested = enclave.attest("ra_tls", channel={"mode": "ra-tls", "strict": True})
    attested.connection.close()


def test_receipts_are_numbered_and_chained(enclave: Served) -> None:
    receipts = []
    for _ in range(3):
        run = enclave.run("again")
        list(run.items())
        assert run.receipt is not None
        receipts.append(run.receipt.receipt)
    assert [r.serial - receipts[0].serial for r in receipts] == [0, 1, 2]
    assert [receipts[1].previous, receipts[2].previous] == [receipts[0].hash, receipts[1].hash]


def test_the_price_is_the_operators(enclave: Served) -> None:
    run = enclave.run("one two")
    list(run.items())
    assert run.receipt is not None
    receipt = run.receipt.receipt
    assert receipt.price == receipt.prompt_tokens + 2 * receipt.completion_tokens


def test_a_dossier_is_audited_and_a_bent_one_is_not(enclave: Served) -> None:
    run = enclave.run("kept for the auditor")
    list(run.items())
    data = dossier_of(run, policy=enclave.policy_bytes()).encode()
    result = audit(data, enclave.policy(), at=None, now=enclave.now(), trust=TonTrust())
    result.require(allow_unconfidential=True)
    assert result.anchoring.status == "not anchored"
    bent = data.replace(b"auditor", b"Auditor")
    assert bent != data
    with pytest.raises(Untrusted):
        audit(bent, enclave.policy(), at=None, now=enclave.now(), trust=TonTrust()).require(allow_unconfidential=True)


def test_every_frame_on_the_wire_has_one_size(enclave: Served) -> None:
    for question in ("a", "many words " * 40):
        sealed, opener = sealed_for(enclave, question)
        status, wire = enclave.post(sealed.wire)
        assert status == 200
        frames = wire[32:]
        sizes = set()
        while frames:
            size = int.from_bytes(frames[:4], "big")
            sizes.add(size)
            frames = frames[4 + size :]
        assert sizes == {CELL_PLAINTEXT + 16}
        opener.feed(wire)
        opener.close()
        assert opener.receipt_item


SEALED_REFUSALS: list[tuple[str, dict[str, Any], str]] = [
    ("a time two minutes off", {"header": {"time": 1}}, "time_window"),
    ("an unknown model", {"header": {"model": "other"}, "request": {"model": "other"}}, "model_unknown"),
    ("a header of another model", {"request": {"model": "other"}}, "header_mismatch"),
    ("a header of another stream flag", {"request": {"stream": False}}, "header_mismatch"),
    ("a header of another keyset", {"header": {"keyset_digest": bytes(32)}}, "epoch_mismatch"),
    ("too many tokens", {"request": {"max_tokens": 100_000}}, "limit_exceeded"),
    ("an unknown field", {"request": {"frobnicate": 1}}, "unsupported_field"),
    ("no messages", {"request": {"messages": 7}}, "invalid_request"),
    ("a body that is no JSON", {"openai": b"{"}, "invalid_request"),
    ("a first attempt in the future", {"first_epoch": 9}, "invalid_request"),
    ("a price above the maximum", {"maximum_total": 0}, "limit_exceeded"),
]


@pytest.mark.parametrize(
    ("changes", "code"), [row[1:] for row in SEALED_REFUSALS], ids=[row[0] for row in SEALED_REFUSALS]
)
def test_an_authenticated_request_is_refused_inside_the_seal(
    enclave: Served, changes: dict[str, Any], code: str
) -> None:
    assert refusal(enclave, **changes).code == code


OUTER: list[tuple[str, Any, int]] = [
    ("nothing", lambda _: b"", 400),
    ("a header length past the end", lambda w: b"\xff\xff\xff\xff" + w[4:], 400),
    ("a flipped header", lambda w: w[:10] + bytes([w[10] ^ 1]) + w[11:], 400),
    ("a flipped sealed seed", lambda w: w[:700] + bytes([w[700] ^ 1]) + w[701:], 400),
    ("a flipped frame", lambda w: w[:-30] + bytes([w[-30] ^ 1]) + w[-29:], 400),
    ("a frame cut short", lambda w: w[:-1], 400),
    ("a byte more", lambda w: w + b"\0", 400),
    ("without its final frame", lambda w: w[: -last_frame(w)], 400),
    ("its last frame twice", lambda w: w + w[-last_frame(w) :], 400),
    ("too long", lambda w: w + bytes(300_000), 413),
]


def last_frame(wire: bytes) -> int:
    at, size = 4 + int.from_bytes(wire[:4], "big") + 1168, 0
    while at < len(wire):
        size = 4 + int.from_bytes(wire[at : at + 4], "big")
        at += size
    return size


@pytest.mark.parametrize(("bend", "status"), [row[1:] for row in OUTER], ids=[row[0] for row in OUTER])
def test_what_does_not_authenticate_is_refused_outside_and_burns_nothing(
    enclave: Served, bend: Any, status: int
) -> None:
    sealed, opener = sealed_for(enclave)
    before = enclave.count(Count.SEALED_ACCEPTED)
    assert enclave.post(bend(sealed.wire))[0] == status
    assert enclave.count(Count.SEALED_ACCEPTED) == before
    answer = enclave.post(sealed.wire)  # the relay that garbled it could not use the request up
    assert answer[0] == 200
    opener.feed(answer[1])
    opener.close()


def test_a_request_for_another_key_is_told_so(enclave: Served) -> None:
    sealed, _ = sealed_for(enclave, header={"kid": bytes(8)})
    assert enclave.post(sealed.wire)[0] == 422


def test_a_replay_is_refused_also_with_the_clock_turned_back(enclave: Served) -> None:
    sealed, _ = sealed_for(enclave)
    assert enclave.post(sealed.wire)[0] == 200
    assert enclave.post(sealed.wire)[0] == 400
    enclave.clock.now -= 60
    try:
        assert enclave.post(sealed.wire)[0] == 400
    finally:
        enclave.clock.now += 60


def test_a_run_id_runs_once(enclave: Served) -> None:
    run_id = bytes(range(32))
    first, opener = sealed_for(enclave, run_id=run_id)
    opener.feed(enclave.post(first.wire)[1])
    again, second = sealed_for(enclave, run_id=run_id)
    second.feed(enclave.post(again.wire)[1])
    assert second.error_item
    assert SealedRefusal.decode(second.error_item).code == "already_run"
    assert second.receipt_item == opener.receipt_item


def broken(*_: object) -> None:
    raise IndexError("of the engine's own")


@pytest.mark.parametrize("how", ["refused", "broken", "priced"])
def test_a_run_that_never_started_may_be_asked_again_under_its_id(
    enclave: Served, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    run_id = how.encode().ljust(32, b".")
    if how == "refused":
        assert refusal(enclave, run_id=run_id, request={"frobnicate": 1}).code == "unsupported_field"
    elif how == "priced":
        assert refusal(enclave, run_id=run_id, maximum_total=0).code == "limit_exceeded"
    else:
        with monkeypatch.context() as patch:
            patch.setattr(enclave.booted.engine, "submit", broken)
            assert refusal(enclave, run_id=run_id).code == "engine_failed"
    sealed, opener = sealed_for(enclave, run_id=run_id)
    opener.feed(enclave.post(sealed.wire)[1])
    assert not opener.error_item
    assert SignedReceipt.decode(opener.receipt_item).receipt.status is Status.COMPLETE
    assert refusal(enclave, run_id=run_id).code == "already_run"


def test_a_receipt_is_fetched_by_its_capability_alone(enclave: Served) -> None:
    sealed, opener = sealed_for(enclave)
    opener.feed(enclave.post(sealed.wire)[1])
    get = "GET /v1/sericin/receipts HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    mine = f"Sericin-Capability: {sealed.schedule.capability.hex()}\r\n\r\n"
    answer = enclave.raw((get + mine).encode(), finish=False)
    assert answer.split(b"\r\n\r\n", 1)[1] == opener.receipt_item
    for wrong in ("00" * 32, "x", sealed.schedule.capability.hex().upper()):
        answer = enclave.raw(f"{get}Sericin-Capability: {wrong}\r\n\r\n".encode(), finish=False)
        assert answer.split()[1] == b"404"


def test_a_vanished_client_leaves_an_aborted_receipt_and_a_free_slot(tmp_path: Path) -> None:
    with served(tmp_path, delay=0.02) as enclave:
        sealed, _ = sealed_for(enclave, "word " * 300)
        host, port = enclave.service.targets["http"].removeprefix("http://").rsplit(":", 1)
        sock = socket.create_connection((host, int(port)), timeout=10)
        head = f"POST /v1/sericin/sealed HTTP/1.1\r\nHost: x\r\nContent-Length: {len(sealed.wire)}\r\n\r\n"
        sock.sendall(head.encode() + sealed.wire)
        seen = 0
        while seen < 2000:  # the head, and frames of a run that has started
            seen += len(sock.recv(4096))
        sock.close()
        for _ in range(200):
            if enclave.count(Count.RUNS_ABORTED) and not enclave.call(lambda: enclave.floor.pump.live):
                break
            time.sleep(0.02)
        assert enclave.count(Count.RUNS_ABORTED) == 1
        assert enclave.call(lambda: enclave.floor.pump.live) == 0
        item = enclave.call(lambda: enclave.floor.book.fetch(sealed.schedule.capability))
        receipt = SignedReceipt.decode(item).receipt
        assert receipt.status is Status.ABORTED
        assert receipt.completion_tokens < 300


def test_a_full_queue_says_busy_inside_the_seal(tmp_path: Path) -> None:
    limits = {"max_request_bytes": 262144, "max_completion_tokens": 512, "queue_length": 1}
    with served(tmp_path, delay=0.05, limits=limits) as enclave:
        run = enclave.run("slow " * 100)
        items = run.items()
        next(items)
        with pytest.raises(Declined) as e:
            list(enclave.run("second").items())
        assert (e.value.refusal, e.value.exit_code) == ("busy", 7)
        assert e.value.retry_after
        run.attested.connection.close()


def test_no_word_of_a_prompt_is_kept_anywhere(tmp_path: Path) -> None:
    with served(tmp_path) as enclave:
        list(enclave.run(f"say {CANARY}").items())
        refusal(enclave, text=CANARY, request={"frobnicate": CANARY})
        enclave.post(CANARY.encode())
        metrics = enclave.raw(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", finish=False)
        assert b"sericin_runs_complete_total 1" in metrics
        log = enclave.log.getvalue()
    assert '"event": "run"' in log
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert CANARY.encode() not in path.read_bytes(), path
    assert CANARY not in log
    assert CANARY.encode() not in metrics


def test_slow_and_silent_clients_do_not_stop_others(enclave: Served) -> None:
    host, port = enclave.service.targets["http"].removeprefix("http://").rsplit(":", 1)
    slow = [socket.create_connection((host, int(port)), timeout=5) for _ in range(20)]
    for sock in slow:
        sock.sendall(b"POST /v1/sericin/sealed HTTP/1.1\r\nContent-Length: 100\r\n\r\nx")
    assert text_of(list(enclave.run("still here").items())) == "still here"
    for sock in slow:
        sock.close()


def test_tls_rubbish_is_counted_and_forgotten(enclave: Served) -> None:
    host, port = enclave.service.targets["ra_tls"].removeprefix("https://").rsplit(":", 1)
    before = enclave.count(Count.HANDSHAKES_FAILED)
    with socket.create_connection((host, int(port)), timeout=5) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\n\r\n" * 10)
        while sock.recv(4096):
            pass
    assert enclave.count(Count.HANDSHAKES_FAILED) == before + 1
    assert text_of(list(enclave.run("on it goes", "ra_tls").items())) == "on it goes"


def test_the_ledger_lists_what_was_signed_and_the_next_boot_believes_none_of_it(tmp_path: Path) -> None:
    with served(tmp_path) as enclave:
        list(enclave.run("first boot").items())
        first = enclave.booted.boot
        # The enclave is killed here: its last receipt is in no batch.
        kept = (tmp_path / "ledger").read_bytes()
    records = read_records(kept)
    assert [kind for kind, _ in records] == [REGISTRATION, RECEIPT]
    (tmp_path / "ledger").write_bytes(kept + b"\0\0\1")  # a torn record
    with served(tmp_path) as enclave:
        run = enclave.run("second boot")
        list(run.items())
        assert run.receipt is not None
        assert (run.receipt.receipt.serial, run.receipt.receipt.previous) == (0, bytes(32))
    records = read_records((tmp_path / "ledger").read_bytes())
    (batch,) = [StatementRecord.decode(body) for kind, body in records if kind == BATCH]
    orphan = ReceiptRecord.decode(records[1][1])
    assert orphan.key == first.receipt_key
    assert batch.recovered == ((orphan.key, orphan.serial),)


def test_an_enclave_that_stops_refuses_new_runs(tmp_path: Path) -> None:
    with served(tmp_path) as enclave:
        enclave.floor.admission.closing = True
        assert refusal(enclave).code == "shutting_down"
        assert (
            enclave.raw(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", finish=False)[9:12] == b"503"
        )


def test_a_cut_answer_is_untrusted_after_its_first_frame_and_unknown_before(tmp_path: Path) -> None:
    with served(tmp_path, delay=0.03) as enclave:
        run = enclave.run("cut " * 200)
        items = run.items()
        next(items)
        enclave.call(enclave.service._routes.cut_short)
        with pytest.raises(Untrusted) as e:
            list(items)
        assert (e.value.code, e.value.exit_code) == ("StreamTruncated", 4)
        assert not run.complete


def test_an_enclave_that_is_gone_leaves_the_outcome_unknown(tmp_path: Path) -> None:
    with served(tmp_path) as enclave:
        run = enclave.run("never answered")
    with pytest.raises(RunOutcomeUnknown) as e:
        list(run.items())
    assert e.value.exit_code == 6


def test_an_engine_that_says_too_much_is_cut_at_the_boots_limit(enclave: Served) -> None:
    """The boot map promises 512 tokens; this engine would say 600, and no more than 512 are sealed or charged."""
    run = enclave.run("word " * 600)
    items = list(run.items())
    assert run.receipt is not None
    receipt = run.receipt.receipt
    assert (receipt.completion_tokens, run.answer.finishes[0], receipt.status) == (512, "length", Status.COMPLETE)
    assert len(text_of(items).split()) == 512


def test_an_answer_that_reaches_its_limit_says_so(enclave: Served) -> None:
    run = enclave.run("no stream", request={"max_tokens": 1})
    items = list(run.items())
    assert text_of(items).strip() == "no"
    assert run.answer.finishes[0] == "length"
