# SPDX-License-Identifier: Apache-2.0
"""Read the fields of Intel's signed JSON strictly: exact types, no case variants of known names, bounded lists."""

from __future__ import annotations

import re
from datetime import datetime
from functools import lru_cache
from typing import Final

from ..errors import Malformed

_NONE: Final[frozenset[str]] = frozenset()
_TIME: Final = re.compile(r"[0-9]{4}(-[0-9]{2}){2}T[0-9]{2}(:[0-9]{2}){2}Z")


class Names:
    """The names that an object must have, and those that it may have."""

    __slots__ = ("known", "need", "required")

    def __init__(self, *required: str, optional: tuple[str, ...] = ()) -> None:
        self.required = required
        self.need = frozenset(required)
        self.known = frozenset(required + optional)


@lru_cache(maxsize=64)  # the dates of a document's levels are few
def _time(text: str) -> datetime | None:
    if not _TIME.fullmatch(text):
        return None
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None  # a 31st of June


class Fields:
    """One JSON object with required and optional names. Unknown names are recorded; near misses are refused."""

    __slots__ = ("_code", "_value", "unknown", "where")

    def __init__(self, value: object, where: str, names: Names, *, code: str) -> None:
        self.where = where
        self._code = code
        if not isinstance(value, dict):
            raise Malformed(code, where, want="an object", got=type(value).__name__)
        self._value = value
        self.unknown = _NONE
        found, known = value.keys(), names.known
        if found == names.need or names.need <= found <= known:
            return
        for name in names.required:
            if name not in value:
                raise Malformed(code, f"{where}.{name}", want="present", got="absent")
        unknown = found - known
        folded = {name.casefold() for name in known}
        for name in unknown:
            if name.casefold() in folded:
                raise Malformed("JsonUnexpectedKey", where, want="known names in their own case", got=name[:64])
        self.unknown = frozenset(unknown)

    def __contains__(self, name: str) -> bool:
        """Whether an optional field is there."""
        return name in self._value

    def raw(self, name: str) -> object:
        """Give the value as it was decoded."""
        return self._value[name]

    def require(self, name: str, want: str | int, *, code: str) -> None:
        """Require exactly `want`, of its type: 3.0 and true are not integers."""
        value = self._value[name]
        if type(value) is not type(want) or value != want:
            raise self.refuse(name, code=code, want=want, got=value)

    def uint(self, name: str, limit: int) -> int:
        """Require an integer from 0 to `limit`; true and 1.0 are none."""
        value = self._value[name]
        if type(value) is not int or not 0 <= value <= limit:
            raise Malformed(self._code, f"{self.where}.{name}", want=f"0 to {limit}", got=repr(value)[:40])
        return value

    def text(self, name: str, limit: int = 64) -> str:
        """Require text of at most `limit` characters."""
        value = self._value[name]
        if not isinstance(value, str) or len(value) > limit:
            raise Malformed(self._code, f"{self.where}.{name}", want=f"text up to {limit}", got=type(value).__name__)
        return value

    def hexa(self, name: str, size: int) -> bytes:
        """Require `size` bytes in hex of either case."""
        value = self.text(name, 2 * size)
        try:
            data = bytes.fromhex(value)
        except ValueError:
            data = b""
        if len(data) != size or len(value) != 2 * size:  # white space between digits would be passed over
            raise Malformed(self._code, f"{self.where}.{name}", want=f"{size} bytes in hex", got="another form")
        return data

    def time(self, name: str) -> datetime:
        """Require a time such as 2025-06-19T10:16:03Z."""
        value = self.text(name)
        time = _time(value)
        if time is None:
            raise Malformed(self._code, f"{self.where}.{name}", want="a time in UTC with seconds", got=value[:40])
        return time

    def items(self, name: str, *, least: int, most: int) -> list[object]:
        """Require a list of `least` to `most` items."""
        value = self._value[name]
        if not isinstance(value, list) or not least <= len(value) <= most:
            got = len(value) if isinstance(value, list) else type(value).__name__
            raise Malformed(self._code, f"{self.where}.{name}", want=f"{least} to {most} items", got=got)
        return value

    def texts(self, name: str, *, most: int) -> tuple[str, ...]:
        """Give a list of short texts, empty when the field is absent."""
        if name not in self._value:
            return ()
        items = self.items(name, least=0, most=most)
        if not all(isinstance(item, str) and len(item) <= 64 for item in items):
            raise Malformed(self._code, f"{self.where}.{name}", want="texts up to 64 characters", got="another")
        return tuple(str(item) for item in items)

    def refuse(self, name: str, *, code: str | None = None, want: object, got: object) -> Malformed:
        """Make the refusal of one field."""
        return Malformed(code or self._code, f"{self.where}.{name}", want=want, got=str(got)[:64])
