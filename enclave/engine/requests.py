# SPDX-License-Identifier: Apache-2.0
"""Answers: what does this request ask for? The one reader of request bodies (table of fields: docs/openai.md)."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from . import fields
from .body import RequestRefused, invalid, loads
from .messages import Message, read_messages
from .sampling import Sampling
from .toolspec import ToolChoice, ToolSpec, read_tool_choice, read_tools

CHAT, COMPLETIONS, EMBEDDINGS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
MAX_CHOICES = 16
MAX_STOPS = 16
MAX_STOP_BYTES = 256
MAX_LOGPROBS = 20
MAX_BIAS = 512
MAX_INPUTS = 256
_MAX_TOKENS = 1 << 20  # more than any context that is served: a larger number is a mistake or an attack
_SEED = 1 << 63

_SAMPLING = {
    "temperature", "top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty", "repetition_penalty", "seed",
    "logit_bias",
}  # fmt: skip
_IDLE = {"user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key"}
_EVERY = {"model", "stream", "stream_options", "n", "stop", "max_tokens"} | _SAMPLING | _IDLE
_CHAT = frozenset(_EVERY | {
    "messages", "max_completion_tokens", "logprobs", "top_logprobs", "response_format", "tools", "tool_choice",
    "parallel_tool_calls", "modalities", "functions", "function_call", "verbosity", "reasoning_effort",
})  # fmt: skip
_TEXT = frozenset(_EVERY | {"prompt", "logprobs", "echo", "best_of", "suffix", "response_format"})
_EMBED = frozenset({"model", "input", "encoding_format", "dimensions", "user"})


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Request:
    """A request with every default filled in. Has no repr: it holds the prompt."""

    endpoint: str
    model: str
    messages: tuple[Message, ...] = ()
    prompt: str | tuple[int, ...] = ""
    inputs: tuple[str | tuple[int, ...], ...] = ()
    encoding: str = "float"
    choices: int = 1
    max_tokens: int | None = None
    stops: tuple[bytes, ...] = ()
    sampling: Sampling = field(default_factory=Sampling)
    logprobs: int | None = None  # alternatives to tell beside each token; None: no logprobs
    echo: bool = False
    schema: object = None  # the JSON schema of the answer; True for any JSON object
    tools: tuple[ToolSpec, ...] = ()
    tool_choice: ToolChoice = field(default_factory=ToolChoice)
    parallel_tool_calls: bool = True


def read_request(endpoint: str, raw: bytes, *, model: str) -> Request:
    """Read a body for `endpoint`, which must ask for `model`. Raises RequestRefused with the field's name."""
    body = loads(raw)
    if body.get("model") != model:
        raise RequestRefused("model_unknown", "model")
    if endpoint == CHAT:
        return _read_chat(body)
    if endpoint == COMPLETIONS:
        return _read_completion(body)
    if endpoint == EMBEDDINGS:
        return _read_embeddings(body)
    raise invalid("endpoint")


def _read_chat(body: fields.Body) -> Request:
    fields.refuse_unknown(body, _CHAT)
    fields.only(body, "modalities", ["text"])
    fields.only(body, "functions")
    fields.only(body, "function_call")
    fields.only(body, "verbosity", "medium")
    fields.only(body, "reasoning_effort", "none")
    wanted = fields.flag(body, "logprobs", default=False)
    top = fields.integer(body, "top_logprobs", low=0, high=MAX_LOGPROBS, default=0)
    if top and not wanted:
        raise invalid("top_logprobs")
    most = _max_tokens(body, "max_completion_tokens")
    tools = read_tools(body.get("tools"))
    return Request(
        endpoint=CHAT,
        model=fields.text(body.get("model"), "model", limit=256),
        messages=read_messages(body.get("messages")),
        choices=_choices(body),
        max_tokens=most if most is not None else _max_tokens(body, "max_tokens"),
        stops=_stops(body.get("stop")),
        sampling=_sampling(body),
        logprobs=top if wanted else None,
        schema=_schema(body.get("response_format")),
        tools=tools,
        tool_choice=read_tool_choice(body.get("tool_choice"), tools),
        parallel_tool_calls=fields.flag(body, "parallel_tool_calls", default=True),
    )


def _read_completion(body: fields.Body) -> Request:
    fields.refuse_unknown(body, _TEXT)
    fields.only(body, "suffix", "")
    choices = _choices(body)
    if fields.integer(body, "best_of", low=1, high=MAX_CHOICES, default=choices) != choices:
        raise RequestRefused("unsupported_field", "best_of")
    prompts = _inputs(body.get("prompt"), "prompt", most=1)
    wanted = body.get("logprobs")
    return Request(
        endpoint=COMPLETIONS,
        model=fields.text(body.get("model"), "model", limit=256),
        prompt=prompts[0],
        choices=choices,
        max_tokens=_max_tokens(body, "max_tokens") or 16,
        stops=_stops(body.get("stop")),
        sampling=_sampling(body),
        logprobs=None if wanted is None else fields.integer(body, "logprobs", low=0, high=5, default=0),
        echo=fields.flag(body, "echo", default=False),
        schema=_schema(body.get("response_format")),
    )


def _read_embeddings(body: fields.Body) -> Request:
    fields.refuse_unknown(body, _EMBED)
    fields.only(body, "dimensions")
    _idle(body)
    return Request(
        endpoint=EMBEDDINGS,
        model=fields.text(body.get("model"), "model", limit=256),
        inputs=_inputs(body.get("input"), "input", most=MAX_INPUTS),
        encoding=fields.choice(body, "encoding_format", ("float", "base64"), default="float"),
    )


def _idle(body: fields.Body) -> None:
    """Check the type of what has no effect."""
    for key in ("user", "safety_identifier", "prompt_cache_key"):
        if body.get(key) is not None:
            fields.text(body[key], key, limit=4096)
    if body.get("metadata") is not None:
        fields.record(body["metadata"], "metadata")


def _choices(body: fields.Body) -> int:
    _idle(body)
    fields.only(body, "store", False)
    fields.only(body, "service_tier", "auto", "default")
    fields.flag(body, "stream", default=False)
    if body.get("stream_options") is not None:
        options = fields.record(body["stream_options"], "stream_options")
        fields.refuse_unknown(options, frozenset({"include_usage", "include_obfuscation"}), "stream_options.")
        fields.flag(options, "include_usage", default=False)
        fields.flag(options, "include_obfuscation", default=False)
    return fields.integer(body, "n", low=1, high=MAX_CHOICES, default=1)


def _max_tokens(body: fields.Body, field: str) -> int | None:
    if body.get(field) is None:
        return None
    return fields.integer(body, field, low=1, high=_MAX_TOKENS, default=1)


def _stops(value: object) -> tuple[bytes, ...]:
    if value is None:
        return ()
    items = [value] if type(value) is str else fields.sequence(value, "stop", most=MAX_STOPS)
    stops = tuple(fields.text(item, "stop").encode("utf-8") for item in items)
    if any(not 1 <= len(stop) <= MAX_STOP_BYTES for stop in stops):
        raise invalid("stop")
    return stops


def _sampling(body: fields.Body) -> Sampling:
    drawn = int.from_bytes(os.urandom(4), "big")
    return Sampling(
        temperature=fields.number(body, "temperature", low=0.0, high=2.0, default=1.0),
        top_k=fields.integer(body, "top_k", low=0, high=1 << 20, default=40),
        top_p=fields.number(body, "top_p", low=0.0, high=1.0, default=1.0),
        min_p=fields.number(body, "min_p", low=0.0, high=1.0, default=0.0),
        presence_penalty=fields.number(body, "presence_penalty", low=-2.0, high=2.0, default=0.0),
        frequency_penalty=fields.number(body, "frequency_penalty", low=-2.0, high=2.0, default=0.0),
        repetition_penalty=fields.number(body, "repetition_penalty", low=0.01, high=10.0, default=1.0),
        seed=fields.integer(body, "seed", low=-_SEED, high=_SEED - 1, default=drawn) & 0xFFFFFFFF,
        logit_bias=_bias(body.get("logit_bias")),
    )


def _bias(value: object) -> tuple[tuple[int, float], ...]:
    if value is None:
        return ()
    table = fields.record(value, "logit_bias")
    if len(table) > MAX_BIAS or not all(key.isascii() and key.isdecimal() and len(key) < 10 for key in table):
        raise invalid("logit_bias")
    try:
        bias = {int(key): fields.number(table, key, low=-100.0, high=100.0, default=0.0) for key in table}
    except RequestRefused:
        raise invalid("logit_bias") from None
    if len(bias) != len(table):
        raise invalid("logit_bias")
    return tuple(sorted(bias.items()))


def _inputs(value: object, field: str, *, most: int) -> tuple[str | tuple[int, ...], ...]:
    """Read a text, an array of token ids, or an array of either."""
    if type(value) is str:
        return (fields.text(value, field),)
    items = fields.sequence(value, field, most=1 << 17)
    if items and all(type(item) is int for item in items):
        return (_tokens(items, field),)
    if not 1 <= len(items) <= most:
        raise invalid(field)
    return tuple(_tokens(item, field) if type(item) is list and item else fields.text(item, field) for item in items)


def _tokens(items: list[object], field: str) -> tuple[int, ...]:
    ids = tuple(item for item in items if type(item) is int and 0 <= item < 1 << 31)
    if len(ids) != len(items):
        raise invalid(field)
    return ids


def _schema(value: object) -> object:
    """Give None for free text, True for any JSON object, or the schema."""
    if value is None:
        return None
    form = fields.record(value, "response_format")
    kind = form.get("type")
    if kind not in ("text", "json_object", "json_schema"):
        raise invalid("response_format")
    if kind != "json_schema":
        fields.refuse_unknown(form, frozenset({"type"}), "response_format.")
        return True if kind == "json_object" else None
    fields.refuse_unknown(form, frozenset({"type", "json_schema"}), "response_format.")
    spec = fields.record(form.get("json_schema"), "response_format")
    fields.refuse_unknown(spec, frozenset({"name", "description", "schema", "strict"}), "response_format.")
    return fields.record(spec.get("schema"), "response_format")
