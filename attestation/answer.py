# SPDX-License-Identifier: Apache-2.0
"""An answer as its data items tell it, and whether a receipt is truly the receipt of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from . import cbor
from .boot import BootMap, EpochMap, ModelRecord
from .channel.header import Header
from .channel.response import MAX_ITEM
from .errors import Malformed, Untrusted
from .exchange import (
    FINISH_CODES,
    ChoiceEnd,
    Delta,
    ExchangeBody,
    Item,
    Start,
    Usage,
    WholeObject,
    commit,
    params_digest,
    read_item,
    token_bytes,
)
from .findings import Finding
from .operator import Prices
from .receipt import MACHINE_CODES, Receipt, SignedReceipt, Status


@dataclass(slots=True, repr=False)
class Answer:
    """Gathers data items in order. Has no repr: it holds the answer."""

    start: Start | None = None
    usage: Usage | None = None
    texts: dict[int, list[str]] = field(default_factory=dict)
    finishes: dict[int, str] = field(default_factory=dict)
    objects: list[bytes] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)

    def add(self, item: Item) -> None:
        """Take the next item. Raises Malformed(MalformedFrame) for one out of order."""
        if isinstance(item, Start) != (self.start is None) or self.usage is not None:
            raise Malformed(
                "MalformedFrame", "answer", want="start first and once, usage last", got=type(item).__name__
            )
        match item:
            case Start():
                self.start = item
            case Delta():
                self.texts.setdefault(item.choice, []).append(item.text)
                self.ids += item.ids
            case ChoiceEnd():
                self.finishes[item.choice] = item.finish
            case Usage():
                self.usage = item
            case WholeObject():
                self.objects.append(item.json)

    @classmethod
    def of_payload(cls, payload: bytes) -> Answer:
        """Read a whole response payload, as a dossier keeps it. Raises Malformed."""
        decoder = cbor.SequenceDecoder(limit=MAX_ITEM, what="response.data", code="MalformedFrame")
        answer = cls()
        for value in decoder.feed(payload):
            answer.add(read_item(value))
        decoder.end()
        return answer

    def text(self, choice: int = 0) -> str:
        """Give the text of one choice so far."""
        return "".join(self.texts.get(choice, ()))

    def token_bytes(self) -> bytes:
        """Give what the token commitment covers: prompt ids, then completion ids in the order of the deltas."""
        return token_bytes((*(self.start.prompt_ids if self.start else ()), *self.ids))


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Witness:
    """What somebody who was there, or holds a dossier, knows about one exchange. None: not disclosed."""

    boot: BootMap
    epoch: EpochMap
    header: Header
    body: ExchangeBody
    answer: Answer
    ciphertext_hash: bytes
    transcript_hash: bytes
    request_commitment: bytes | None
    response_commitment: bytes | None
    token_salt: bytes | None
    prices: Prices | None


def check_receipt(signed: SignedReceipt, witness: Witness) -> list[Finding]:
    """Compare every field of a receipt with what the witness knows: one finding per link, by name."""
    receipt, boot = signed.receipt, witness.boot
    links = [_signature(signed, boot.receipt_key)]
    record = next((m for m in boot.models if m.name == witness.header.model), None)
    tokens = commit(witness.token_salt, witness.answer.token_bytes()) if witness.token_salt else None
    for name, want, got in (
        ("receipt.boot", boot.digest, receipt.boot),
        ("receipt.image", boot.image_id, receipt.image),
        ("receipt.model", record.digest if record else b"", receipt.model),
        ("receipt.machine", bytes([MACHINE_CODES[boot.machine]]), bytes([receipt.machine])),
        ("receipt.request_id", witness.header.request_id, receipt.request_id),
        ("receipt.nonce", witness.body.nonce, receipt.nonce),
        ("receipt.account", witness.body.account or bytes(32), receipt.account),
        ("receipt.ciphertext", witness.ciphertext_hash, receipt.ciphertext),
        ("receipt.transcript", witness.transcript_hash, receipt.transcript),
    ):
        links.append(_link(name, "ReceiptMismatch", want.hex(), got.hex()))
    links.append(_link("receipt.epoch", "ReceiptMismatch", witness.epoch.number, receipt.epoch))
    for name, want_or_none, got in (
        ("commitment.request", witness.request_commitment, receipt.request),
        ("commitment.response", witness.response_commitment, receipt.response),
        ("commitment.tokens", tokens, receipt.tokens),
    ):
        links.append(_commitment(name, want_or_none, got))
    links += _counts(receipt, witness, record)
    return links


def _counts(receipt: Receipt, witness: Witness, record: ModelRecord | None) -> list[Finding]:
    answer, usage, start = witness.answer, witness.answer.usage, witness.answer.start
    links = [_link("receipt.status", "ReceiptMismatch", Status.COMPLETE.name, receipt.status.name)]
    if start is not None:
        links.append(
            _link("receipt.params", "ReceiptMismatch", params_digest(start.params).hex(), receipt.params.hex())
        )
        links.append(_link("tokens.prompt", "TokenCountMismatch", len(start.prompt_ids), receipt.prompt_tokens))
        links.append(_link("tokens.cached", "TokenCountMismatch", start.cached_tokens, receipt.cached_tokens))
    links.append(_link("tokens.completion", "TokenCountMismatch", len(answer.ids), receipt.completion_tokens))
    counts = (receipt.prompt_tokens, receipt.cached_tokens, receipt.completion_tokens, receipt.reasoning_tokens)
    if usage is not None:
        told = (usage.prompt, usage.cached, usage.completion, usage.reasoning)
        links.append(_link("tokens.usage", "TokenCountMismatch", told, counts))
    finish = FINISH_CODES[answer.finishes.get(0, "")]
    links.append(_link("receipt.finish", "ReceiptMismatch", finish, receipt.finish))
    if witness.prices is not None:
        price = witness.prices.total(prompt=counts[0], cached=counts[1], completion=counts[2])
        links.append(_link("receipt.price", "ReceiptMismatch", price, receipt.price))
    if witness.body.maximum_total is not None:
        most = witness.body.maximum_total
        links.append(
            Finding(rule="receipt.maximum", holds=receipt.price <= most, code="ReceiptMismatch", want=f"at most {most}",
                    got=str(receipt.price))
        )  # fmt: skip
    if record is None:
        links.append(_link("receipt.model.name", "ReceiptMismatch", witness.header.model, "no such model"))
    return links


def require_links(links: Iterable[Finding]) -> None:
    """Raise Untrusted for the first link that does not hold."""
    for link in links:
        if not link.holds:
            raise Untrusted(link.code, link.rule, want=link.want, got=link.got)


def _signature(signed: SignedReceipt, key: bytes) -> Finding:
    try:
        signed.verify(key)
    except Untrusted as e:
        return Finding(rule="receipt.signature", holds=False, code=e.code, want=f"by {key.hex()}", got="not by it")
    return Finding(rule="receipt.signature", holds=True, code="", want=f"by {key.hex()}", got="holds")


def _link(name: str, code: str, want: object, got: object) -> Finding:
    return Finding(rule=name, holds=want == got, code=code, want=str(want), got=str(got))


def _commitment(name: str, want: bytes | None, got: bytes) -> Finding:
    if want is None:
        return Finding(rule=name, holds=True, code="", want="not disclosed", got=got.hex(), waived="salt left out")
    return _link(name, "CommitmentMismatch", want.hex(), got.hex())
