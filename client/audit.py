# SPDX-License-Identifier: Apache-2.0
"""Audit a dossier offline, link by link, under the auditor's own policy. Nothing in the file is trusted.

1. the dossier is well formed, every byte used
2. its evidence is true under the auditor's roots when the request was sealed (or at --at)
3. the auditor's policy accepts it
4. header and body are those of one exchange
5. the receipt is signed by the evidence's receipt key and agrees with everything disclosed
6. the anchoring: `anchored`, `not anchored` or `overdue` (client/anchored.py)
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from attestation.answer import Answer, Witness, check_receipt
from attestation.appraise import appraise
from attestation.dossier import Dossier
from attestation.errors import Malformed, error_for
from attestation.evidence import Evidence
from attestation.exchange import ExchangeBody, commit
from attestation.findings import Finding
from attestation.policy import Policy
from attestation.receipt import SignedReceipt
from attestation.verdict import Verdict
from attestation.verify import Verified, verify_evidence

from .anchored import AnchoringResult, TonTrust, check_anchoring
from .dossier_links import dossier_links


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Audit:
    """Every link with its result."""

    dossier: Dossier
    verified: Verified
    verdict: Verdict
    receipt: SignedReceipt
    answer: Answer
    links: tuple[Finding, ...]
    anchoring: AnchoringResult

    @property
    def confidential(self) -> bool:
        """As the verdict computed it."""
        return self.verdict.confidential

    def require(self, *, allow_unconfidential: bool) -> None:
        """Raise the error of the first broken link, if any."""
        self.verdict.require(allow_unconfidential=allow_unconfidential)
        for link in (*self.links, *self.anchoring.links):
            if not link.holds:
                raise error_for(link.code, link.rule, want=link.want, got=link.got)

    def to_json(self) -> dict[str, object]:
        """Give the audit as the documented JSON object."""
        return {
            "verdict": self.verdict.to_json(),
            "links": [link.to_json() for link in (*self.links, *self.anchoring.links)],
            "anchoring": self.anchoring.to_json(),
            "receipt": {"hash": self.receipt.receipt.hash.hex(), "serial": self.receipt.receipt.serial},
        }


def audit(data: bytes, policy: Policy, *, at: datetime | None, now: datetime, trust: TonTrust) -> Audit:
    """Check a dossier under `policy`, at the time it was sealed or at `at`. Raises AttestationError for false input.

    `now` decides what is overdue; `trust` is the auditor's own trust in a TON.
    """
    dossier = Dossier.decode(data)  # 1
    receipt = SignedReceipt.decode(dossier.receipt)
    if dossier.receipt != receipt.encode():  # a receiver ignores such fields, and nothing covers them
        raise Malformed("MalformedDossier", "dossier.receipt", want="known fields alone", got="others")
    if dossier.collateral is not None and Evidence.decode(dossier.evidence).collateral:
        raise Malformed("MalformedDossier", "dossier.collateral", want="none beside the evidence's own", got="both")
    when = at or dossier.sealed_at()
    verified = verify_evidence(  # 2
        dossier.evidence,
        nonce=dossier.nonce,
        collateral=dossier.collateral,
        roots=policy.roots,
        time=policy.time,
        now=when,
    )
    verdict = appraise(verified, policy, now=when)  # 3
    header, body = dossier.header(), ExchangeBody.decode(dossier.request)  # 4
    answer = Answer.of_payload(dossier.response)
    salts = dossier.salts
    witness = Witness(
        boot=verified.boot,
        epoch=verified.epoch,
        header=header,
        body=body,
        answer=answer,
        ciphertext_hash=dossier.ciphertext_hash,
        transcript_hash=dossier.transcript_hash,
        request_commitment=commit(salts.request, dossier.request) if salts.request else None,
        response_commitment=commit(salts.response, dossier.response) if salts.response else None,
        token_salt=salts.tokens,
        prices=verified.operator.prices if verified.operator else None,
    )
    same = dossier_links(
        dossier, header=header, body=body, verified=verified, receipt=receipt.receipt, skew=policy.time.max_skew
    )
    links = [*same, *check_receipt(receipt, witness)]  # 5
    anchoring = check_anchoring(  # 6
        dossier.anchoring,
        receipt=receipt.receipt,
        boot=verified.boot,
        policy=policy,
        asked_at=header.time,
        now=now,
        trust=trust,
    )
    return Audit(
        dossier=dossier,
        verified=verified,
        verdict=verdict,
        receipt=receipt,
        answer=answer,
        links=tuple(links),
        anchoring=anchoring,
    )
