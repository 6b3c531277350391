# SPDX-License-Identifier: Apache-2.0
"""Answers: is this request field what it must be? Every reader names the field it refuses, and never its value."""

from __future__ import annotations

from collections.abc import Mapping

from .body import RequestRefused, invalid

Body = Mapping[str, object]


def refuse_unknown(body: Body, known: frozenset[str], where: str = "") -> None:
    """Refuse the first key outside `known` by its name."""
    for key in body:
        if key not in known:
            raise RequestRefused("unsupported_field", f"{where}{key}"[:64])


def text(value: object, field: str, *, limit: int = 1 << 20) -> str:
    """Give a string of at most `limit` characters."""
    if type(value) is not str or len(value) > limit:
        raise invalid(field)
    return value


def integer(body: Body, field: str, *, low: int, high: int, default: int) -> int:
    """Give a whole number; absent and null mean `default`."""
    value = body.get(field)
    if value is None:
        return default
    if type(value) is not int or not low <= value <= high:
        raise invalid(field)
    return value


def number(body: Body, field: str, *, low: float, high: float, default: float) -> float:
    """Give a finite number; absent and null mean `default`."""
    value = body.get(field)
    if value is None:
        return default
    if type(value) not in (int, float) or not low <= value <= high:  # type: ignore[operator]  # type is checked first
        raise invalid(field)
    return float(value)  # type: ignore[arg-type]


def flag(body: Body, field: str, *, default: bool) -> bool:
    """Give a boolean; absent and null mean `default`."""
    value = body.get(field)
    if value is None:
        return default
    if type(value) is not bool:
        raise invalid(field)
    return value


def record(value: object, field: str) -> dict[str, object]:
    """Give an object."""
    if type(value) is not dict:
        raise invalid(field)
    return value


def sequence(value: object, field: str, *, most: int) -> list[object]:
    """Give an array of at most `most` items."""
    if type(value) is not list or len(value) > most:
        raise invalid(field)
    return value


def choice(body: Body, field: str, allowed: tuple[str, ...], *, default: str) -> str:
    """Give one of `allowed`; absent and null mean `default`."""
    value = body.get(field)
    if value is None:
        return default
    if type(value) is not str or value not in allowed:
        raise invalid(field)
    return value


def only(body: Body, field: str, *accepted: object) -> None:
    """Accept `field` only absent, null, or as one of the values that change nothing; refuse it by name otherwise."""
    value = body.get(field)
    if value is not None and not any(value == ok and type(value) is type(ok) for ok in accepted):
        raise RequestRefused("unsupported_field", field)
