# SPDX-License-Identifier: Apache-2.0
"""Every bound of the formats: what is just within is read, what is one more is refused, and no bound is untested."""

from __future__ import annotations

import ast
import json
import re
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from attestation import binding, boot, cbor, config, evidence, operator, policy, ratls, receipt, roots, runtime_log
from attestation import dossier as dossiers
from attestation import exchange as exchanges
from attestation import strict_json as strict
from attestation.binding import Claims
from attestation.boot import BootMap, EpochMap
from attestation.channel import frames, response
from attestation.channel.frames import Direction, FrameOpener, FrameSealer, FrameType
from attestation.channel.header import MAX_HEADER_BYTES, Header, Padding
from attestation.channel.request import RequestOpener
from attestation.channel.response import CELL_PLAINTEXT, ResponseOpener, ResponseSealer
from attestation.channel.schedule import DirectionKey
from attestation.config import EnclaveConfig
from attestation.dossier import Dossier
from attestation.errors import AttestationError, Malformed, PolicyInvalid, Untrusted
from attestation.evidence import Evidence
from attestation.exchange import ExchangeBody
from attestation.operator import OperatorDocument
from attestation.policy import Policy
from attestation.receipt import SignedReceipt
from tests.forged import Forge, config_document, policy_document
from tests.seals import make_pair, sealed
from tests.served import operator_document

ROOT = Path(__file__).parent.parent
KEY = DirectionKey(key=bytes(32), iv=bytes(12))


def refused(work: Callable[[], object], kind: type[Exception] = Malformed, *, says: str | None = None) -> None:
    with pytest.raises(kind, match=says):
        work()


# ---- plain encodings


def nested(depth: int) -> Any:
    value: Any = 0
    for _ in range(depth):
        value = [value]
    return value


def test_cbor_depth_and_integers() -> None:
    assert cbor.encode(nested(cbor.MAX_DEPTH))
    refused(lambda: cbor.encode(nested(cbor.MAX_DEPTH + 1)), ValueError)
    refused(lambda: cbor.decode(b"\x81" * (cbor.MAX_DEPTH + 1) + b"\0", limit=99, what="x"))
    refused(lambda: cbor.decode(b"\x81" * 100_000, limit=10**6, what="x"))
    assert cbor.encode(cbor.MAX_UINT)
    for wrong in (cbor.MAX_UINT + 1, -1, {cbor.MAX_UINT + 1: 0}, {-1: 0}):
        refused(lambda wrong=wrong: cbor.encode(wrong), ValueError)  # type: ignore[misc]
    for mixed in ({1: 0, "a": 0}, {b"a": 0}, {True: 0}, 1.5, {"a": 1.5}, {1: (1,)}):
        refused(lambda mixed=mixed: cbor.encode(mixed), TypeError)  # type: ignore[misc]


def test_a_sequence_never_holds_more_than_one_item_of_its_limit() -> None:
    decoder = cbor.SequenceDecoder(limit=100, what="x", code="MalformedFrame")
    assert decoder.feed(b"\x58\x60" + bytes(96)) == [bytes(96)]
    for hostile in (b"\x58\x70", b"\x9b" + b"\xff" * 8, b"\x5b" + b"\xff" * 8, b"\x99\xff\xff"):
        fresh = cbor.SequenceDecoder(limit=100, what="x", code="MalformedFrame")
        refused(lambda fresh=fresh, hostile=hostile: fresh.feed(hostile))  # type: ignore[misc]


def test_an_item_in_many_pieces_costs_no_more_than_in_one() -> None:
    item = cbor.encode([0] * 300_000)
    decoder = cbor.SequenceDecoder(limit=10**6, what="x", code="MalformedFrame")
    start = time.process_time()
    found = [value for at in range(0, len(item), 125) for value in decoder.feed(item[at : at + 125])]
    assert len(found) == 1
    assert time.process_time() - start < 10  # once over every byte; minutes, were each piece to begin anew


def test_json_depth_digits_and_size() -> None:
    def loads(text: str, limit: int = 10**6) -> object:
        return strict.loads(text.encode(), limit=limit, what="x")

    deep = strict.MAX_DEPTH
    assert loads("[" * deep + "]" * deep)
    refused(lambda: loads("[" * (deep + 1) + "]" * (deep + 1)))
    refused(lambda: loads("[" * 10**5 + "]" * 10**5))
    assert loads("9" * strict.MAX_DIGITS)
    refused(lambda: loads("9" * (strict.MAX_DIGITS + 1)))
    refused(lambda: loads("[0]", limit=2))


# ---- the channel


def test_a_header_has_its_size() -> None:
    opener = RequestOpener(max_bytes=10**6)
    opener.feed(MAX_HEADER_BYTES.to_bytes(4, "big"))
    refused(lambda: RequestOpener(max_bytes=10**6).feed((MAX_HEADER_BYTES + 1).to_bytes(4, "big")))
    refused(lambda: Header.decode(bytes(MAX_HEADER_BYTES + 1)), says="MalformedHeader")


def test_frames_have_their_sizes_and_their_number() -> None:
    most = frames.MAX_PLAINTEXT
    sealer = FrameSealer(KEY, ctx=bytes(32), direction=Direction.REQUEST)
    wire = sealer.seal(FrameType.DATA, bytes(most - 3), plaintext_size=most)
    opener = FrameOpener(KEY, ctx=bytes(32), direction=Direction.REQUEST, plaintext_size=None, what="x")
    opener.push(wire)
    assert opener.next() is not None
    opener.push((most + 17).to_bytes(4, "big"))
    refused(opener.next, says="MalformedFrame")
    refused(lambda: sealer.seal(FrameType.DATA, b"", plaintext_size=most + 1), ValueError)
    sealer._box._seq = frames.MAX_FRAMES
    refused(lambda: sealer.seal(FrameType.DATA, b"", plaintext_size=8), says="at most")


def answer_of(kind: FrameType, payload: bytes, count: int) -> tuple[ResponseOpener, bytes]:
    schedule = sealed().schedule
    sealer = FrameSealer(schedule.response(bytes(32)), ctx=schedule.ctx, direction=Direction.RESPONSE)
    wire = b"".join(sealer.seal(kind, payload, plaintext_size=CELL_PLAINTEXT) for _ in range(count))
    opener = ResponseOpener(schedule, padding=Padding.CELL)
    opener.feed(bytes(32))
    return opener, wire


@pytest.mark.parametrize(
    ("kind", "most"), [(FrameType.ERROR, response.MAX_ERROR_ITEM), (FrameType.RECEIPT, response.MAX_RECEIPT_ITEM)]
)
def test_error_and_receipt_items_have_their_size(kind: FrameType, most: int) -> None:
    opener, wire = answer_of(kind, bytes(64), most // 64)
    opener.feed(wire)
    opener, wire = answer_of(kind, bytes(64), most // 64 + 1)
    refused(lambda: opener.feed(wire), says="item of at most")


def test_a_data_item_has_its_size() -> None:
    """It is refused by its own length before it is buffered, and when it grows without end."""
    opener, wire = answer_of(FrameType.DATA, b"\x5a" + (response.MAX_ITEM + 1).to_bytes(4, "big"), 1)
    refused(lambda: opener.feed(wire), says="at most")
    opener, wire = answer_of(FrameType.DATA, b"\x9a\x00\x20\x00\x00" + bytes(100), 1)
    refused(lambda: opener.feed(wire), says="at most")


def test_an_answer_has_its_size() -> None:
    opener = ResponseOpener(sealed().schedule, padding=Padding.CELL)
    opener._seen = response.MAX_ANSWER - 1
    opener.feed(b"\0")
    refused(lambda: opener.feed(b"\0"), Untrusted, says="StreamOverrun")


def test_what_the_enclave_seals_fits_what_a_client_takes() -> None:
    """The largest item that an engine step may give is within the client's bound, frame after frame."""
    schedule = sealed().schedule
    sealer = ResponseSealer(schedule, resp_nonce=bytes(32), padding=Padding.CELL)
    opener = ResponseOpener(schedule, padding=Padding.CELL)
    item = cbor.encode({1: 4, 9: bytes(response.MAX_ITEM - 16)})
    opener.feed(sealer.preamble)
    assert opener.feed(sealer.data(item)) == [{1: 4, 9: bytes(response.MAX_ITEM - 16)}]


def test_a_body_and_its_voucher_have_their_size() -> None:
    body = ExchangeBody(
        endpoint="/v1/completions",
        nonce=bytes(32),
        run_id=bytes(32),
        first_epoch=1,
        policy_digest=bytes(32),
        openai=b"{}",
        voucher=bytes(exchanges.MAX_VOUCHER),
    )
    assert ExchangeBody.decode(body.encode()) == body
    refused(lambda: ExchangeBody.decode(replace(body, voucher=bytes(exchanges.MAX_VOUCHER + 1)).encode()))
    refused(lambda: ExchangeBody.decode(replace(body, openai=bytes(exchanges.MAX_BODY)).encode()))


# ---- evidence and documents


@pytest.mark.parametrize(
    ("field", "most"),
    [
        ("quote", evidence.MAX_QUOTE),
        ("claims", evidence.MAX_CLAIMS),
        ("boot", boot.MAX_BOOT_BYTES),
        ("epoch", boot.MAX_EPOCH_BYTES),
        ("runtime_log", evidence.MAX_LOG),
        ("config", evidence.MAX_CONFIG),
        ("operator", evidence.MAX_OPERATOR),
        ("collateral", evidence.MAX_COLLATERAL),
        ("manifest", evidence.MAX_MANIFEST),
        ("firmware_log", evidence.MAX_FIRMWARE_LOG),
    ],
)
def test_every_part_of_evidence_has_its_size(field: str, most: int) -> None:
    small = Evidence.decode(Forge().evidence())
    within: dict[str, Any] = {field: bytes(most)}
    beyond: dict[str, Any] = {field: bytes(most + 1)}
    Evidence.decode(replace(small, **within).encode())
    refused(lambda: Evidence.decode(replace(small, **beyond).encode()), says=f"evidence.{field}")


def test_whole_files_have_their_size() -> None:
    refused(lambda: Evidence.decode(bytes(evidence.MAX_EVIDENCE + 1)), says=str(evidence.MAX_EVIDENCE))
    refused(lambda: Dossier.decode(bytes(dossiers.MAX_DOSSIER + 1)), says=str(dossiers.MAX_DOSSIER))
    refused(lambda: Claims.decode(bytes(binding.MAX_CLAIMS_BYTES + 1)), says=str(binding.MAX_CLAIMS_BYTES))
    refused(lambda: SignedReceipt.decode(bytes(receipt.MAX_BOC + 129)), says="at most")
    refused(lambda: SignedReceipt.decode(cbor.encode({1: bytes(receipt.MAX_BOC + 1), 2: bytes(64)})), says="boc")
    refused(lambda: ratls.read_certificate(bytes(ratls.MAX_CERTIFICATE + 1)), says=str(ratls.MAX_CERTIFICATE))
    refused(lambda: BootMap.decode(bytes(boot.MAX_BOOT_BYTES + 1)), says="at most")
    refused(lambda: EpochMap.decode(bytes(boot.MAX_EPOCH_BYTES + 1)), says="at most")
    refused(lambda: EnclaveConfig.parse(b" " * (evidence.MAX_CONFIG + 1)))
    refused(lambda: OperatorDocument.parse(b" " * (evidence.MAX_OPERATOR + 1)))


def test_a_dossier_that_would_be_too_long_is_not_written() -> None:
    whole = Dossier(
        evidence=b"", nonce=bytes(32), sealed=b"", transcript_hash=bytes(32),
        request=b"", response=bytes(dossiers.MAX_DOSSIER), salts=dossiers.DisclosedSalts(), receipt=b"", policy=b"",
    )  # fmt: skip
    refused(whole.encode, ValueError)


def test_a_receipt_is_a_handful_of_cells() -> None:
    bag = bytes.fromhex("b5ee9c72") + bytes([1, 1, receipt.MAX_CELLS + 1, 1, 0, 0, 0])
    refused(lambda: SignedReceipt.decode(cbor.encode({1: bag, 2: bytes(64)})), says="receipt.counts")


def test_boot_and_epoch_maps_have_few_models_and_keys() -> None:
    record = Forge().boot_map().models[0]
    records = tuple(replace(record, name=f"m{number}") for number in range(boot.MAX_MODELS + 1))
    for count, holds in ((boot.MAX_MODELS, True), (boot.MAX_MODELS + 1, False), (0, False)):
        data = Forge(boot={"models": records[:count]}).boot_map().encode()
        if holds:
            assert len(BootMap.decode(data).models) == count
        else:
            refused(lambda data=data: BootMap.decode(data))  # type: ignore[misc]
    keys = [make_pair(seed).public for seed in range(1, boot.MAX_SEAL_KEYS + 2)]
    EpochMap.decode(Forge(epoch={"seal_keys": tuple(keys[:-1])}).epoch_map().encode())
    refused(lambda: EpochMap.decode(Forge(epoch={"seal_keys": tuple(keys)}).epoch_map().encode()))


def test_the_runtime_log_is_short() -> None:
    def log(count: int, name: str, payload: int) -> bytes:
        return runtime_log.encode([runtime_log.Event(name=name, payload=bytes(payload))] * count)

    longest, payload, events = "n" * runtime_log.MAX_NAME, runtime_log.MAX_PAYLOAD, runtime_log.MAX_EVENTS
    whole = log(events, longest, payload)
    assert len(whole) <= runtime_log.MAX_LOG
    assert len(runtime_log.parse(whole)) == events
    for beyond in (log(events + 1, "n", 0), log(1, longest + "n", 0), log(1, "n", payload + 1)):
        refused(lambda beyond=beyond: runtime_log.parse(beyond))  # type: ignore[misc]
    refused(lambda: runtime_log.parse(bytes(runtime_log.MAX_LOG + 1)), says=str(runtime_log.MAX_LOG))


CONFIG_BOUNDS: list[tuple[str, Callable[[int], dict[str, Any]], int]] = [
    ("max_request_bytes", lambda n: {"limits": limits(max_request_bytes=n)}, config.MAX_REQUEST_BYTES),
    ("max_completion_tokens", lambda n: {"limits": limits(max_completion_tokens=n)}, config.MAX_COMPLETION_TOKENS),
    ("queue_length", lambda n: {"limits": limits(queue_length=n)}, config.MAX_QUEUE_LENGTH),
    ("gpus", lambda n: {"gpu": {"mode": "simulated", "count": n}}, config.MAX_GPUS),
    (
        "disk blocks",
        lambda n: {"models": [{"name": "m", "sha256": "00" * 32, "disk": disk(n)}]},
        config.MAX_DISK_BLOCKS,
    ),
    ("models", lambda n: {"models": [{"name": f"m{i}", "sha256": "00" * 32} for i in range(n)]}, boot.MAX_MODELS),
]


def disk(blocks: int) -> dict[str, Any]:
    return {"root": "00" * 32, "blocks": blocks}


def limits(**changes: int) -> dict[str, int]:
    return {"max_request_bytes": 262144, "max_completion_tokens": 512, "queue_length": 8} | changes


@pytest.mark.parametrize(("change", "most"), [row[1:] for row in CONFIG_BOUNDS], ids=[row[0] for row in CONFIG_BOUNDS])
def test_a_config_stays_within_its_bounds(change: Callable[[int], dict[str, Any]], most: int) -> None:
    EnclaveConfig.parse(config_document(**change(most)))
    refused(lambda: EnclaveConfig.parse(config_document(**change(most + 1))))


@pytest.mark.parametrize(
    ("change", "most"),
    [
        (lambda n: {"state": "s" * n}, operator.MAX_PATH),
        (lambda n: {"ledger": "s" * n}, operator.MAX_PATH),
        (lambda n: {"model_dir": "s" * n}, operator.MAX_PATH),
        (lambda n: {"listen": {"unix": "s" * n}}, operator.MAX_UNIX_PATH),
        (lambda n: {"prices": {"prompt": n, "cached": 0, "completion": 0}}, operator.MAX_PRICE),
        (lambda n: {"contact": "c" * n}, 256),
    ],
    ids=["state", "ledger", "model_dir", "unix", "price", "contact"],
)
def test_an_operator_document_stays_within_its_bounds(change: Callable[[int], dict[str, Any]], most: int) -> None:
    OperatorDocument.parse(operator_document(Path(), **change(most)))
    refused(lambda: OperatorDocument.parse(operator_document(Path(), **change(most + 1))))


def test_a_policy_stays_within_its_bounds() -> None:
    def parse(**changes: Any) -> Policy:
        return Policy.parse(json.dumps(policy_document(**changes)).encode())

    runtime = policy_document()["runtime"]
    digests = [f"{i:096x}" for i in range(policy.MAX_LIST + 1)]
    parse(runtime=runtime | {"config": digests[:-1]})
    refused(lambda: parse(runtime=runtime | {"config": digests}), PolicyInvalid)
    refused(lambda: Policy.parse(b" " * (policy.MAX_POLICY + 1)), PolicyInvalid)
    pem = str(policy_document()["roots"]["tdx_root"])
    for size, holds in ((roots.MAX_PEM, True), (roots.MAX_PEM + 1, False)):
        padded = policy_document()["roots"] | {"tdx_root": pem + "\n" * (size - len(pem))}
        if holds:
            parse(roots=padded)
        else:
            refused(lambda padded=padded: parse(roots=padded), PolicyInvalid)  # type: ignore[misc]


def test_the_longest_answer_is_paid_in_64_bits() -> None:
    prices = operator.Prices(prompt=operator.MAX_PRICE, cached=operator.MAX_PRICE, completion=operator.MAX_PRICE)
    assert prices.total(prompt=2**32 - 1, cached=0, completion=2**32 - 1) < 2**64


# ---- no bound without a test

FILES = [
    *(f"attestation/{name}.py" for name in (
        "answer binding boot cbor config dossier evidence exchange operator policy ratls receipt roots runtime_log "
        "strict_json channel/frames channel/header channel/request channel/response channel/schedule"
    ).split()),
    *(f"enclave/{name}.py" for name in (
        "admission doors engine_pump epochs exchanges journal replay reply routes runs service session tls"
    ).split()),
    *(f"client/{name}.py" for name in (
        "connection door_threads exchange openai_door openai_shapes proxy questions target transport upstream"
    ).split()),
]  # fmt: skip
NAMED = re.compile(r"_?(MAX_[A-Z_]+|CAPACITY|ATTEST_[A-Z]+|[A-Z_]+_SECONDS)")
NO_BOUND = {
    # A format's constant, a path, hints and pauses: nothing can be too much or too long for them.
    "EPOCH_SECONDS", "ATTEST_PATH", "BUSY_SECONDS", "POLL_SECONDS", "TICK_SECONDS", "GRID_SECONDS",
    "SWEEP_SECONDS",
}  # fmt: skip


def bounds() -> list[tuple[str, str]]:
    found = []
    for name in FILES:
        for node in ast.parse((ROOT / name).read_text()).body:
            target = node.target if isinstance(node, ast.AnnAssign) else None
            if isinstance(target, ast.Name) and NAMED.fullmatch(target.id) and target.id not in NO_BOUND:
                found.append((name, target.id))
    return found


def words_of_tests() -> set[str]:
    words: set[str] = set()
    for path in (ROOT / "tests").glob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Name | ast.Attribute):
                words.add(node.id if isinstance(node, ast.Name) else node.attr)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                words.add(node.value.rsplit(".", 1)[-1])  # a name that a test sets by its path
    return words


def test_every_bound_is_hit_by_some_test() -> None:
    words = words_of_tests()
    assert len(bounds()) > 50
    assert [pair for pair in bounds() if pair[1] not in words] == []


def test_errors_of_bounds_hold_no_content() -> None:
    for hostile in (b"secret" * 10**6, b"\x9f" + b"secret"):
        with pytest.raises(AttestationError) as e:
            Evidence.decode(hostile)
        assert "secret" not in str(e.value)
