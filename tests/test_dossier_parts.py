# SPDX-License-Identifier: Apache-2.0
"""A dossier's parts, at the edges: their sizes, what they have in common, and what an audit makes of all of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import pytest

from attestation.channel.header import Header
from attestation.dossier import Dossier
from attestation.errors import AttestationError, Malformed, PolicyInvalid, Refused
from attestation.evidence import Evidence
from attestation.exchange import ExchangeBody
from attestation.policy import MAX_POLICY
from attestation.receipt import Receipt, SignedReceipt
from attestation.tdx.eventlog import LogEvent, replay
from attestation.ton.anchoring import Anchoring
from attestation.verify import Verified
from client import anchored
from client.anchored import AnchoringResult, TonTrust, check_anchoring
from client.audit import audit
from client.dossier_links import TIME_WINDOW, dossier_links
from client.ton.network import SIMULATED_ID
from tests.anchored_dossier import Kept, Path_, bent, keep_one
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


# ---- each part has its size, by name


@pytest.mark.parametrize(
    ("path", "change", "where"),
    [
        ((1,), lambda text: text + "x", "dossier.format"),
        ((3,), lambda nonce: nonce[:-1], "dossier.nonce"),
        ((5,), lambda digest: digest[:-1], "dossier.transcript_hash"),
        ((8, 1), lambda salt: salt[:-1], "dossier.salts"),
        ((8, 2), lambda salt: salt + b"x", "dossier.salts"),
        ((8, 3), lambda _: b"", "dossier.salts"),
        ((8,), lambda salts: salts | {64: b""}, "dossier"),
        ((10,), lambda _: bytes(MAX_POLICY + 1), "dossier.policy"),
        ((), lambda whole: whole | {64: b""}, "dossier"),
    ],
)
def test_each_part_of_a_dossier_has_its_size(kept: Kept, path: Path_, change: Callable[[Any], Any], where: str) -> None:
    with pytest.raises(Malformed, match="MalformedDossier") as e:
        Dossier.decode(bent(kept.data, path, change))
    assert e.value.where == where


# ---- what an audit makes of all of them


def test_an_audit_shows_every_link_and_requires_the_verdict(kept: Kept) -> None:
    found = kept.audit()
    shown = found.to_json()["links"]
    assert shown == [link.to_json() for link in (*found.links, *found.anchoring.links)]
    assert len(found.links) > 20
    assert len(found.anchoring.links) == 4
    with pytest.raises(Refused, match="Unconfidential"):
        found.require(allow_unconfidential=False)
    other = replace(kept.policy, images=tuple(replace(image, image_id=bytes(32)) for image in kept.policy.images))
    refused = audit(kept.data, other, at=None, now=kept.now, trust=TonTrust())
    assert all(link.holds for link in refused.links)
    with pytest.raises(AttestationError, match="ImageIdMismatch"):
        refused.require(allow_unconfidential=True)


def anchoring(kept: Kept, *, real: bool = False, **trust: Any) -> AnchoringResult:
    """Check the anchoring alone, under the kept policy or the same with real roots."""
    roots = replace(kept.policy.roots, kind="intel+nvidia") if real else kept.policy.roots
    dossier = Dossier.decode(kept.data)
    return check_anchoring(
        dossier.anchoring, receipt=SignedReceipt.decode(dossier.receipt).receipt, boot=kept.boot,
        policy=replace(kept.policy, roots=roots), asked_at=dossier.header().time, now=kept.now,
        trust=TonTrust(**trust),
    )  # fmt: skip


def test_a_release_s_block_is_trusted_unless_the_auditor_has_one(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    assert anchoring(kept, path=kept.path).status != "anchored"
    monkeypatch.setattr(anchored, "PINNED", {"simulated": kept.init_block})
    assert anchoring(kept, path=kept.path).status == "anchored"
    found = anchoring(kept, path=kept.path, init_block=kept.later)
    assert [(link.rule, link.code) for link in found.links if not link.holds] == [
        ("anchoring.block", "TrustPathInvalid")
    ]
    assert anchoring(kept, path=kept.back).reason.startswith("the trust path does not begin")


def test_a_public_chain_goes_with_real_roots_alone(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    trust: dict[str, Any] = {"path": kept.path, "init_block": kept.init_block}
    monkeypatch.setattr(anchored, "PUBLIC_IDS", {SIMULATED_ID: "public"})
    monkeypatch.setattr(anchored, "SIMULATED_ID", 0)
    assert anchoring(kept, real=True, **trust).status == "anchored"
    with pytest.raises(PolicyInvalid, match="a public network"):
        anchoring(kept, **trust)


def test_the_block_itself_is_a_link_and_its_age_is_said(kept: Kept) -> None:
    block = Anchoring.decode(Dossier.decode(kept.data).anchoring or b"").reading.block
    found = anchoring(kept, init_block=block)
    assert [link.rule for link in found.links][-1] == "anchoring.block"
    assert found.block_time is not None
    for seconds, said in ((119, "119 s"), (120, "2 minutes"), (7200, "2 hours"), (2 * 86_400, "2 days")):
        now = datetime.fromtimestamp(found.block_time + seconds, UTC)
        assert found.describe(now=now).endswith(f", {said} ago")
    unproved = bent(kept.data, (11, ">", 8, 1), lambda proof: bytes((proof[0] ^ 1,)) + proof[1:])
    broken = audit(unproved, kept.policy, at=None, now=kept.now, trust=TonTrust(init_block=block)).anchoring
    assert (broken.block, broken.block_time) == (block, None)
    assert broken.describe(now=kept.now).startswith("not anchored")
