# SPDX-License-Identifier: Apache-2.0
"""Read the one kind of XML that reference values come in, and write it canonically (Canonical XML 1.1, inclusive).

Expat does the lexing; it opens no file and no socket. Everything that reference values do not use is refused: document
types, entities, processing instructions, comments, CDATA, other encodings, rebound prefixes, `xml:` attributes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, NoReturn, TypeAlias
from xml.parsers import expat  # nosec B406  # handlers refuse every declaration

from ..errors import Malformed
from .evidence import MAX_RIM_BYTES

MAX_DEPTH: Final = 8  # deepest real element: 5
MAX_ELEMENTS: Final = 256  # real: about 85
MAX_ATTRIBUTES: Final = 40  # real: 17
MAX_VALUE: Final = 1024  # of an attribute

_CODE: Final = "MalformedRim"
_WHERE: Final = "rim.xml"

Name: TypeAlias = tuple[str, str]
"""(namespace, local name)."""


@dataclass(slots=True, kw_only=True)
class Element:
    """An element: its name as written and as meant, its attributes by meaning, its children in order."""

    written: str
    name: Name
    attributes: dict[Name, str]
    prefixes: dict[Name, str]  # attribute name as written, prefix included
    scope: Mapping[str, str]  # prefix to namespace, everything declared here and above
    children: list[Element | str] = field(default_factory=list)

    def elements(self) -> list[Element]:
        """Give the child elements. Raises Malformed when there is text other than white space between them."""
        for child in self.children:
            if isinstance(child, str) and child.strip(" \t\r\n"):
                raise Malformed(_CODE, f"rim.{self.name[1]}", want="elements only", got="text")
        return [child for child in self.children if isinstance(child, Element)]

    def text(self) -> str:
        """Give the text of an element that holds nothing else. Raises Malformed."""
        if any(isinstance(child, Element) for child in self.children):
            raise Malformed(_CODE, f"rim.{self.name[1]}", want="text only", got="elements")
        return "".join(child for child in self.children if isinstance(child, str))

    def walk(self) -> Iterator[Element]:
        """Give this element and everything below it."""
        yield self
        for child in self.children:
            if isinstance(child, Element):
                yield from child.walk()


def parse_xml(data: bytes) -> Element:
    """Parse at most 256 KiB of UTF-8 XML into a tree. Raises Malformed(MalformedRim); stops at the first offence."""
    if len(data) > MAX_RIM_BYTES:
        raise Malformed(_CODE, _WHERE, want=f"at most {MAX_RIM_BYTES} bytes", got=len(data))
    if not data.startswith(b"<") or b"\0" in data:  # expat takes UTF-16 for what it is, whatever it was told
        raise Malformed(_CODE, _WHERE, want="UTF-8 XML without a byte order mark", got="other data")
    return _Builder().parse(data)


class _Builder:
    def __init__(self) -> None:
        self._open: list[Element] = []
        self._root: Element | None = None
        self._count = 0
        parser = expat.ParserCreate("utf-8")
        parser.ordered_attributes = True
        parser.specified_attributes = True
        parser.buffer_text = True
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._text
        parser.XmlDeclHandler = self._declaration
        for handler in (
            "StartDoctypeDeclHandler",
            "EntityDeclHandler",
            "ProcessingInstructionHandler",
            "CommentHandler",
            "StartCdataSectionHandler",
            "SkippedEntityHandler",
            "ExternalEntityRefHandler",
        ):
            setattr(parser, handler, _forbidden)
        self._parser = parser

    def parse(self, data: bytes) -> Element:
        try:
            self._parser.Parse(data, True)
        except expat.ExpatError as e:
            raise Malformed(_CODE, _WHERE, want="well-formed XML", got=expat.ErrorString(e.code)) from None
        if self._root is None:
            raise Malformed(_CODE, _WHERE, want="an element", got="none")
        return self._root

    def _declaration(self, version: str, encoding: str | None, _standalone: int) -> None:
        if version != "1.0" or (encoding is not None and encoding.upper() != "UTF-8"):
            _refuse("XML 1.0 in UTF-8", f"{version} {encoding}"[:64])

    def _start(self, written: str, flat: list[str]) -> None:
        self._count += 1
        if self._count > MAX_ELEMENTS or len(self._open) >= MAX_DEPTH or len(flat) > 2 * MAX_ATTRIBUTES:
            limits = f"at most {MAX_ELEMENTS} elements, {MAX_DEPTH} deep, of {MAX_ATTRIBUTES} attributes"
            _refuse(limits, "more")
        pairs = list(zip(flat[::2], flat[1::2], strict=True))
        if any(len(value) > MAX_VALUE for _, value in pairs):
            _refuse(f"attributes of at most {MAX_VALUE} characters", "more")
        above: Mapping[str, str] = self._open[-1].scope if self._open else {}
        scope = _declare(above, pairs)
        attributes, prefixes = _resolve(pairs, scope)
        prefix, local = _split(written)
        element = Element(
            written=written,
            name=(_namespace(scope, prefix), local),
            attributes=attributes,
            prefixes=prefixes,
            scope=scope,
        )
        if self._open:
            self._open[-1].children.append(element)
        else:
            self._root = element
        self._open.append(element)

    def _end(self, _written: str) -> None:
        self._open.pop()

    def _text(self, text: str) -> None:
        if self._open:
            self._open[-1].children.append(text)


def _declare(above: Mapping[str, str], pairs: list[tuple[str, str]]) -> Mapping[str, str]:
    declared = {
        name.removeprefix("xmlns").removeprefix(":"): uri
        for name, uri in pairs
        if name == "xmlns" or name.startswith("xmlns:")
    }
    for prefix, uri in declared.items():
        if not uri or prefix in ("xml", "xmlns") or above.get(prefix, uri) != uri:
            _refuse("each prefix bound once, to a namespace", prefix[:32])
    return {**above, **declared} if declared else above


def _resolve(pairs: list[tuple[str, str]], scope: Mapping[str, str]) -> tuple[dict[Name, str], dict[Name, str]]:
    attributes: dict[Name, str] = {}
    prefixes: dict[Name, str] = {}
    for written, value in pairs:
        if written == "xmlns" or written.startswith("xmlns:"):
            continue
        prefix, local = _split(written)
        name = (_namespace(scope, prefix) if prefix else "", local)
        if name in attributes:
            _refuse("each attribute once", local[:32])
        attributes[name] = value
        prefixes[name] = written
    return attributes, prefixes


def _split(written: str) -> tuple[str, str]:
    prefix, colon, local = written.rpartition(":")
    if (colon and not prefix) or not local or ":" in prefix:
        _refuse("a qualified name", written[:32])
    return prefix, local


def _namespace(scope: Mapping[str, str], prefix: str) -> str:
    if prefix and prefix not in scope:
        _refuse("a declared prefix", prefix[:32])
    return scope.get(prefix, "")


def _forbidden(*_: object) -> NoReturn:
    _refuse("elements, attributes and text only", "a declaration, entity, comment, CDATA section or instruction")


def _refuse(want: str, got: str) -> NoReturn:
    raise Malformed(_CODE, _WHERE, want=want, got=got)


def canonical(apex: Element, *, without: Element | None = None) -> bytes:
    """Write `apex` and everything below it canonically, `without` one element of it.

    With the root as apex this is the whole document; with another it is the subset that XML Signature digests, whose
    apex carries every namespace in scope.
    """
    out: list[str] = []
    _write(apex, {}, without, out)
    return "".join(out).encode()


def _write(element: Element, rendered: Mapping[str, str], without: Element | None, out: list[str]) -> None:
    new = {prefix: uri for prefix, uri in element.scope.items() if rendered.get(prefix) != uri}
    out.append(f"<{element.written}")
    out.extend(f' xmlns{":" + prefix if prefix else ""}="{_escape_value(new[prefix])}"' for prefix in sorted(new))
    attributes = element.attributes
    out.extend(f' {element.prefixes[name]}="{_escape_value(attributes[name])}"' for name in sorted(attributes))
    out.append(">")
    below = {**rendered, **new} if new else rendered
    for child in element.children:
        if isinstance(child, str):
            out.append(_escape_text(child))
        elif child is not without:
            _write(child, below, without, out)
    out.append(f"</{element.written}>")


def _escape_text(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("\r", "&#xD;")


def _escape_value(text: str) -> str:
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
    return text.replace("\t", "&#x9;").replace("\n", "&#xA;").replace("\r", "&#xD;")
