# SPDX-License-Identifier: Apache-2.0
"""The OpenAI-compatible proxy: loopback in, verified and sealed out. It holds no policy of its own."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Final

from aiohttp import web

from attestation.errors import AttestationError
from attestation.exchange import Item

from .attested import Attested
from .errors import ClientError, Declined
from .exchange import Run
from .openai_shapes import ENDPOINTS, Shaper, event, shown_model
from .upstream import MAX_BODY, BadRequest, Question, Upstream

CONFIDENTIAL: Final = "Sericin-Confidential"
RECEIPT: Final = "Sericin-Receipt"
HOSTS: Final = ("127.0.0.1", "localhost", "[::1]")
_STATUS: Final = {
    "busy": 429,
    "model_unknown": 404,
    "already_run": 409,
    "run_expired": 409,
    "engine_failed": 502,
    "deadline": 504,
    "shutting_down": 503,
}
_DONE: Final = b"data: [DONE]\n\n"
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Proxy:
    """The routes of one proxy."""

    def __init__(self, upstream: Upstream, *, token: str | None = None) -> None:
        self._upstream = upstream
        self._token = token

    def application(self) -> web.Application:
        """Give the aiohttp application."""
        app = web.Application(middlewares=[self._guard], client_max_size=MAX_BODY)
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/v1/sericin/verdict", self._verdict)
        for endpoint in ENDPOINTS:
            app.router.add_post(endpoint, self._ask)
        return app

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Let in this machine's programs alone: no page's script, no other name for this address, no other token."""
        host = request.headers.get("Host", "").rsplit(":", 1)[0] if "Host" in request.headers else ""
        if host not in HOSTS or "Origin" in request.headers:
            return _failure(403, "forbidden", "Host or Origin")
        given = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if self._token is not None and not hmac.compare_digest(given.encode(), self._token.encode()):
            return _failure(401, "unauthorized", "Authorization")
        try:
            return await handler(request)
        except BadRequest as e:
            return _failure(_STATUS.get(e.code, 400), e.code, e.field)
        except Declined as e:
            return _declined(e)
        except AttestationError as e:
            return _failure(502, e.code, e.where)
        except ClientError as e:
            return _failure(502, e.code, "")
        except web.HTTPException as e:
            return _failure(e.status, "http_error", "")

    async def _attested(self) -> Attested:
        return await asyncio.to_thread(self._upstream.attested)

    async def _models(self, _: web.Request) -> web.Response:
        attested = await self._attested()
        confidential, owner = attested.verdict.confidential, attested.verified.boot.machine
        models = [
            {
                "id": shown_model(m.name, confidential=confidential),
                "object": "model",
                "created": 0,
                "owned_by": owner,
            }
            for m in attested.verified.boot.models
        ]
        self._upstream.give_back(attested)
        return web.json_response({"object": "list", "data": models}, headers=_said(confidential=confidential))

    async def _verdict(self, _: web.Request) -> web.Response:
        attested = await self._attested()
        document = attested.verdict.to_json() | {"boot_digest": attested.verified.boot.digest.hex()}
        self._upstream.give_back(attested)
        return web.json_response(document, headers=_said(confidential=attested.verdict.confidential))

    async def _ask(self, request: web.Request) -> web.StreamResponse:
        question = Question.read(request.path, await request.read())
        run = await asyncio.to_thread(self._upstream.run, question)
        confidential = run.attested.verdict.confidential
        shaper = Shaper(
            question.endpoint,
            model=shown_model(question.model, confidential=confidential),
            answer_id=run.run_id.hex()[:24],
            usage_wanted=question.usage_wanted,
        )
        items = self._upstream.items(run)
        if question.stream:
            return await self._stream(request, run, items, shaper)
        try:
            async for item in _threaded(items):
                shaper.keep(item)
        except BaseException:
            run.attested.connection.close()
            raise
        document = shaper.whole(run.answer) | {"sericin": _about(run)}
        return web.json_response(document, headers=_said(confidential=confidential) | _receipt(run))

    async def _stream(
        self, request: web.Request, run: Run, items: Iterator[Item], shaper: Shaper
    ) -> web.StreamResponse:
        """Stream chunks. The head is sent with the first item, so that a refusal still has its status."""
        headers = _said(confidential=run.attested.verdict.confidential)
        headers |= {"Content-Type": "text/event-stream", "Cache-Control": "no-store"}
        response = web.StreamResponse(headers=headers)
        try:
            async for item in _threaded(items):
                if not response.prepared:
                    await response.prepare(request)
                chunk = shaper.chunk(item)
                if chunk is not None:
                    await response.write(event(chunk))
        except (AttestationError, ClientError) as e:
            if not response.prepared:
                raise
            # What was streamed is incomplete or false: the stream says so and has no [DONE].
            await response.write(event({"error": {"message": str(e), "type": "sericin", "code": e.code}}))
            await response.write_eof()
            return response
        except BaseException:
            run.attested.connection.close()
            raise
        await response.write(b": " + f"receipt {_about(run)['receipt']}".encode() + b"\n\n" + _DONE)
        await response.write_eof()
        return response


async def _threaded(items: Iterator[Item]) -> AsyncIterator[Item]:
    """Iterate a blocking iterator without blocking the loop."""
    while (item := await asyncio.to_thread(next, items, None)) is not None:
        yield item


def _about(run: Run) -> dict[str, object]:
    receipt = run.receipt.receipt if run.receipt is not None else None
    return {
        "receipt": receipt.hash.hex() if receipt else None,
        "serial": receipt.serial if receipt else None,
        "price": receipt.price if receipt else None,
        "boot_digest": run.attested.verified.boot.digest.hex(),
        "confidential": run.attested.verdict.confidential,
    }


def _said(*, confidential: bool) -> dict[str, str]:
    return {CONFIDENTIAL: "true" if confidential else "false"}


def _receipt(run: Run) -> dict[str, str]:
    return {RECEIPT: run.receipt.receipt.hash.hex()} if run.receipt is not None else {}


def _declined(e: Declined) -> web.Response:
    response = _failure(_STATUS.get(e.refusal, 400), e.refusal, e.field or "")
    if e.retry_after is not None:
        response.headers["Retry-After"] = str(e.retry_after)
    return response


def _failure(status: int, code: str, field: str) -> web.Response:
    """Give an error in OpenAI's shape: a code and a field, never a value."""
    message = f"{code}: {field}" if field else code
    error = {"message": message, "type": "sericin", "code": code, "param": field or None}
    return web.json_response({"error": error}, status=status)
