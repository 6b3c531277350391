# SPDX-License-Identifier: Apache-2.0
"""Answers: what exactly will be run for this request? Token ids and resolved settings; the texts are gone by then."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

from .body import RequestRefused, invalid
from .grammar import GrammarMaker, call_schema
from .prompt import PromptMaker
from .requests import CHAT, COMPLETIONS, EMBEDDINGS, Request
from .sampling import Sampling

MAX_DOCUMENT: Final = 1 << 19  # bytes of an embeddings answer, which is one item of the sealed stream
_FLOAT_TEXT: Final = 24  # characters of a number in JSON, at most


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
    grammar: str = ""
    functions: tuple[str, ...] = ()  # the functions that an answer may call
    parallel: bool = True
    reasons: bool = False  # the model marks its reasoning with <think>
    thinking: bool = False  # the prompt has opened that mark
    inputs: tuple[tuple[int, ...], ...] = ()  # of an embeddings request; `prompt` is all of them
    encoding: str = "float"
    params: dict[str, int | str]


def make_plan(
    request: Request, maker: PromptMaker, grammars: GrammarMaker, *, context: int, n_vocab: int, most: int
) -> Plan:
    """Tokenize and resolve. `context` is the tokens of a slot, `most` the engine's limit on max_tokens.

    Raises RequestRefused: context_too_long when the prompt leaves no room for one token.
    """
    if request.endpoint == EMBEDDINGS:
        raise RequestRefused("unsupported_field", "input")  # this model has no embedding head
    chat = request.endpoint == CHAT
    source = "messages" if chat else "prompt"
    callable_tools = request.tools if request.tool_choice.mode != "none" else ()
    thinking = False
    if chat:
        ids, thinking = maker.chat(request.messages, callable_tools, room=context)
    else:
        ids = _text_ids(request, maker, n_vocab, room=context)
    if not ids:
        raise invalid(source)
    if any(token >= n_vocab for token, _ in request.sampling.logit_bias):
        raise invalid("logit_bias")
    room = context - len(ids)
    if room < 1:
        raise RequestRefused("context_too_long", source)
    limit = min(request.max_tokens or most, most, room)
    grammar = _grammar(request, grammars)
    params: dict[str, int | str] = {**request.sampling.params(), "n": request.choices, "max_tokens": limit}
    if request.stops:
        params["stop"] = len(request.stops)
    if grammar:
        params["grammar"] = hashlib.sha256(grammar.encode("utf-8")).hexdigest()
    if request.logprobs is not None:
        params["logprobs"] = request.logprobs
    return Plan(
        chat=chat,
        prompt=tuple(ids),
        choices=request.choices,
        limit=limit,
        stops=request.stops,
        sampling=request.sampling,
        logprobs=request.logprobs,
        echo=_echo(request, maker),
        grammar=grammar,
        functions=tuple(tool.name for tool in callable_tools),
        parallel=request.parallel_tool_calls,
        reasons=chat and maker.reasons,
        thinking=thinking,
        params=params,
    )


def document_size(inputs: int, width: int, encoding: str) -> int:
    """Give the most bytes that the answer to `inputs` inputs of `width` numbers may have."""
    return inputs * (width * (6 if encoding == "base64" else _FLOAT_TEXT) + 64)


def make_embedding_plan(request: Request, maker: PromptMaker, *, room: int, n_vocab: int, width: int) -> Plan:
    """Tokenize the inputs for a model whose vectors have `width` numbers and that takes `room` tokens at once.

    Raises RequestRefused: unsupported_field for an endpoint that such a model does not have.
    """
    if request.endpoint != EMBEDDINGS:
        raise RequestRefused("unsupported_field", "messages" if request.endpoint == CHAT else "prompt")
    if document_size(len(request.inputs), width, request.encoding) > MAX_DOCUMENT:
        raise invalid("input")
    inputs = []
    for item in request.inputs:
        ids = tuple(maker.text(item, room=room, field="input")) if isinstance(item, str) else item
        if not ids or max(ids) >= n_vocab:
            raise invalid("input")
        if len(ids) > room:
            raise RequestRefused("context_too_long", "input")
        inputs.append(ids)
    return Plan(
        chat=False,
        prompt=tuple(token for ids in inputs for token in ids),
        choices=1,
        limit=0,
        stops=(),
        sampling=request.sampling,
        logprobs=None,
        inputs=tuple(inputs),
        encoding=request.encoding,
        params={"inputs": len(inputs), "encoding_format": request.encoding},
    )


def _grammar(request: Request, grammars: GrammarMaker) -> str:
    """Give the grammar of a demanded form: of one call, or of JSON. Raises RequestRefused."""
    if request.tool_choice.mode == "required":
        if request.schema is not None:
            raise invalid("response_format")
        return grammars.make(call_schema(request.tools, request.tool_choice.name), field="tools")
    return "" if request.schema is None else grammars.make(request.schema, field="response_format")


def _text_ids(request: Request, maker: PromptMaker, n_vocab: int, *, room: int) -> list[int]:
    if isinstance(request.prompt, str):
        return maker.text(request.prompt, room=room)
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
