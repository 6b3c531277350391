# SPDX-License-Identifier: Apache-2.0
"""An enclave that signs a receipt of something else: every field that a client can check is checked, by name."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any

import pytest

from attestation.dossier import MAX_DOSSIER
from attestation.errors import Untrusted
from attestation.receipt import Receipt, SignedReceipt, Status
from client.anchored import TonTrust
from client.audit import audit
from client.dossier import dossier_bytes, dossier_of
from client.errors import UsageFault
from enclave.keys import ReceiptSigner
from enclave.reply import Reply
from tests.served import Served, served

OTHER = bytes(range(32))

WRONG: list[tuple[str, Any, str, str]] = [
    ("boot", OTHER, "ReceiptMismatch", "receipt.boot"),
    ("image", OTHER, "ReceiptMismatch", "receipt.image"),
    ("model", OTHER, "ReceiptMismatch", "receipt.model"),
    ("machine", 1, "ReceiptMismatch", "receipt.machine"),
    ("epoch", 9, "ReceiptMismatch", "receipt.epoch"),
    ("request_id", OTHER[:16], "ReceiptMismatch", "receipt.request_id"),
    ("nonce", OTHER, "ReceiptMismatch", "receipt.nonce"),
    ("account", OTHER, "ReceiptMismatch", "receipt.account"),
    ("ciphertext", OTHER, "ReceiptMismatch", "receipt.ciphertext"),
    ("transcript", OTHER, "ReceiptMismatch", "receipt.transcript"),
    ("request", OTHER, "CommitmentMismatch", "commitment.request"),
    ("response", OTHER, "CommitmentMismatch", "commitment.response"),
    ("tokens", OTHER, "CommitmentMismatch", "commitment.tokens"),
    ("status", Status.ABORTED, "ReceiptMismatch", "receipt.status"),
    ("status", Status.FAILED, "ReceiptMismatch", "receipt.status"),
    ("params", OTHER, "ReceiptMismatch", "receipt.params"),
    ("prompt_tokens", 99, "TokenCountMismatch", "tokens.prompt"),
    ("cached_tokens", 1, "TokenCountMismatch", "tokens.cached"),
    ("completion_tokens", 99, "TokenCountMismatch", "tokens.completion"),
    ("reasoning_tokens", 1, "TokenCountMismatch", "tokens.usage"),
    ("finish", 2, "ReceiptMismatch", "receipt.finish"),
    ("price", 1, "ReceiptMismatch", "receipt.price"),
]
FREE = {
    "serial", "previous",  # judged against other receipts: equivocation
    "issued_at",  # the host's claim
    "extension",  # carried and hashed, whatever it is
}  # fmt: skip


@pytest.fixture(scope="module")
def enclave(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("enclave")) as running:
        yield running


def lying(monkeypatch: pytest.MonkeyPatch, **change: Any) -> None:
    """Let the enclave sign its receipts with one field changed."""
    truly = Reply.receipt

    def falsely(self: Reply, *args: Any, **kwargs: Any) -> Receipt:
        return replace(truly(self, *args, **kwargs), **change)

    monkeypatch.setattr(Reply, "receipt", falsely)


def test_every_field_of_a_receipt_is_checked_or_named_as_free() -> None:
    named = {field.name for field in fields(Receipt) if field.init}
    assert named == {row[0] for row in WRONG} | FREE


@pytest.mark.parametrize(("field", "value", "code", "where"), WRONG, ids=[f"{row[0]} {row[1]}"[:30] for row in WRONG])
def test_a_receipt_of_something_else_is_refused(
    enclave: Served, monkeypatch: pytest.MonkeyPatch, field: str, value: Any, code: str, where: str
) -> None:
    lying(monkeypatch, **{field: value})
    run = enclave.run("what was truly said")
    with pytest.raises(Untrusted) as e:
        list(run.items())
    assert (e.value.code, e.value.where) == (code, where)
    assert not run.complete
    assert next(link.rule for link in run.links if not link.holds) == where


def test_a_price_above_the_callers_maximum_is_refused(enclave: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """The enclave charges what its prices say, and more than was agreed to: its own check was left out."""
    monkeypatch.setattr(Reply, "_require_affordable", lambda *_: None)
    run = enclave.run("dear words", maximum_total=1)
    with pytest.raises(Untrusted) as e:
        list(run.items())
    assert e.value.where == "receipt.maximum"


def test_a_receipt_by_another_key_is_refused(enclave: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    other = ReceiptSigner()
    monkeypatch.setattr(enclave.floor.book, "_signer", other)
    run = enclave.run("signed by somebody")
    with pytest.raises(Untrusted) as e:
        list(run.items())
    assert e.value.code == "ReceiptSignatureInvalid"


def test_a_receipt_that_is_missing_is_missed(enclave: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    truly = Reply.end
    monkeypatch.setattr(Reply, "end", lambda self, _: truly(self, None))
    run = enclave.run("no receipt")
    with pytest.raises(Untrusted) as e:
        list(run.items())
    assert (e.value.code, e.value.where) == ("StreamTruncated", "response.receipt")


def test_an_auditor_finds_the_same_link(enclave: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dossier whose receipt is of another answer, made by a client that did not look."""
    lying(monkeypatch, completion_tokens=99)
    monkeypatch.setattr("client.exchange.require_links", lambda _: None)
    run = enclave.run("what was truly said")
    list(run.items())
    dossier = dossier_of(run, policy=json.dumps(enclave.policy_document()).encode()).encode()
    result = audit(dossier, enclave.policy(), at=None, now=enclave.now(), trust=TonTrust())
    with pytest.raises(Untrusted) as e:
        result.require(allow_unconfidential=True)
    assert e.value.where == "tokens.completion"


def test_only_a_finished_run_has_a_dossier(enclave: Served) -> None:
    run = enclave.run("cut short")
    with pytest.raises(RuntimeError, match="finished"):
        dossier_of(run, policy=b"{}")
    list(run.items())
    for part in ("receipt", "witness", "sealed"):
        kept = getattr(run, part)
        setattr(run, part, None)
        with pytest.raises(RuntimeError, match="finished"):
            dossier_of(run, policy=b"{}")
        setattr(run, part, kept)
    assert dossier_bytes(run, policy=b"{}")
    run.response_payload += bytes(MAX_DOSSIER)
    with pytest.raises(UsageFault, match=r"no dossier: .*at most"):
        dossier_bytes(run, policy=b"{}")


def test_a_signed_receipt_survives_its_encoding(enclave: Served) -> None:
    run = enclave.run("kept")
    list(run.items())
    assert run.receipt is not None
    assert SignedReceipt.decode(run.receipt.encode()) == run.receipt


def test_receipts_are_equal_when_their_proof_hashes_are(enclave: Served) -> None:
    run = enclave.run("equal")
    list(run.items())
    assert run.receipt is not None
    receipt = run.receipt.receipt
    assert replace(receipt) == receipt
    assert len({replace(receipt), receipt}) == 1
    assert receipt != replace(receipt, serial=receipt.serial + 1)
    assert receipt != replace(receipt, extension=receipt.cell())  # an extension counts as every field does
    assert receipt != run.receipt
