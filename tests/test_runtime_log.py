# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from hashlib import sha384

import pytest

from attestation import cbor, runtime_log
from attestation.errors import Malformed
from attestation.runtime_log import MAX_EVENTS, MAX_PAYLOAD, Event
from enclave.runtime_log import MemoryRuntimeLog


def test_log_replays_to_the_register_that_was_extended() -> None:
    log = MemoryRuntimeLog()
    assert log.rtmr3 == bytes(48)
    log.extend("image-id", b"\1" * 32)
    log.extend("gpu", b"")
    events = runtime_log.parse(log.bytes())
    assert [event.name for event in events] == ["image-id", "gpu"]
    assert runtime_log.replay(events) == log.rtmr3


def test_event_digest_is_the_formula_of_the_specification() -> None:
    digest = sha384(b"sericin/1 rtmr3-event" + bytes.fromhex("82") + b"\x65ready" + b"\x42\xab\xcd").digest()
    assert Event(name="ready", payload=b"\xab\xcd").digest == digest
    assert runtime_log.replay([Event(name="ready", payload=b"\xab\xcd")]) == sha384(bytes(48) + digest).digest()


def test_order_changes_the_register() -> None:
    one, two = Event(name="a", payload=b""), Event(name="b", payload=b"")
    assert runtime_log.replay([one, two]) != runtime_log.replay([two, one])


def test_nothing_is_appended_after_close() -> None:
    log = MemoryRuntimeLog()
    log.close()
    with pytest.raises(RuntimeError, match="closed"):
        log.extend("ready", b"")
    assert log.rtmr3 == bytes(48)


def test_log_takes_no_more_events_than_a_verifier_reads() -> None:
    log = MemoryRuntimeLog()
    for at in range(MAX_EVENTS):
        log.extend(f"e-{at}", b"")
    with pytest.raises(RuntimeError):
        log.extend("one-more", b"")
    assert len(runtime_log.parse(log.bytes())) == MAX_EVENTS


@pytest.mark.parametrize(
    "value",
    [
        {},
        b"",
        [["ready"]],
        [["ready", b"", b""]],
        [[b"ready", b""]],
        [["ready", "text"]],
        [["", b""]],
        [["Ready", b""]],
        [["a b", b""]],
        [["x" * 65, b""]],
        [["ready", bytes(MAX_PAYLOAD + 1)]],
        [["e", b""]] * (MAX_EVENTS + 1),
        [{}],
    ],
)
def test_what_is_not_of_the_grammar_is_refused(value: object) -> None:
    with pytest.raises(Malformed) as e:
        runtime_log.parse(cbor.encode(value))
    assert e.value.code == "MalformedRuntimeLog"


def test_an_encoding_that_is_not_the_one_is_refused() -> None:
    good = cbor.encode([["ready", b"\1"]])
    assert runtime_log.parse(good)
    for bad in (good + b"\0", good[:-1], b"\x9f" + good[1:] + b"\xff", b""):
        with pytest.raises(Malformed):
            runtime_log.parse(bad)
