# SPDX-License-Identifier: Apache-2.0
"""Strict JSON: what is read the short way is refused the short way."""

from __future__ import annotations

import pytest

from attestation.errors import Malformed
from attestation.strict_json import MAX_DEPTH, MAX_DIGITS, loads

ESCAPE = r'"\"[{"'


def code(text: str) -> str | None:
    try:
        loads(text.encode(), limit=1 << 20, what="x")
    except Malformed as e:
        return e.code
    return None


def nested(depth: int, inner: str = "") -> str:
    return '[{"a":' * (depth // 2) + "[" * (depth % 2) + inner + "]" * (depth % 2) + "}]" * (depth // 2)


@pytest.mark.parametrize("depth", [MAX_DEPTH - 2, MAX_DEPTH - 1, MAX_DEPTH])
def test_nesting_up_to_the_bound_is_read_whatever_strings_hold(depth: int) -> None:
    for inner in ("1", ESCAPE, r'"\\"', '"' + "[" * 99 + '"'):
        assert code(nested(depth, inner)) is None
        assert code(f"[{ESCAPE},{nested(depth - 1, inner)},{inner}]") is None


@pytest.mark.parametrize("depth", [MAX_DEPTH + 1, MAX_DEPTH + 2, 500, 2000, 20_000])
def test_nesting_beyond_the_bound_is_refused_whatever_strings_hold(depth: int) -> None:
    for inner in ("1", ESCAPE, r'"\\"', "[]", "{}"):
        assert code(nested(depth, inner)) == "JsonInvalid"
        assert code(f"[{ESCAPE},{nested(depth - 1, inner)},{inner}]") == "JsonInvalid"


def test_an_empty_container_counts_as_nesting() -> None:
    for inner in ("[]", "{}"):
        assert code(f"[{ESCAPE},{nested(MAX_DEPTH - 2, inner)}]") is None
        assert code(f"[{ESCAPE},{nested(MAX_DEPTH, inner)}]") == "JsonInvalid"


def test_a_wide_document_is_not_a_deep_one() -> None:
    for row in ("[]", "{}", '{"a":[]}', '[{"svn":1}]'):
        wide = f"[{ESCAPE}{f',{row}' * 1000}]"
        assert code(wide) is None


def places(number: str) -> list[str]:
    """Put a number wherever JSON allows one."""
    return [
        number, f" {number}", f"[{number}]", f"[ {number}]", f"[\t{number}]", f"[\r\n{number}]", f"[1,{number}]",
        f'{{"a":{number}}}', f'{{"a" :\n{number} }}', f'{{"a":[{{"b":"1","c":{number}}}]}}', f'["0",{number},"0"]',
        f'[{ESCAPE},{number}]',
    ]  # fmt: skip


def test_every_integer_has_a_bounded_number_of_digits_wherever_it_stands() -> None:
    for digit in "123456789":
        assert [code(text) for text in places(digit * MAX_DIGITS)] == [None] * 12
        assert [code(text) for text in places(digit * (MAX_DIGITS + 1))] == ["JsonInvalid"] * 12
    assert [code(text) for text in places("-" + "7" * (MAX_DIGITS - 1))] == [None] * 12
    assert [code(text) for text in places("-" + "7" * MAX_DIGITS)] == ["JsonInvalid"] * 12
    assert [code(text) for text in places("1" + "0" * MAX_DIGITS)] == ["JsonInvalid"] * 12


def test_digits_in_strings_and_fractions_are_no_integers() -> None:
    for text in (f'"{"0" * 99}"', f'":{"0" * 99}"', f'"-,{"1" * 99} "', f"1.{'0' * 99}", f"1e{'0' * 30}1"):
        assert [code(place) for place in places(text)] == [None] * 12


def test_values_are_those_of_the_library_in_either_way() -> None:
    assert loads(b'{"a":[0,-1,12,1.5,true,null,"\\u00e9"]}', limit=99, what="x") == {
        "a": [0, -1, 12, 1.5, True, None, "\u00e9"]
    }
    assert loads(b'{"a":[0,-1,12,1.5,true,null,"e"]}', limit=99, what="x") == {"a": [0, -1, 12, 1.5, True, None, "e"]}


def test_a_key_twice_and_numbers_that_are_none_are_refused_in_either_way() -> None:
    for more in ("", f",{ESCAPE}", f",{'8' * MAX_DIGITS}"):
        assert code(f'[{{"a":1,"a":1}}{more}]') == "JsonDuplicateKey"
        assert code(f'[{{"a":{{"b":1,"b":2}}}}{more}]') == "JsonDuplicateKey"
        for wrong in ("NaN", "Infinity", "-Infinity", "01", "+1", "1.", ".5", "0x1"):
            assert code(f"[{wrong}{more}]") == "JsonInvalid"
