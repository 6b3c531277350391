# SPDX-License-Identifier: Apache-2.0
"""Take typed fields off a strict JSON document: every key known, every value of its exact type and within bounds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Final

from .errors import Malformed

_CODE: Final = "MalformedConfig"


@contextmanager
def coded(code: str) -> Iterator[None]:
    """Let what is read inside be refused with `code`, the document's own, in place of MalformedConfig."""
    try:
        yield
    except Malformed as e:
        if e.code != _CODE:
            raise
        raise Malformed(code, e.where, want=e.want, got=e.got) from None


def fields(value: object, keys: Iterable[str], where: str) -> dict[str, object]:
    """Require an object with exactly `keys`. Raises Malformed(MalformedConfig)."""
    if not isinstance(value, dict):
        raise Malformed(_CODE, where, want="an object", got=type(value).__name__)
    known = set(keys)
    if unknown := sorted(set(value) - known):
        raise Malformed(_CODE, where, want="known keys", got=f"{len(unknown)} unknown")
    if absent := sorted(known - set(value)):
        raise Malformed(_CODE, f"{where}.{absent[0]}", want="present", got="absent")
    return value


def text(value: object, where: str, *, limit: int, least: int = 1) -> str:
    """Require printable text of `least` to `limit` UTF-8 bytes."""
    if not isinstance(value, str) or not least <= len(value.encode("utf-8", "replace")) <= limit:
        raise Malformed(_CODE, where, want=f"text of {least} to {limit} bytes", got=type(value).__name__)
    if not value.isprintable():
        raise Malformed(_CODE, where, want="printable text", got="a control character")
    return value


def optional_text(value: object, where: str, *, limit: int) -> str | None:
    """Require text or null."""
    return None if value is None else text(value, where, limit=limit)


def integer(value: object, where: str, *, low: int, high: int) -> int:
    """Require an integer from `low` to `high`; true and false are none."""
    if type(value) is not int or not low <= value <= high:
        raise Malformed(_CODE, where, want=f"an integer from {low} to {high}", got=type(value).__name__)
    return value


def choice(value: object, where: str, allowed: Iterable[str]) -> str:
    """Require one of the words `allowed`."""
    words = tuple(allowed)
    if not isinstance(value, str) or value not in words:
        raise Malformed(_CODE, where, want=" or ".join(words), got="another value")
    return value


def digest(value: object, where: str, *, size: int) -> bytes:
    """Require `size` bytes in lower-case hex."""
    if isinstance(value, str) and len(value) == 2 * size and value == value.lower():
        try:
            raw = bytes.fromhex(value)
        except ValueError:
            raw = b""
        if len(raw) == size:
            return raw
    raise Malformed(_CODE, where, want=f"{size} bytes in lower-case hex", got="another value")


def items(value: object, where: str, *, least: int, most: int) -> list[object]:
    """Require an array of `least` to `most` items."""
    if not isinstance(value, list) or not least <= len(value) <= most:
        got = len(value) if isinstance(value, list) else type(value).__name__
        raise Malformed(_CODE, where, want=f"an array of {least} to {most} items", got=got)
    return value
