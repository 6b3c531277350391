# SPDX-License-Identifier: Apache-2.0
"""Answers: who said what? Reads the messages of a chat request into what a template may see."""

from __future__ import annotations

import re
from dataclasses import dataclass

from . import fields
from .body import RequestRefused, invalid

MAX_MESSAGES = 4096
_MAX_CALLS = 128
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_ID = re.compile(r"[A-Za-z0-9_.:-]{1,128}")
_ROLES = ("system", "developer", "user", "assistant", "tool")
_KNOWN = frozenset(
    {"role", "content", "name", "tool_calls", "tool_call_id", "refusal", "function_call", "audio", "annotations"}
)


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Call:
    """A tool call that the assistant made earlier."""

    call_id: str
    name: str
    arguments: str  # JSON text as the model wrote it


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Message:
    """One message. Has no repr: it holds the prompt."""

    role: str
    content: str
    name: str = ""
    calls: tuple[Call, ...] = ()
    answers: str = ""  # the tool call that a tool message answers


def read_messages(value: object) -> tuple[Message, ...]:
    """Read the array of messages. Raises RequestRefused."""
    items = fields.sequence(value, "messages", most=MAX_MESSAGES)
    if not items:
        raise invalid("messages")
    return tuple(_message(fields.record(item, "messages")) for item in items)


def _message(body: fields.Body) -> Message:
    fields.refuse_unknown(body, _KNOWN, "messages.")
    for field in ("refusal", "function_call", "audio"):
        fields.only(body, field)
    fields.only(body, "annotations", [])
    role = body.get("role")
    if type(role) is not str or role not in _ROLES:
        raise invalid("messages.role")
    calls = _calls(body.get("tool_calls"), role)
    answers = body.get("tool_call_id")
    if (answers is not None) != (role == "tool"):
        raise invalid("messages.tool_call_id")
    content = body.get("content")
    if content is None and not calls:
        raise invalid("messages.content")
    return Message(
        role=role,
        content=_content(content),
        name=_matching(body.get("name"), _NAME, "messages.name"),
        calls=calls,
        answers=_matching(answers, _ID, "messages.tool_call_id"),
    )


def _content(value: object) -> str:
    """Give the text; parts of type text are joined, every other kind is refused by name."""
    if value is None:
        return ""
    if type(value) is str:
        return fields.text(value, "messages.content", limit=1 << 22)
    texts = []
    for item in fields.sequence(value, "messages.content", most=MAX_MESSAGES):
        part = fields.record(item, "messages.content")
        if part.get("type") != "text":
            raise RequestRefused("unsupported_field", "messages.content.type")
        fields.refuse_unknown(part, frozenset({"type", "text"}), "messages.content.")
        texts.append(fields.text(part.get("text"), "messages.content", limit=1 << 22))
    return "".join(texts)


def _calls(value: object, role: str) -> tuple[Call, ...]:
    if value is None:
        return ()
    items = fields.sequence(value, "messages.tool_calls", most=_MAX_CALLS)
    if role != "assistant":
        raise invalid("messages.tool_calls")
    calls = []
    for item in items:
        call = fields.record(item, "messages.tool_calls")
        fields.refuse_unknown(call, frozenset({"id", "type", "function", "index"}), "messages.tool_calls.")
        if call.get("type", "function") != "function":
            raise RequestRefused("unsupported_field", "messages.tool_calls.type")
        function = fields.record(call.get("function"), "messages.tool_calls")
        fields.refuse_unknown(function, frozenset({"name", "arguments"}), "messages.tool_calls.")
        calls.append(
            Call(
                call_id=_matching(call.get("id", ""), _ID, "messages.tool_calls.id"),
                name=_matching(function.get("name", ""), _NAME, "messages.tool_calls.name"),
                arguments=fields.text(function.get("arguments"), "messages.tool_calls"),
            )
        )
    return tuple(calls)


def _matching(value: object, form: re.Pattern[str], field: str) -> str:
    """Give a name of the allowed form; absent gives the empty string."""
    if value is None:
        return ""
    if type(value) is not str or not form.fullmatch(value):
        raise invalid(field)
    return value
