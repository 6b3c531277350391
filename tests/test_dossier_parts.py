# SPDX-License-Identifier: Apache-2.0
"""What a dossier's parts must have in common, at the edges: times, first epoch, the request's JSON, firmware's log."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest

from attestation.channel.header import Header
from attestation.dossier import Dossier
from attestation.errors import Malformed
from attestation.evidence import Evidence
from attestation.exchange import ExchangeBody
from attestation.receipt import Receipt, SignedReceipt
from attestation.tdx.eventlog import LogEvent, replay
from attestation.verify import Verified
from client.dossier_links import TIME_WINDOW, dossier_links
from tests.anchored_dossier import Kept, keep_one
from tests.test_tdx_eventlog import binary

SKEW = 300
EVENTS = [LogEvent(register=index, type=1, digest=bytes([index + 1]) * 48, payload=b"x") for index in range(4)]


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Kept:
    return keep_one(tmp_path_factory.mktemp("kept"))


@dataclass(kw_only=True)
class Parts:
    """The parts of a dossier, each to be changed."""

    dossier: Dossier
    header: Header
    body: ExchangeBody
    verified: Verified
    receipt: Receipt

    def broken(self) -> list[str]:
        """Give the links that do not hold."""
        links = dossier_links(
            self.dossier, header=self.header, body=self.body, verified=self.verified, receipt=self.receipt, skew=SKEW
        )
        return [link.rule for link in links if not link.holds]


@pytest.fixture
def parts(kept: Kept) -> Parts:
    dossier = Dossier.decode(kept.data)
    return Parts(
        dossier=dossier,
        header=dossier.header(),
        body=ExchangeBody.decode(dossier.request),
        verified=kept.audit().verified,
        receipt=SignedReceipt.decode(dossier.receipt).receipt,
    )


def test_the_parts_of_one_exchange_agree(parts: Parts) -> None:
    assert parts.broken() == []


def test_a_request_s_time_lies_within_epoch_and_receipt(parts: Parts) -> None:
    epoch = parts.verified.epoch
    issued = epoch.not_before + 1000
    for issued_at, last in ((issued, issued + TIME_WINDOW), (epoch.not_after + 1, epoch.not_after)):
        parts.receipt = replace(parts.receipt, issued_at=issued_at)
        first = epoch.not_before - SKEW
        for time, holds in ((first - 1, False), (first, True), (last, True), (last + 1, False)):
            parts.header = replace(parts.header, time=time)
            assert parts.broken() == ([] if holds else ["header.time"])


@pytest.mark.parametrize(("epoch", "holds"), [(0, False), (1, True), (2, False)])
def test_a_first_attempt_was_in_this_epoch_or_an_earlier_one(parts: Parts, epoch: int, *, holds: bool) -> None:
    parts.body = replace(parts.body, first_epoch=epoch)
    assert parts.broken() == ([] if holds else ["body.first_epoch"])


@pytest.mark.parametrize("openai", [b"", b"{", b"[]", b'"x"', b'{"model":"a","model":"a"}'])
def test_a_request_that_is_no_object_is_malformed(parts: Parts, openai: bytes) -> None:
    parts.body = replace(parts.body, openai=openai)
    with pytest.raises(Malformed, match="MalformedRequest") as e:
        parts.broken()
    assert e.value.where == "body.openai"


@pytest.mark.parametrize(
    ("said", "streams"), [("", False), (',"stream":null', False), (',"stream":false', False), (',"stream":true', True)]
)
def test_whoever_says_nothing_of_a_stream_wants_none(parts: Parts, said: str, *, streams: bool) -> None:
    openai = f'{{"model":"{parts.header.model}"{said}}}'.encode()
    parts.body = replace(parts.body, openai=openai)
    for stream in (True, False):
        parts.header = replace(parts.header, stream=stream)
        assert parts.broken() == ([] if stream is streams else ["header.stream"])


def logged(parts: Parts, log: bytes, registers: Any) -> list[str]:
    """Show `log` in evidence whose quote has `registers`."""
    data = replace(Evidence.decode(parts.dossier.evidence), firmware_log=log).encode()
    quote = parts.verified.quote
    report = replace(quote.quote.report, rtmr=registers)
    changed: dict[str, Any] = {"quote": replace(quote, quote=replace(quote.quote, report=report))}
    parts.dossier = replace(parts.dossier, evidence=data)
    parts.verified = replace(parts.verified, **changed)
    return [rule for rule in parts.broken() if rule != "dossier.evidence"]  # another's digest, that is


@pytest.mark.parametrize("register", range(4))
def test_a_log_of_the_firmware_replays_to_its_three_registers(parts: Parts, register: int) -> None:
    registers = replay(EVENTS)
    assert logged(parts, binary(EVENTS), registers) == []
    other = (*registers[:register], bytes(48), *registers[register + 1 :])
    assert logged(parts, binary(EVENTS), other) == (["evidence.firmware_log"] if register < 3 else [])
    assert logged(parts, b"", other) == []  # none is shown


def test_evidence_is_the_very_bytes_that_the_request_names(parts: Parts) -> None:
    for digest in (None, bytes(32)):
        parts.body = replace(parts.body, evidence_digest=digest)
        assert parts.broken() == ["dossier.evidence"]
