# SPDX-License-Identifier: Apache-2.0
"""Answers in the shapes of the OpenAI API: chunks of a stream, or one object. Each says which receipt it has."""

from __future__ import annotations

import json
from typing import Any, Final

from attestation import strict_json
from attestation.answer import Answer
from attestation.errors import AttestationError
from attestation.exchange import ChoiceEnd, Delta, Item, Start, Usage

CHAT: Final = "/v1/chat/completions"
COMPLETIONS: Final = "/v1/completions"
EMBEDDINGS: Final = "/v1/embeddings"
ENDPOINTS: Final = (CHAT, COMPLETIONS, EMBEDDINGS)
MARK: Final = "@NOT-CONFIDENTIAL"
_MAX_DETAIL: Final = 1 << 20
Json = dict[str, Any]


def shown_model(name: str, *, confidential: bool) -> str:
    """Name a model as callers see it: one that is not confidential says so in its name."""
    return name if confidential else name + MARK


def real_model(name: str) -> str:
    """Give the enclave's own name of a model."""
    return name.removesuffix(MARK)


class Shaper:
    """Turns the items of one answer into OpenAI's objects."""

    def __init__(self, endpoint: str, *, model: str, answer_id: str, usage_wanted: bool) -> None:
        self._chat = endpoint == CHAT
        self._endpoint = endpoint
        self._model = model
        self._id = ("chatcmpl-" if self._chat else "cmpl-") + answer_id
        self._created = 0
        self._usage_wanted = usage_wanted
        self._roles: set[int] = set()
        self._details: dict[int, list[Json]] = {}

    def chunk(self, item: Item) -> Json | None:
        """Give the chunk for one item of a stream, or None for one that has no chunk of its own."""
        match item:
            case Start():
                self._created = item.created
            case Delta():
                return self._chunk([self._piece(item)])
            case ChoiceEnd():
                end: Json = {"index": item.choice, "finish_reason": item.finish, "logprobs": None}
                return self._chunk([end | self._nothing()])
            case Usage():
                return self._chunk([], usage=item) if self._usage_wanted else None
            case _:
                return None
        return None

    def _nothing(self) -> Json:
        return {"delta": {}} if self._chat else {"text": ""}

    def _chunk(self, choices: list[Json], usage: Usage | None = None) -> Json:
        kind = "chat.completion.chunk" if self._chat else "text_completion"
        chunk: Json = {"id": self._id, "object": kind, "created": self._created, "model": self._model}
        return chunk | {"choices": choices} | ({"usage": _usage(usage)} if usage is not None else {})

    def _piece(self, item: Delta) -> Json:
        detail = _detail(item.detail)
        logprobs = detail.pop("logprobs", None)
        piece: Json = {"index": item.choice, "finish_reason": None, "logprobs": logprobs}
        if not self._chat:
            return piece | {"text": item.text}
        delta: Json = {}
        if item.choice not in self._roles:
            delta["role"] = "assistant"
        self._roles.add(item.choice)
        return piece | {"delta": delta | ({"content": item.text} if item.text else {}) | detail}

    def keep(self, item: Item) -> None:
        """Take an item for `whole`."""
        if isinstance(item, Start):
            self._created = item.created
        elif isinstance(item, Delta) and item.detail:
            self._details.setdefault(item.choice, []).append(_detail(item.detail))

    def whole(self, answer: Answer) -> Json:
        """Give the one object of an answer that was not streamed."""
        if self._endpoint == EMBEDDINGS and answer.objects:
            made: Json = _detail(answer.objects[-1])
            return made | {"model": self._model}
        kind = "chat.completion" if self._chat else "text_completion"
        choices = [self._choice(answer, index) for index in sorted(answer.finishes)]
        found: Json = {"id": self._id, "object": kind, "created": self._created, "model": self._model}
        return found | {"choices": choices, "usage": _usage(answer.usage) if answer.usage else None}

    def _choice(self, answer: Answer, index: int) -> Json:
        details = self._details.get(index, [])
        finish, text = answer.finishes[index], answer.text(index)
        logprobs = _joined([d["logprobs"] for d in details if "logprobs" in d])
        choice: Json = {"index": index, "finish_reason": finish, "logprobs": logprobs}
        if not self._chat:
            return choice | {"text": text}
        message: Json = {"role": "assistant", "content": text or None}
        calls = [call for d in details for call in d.get("tool_calls", [])]
        if calls:
            message["tool_calls"] = [{k: v for k, v in call.items() if k != "index"} for call in calls]
        elif not text:
            message["content"] = ""
        return choice | {"message": message}


def _detail(data: bytes) -> Json:
    """Read further fields of an item; what is no object is none."""
    if not data:
        return {}
    try:
        value = strict_json.loads(data, limit=_MAX_DETAIL, what="detail")
    except AttestationError:
        return {}
    return dict(value) if isinstance(value, dict) else {}


def _joined(parts: list[Any]) -> Json | None:
    """Join logprobs of several deltas: their lists, key by key."""
    if not parts:
        return None
    out: Json = {}
    for part in parts:
        for key, value in (part or {}).items():
            out[key] = [*out.get(key, []), *value] if isinstance(value, list) else value
    return out


def _usage(usage: Usage) -> Json:
    return {
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.completion,
        "total_tokens": usage.prompt + usage.completion,
        "prompt_tokens_details": {"cached_tokens": usage.cached},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning},
    }


def event(document: Json) -> bytes:
    """Write one server-sent event."""
    return b"data: " + json.dumps(document, separators=(",", ":")).encode() + b"\n\n"
