# SPDX-License-Identifier: Apache-2.0
"""Answers: which tools may the model call, and must it? Reads `tools` and `tool_choice`."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from . import fields
from .body import RequestRefused, invalid
from .messages import Message

MAX_TOOLS = 128
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class ToolSpec:
    """One function that the client offers. Has no repr: it is part of the prompt."""

    name: str
    description: str = ""
    parameters: dict[str, object] = field(default_factory=dict)

    def document(self) -> dict[str, object]:
        """Give it as templates expect it."""
        function = {"name": self.name, "description": self.description, "parameters": self.parameters}
        return {"type": "function", "function": function}


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolChoice:
    """`auto`, `none`, or `required`; the latter with a name when one function must be called."""

    mode: str = "auto"
    name: str = ""


def read_tools(value: object) -> tuple[ToolSpec, ...]:
    """Read the array of tools. Raises RequestRefused."""
    if value is None:
        return ()
    tools = tuple(_tool(fields.record(item, "tools")) for item in fields.sequence(value, "tools", most=MAX_TOOLS))
    if len({tool.name for tool in tools}) != len(tools):
        raise invalid("tools")
    return tools


def _tool(body: fields.Body) -> ToolSpec:
    if body.get("type") != "function":
        raise RequestRefused("unsupported_field", "tools.type")
    fields.refuse_unknown(body, frozenset({"type", "function"}), "tools.")
    function = fields.record(body.get("function"), "tools")
    fields.refuse_unknown(function, frozenset({"name", "description", "parameters", "strict"}), "tools.")
    fields.flag(function, "strict", default=False)
    description, parameters = function.get("description"), function.get("parameters")
    return ToolSpec(
        name=_name(function.get("name"), "tools"),
        description="" if description is None else fields.text(description, "tools"),
        parameters={} if parameters is None else fields.record(parameters, "tools"),
    )


def read_tool_choice(value: object, tools: Sequence[ToolSpec]) -> ToolChoice:
    """Read `tool_choice`. Raises RequestRefused, also for a function that is not among `tools`."""
    if value is None or value == "auto":
        return ToolChoice(mode="auto" if tools else "none")
    if value == "none":
        return ToolChoice(mode="none")
    if not tools:
        raise invalid("tool_choice")
    if value == "required":
        return ToolChoice(mode="required")
    body = fields.record(value, "tool_choice")
    if body.get("type") != "function":
        raise RequestRefused("unsupported_field", "tool_choice.type")
    fields.refuse_unknown(body, frozenset({"type", "function"}), "tool_choice.")
    function = fields.record(body.get("function"), "tool_choice")
    fields.refuse_unknown(function, frozenset({"name"}), "tool_choice.")
    name = _name(function.get("name"), "tool_choice")
    if name not in {tool.name for tool in tools}:
        raise invalid("tool_choice")
    return ToolChoice(mode="required", name=name)


def _name(value: object, where: str) -> str:
    if type(value) is not str or not _NAME.fullmatch(value):
        raise invalid(where)
    return value


_WORDS = """You can call functions. They are, as JSON:
{tools}
To call one, answer with nothing but
<tool_call>
{{"name": <function name>, "arguments": <object>}}
</tool_call>
"""


def told_in_words(messages: Sequence[Message], tools: Sequence[ToolSpec]) -> tuple[Message, ...]:
    """Give the messages for a template that knows no tools: offers, calls and results as text of theirs.

    The words are part of this release and of nobody's request (docs/openai.md), so that a replay repeats them.
    """
    told = tuple(_told(message) for message in messages)
    if not tools:
        return told
    offer = _WORDS.format(tools="\n".join(json.dumps(tool.document(), ensure_ascii=False) for tool in tools))
    if told[0].role in {"system", "developer"}:
        return (replace(told[0], content=f"{told[0].content}\n\n{offer}"), *told[1:])
    return (Message(role="system", content=offer), *told)


def _told(message: Message) -> Message:
    if message.role == "tool":
        return Message(role="user", content=f"<tool_response>\n{message.content}\n</tool_response>")
    if not message.calls:
        return message
    calls = [f'<tool_call>\n{{"name": "{c.name}", "arguments": {c.arguments}}}\n</tool_call>' for c in message.calls]
    return Message(role=message.role, content="\n".join([message.content, *calls] if message.content else calls))
