# SPDX-License-Identifier: Apache-2.0
"""The committed vectors, made by the independent client: every hash, key, frame and refusal of docs/protocol.md."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.hpke import MLKEM768X25519PrivateKey

from attestation import cbor, errors, runtime_log
from attestation.binding import Claims, report_data, spki_claim
from attestation.boot import BootMap, EpochMap, key_id
from attestation.channel.frames import padme
from attestation.channel.header import Header, Padding
from attestation.channel.request import RequestOpener
from attestation.channel.response import ResponseOpener
from attestation.channel.schedule import Schedule, open_seed
from attestation.errors import AttestationError
from attestation.exchange import ExchangeBody, SealedRefusal, commit, params_digest, read_item, token_bytes
from attestation.gpu.binding import gpu_nonce
from attestation.liveness import SignedLiveness
from attestation.policy import TimeRule
from attestation.receipt import SignedReceipt
from attestation.verify import _verify_epoch

V: dict[str, Any] = json.loads((Path(__file__).parent / "vectors" / "protocol.json").read_text())
EXCHANGES = ("exchange", "exchange_off", "exchange_error")
PADDINGS = {"cell": Padding.CELL, "off": Padding.OFF}


def h(text: str) -> bytes:
    return bytes.fromhex(text)


def private() -> MLKEM768X25519PrivateKey:
    seal = V["keys"]["seal"]
    return MLKEM768X25519PrivateKey(
        MLKEM768PrivateKey.from_seed_bytes(h(seal["mlkem_seed"])),
        X25519PrivateKey.from_private_bytes(h(seal["x25519_private"])),
    )


def test_padding_of_requests() -> None:
    for row in V["padme"]:
        total = padme(max(row["n"], 256))
        frames = -(-total // 16381)
        assert (total, frames, 3 + -(-total // frames)) == (row["total"], row["frames"], row["plaintext"])


def test_boot_and_epoch_maps() -> None:
    boot = V["boot"]
    parsed = BootMap.decode(h(boot["cbor"]))
    assert parsed.encode() == h(boot["cbor"])
    assert parsed.digest == h(boot["digest"])
    assert parsed.models[0].digest == h(boot["model_record"]["digest"])
    assert sha256(h(boot["with_key_64"]["cbor"])).digest() == h(boot["with_key_64"]["digest"])
    assert BootMap.decode(h(boot["with_key_64"]["cbor"])) == parsed
    epoch = EpochMap.decode(h(boot["epoch"]["cbor"]))
    assert epoch.encode() == h(boot["epoch"]["cbor"])
    assert epoch.digest == h(boot["epoch"]["digest"])
    assert key_id(epoch.seal_keys[0]) == h(V["keys"]["seal"]["kid"])


def test_runtime_log() -> None:
    events = runtime_log.parse(h(V["log"]["cbor"]))
    assert runtime_log.encode(events) == h(V["log"]["cbor"])
    assert runtime_log.replay(events) == h(V["log"]["rtmr3"])
    for count, (event, row) in enumerate(zip(events, V["log"]["events"], strict=True), start=1):
        assert (event.name, event.payload, event.digest) == (row["name"], h(row["payload"]), h(row["digest"]))
        assert runtime_log.replay(events[:count]) == h(row["rtmr3"])


@pytest.mark.parametrize("name", ["plain", "with_nonce", "with_foreign"])
def test_claims_and_report_data(name: str) -> None:
    row = V["claims"][name]
    claims = Claims.decode(h(row["cbor"]))
    assert report_data(h(row["cbor"])) == h(row["report_data"])
    assert claims.pubkey_hash == spki_claim(h(V["claims"]["spki"]))
    if name != "with_foreign":
        assert claims.encode() == h(row["cbor"])


def test_gpu_nonces() -> None:
    for row in V["gpu"]["nonces"]:
        assert gpu_nonce(row["kind"], h(row["body"])) == h(row["nonce"])


@pytest.mark.parametrize("name", ["with_tls", "without_tls"])
def test_liveness(name: str) -> None:
    row = V["live"][name]
    signed = SignedLiveness.decode(h(row["answer"]))
    exporter = h(row["exporter"]) if row["exporter"] else None
    live = signed.verify(
        h(V["keys"]["identity"]["public"]),
        nonce=h(row["nonce"]),
        keyset_digest=h(V["boot"]["epoch"]["digest"]),
        exporter=exporter,
    )
    assert (live.time, live.encode()) == (row["time"], h(row["statement"]))


@pytest.mark.parametrize("name", EXCHANGES)
def test_requests_open_to_what_was_sealed(name: str) -> None:
    row = V[name]
    header = Header.decode(h(row["header"]["cbor"]))
    assert header.encode() == h(row["header"]["cbor"])
    seed = open_seed(h(row["sealed_seed"]), private(), header_hash=h(row["header"]["h"]))
    assert seed == h(row["seed"])
    schedule = Schedule.of(seed, header_hash=h(row["header"]["h"]), sealed_seed=h(row["sealed_seed"]))
    assert schedule.ctx == h(row["ctx"])
    if name == "exchange_error":
        return
    keys = row["keys"]
    salts = schedule.salts
    derived = (schedule.request.key, schedule.request.iv, salts.request, salts.response, salts.tokens)
    names = ("request key", "request iv", "salt request", "salt response", "salt tokens")
    assert derived == tuple(h(keys[k]) for k in names)
    assert schedule.capability == h(keys["receipt capability"])
    back = schedule.response(h(row["resp_nonce"]))
    assert (back.key, back.iv) == (h(keys["response key"]), h(keys["response iv"]))
    opener = RequestOpener(max_bytes=100_000)
    body = h(row["request_body"])
    for at in range(0, len(body), 700):
        opener.feed(body[at : at + 700])
        if opener.header is not None and at < 1400:
            opener.unlock(seed)
    assert opener.finish() == h(row["body"]["cbor"])
    assert ExchangeBody.decode(h(row["body"]["cbor"])).encode() == h(row["body"]["cbor"])


@pytest.mark.parametrize("name", EXCHANGES)
def test_responses_open_to_items_and_receipt(name: str) -> None:
    row = V[name]
    schedule = Schedule.of(h(row["seed"]), header_hash=h(row["header"]["h"]), sealed_seed=h(row["sealed_seed"]))
    opener = ResponseOpener(schedule, padding=PADDINGS[row["padding"]])
    items = opener.feed(h(row["response_body"]))
    opener.close()
    if name == "exchange_error":
        assert opener.error_item == h(row["error"])
        assert SealedRefusal.decode(opener.error_item).code == "busy"
        return
    assert b"".join(cbor.encode(item) for item in items) == h(row["response_data"])
    assert [read_item(item).encode() for item in items] == [h(item["cbor"]) for item in row["response_items"]]
    commitments = row["commitments"]
    assert opener.commitment == h(commitments["response"])
    assert opener.transcript_hash == h(commitments["transcript"])
    assert commit(schedule.salts.request, h(row["body"]["cbor"])) == h(commitments["request"])
    assert commit(schedule.salts.tokens, h(row["token_bytes"])) == h(commitments["tokens"])
    assert sha256(h(row["request_body"])).digest() == h(commitments["ciphertext"])
    params: Any = cbor.decode(h(row["params"]["cbor"]), limit=1000, what="params")
    assert params_digest(params) == h(row["params"]["digest"])
    assert token_bytes((1, 70000)) == bytes.fromhex("0100000070110100")
    assert opener.receipt_item == h(row["receipt"]["item"])


@pytest.mark.parametrize("name", ["exchange", "exchange_off", "receipt_extended"])
def test_receipts(name: str) -> None:
    row = V[name]["receipt"] if "receipt" in V[name] else V[name]
    signed = SignedReceipt.decode(h(row["item"]))
    signed.verify(h(V["keys"]["receipt"]["public"]))
    assert signed.receipt.hash == h(row["hash"])
    assert SignedReceipt.decode(signed.encode()) == signed
    renamed = {"prompt": "prompt_tokens", "cached": "cached_tokens", "completion": "completion_tokens"}
    for field, want in row["fields"].items():
        if field in {"version", "extension", "tag"}:
            continue
        got = getattr(signed.receipt, renamed.get(field, "reasoning_tokens" if field == "reasoning" else field))
        assert got == (h(want) if isinstance(want, str) else want), field


def test_cbor_that_is_accepted_and_refused() -> None:
    for row in V["cbor"]["accepted"]:
        value = cbor.decode(h(row["input"]), limit=1 << 20, what="vector")
        assert cbor.encode(value) == h(row["input"]), row["name"]
    for row in V["cbor"]["refused"]:
        with pytest.raises(AttestationError) as e:
            cbor.decode(h(row["input"]), limit=1 << 20, what="vector")
        assert e.value.code == row["code"], row["name"]


def request(data: bytes) -> object:
    opener = RequestOpener(max_bytes=1 << 20)
    row = V["exchange"]
    header = h(row["header"]["cbor"])
    opener.feed(len(header).to_bytes(4, "big") + header + h(row["sealed_seed"]))
    opener.unlock(open_seed(opener.sealed_seed, private(), header_hash=opener.header_hash))
    opener.feed(data)
    return opener.finish()


def response(data: bytes) -> object:
    row = V["exchange"]
    schedule = Schedule.of(h(row["seed"]), header_hash=h(row["header"]["h"]), sealed_seed=h(row["sealed_seed"]))
    opener = ResponseOpener(schedule, padding=Padding.CELL)
    items = [read_item(item) for item in opener.feed(data)]
    opener.close()
    if opener.error_item:
        SealedRefusal.decode(opener.error_item)
    return items


def window(data: bytes) -> object:
    now = datetime.fromtimestamp(1790000000, UTC)
    return _verify_epoch(EpochMap.decode(data), TimeRule(max_skew=300, max_epoch=5400), now)


READERS: dict[str, Callable[[bytes], object]] = {
    "header": Header.decode,
    "request": request,
    "body": ExchangeBody.decode,
    "response": response,
    "boot": BootMap.decode,
    "epoch": EpochMap.decode,
    "log": runtime_log.parse_boot,
    "claims": Claims.decode,
    "window": window,
}


@pytest.mark.parametrize("kind", list(READERS))
def test_every_refusal(kind: str) -> None:
    wrong = []
    for row in V["refused"][kind]:
        try:
            READERS[kind](h(row["input"]))
            got: tuple[str | None, str | None] = (None, None)
        except AttestationError as e:
            got = (errors.CODES[e.code].__name__, e.code)
        if got[0] != row["family"] or (row["code"] and got[1] != row["code"]):
            wrong.append((row["name"], (row["family"], row["code"]), got))
    assert not wrong


def test_every_kind_of_vector_is_read() -> None:
    assert set(V["refused"]) == set(READERS)
