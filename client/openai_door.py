# SPDX-License-Identifier: Apache-2.0
"""The OpenAI API over verified enclaves, without a web framework: method, path and body in; status and bytes out.

The proxy and both Python transports answer with this one door, so that a program sees the same whichever it uses.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, Final

from attestation.exchange import Item

from .attested import Attested
from .errors import Declined
from .exchange import Run
from .openai_shapes import ENDPOINTS, Shaper, event, shown_model
from .upstream import BadRequest, Question, Upstream

CONFIDENTIAL: Final = "Sericin-Confidential"
EVIDENCE: Final = "Sericin-Evidence"
RECEIPT: Final = "Sericin-Receipt"
SHOULD_RETRY: Final = "X-Should-Retry"  # what OpenAI's own packages ask before they send a request once more
MODELS_PATH: Final = "/v1/models"
VERDICT_PATH: Final = "/v1/sericin/verdict"
NOT_STARTED: Final = ("busy", "shutting_down")  # refusals after which sending it once more cannot run it twice
STATUS: Final = {
    "busy": 429,
    "model_unknown": 404,
    "not_found": 404,
    "already_run": 409,
    "run_expired": 409,
    "engine_failed": 502,
    "deadline": 504,
    "shutting_down": 503,
}
_DONE: Final = b"data: [DONE]\n\n"
Chunks = Generator[bytes, None, None]


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Answered:
    """One HTTP answer. Has no repr: it holds the answer."""

    status: int
    headers: dict[str, str]
    body: Chunks
    run: Run | None = None  # with its receipt, once the body has ended

    def close(self) -> None:
        """End a run whose body was not read to its end."""
        if self.run is not None:
            self.run.abandon()
        self.body.close()


class Ticket:
    """Lets another thread end whatever run an answer waits for, now or as soon as there is one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._run: Run | None = None
        self._gone = False

    def hold(self, run: Run) -> None:
        """Name the run."""
        with self._lock:
            self._run, gone = run, self._gone
        if gone:
            run.abandon()

    def abandon(self) -> None:
        """End it: the caller has gone."""
        with self._lock:
            self._gone, run = True, self._run
        if run is not None:
            run.abandon()


class Door:
    """Answers requests in the shapes of the OpenAI API."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream

    def answer(self, method: str, path: str, data: bytes, ticket: Ticket) -> Answered:
        """Answer one request; `data` is its whole body. Through `ticket` the caller's going away ends the run.

        What the enclave or the request itself refuses is an answer with OpenAI's error object. Raises AttestationError
        (verification failed or the answer is false), Unreachable (nothing has left) and RunOutcomeUnknown, here or
        while `body` is read.
        """
        try:
            if method == "GET":
                return self._get(path)
            if method == "POST" and path in ENDPOINTS:
                return self._ask(Question.read(path, data), ticket)
        except BadRequest as e:
            return failure(STATUS.get(e.code, 400), e.code, e.field)
        except Declined as e:
            return _declined(e)
        return failure(404, "not_found", "path")

    def _get(self, path: str) -> Answered:
        if path not in (VERDICT_PATH, MODELS_PATH) and not path.startswith(MODELS_PATH + "/"):
            return failure(404, "not_found", "path")
        attested = self._upstream.attested()
        self._upstream.give_back(attested)
        said = _said(attested)
        if path == VERDICT_PATH:
            return _whole(attested.verdict.to_json() | {"boot_digest": attested.verified.boot.digest.hex()}, said)
        models = _models(attested)
        if path == MODELS_PATH:
            return _whole({"object": "list", "data": models}, said)
        wanted = path.removeprefix(MODELS_PATH + "/")
        found = [model for model in models if model["id"] == wanted]
        return _whole(found[0], said) if found else failure(404, "model_unknown", "model")

    def _ask(self, question: Question, ticket: Ticket) -> Answered:
        run = self._upstream.run(question)
        ticket.hold(run)
        shaper = Shaper(
            question.endpoint,
            model=shown_model(question.model, confidential=run.attested.verdict.confidential),
            answer_id=run.run_id.hex()[:24],
            usage_wanted=question.usage_wanted,
        )
        items = self._upstream.items(run)
        if not question.stream:
            for item in items:
                shaper.keep(item)
            return _whole(shaper.whole(run.answer) | {"sericin": about(run)}, _said(run.attested) | _receipt(run), run)
        first = next(items, None)  # a refusal comes before it, and has its own status
        headers = _said(run.attested) | {"Content-Type": "text/event-stream", "Cache-Control": "no-store"}
        return Answered(status=200, headers=headers, body=_stream(run, first, items, shaper), run=run)


def _stream(run: Run, first: Item | None, items: Generator[Item, None, None], shaper: Shaper) -> Chunks:
    """Give server-sent events; the receipt in a comment; then [DONE], which no stream has that was cut or is false."""
    try:
        item = first
        while item is not None:
            chunk = shaper.chunk(item)
            if chunk is not None:
                yield event(chunk)
            item = next(items, None)
    finally:
        items.close()
    yield f": receipt {about(run)['receipt']}\n\n".encode() + _DONE


def about(run: Run) -> dict[str, object]:
    """Give what an answer says of its run: receipt, serial, price, boot, evidence, and whether it was confidential."""
    receipt = run.receipt.receipt if run.receipt is not None else None
    return {
        "receipt": receipt.hash.hex() if receipt else None,
        "serial": receipt.serial if receipt else None,
        "price": receipt.price if receipt else None,
        "boot_digest": run.attested.verified.boot.digest.hex(),
        "evidence_sha256": run.attested.verdict.evidence_sha256.hex(),
        "confidential": run.attested.verdict.confidential,
    }


def failure(status: int, code: str, where: str, *, headers: dict[str, str] | None = None) -> Answered:
    """Give an error in OpenAI's shape: a code and a field, never a value."""
    given = {SHOULD_RETRY: "true" if code in NOT_STARTED else "false"} | (headers or {})
    return _whole(error_object(f"{code}: {where}" if where else code, code, where), given, status=status)


def error_object(message: str, code: str, where: str = "") -> dict[str, object]:
    """Give OpenAI's error object."""
    return {"error": {"message": message, "type": "sericin", "code": code, "param": where or None}}


def _declined(e: Declined) -> Answered:
    hint = {"Retry-After": str(e.retry_after)} if e.retry_after is not None else {}
    return failure(STATUS.get(e.refusal, 400), e.refusal, e.field or "", headers=hint)


def _whole(document: dict[str, Any], headers: dict[str, str], run: Run | None = None, *, status: int = 200) -> Answered:
    def body() -> Chunks:
        yield json.dumps(document).encode()

    return Answered(status=status, headers={"Content-Type": "application/json"} | headers, body=body(), run=run)


def _models(attested: Attested) -> list[dict[str, object]]:
    confidential, boot = attested.verdict.confidential, attested.verified.boot
    return [
        {
            "id": shown_model(model.name, confidential=confidential),
            "object": "model",
            "created": 0,
            "owned_by": boot.machine,
        }
        for model in boot.models
    ]


def _said(attested: Attested) -> dict[str, str]:
    verdict = attested.verdict
    return {CONFIDENTIAL: "true" if verdict.confidential else "false", EVIDENCE: verdict.evidence_sha256.hex()}


def _receipt(run: Run) -> dict[str, str]:
    return {RECEIPT: run.receipt.receipt.hash.hex()} if run.receipt is not None else {}
