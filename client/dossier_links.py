# SPDX-License-Identifier: Apache-2.0
"""Do the parts of a dossier belong to one exchange? What receipt and commitments leave open, compared part with part.

The header's time is the client's own clock; the receipt covers it, and it is bounded by the epoch and the receipt.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Final

from attestation.boot import key_id
from attestation.channel.header import Header
from attestation.dossier import Dossier
from attestation.errors import Malformed
from attestation.evidence import Evidence
from attestation.exchange import ExchangeBody
from attestation.findings import Finding, clause
from attestation.receipt import Receipt
from attestation.strict_json import loads
from attestation.tdx.eventlog import compare, parse_event_log
from attestation.verify import Verified

TIME_WINDOW: Final = 120  # seconds that a request's time may be off (docs/protocol.md)
MAX_JSON: Final = 1024 * 1024
FIRMWARE: Final = 3  # registers that firmware and kernel extend; RTMR3 has a log of its own


def dossier_links(
    dossier: Dossier, *, header: Header, body: ExchangeBody, verified: Verified, receipt: Receipt, skew: int
) -> list[Finding]:
    """Compare header, body, policy and times. `skew` is the policy's: how far clocks may be off, seconds."""
    epoch, keyset = verified.epoch, verified.claims.keyset_digest
    model, stream = _said(body.openai)
    kids = [key_id(key).hex() for key in epoch.seal_keys]
    first, last = epoch.not_before - skew, min(epoch.not_after, receipt.issued_at + TIME_WINDOW)
    digest, named = sha256(dossier.policy).hexdigest(), body.policy_digest.hex()
    evidence, seen = dossier.evidence_digest.hex(), (body.evidence_digest or b"").hex()
    return [
        *_evidence_links(dossier, verified),
        clause(
            "header.keyset_digest", "EpochDigestMismatch", holds=header.keyset_digest == keyset, want=keyset.hex(),
            got=header.keyset_digest.hex(),
        ),
        clause("header.kid", "EpochDigestMismatch", holds=header.kid.hex() in kids, want=kids, got=header.kid.hex()),
        clause("header.model", "ReceiptMismatch", holds=header.model == model, want=model, got=header.model),
        clause("header.stream", "ReceiptMismatch", holds=header.stream is stream, want=stream, got=header.stream),
        clause(
            "header.time", "ReceiptMismatch", holds=first <= header.time <= last, want=f"{first} to {last}",
            got=header.time,
        ),
        clause("dossier.policy", "ReceiptMismatch", holds=digest == named, want=named, got=digest),
        clause(
            "body.first_epoch", "ReceiptMismatch", holds=1 <= body.first_epoch <= receipt.epoch,
            want=f"1 to {receipt.epoch}", got=body.first_epoch,
        ),
        clause("dossier.evidence", "ReceiptMismatch", holds=evidence == seen, want=seen or "its digest", got=evidence),
    ]  # fmt: skip


def _said(openai: bytes) -> tuple[object, object]:
    """Read model and stream off the request. Raises Malformed(MalformedRequest)."""
    try:
        document = loads(openai, limit=MAX_JSON, what="body.openai")
    except Malformed as e:
        raise Malformed("MalformedRequest", "body.openai", want="JSON", got=e.code) from None
    if not isinstance(document, dict):
        raise Malformed("MalformedRequest", "body.openai", want="a JSON object", got=type(document).__name__)
    return document.get("model"), document.get("stream") or False


def _evidence_links(dossier: Dossier, verified: Verified) -> list[Finding]:
    """Hold what evidence shows without proving it to what it proves: the manifest, the firmware's log."""
    evidence = Evidence.decode(dossier.evidence)
    links = []
    if evidence.manifest:
        want, got = verified.boot.image_id.hex(), sha256(evidence.manifest).hexdigest()
        links.append(clause("evidence.manifest", "ManifestMismatch", holds=want == got, want=want, got=got))
    if evidence.firmware_log:
        registers = compare(parse_event_log(evidence.firmware_log), verified.quote.quote.report.rtmr)[:FIRMWARE]
        holds, got = all(r.equal for r in registers), "; ".join(r.explanation() for r in registers)
        want = "the log that RTMR0 to RTMR2 hold"
        links.append(clause("evidence.firmware_log", "EventLogReplayMismatch", holds=holds, want=want, got=got))
    return links
