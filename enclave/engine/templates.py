# SPDX-License-Identifier: Apache-2.0
"""Answers: which text does the model's own chat template make of these messages?

The template comes with the digest-checked weights and never from a request. It still runs in a sandbox with a budget
of steps and of bytes, counted and not timed, so that the same input gives the same answer on every machine. What users
wrote travels between two marks, so that `prompt` knows later which text is theirs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jinja2
import jinja2.ext
import jinja2.meta
import jinja2.sandbox
from jinja2 import nodes

from .body import invalid
from .messages import Message
from .toolspec import ToolSpec

MAX_TEMPLATE = 1 << 18
MAX_OUTPUT = 8 << 20
MAX_STEPS = 200_000
_MAX_NUMBER = 100_000
_TICK = "sericin_tick"
_TAG = re.compile(r"(</?think>)")


class TemplateRefused(Exception):
    """A template that does not compile, or does more than a template may. Holds no text of it."""


class _OverBudgetError(Exception):
    """A rendering took more steps or bytes than it may."""


class _Sandbox(jinja2.sandbox.ImmutableSandboxedEnvironment):
    """Jinja without access to Python, and with arithmetic that cannot grow."""

    intercepted_binops = frozenset({"*", "+", "%", "**", "//"})

    def call_binop(self, context: object, operator: str, left: Any, right: Any) -> Any:  # noqa: ANN401
        """Bound the size of what an operator can make."""
        sizes = [len(v) if isinstance(v, str | bytes | list | tuple) else 0 for v in (left, right)]
        numbers = [abs(v) if isinstance(v, int | float) else 0 for v in (left, right)]
        if operator == "**" or max(numbers) > _MAX_NUMBER:
            raise _OverBudgetError
        if operator == "*" and max(sizes) * max(numbers) > MAX_OUTPUT:
            raise _OverBudgetError
        if operator == "%" and max(sizes):
            raise _OverBudgetError
        if operator == "+" and sum(sizes) > MAX_OUTPUT:
            raise _OverBudgetError
        return super().call_binop(context, operator, left, right)  # type: ignore[arg-type]  # a jinja2 Context

    def call(self, context: Any, callee: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        """Bound the numbers that are passed to methods such as `center`, and the length of what comes back."""
        for value in (*args, *kwargs.values()):
            if isinstance(value, int | float) and abs(value) > _MAX_NUMBER:
                raise _OverBudgetError
        result = super().call(context, callee, *args, **kwargs)
        if isinstance(result, str) and len(result) > MAX_OUTPUT:
            raise _OverBudgetError
        return result


class _Generation(jinja2.ext.Extension):
    """Accepts the `generation` tag, which marks the assistant's text for training and prints its body."""

    tags = {"generation"}  # noqa: RUF012  # jinja2 wants a set on the class

    def parse(self, parser: Any) -> nodes.Node | list[nodes.Node]:  # noqa: ANN401
        """Give the body as it is."""
        next(parser.stream)
        body: list[nodes.Node] = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return body


def _tojson(value: object, indent: int | None = None, **_: object) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _refuse(_: str = "") -> str:
    # Templates call this for message orders they do not know.
    raise invalid("messages")


def _environment() -> _Sandbox:
    environment = _Sandbox(
        trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols, _Generation], autoescape=False
    )
    environment.filters["tojson"] = _tojson
    environment.globals.clear()
    environment.globals.update(range=jinja2.sandbox.safe_range, namespace=jinja2.utils.Namespace)
    environment.globals["raise_exception"] = _refuse
    return environment


class Marks:
    """Two private-use characters that stand nowhere in a request and fence what users wrote."""

    def __init__(self, texts: Sequence[str]) -> None:
        """Choose marks that are in none of `texts`."""
        for start in range(0xF0000, 0xF0400, 2):
            self.start, self.end = chr(start), chr(start + 1)
            if not any(self.start in text or self.end in text for text in texts):
                return
        raise invalid("messages")

    def fence(self, text: str) -> str:
        """Fence `text`, leaving white space at its ends outside, where templates trim it."""
        core = text.strip()
        if not core:
            return text
        at = text.index(core)
        return text[:at] + self.start + core + self.end + text[at + len(core) :]

    def fence_tagged(self, text: str) -> str:
        """Fence an assistant's text piece by piece around tags such as <think>, at which templates cut."""
        return "".join(piece if _TAG.fullmatch(piece) else self.fence(piece) for piece in _TAG.split(text))


class ChatTemplate:
    """A compiled template."""

    def __init__(self, source: str, *, bos: str, eos: str) -> None:
        """Compile. Raises TemplateRefused."""
        if len(source) > MAX_TEMPLATE:
            raise TemplateRefused("template is too long")
        self._steps = 0
        self._tokens = {"bos_token": bos, "eos_token": eos}
        environment = _environment()
        environment.globals[_TICK] = self._tick
        try:
            tree = environment.parse(source)
            self.knows_tools = "tools" in jinja2.meta.find_undeclared_variables(tree)
            self._guard(tree)
            self._template = environment.from_string(tree)
        except (jinja2.TemplateError, RecursionError, ValueError) as error:
            raise TemplateRefused("template does not compile") from error

    def _guard(self, tree: nodes.Template) -> None:
        """Refuse huge constants, and count a step at every turn of a loop and every call of a macro."""
        for constant in tree.find_all(nodes.Const):
            if isinstance(constant.value, int | float) and abs(constant.value) > _MAX_NUMBER:
                raise TemplateRefused("template holds a huge number")
        for name in tree.find_all(nodes.Name):
            if name.name == _TICK:
                raise TemplateRefused("template uses a reserved name")
        for node in tree.find_all((nodes.For, nodes.Macro, nodes.CallBlock)):
            call = nodes.Call(nodes.Name(_TICK, "load"), [], [], None, None)
            node.body.insert(0, nodes.ExprStmt(call))  # type: ignore[attr-defined]  # all three have a body

    def _tick(self) -> str:
        self._steps += 1
        if self._steps > MAX_STEPS:
            raise _OverBudgetError
        return ""

    def render(self, messages: Sequence[Message], tools: Sequence[ToolSpec], marks: Marks) -> str:
        """Give the prompt with users' texts between `marks`. Raises RequestRefused when the template will not."""
        self._steps = 0
        values: Mapping[str, object] = {
            **self._tokens,
            "messages": [_document(message, marks) for message in messages],
            "tools": [tool.document() for tool in tools] or None,
            "add_generation_prompt": True,
        }
        parts: list[str] = []
        size = 0
        try:
            for part in self._template.generate(values):
                size += len(part)
                if size > MAX_OUTPUT:
                    raise invalid("messages")
                parts.append(part)
        except (_OverBudgetError, jinja2.TemplateError, TypeError, ValueError, LookupError, RecursionError,
                AttributeError, OverflowError, MemoryError) as error:  # fmt: skip
            raise invalid("messages") from error
        return "".join(parts)


def _document(message: Message, marks: Marks) -> dict[str, object]:
    """Give a message as templates expect it, its text fenced."""
    fence: Callable[[str], str] = marks.fence_tagged if message.role == "assistant" else marks.fence
    document: dict[str, object] = {"role": message.role, "content": fence(message.content)}
    if message.name:
        document["name"] = message.name
    if message.answers:
        document["tool_call_id"] = message.answers
    if message.calls:
        document["tool_calls"] = [
            {"id": c.call_id, "type": "function", "function": {"name": c.name, "arguments": arguments_of(c.arguments)}}
            for c in message.calls
        ]
    return document


def arguments_of(text: str) -> object:
    """Give arguments as the object they are, as templates print it with tojson; a text that is none stays a text."""
    try:
        return json.loads(text)
    except ValueError:
        return text
