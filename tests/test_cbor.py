# SPDX-License-Identifier: Apache-2.0
"""One value, one encoding: everything else is refused, and nothing but Malformed gets out."""

from __future__ import annotations

from typing import Any

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation import cbor
from attestation.errors import Malformed

HOSTILE = {
    "trailing byte": "0100",
    "duplicate key": "a201010102",
    "non-minimal integer": "1801",
    "non-minimal length": "5801ff",
    "indefinite array": "9f01ff",
    "indefinite bytes": "5f4101ff",
    "keys out of order": "a202010101",
    "float": "f93c00",
    "negative": "20",
    "undefined": "f7",
    "date tag": "c074323032362d31312d32345430303a30303a30305a",
    "bignum": "c249010000000000000000",
    "regular expression": "d823612b",
    "cycle": "d81c81d81d00",
    "unknown tag": "d9ea6000",
    "mixed keys": "a20101616101",
    "bytes key": "a1410101",
    "bool key": "a1f501",
    "invalid utf-8": "61ff",
    "too deep": "81" * 9 + "01",
    "cut": "8201",
    "empty": "",
    "simple value": "f8ff",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_refuses(name: str) -> None:
    with pytest.raises(Malformed) as caught:
        cbor.decode(bytes.fromhex(HOSTILE[name]), limit=1000, what="test")
    assert caught.value.code == "MalformedCbor"


def test_refuses_more_than_the_limit() -> None:
    assert cbor.decode(b"\x44abcd", limit=5, what="test") == b"abcd"
    with pytest.raises(Malformed, match="at most 4 bytes"):
        cbor.decode(b"\x44abcd", limit=4, what="test")


def test_accepts_the_deepest_allowed() -> None:
    assert cbor.decode(bytes.fromhex("81" * 8 + "01"), limit=100, what="test")


@pytest.mark.parametrize("value", [-1, 2**64, 1.5, {1: 1, "a": 2}, {True: 1}, (1,), {1, 2}, bytearray(b"x")])
def test_encodes_nothing_else(value: object) -> None:
    with pytest.raises((TypeError, ValueError)):
        cbor.encode(value)


def test_int_map_refuses_absent_unknown_and_other_types() -> None:
    values: list[Any] = [{1: 1}, {1: 1, 2: 2, 3: 3}, [1], {"1": 1}]
    for value in values:
        with pytest.raises(Malformed):
            cbor.int_map(value, what="m", code="MalformedCbor", required=(1, 2))
    known: Any = {1: 1, 2: 2}
    kept = cbor.int_map(known | {64: 9}, what="m", code="MalformedCbor", required=(1, 2))
    assert kept[64] == 9
    with pytest.raises(Malformed):
        cbor.int_map(known | {63: 9}, what="m", code="MalformedCbor", required=(1, 2))


def test_typed_fields_refuse_other_types() -> None:
    code = "MalformedCbor"
    for refuse in (
        lambda: cbor.as_bytes("x", "f", code=code),
        lambda: cbor.as_bytes(b"x", "f", code=code, size=2),
        lambda: cbor.as_bytes(b"xyz", "f", code=code, limit=2),
        lambda: cbor.as_uint(b"x", "f", code=code),
        lambda: cbor.as_uint(True, "f", code=code),
        lambda: cbor.as_uint(5, "f", code=code, limit=4),
        lambda: cbor.as_text(b"x", "f", code=code, limit=9),
        lambda: cbor.as_text("xé", "f", code=code, limit=2),
        lambda: cbor.as_bool(1, "f", code=code),
        lambda: cbor.as_list({}, "f", code=code, limit=2),
        lambda: cbor.as_list([1, 2, 3], "f", code=code, limit=2),
        lambda: cbor.as_list([], "f", code=code, limit=2, least=1),
    ):
        with pytest.raises(Malformed):
            refuse()


plain = st.recursive(
    st.integers(0, 2**64 - 1) | st.binary(max_size=40) | st.text(max_size=20) | st.booleans() | st.none(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.integers(0, 2**64 - 1), inner, max_size=4)
        | st.dictionaries(st.text(max_size=30), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(plain)
def test_decode_is_the_inverse_of_encode(value: object) -> None:
    try:
        data = cbor.encode(value)
    except ValueError:  # deeper than allowed
        return
    assert cbor.decode(data, limit=10**6, what="test") == value


@given(st.binary(max_size=60))
def test_only_malformed_leaves_and_what_is_accepted_is_canonical(data: bytes) -> None:
    try:
        value = cbor.decode(data, limit=100, what="test")
    except Malformed:
        return
    assert cbor.encode(value) == data == cbor2.dumps(value, canonical=True)


@given(st.lists(plain, max_size=5), st.integers(1, 7))
def test_a_sequence_in_any_chunking_gives_the_same_items(values: list[object], step: int) -> None:
    try:
        data = b"".join(cbor.encode(v) for v in values)
    except ValueError:
        return
    decoder = cbor.SequenceDecoder(limit=10**6, what="test", code="MalformedCbor")
    items = [item for at in range(0, len(data), step) for item in decoder.feed(data[at : at + step])]
    decoder.end()
    assert items == values


@pytest.mark.parametrize(
    "data", ["5f", "ff", "20", "c1", "f93c00", "1c", "5b00000000ffffffff", "9b00000000ffffffff", "43ffff"]
)
def test_a_sequence_refuses_or_waits_within_its_bound(data: str) -> None:
    decoder = cbor.SequenceDecoder(limit=64, what="test", code="MalformedCbor")
    with pytest.raises(Malformed):
        decoder.feed(bytes.fromhex(data))
        decoder.end()


@given(st.binary(max_size=60))
def test_a_sequence_lets_only_malformed_out(data: bytes) -> None:
    decoder = cbor.SequenceDecoder(limit=64, what="test", code="MalformedCbor")
    try:
        decoder.feed(data)
        decoder.end()
    except Malformed:
        return


def test_a_sequence_item_longer_than_the_limit_is_refused_before_it_is_whole() -> None:
    decoder = cbor.SequenceDecoder(limit=8, what="test", code="MalformedCbor")
    with pytest.raises(Malformed):
        decoder.feed(b"\x58\x20" + bytes(10))
