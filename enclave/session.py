# SPDX-License-Identifier: Apache-2.0
"""One sealed request, from its first byte to an authenticated body: sans I/O (docs/protocol.md, Sealed request).

Whatever fails in here is an outer refusal that only steers retries. A request comes out `Opened` only after its final
frame authenticated and its replay entry was inserted; everything later is answered inside the seal.
"""

from __future__ import annotations

from dataclasses import dataclass

from attestation.channel.header import Header
from attestation.channel.request import RequestOpener
from attestation.channel.schedule import Schedule
from attestation.errors import AttestationError

from .epochs import Epoch, EpochTable
from .replay import ReplayFull
from .seams import Clock


class OuterRefusal(Exception):
    """An unauthenticated no: an HTTP status and a code. Holds nothing of the request."""

    def __init__(self, status: int, code: str, *, retry_after: int | None = None) -> None:
        super().__init__(status, code)
        self.status = status
        self.code = code
        self.retry_after = retry_after


BAD_REQUEST = "bad_request"  # header, seal, frames or replay: indistinguishable
TOO_LARGE = "too_large"
UNKNOWN_KID = "unknown_kid"
REPLAY_FULL = "replay_full"


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Opened:
    """An authenticated request that was never seen before. Has no repr: it holds the prompt."""

    epoch: Epoch
    header: Header
    schedule: Schedule
    body: bytes  # the encoded ExchangeBody, not yet read
    ciphertext_hash: bytes  # 32
    commitment: bytes  # 32


class Intake:
    """Opens one request as its bytes arrive."""

    def __init__(self, *, epochs: EpochTable, clock: Clock, max_bytes: int) -> None:
        self._epochs = epochs
        self._clock = clock
        self._max_bytes = max_bytes
        self._seen = 0
        self._opener = RequestOpener(max_bytes=max_bytes)
        self._epoch: Epoch | None = None
        self._schedule: Schedule | None = None

    def feed(self, data: bytes) -> None:
        """Take bytes of the HTTP body. Raises OuterRefusal; the request is then dead."""
        self._seen += len(data)
        if self._seen > self._max_bytes:
            raise OuterRefusal(413, TOO_LARGE)
        try:
            self._opener.feed(data)
            if self._schedule is None and self._opener.header is not None:
                self._unlock(self._opener.header)
        except AttestationError:
            raise OuterRefusal(400, BAD_REQUEST) from None

    def _unlock(self, header: Header) -> None:
        epoch = self._epochs.by_kid(header.kid, boot_now=self._clock.boot())
        if epoch is None:
            raise OuterRefusal(422, UNKNOWN_KID)
        if epoch.replay.full:
            raise OuterRefusal(503, REPLAY_FULL, retry_after=60)
        seed = epoch.seal.open(self._opener.sealed_seed, header_hash=self._opener.header_hash)
        self._epoch, self._schedule = epoch, self._opener.unlock(seed)

    def finish(self) -> Opened:
        """End the body: insert the replay entry and give the request. Raises OuterRefusal."""
        try:
            body = self._opener.finish()
        except AttestationError:
            raise OuterRefusal(400, BAD_REQUEST) from None
        if self._epoch is None or self._schedule is None or self._opener.header is None:
            raise OuterRefusal(400, BAD_REQUEST)
        try:
            fresh = self._epoch.replay.insert(self._opener.sealed_seed)
        except ReplayFull:
            raise OuterRefusal(503, REPLAY_FULL, retry_after=60) from None
        if not fresh:
            raise OuterRefusal(400, BAD_REQUEST)
        return Opened(
            epoch=self._epoch,
            header=self._opener.header,
            schedule=self._schedule,
            body=body,
            ciphertext_hash=self._opener.ciphertext_hash,
            commitment=self._opener.commitment,
        )
