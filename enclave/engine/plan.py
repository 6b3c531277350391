# SPDX-License-Identifier: Apache-2.0
"""Answers: what exactly will be run for this request? Token ids and resolved settings; the texts are gone by then."""

from __future__ import annotations

from dataclasses import dataclass

from .body import RequestRefused, invalid
from .prompt import PromptMaker
from .requests import CHAT, COMPLETIONS, EMBEDDINGS, Request
from .sampling import Sampling


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Plan:
    """A request made ready. Has no repr: it holds the prompt's ids."""

    chat: bool
    prompt: tuple[int, ...]
    choices: int
    limit: int  # tokens to sample at most, per choice
    stops: tuple[bytes, ...]
    sampling: Sampling
    logprobs: int | None
    echo: bytes = b""
    params: dict[str, int | str]


def make_plan(request: Request, maker: PromptMaker, *, context: int, n_vocab: int, most: int) -> Plan:
    """Tokenize and resolve. `context` is the tokens of a slot, `most` the engine's limit on max_tokens.

    Raises RequestRefused: context_too_long when the prompt leaves no room for one token.
    """
    if request.endpoint == EMBEDDINGS:
        raise RequestRefused("unsupported_field", "input")
    chat = request.endpoint == CHAT
    source = "messages" if chat else "prompt"
    if chat:
        ids = maker.chat(request.messages, request.tools if request.tool_choice.mode != "none" else ())
    else:
        ids = _text_ids(request, maker, n_vocab)
    if not ids:
        raise invalid(source)
    if any(token >= n_vocab for token, _ in request.sampling.logit_bias):
        raise invalid("logit_bias")
    room = context - len(ids)
    if room < 1:
        raise RequestRefused("context_too_long", source)
    limit = min(request.max_tokens or most, most, room)
    params: dict[str, int | str] = {**request.sampling.params(), "n": request.choices, "max_tokens": limit}
    if request.stops:
        params["stop"] = len(request.stops)
    return Plan(
        chat=chat,
        prompt=tuple(ids),
        choices=request.choices,
        limit=limit,
        stops=request.stops,
        sampling=request.sampling,
        logprobs=request.logprobs,
        echo=_echo(request, maker),
        params=params,
    )


def _text_ids(request: Request, maker: PromptMaker, n_vocab: int) -> list[int]:
    if isinstance(request.prompt, str):
        return maker.text(request.prompt)
    # Ids are the client's own tokens: control tokens among them are meant.
    if max(request.prompt) >= n_vocab:
        raise invalid("prompt")
    return list(request.prompt)


def _echo(request: Request, maker: PromptMaker) -> bytes:
    if not request.echo or request.endpoint != COMPLETIONS:
        return b""
    if isinstance(request.prompt, str):
        return request.prompt.encode("utf-8")
    return b"".join(map(maker.piece, request.prompt)).decode("utf-8", "replace").encode("utf-8")
