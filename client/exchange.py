# SPDX-License-Identifier: Apache-2.0
"""One run: seal, send, read the stream, check the receipt; retry once where that cannot run it twice.

After any byte of a request has left, a second attempt goes only to the same boot, proved over a fresh nonce, under the
same run id. Everything else is an unknown outcome, and the caller's decision (docs/protocol.md, Retry).
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from attestation import cbor
from attestation.answer import Answer, Witness, check_receipt, require_links
from attestation.boot import key_id
from attestation.channel.header import REQUEST_ID_SIZE, Header, Padding
from attestation.channel.request import SealedRequest, seal_request
from attestation.channel.response import ResponseOpener
from attestation.channel.schedule import SEED_SIZE
from attestation.errors import Malformed, Untrusted
from attestation.exchange import ExchangeBody, Item, SealedRefusal, read_item
from attestation.findings import Finding
from attestation.receipt import SignedReceipt, Status

from .attested import Attested, Now
from .errors import Declined, RunOutcomeUnknown, Unreachable
from .memory import ReceiptMemory

SEALED_PATH = "/v1/sericin/sealed"
Reattest = Callable[[], Attested]


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class RunRequest:
    """What to run. Has no repr: it holds the prompt."""

    endpoint: str
    openai: bytes  # JSON
    model: str
    stream: bool
    padding: Padding = Padding.CELL
    tenant: bytes | None = None  # 32
    account: bytes | None = None  # 32
    maximum_total: int | None = None  # nanograms
    run_id: bytes = field(default_factory=lambda: secrets.token_bytes(32))


class _Unanswered(Exception):
    """Nothing authenticated came back."""


class Run:
    """One run on an attested enclave. Iterate `items`; afterwards `receipt` and `links` are set."""

    def __init__(
        self, attested: Attested, request: RunRequest, *, reattest: Reattest, now: Now, memory: ReceiptMemory
    ) -> None:
        self.attested = attested
        self.answer = Answer()
        self.receipt: SignedReceipt | None = None
        self.links: list[Finding] = []
        self.witness: Witness | None = None
        self.response_payload = bytearray()
        self.sealed: SealedRequest | None = None
        self.body: ExchangeBody | None = None
        self.complete = False
        self.received = 0  # bytes of the answer's body so far
        self._request = request
        self._reattest = reattest
        self._now = now
        self._memory = memory
        self._first_epoch = attested.verified.epoch.number
        self._ending = threading.Lock()
        self._abandoned = self._ended = False

    @property
    def run_id(self) -> bytes:
        """The run's id, 32 bytes."""
        return self._request.run_id

    def abandon(self) -> None:
        """End the run from any thread: hang up, and never send it again. One that has ended is left alone.

        The enclave makes a run that had started an aborted one, with a receipt.
        """
        with self._ending:
            if not self._ended:  # afterwards the connection may carry another run
                self._abandoned = True
                self.attested.connection.close()

    def items(self) -> Iterator[Item]:
        """Send the request and give the answer's items as they arrive.

        Raises Untrusted (stream or receipt is false), Declined (the enclave said no), RunOutcomeUnknown, Unreachable.
        """
        try:
            yield from self._attempts()
        finally:
            with self._ending:
                self._ended = True

    def _attempts(self) -> Iterator[Item]:
        if not self.attested.fresh(self._now()):
            self._renew()
            self._first_epoch = self.attested.verified.epoch.number  # nothing was sent in the earlier one
        boot = self.attested.verified.boot.digest
        try:
            yield from self._attempt()
        except _Unanswered as first:
            if self._abandoned:
                raise RunOutcomeUnknown("the caller has gone") from None
            try:
                self._renew()
            except (Unreachable, Untrusted, Malformed):
                raise RunOutcomeUnknown(f"{first}; the enclave could not be reached and verified again") from None
            if self.attested.verified.boot.digest != boot:
                raise RunOutcomeUnknown(f"{first}; another enclave answers there now") from None
            try:
                yield from self._attempt()
            except _Unanswered as second:
                raise RunOutcomeUnknown(f"{second}, twice") from None

    def _renew(self) -> None:
        self.attested.connection.close()
        self.attested = self._reattest()
        if self._abandoned:
            self.attested.connection.close()  # the attempt that follows finds it closed, and is the last

    def _attempt(self) -> Iterator[Item]:
        self.sealed = self._seal()
        opener = ResponseOpener(self.sealed.schedule, padding=self._request.padding)
        try:
            reply = self.attested.connection.request("POST", SEALED_PATH, body=self.sealed.wire)
        except Unreachable as e:
            raise _Unanswered(str(e)) from None
        if reply.status != 200:
            raise _Unanswered(f"the server refused with status {reply.status}, which nobody signed")
        try:
            for chunk in reply.body:
                self.received += len(chunk)
                for value in opener.feed(chunk):
                    item = read_item(value)
                    self.answer.add(item)
                    self.response_payload += cbor.encode(value)
                    yield item
            opener.close()
        except Unreachable as e:
            if opener.authenticated:
                raise Untrusted("StreamTruncated", "response", want="a final frame", got="a cut") from None
            raise _Unanswered(str(e)) from None
        except Untrusted as e:
            if e.code == "StreamTruncated" and not opener.authenticated:
                raise _Unanswered("the answer ended before its first frame") from None
            raise
        self._conclude(opener)

    def _seal(self) -> SealedRequest:
        verified, request = self.attested.verified, self._request
        key = verified.epoch.seal_keys[0]
        header = Header(
            kid=key_id(key),
            keyset_digest=verified.claims.keyset_digest,
            request_id=secrets.token_bytes(REQUEST_ID_SIZE),
            time=int(self._now().timestamp()),
            padding=request.padding,
            stream=request.stream,
            model=request.model,
        )
        self.body = ExchangeBody(
            endpoint=request.endpoint,
            nonce=secrets.token_bytes(32),
            run_id=request.run_id,
            first_epoch=self._first_epoch,
            policy_digest=self.attested.policy.sha256,
            openai=request.openai,
            tenant=request.tenant,
            account=request.account,
            maximum_total=request.maximum_total,
            evidence_digest=self.attested.evidence_digest,
        )
        return seal_request(header, self.body.encode(), public_key=key, seed=secrets.token_bytes(SEED_SIZE))

    def _conclude(self, opener: ResponseOpener) -> None:
        if opener.receipt_item:
            self.receipt = SignedReceipt.decode(opener.receipt_item)
        if opener.error_item:
            refusal = SealedRefusal.decode(opener.error_item)
            raise Declined(refusal.code, retry_after=refusal.retry_after, field=refusal.field)
        if self.receipt is None or self.sealed is None or self.body is None:
            raise Untrusted("StreamTruncated", "response.receipt", want="a receipt", got="none")
        verified, salts = self.attested.verified, self.sealed.schedule.salts
        self.witness = Witness(
            boot=verified.boot,
            epoch=verified.epoch,
            header=self.sealed.header,
            body=self.body,
            answer=self.answer,
            ciphertext_hash=self.sealed.ciphertext_hash,
            transcript_hash=opener.transcript_hash,
            request_commitment=self.sealed.commitment,
            response_commitment=opener.commitment,
            token_salt=salts.tokens,
            prices=verified.operator.prices if verified.operator else None,
        )
        self.links = check_receipt(self.receipt, self.witness)
        require_links(self.links)
        self._memory.remember(verified.boot.receipt_key, self.receipt)
        self.complete = self.receipt.receipt.status is Status.COMPLETE
