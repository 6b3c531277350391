# SPDX-License-Identifier: Apache-2.0
"""May an authenticated request run? Every check whose answer is sealed, in one order, in one step with the run id."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from attestation import strict_json
from attestation.boot import Limits
from attestation.errors import AttestationError
from attestation.exchange import MAX_BODY, ExchangeBody, SealedRefusal

from .runs import RunRefused, RunTable
from .session import Opened

TIME_WINDOW: Final = 120  # seconds between the header's time and the host's claim
BUSY_SECONDS: Final = 5  # the hint when the engine gives none
_TOKEN_FIELDS: Final = ("max_tokens", "max_completion_tokens")
_EMBEDDINGS: Final = "/v1/embeddings"


class SealedNo(Exception):
    """A refusal that is answered inside the seal, perhaps with the receipt of the run that was."""

    def __init__(self, refusal: SealedRefusal, *, receipt: bytes | None = None) -> None:
        super().__init__(refusal.code)
        self.refusal = refusal
        self.receipt = receipt


def refuse(code: str, *, field: str | None = None, retry_after: int | None = None) -> SealedNo:
    """Give a refusal by its code in docs/protocol.md."""
    return SealedNo(SealedRefusal(code=code, field=field, retry_after=retry_after))


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Admitted:
    """A request whose run id is entered. Has no repr: it holds the prompt."""

    opened: Opened
    body: ExchangeBody


class Admission:
    """The rules of one boot."""

    def __init__(self, *, runs: RunTable, models: frozenset[str], limits: Limits) -> None:
        self._runs = runs
        self._models = models
        self._limits = limits
        self.closing = False  # every run is refused from then on

    def admit(self, opened: Opened, *, wall_now: int, current_epoch: int, live_runs: int) -> Admitted:
        """Check and enter the run id. Raises SealedNo."""
        header = opened.header
        if self.closing:
            raise refuse("shutting_down")
        if abs(wall_now - header.time) > TIME_WINDOW:
            raise refuse("time_window", field="time")
        if header.keyset_digest != opened.epoch.digest:
            raise refuse("epoch_mismatch", field="keyset_digest")
        try:
            body = ExchangeBody.decode(opened.body)
        except AttestationError as e:
            raise refuse("invalid_request", field=e.where[:64]) from None
        if header.model not in self._models:
            raise refuse("model_unknown", field="model")
        self._check_json(opened, body)
        if live_runs >= self._limits.queue_length:
            raise refuse("busy", retry_after=BUSY_SECONDS)
        try:
            self._runs.enter(body.run_id, first_epoch=body.first_epoch, current_epoch=current_epoch)
        except RunRefused as e:
            hint = BUSY_SECONDS if e.code == "busy" else None
            refusal = SealedRefusal(code=e.code, field=e.field, retry_after=hint)
            raise SealedNo(refusal, receipt=e.receipt) from None
        return Admitted(opened=opened, body=body)

    def _check_json(self, opened: Opened, body: ExchangeBody) -> None:
        """Require the header to say what the body says, and the body to stay within this boot's limits."""
        try:
            request = strict_json.loads(body.openai, limit=MAX_BODY, what="body")
        except AttestationError:
            raise refuse("invalid_request", field="body") from None
        if not isinstance(request, dict):
            raise refuse("invalid_request", field="body")
        if request.get("model") != opened.header.model:
            raise refuse("header_mismatch", field="model")
        stream = request.get("stream", False)
        if stream is not opened.header.stream and not (stream is None and not opened.header.stream):
            raise refuse("header_mismatch", field="stream")
        for name in _TOKEN_FIELDS:
            wanted = request.get(name)
            if type(wanted) is int and wanted > self._limits.max_completion_tokens:
                raise refuse("limit_exceeded", field=name)
