# SPDX-License-Identifier: Apache-2.0
"""Bounds and identities of TDX evidence that no other test is about: sizes, digests, memory, the words of a replay."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from attestation.errors import AttestationError, Malformed
from attestation.tdx.authdata import MAX_CHAIN
from attestation.tdx.collateral import Collateral
from attestation.tdx.eventlog import EV_NO_ACTION, MAX_LOG, MAX_PAYLOAD, compare, parse_event_log, replay
from attestation.tdx.memory import Memory
from attestation.window import Window
from tests.tdx_cases import NOW, Case
from tests.test_tdx_eventlog import EVENTS, SPEC, binary, record


def code_of(work: Callable[[], object]) -> str:
    with pytest.raises(AttestationError) as e:
        work()
    return e.value.code


# ---- the quote's chain


def test_a_chain_is_bounded_inside_the_quote() -> None:
    case = Case.new(1)
    chain = case.quote.chain.rstrip(b"\0")
    case.quote.chain = chain.ljust(MAX_CHAIN, b"\n")
    assert case.build().ours().tcb.status == "UpToDate"
    case.quote.chain = chain.ljust(MAX_CHAIN + 1, b"\n")
    assert code_of(case.build().ours) == "MalformedQuote"


# ---- collateral


@pytest.mark.parametrize(
    "part",
    ["root_ca_crl", "pck_crl", "tcb_info_issuer_chain", "tcb_info", "tcb_info_signature", "qe_identity_issuer_chain",
     "qe_identity", "qe_identity_signature"],
)  # fmt: skip
def test_every_part_that_verification_looks_at_is_among_the_parts(part: str) -> None:
    given = Collateral.from_json(Case.new(1).build().text)
    assert replace(given).parts == given.parts
    assert replace(given, **{part: getattr(given, part)[:-1] + b"\0"}).parts != given.parts


def test_a_part_that_is_not_there_is_missed_by_name() -> None:
    document = json.loads(Case.new(1).build().text)
    assert len(document) >= 9
    for name in document:
        data = json.dumps({other: value for other, value in document.items() if other != name}).encode()
        with pytest.raises(Malformed, match=f"{name}.*absent") as e:
            Collateral.from_json(data)
        assert e.value.code == "JsonInvalid"


def test_parts_do_not_run_into_one_another() -> None:
    given = Collateral.from_json(Case.new(1).build().text)
    moved = replace(given, root_ca_crl=given.root_ca_crl + given.pck_crl[:1], pck_crl=given.pck_crl[1:])
    assert moved.parts != given.parts


@pytest.mark.parametrize("text", ["", "ab cd", "abc", "xy", " ab", "ab\n"])
def test_a_crl_in_collateral_is_hex_and_nothing_else(text: str) -> None:
    document = json.loads(Case.new(1).build().text)
    document["pck_crl"] = text
    assert code_of(lambda: Collateral.from_json(json.dumps(document).encode())) == "JsonInvalid"


# ---- memory


class Held:
    def __init__(self, begins: int, ends: int) -> None:
        self.window = Window(NOW + timedelta(days=begins), NOW + timedelta(days=ends))


def test_what_was_made_anew_is_the_newest() -> None:
    memory, made = Memory(capacity=2), []

    def make(name: str, days: int) -> Held:
        made.append(name)
        return Held(days, days + 1)

    def recall(name: str, days: int) -> None:
        memory.recall("k", (name.encode(),), now=NOW + timedelta(days=days), make=lambda: make(name, days))

    recall("a", 0)
    recall("b", 0)
    recall("a", 2)  # over: made anew, and now newer than b
    recall("c", 2)  # b goes
    recall("a", 2)
    assert made == ["a", "b", "a", "c"]


# ---- event logs


def test_a_log_is_bounded() -> None:
    assert parse_event_log(binary() + b"\xff" * 100)
    assert code_of(lambda: parse_event_log(binary().ljust(MAX_LOG + 1, b"\xff"))) == "MalformedEventLog"
    for size, fits in ((MAX_PAYLOAD, True), (MAX_PAYLOAD + 1, False)):
        data = SPEC + record(1, 5, bytes(48), bytes(size))
        if fits:
            assert len(parse_event_log(data)[0].payload) == size
        else:
            assert code_of(lambda d=data: parse_event_log(d)) == "MalformedEventLog"  # type: ignore[misc]


def test_the_first_event_names_the_algorithm_and_nothing_more() -> None:
    assert SPEC[4:8] == EV_NO_ACTION.to_bytes(4, "little")
    other = SPEC[:4] + (5).to_bytes(4, "little") + SPEC[8:]
    assert code_of(lambda: parse_event_log(other + binary()[len(SPEC) :])) == "MalformedEventLog"
    size = int.from_bytes(SPEC[28:32], "little")
    longer = SPEC[:28] + (size + 1).to_bytes(4, "little") + SPEC[32:] + b"\0"
    assert code_of(lambda: parse_event_log(longer + binary()[len(SPEC) :])) == "MalformedEventLog"


def test_a_replay_is_explained_in_words() -> None:
    equal = compare(EVENTS, replay(EVENTS))
    assert all(register.equal for register in equal)
    used = [register for register in equal if register.events]
    assert used[0].explanation() == f"{used[0].events} events"
    wrong = compare((), [b"\1" * 48] * 4)
    assert {register.explanation() for register in wrong} == {"this log has none of its events"}
