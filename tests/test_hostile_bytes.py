# SPDX-License-Identifier: Apache-2.0
"""Whatever a stranger writes: only typed errors leave a parser, and the work that it takes is counted and bounded."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache
from types import FrameType

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from attestation.errors import AttestationError
from tests.parsers import PARSERS, Parser

NAMES = [parser.name for parser in PARSERS]
DER = {"pck", "pck-extension", "tdx-crl", "gpu-crl", "ocsp"}
# The library warns of what it will refuse one day; what it says then is for whoever reads certificates for a living.
pytestmark = pytest.mark.filterwarnings("ignore")
MAX_CALLS = 60_000  # Python calls for one input of at most 64 KiB; the largest good input takes about a third of it


@cache
def seeds(name: str) -> tuple[bytes, ...]:
    return tuple(next(p for p in PARSERS if p.name == name).seeds())


def tried(parser: Parser, data: bytes) -> None:
    """Read; anything but a typed error is a failure of the test."""
    try:
        parser.read(data)
    except AttestationError:
        return


@pytest.mark.parametrize("parser", PARSERS, ids=NAMES)
def test_good_inputs_are_read(parser: Parser) -> None:
    assert seeds(parser.name)
    for data in seeds(parser.name):
        parser.read(data)


@pytest.mark.parametrize("parser", PARSERS, ids=NAMES)
@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(at=st.floats(0, 1), noise=st.binary(max_size=24), cut=st.integers(0, 40), seed=st.integers(0, 7))
def test_only_typed_errors_leave_a_parser(parser: Parser, at: float, noise: bytes, cut: int, seed: int) -> None:
    """Good input with a few bytes exchanged, put in or left out."""
    given_seeds = seeds(parser.name)
    data = given_seeds[seed % len(given_seeds)]
    place = int(at * len(data))
    tried(parser, data[:place] + noise + data[place + cut :])


@pytest.mark.parametrize("parser", PARSERS, ids=NAMES)
@settings(max_examples=15, deadline=None)
@given(data=st.binary(max_size=400))
def test_only_typed_errors_leave_a_parser_of_rubbish(parser: Parser, data: bytes) -> None:
    tried(parser, data)


@pytest.mark.parametrize("parser", PARSERS, ids=NAMES)
def test_good_inputs_cut_anywhere_and_flipped_anywhere(parser: Parser) -> None:
    data = seeds(parser.name)[0]
    # DER is read by a library that reads some parts on demand: there, nearly every byte.
    step = max(1, len(data) // (300 if parser.name in DER else 40))
    for place in range(0, len(data), step):
        tried(parser, data[:place])
        tried(parser, data[:place] + bytes([data[place] ^ 0x80]) + data[place + 1 :])
        tried(parser, data[:place] + bytes([data[place] ^ 0x0F]) + data[place + 1 :])  # UTF8String to BIT STRING
        tried(parser, data[:place] + bytes([data[place] ^ 0x01]) + data[place + 1 :])
        tried(parser, data[:place] + b"\xff\xff\xff\xff" + data[place + 4 :])


def counted(work: Callable[[], None]) -> int:
    """Count the calls of Python functions."""
    calls = 0

    def count(_: FrameType, event: str, __: object) -> None:
        nonlocal calls
        calls += event == "call"

    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(None)
    return calls


SHAPES: dict[str, Callable[[bytes], bytes]] = {
    "the good input": lambda seed: seed,
    "the good input again and again": lambda seed: (seed * (65536 // max(1, len(seed)) + 1))[:65536],
    "the good input and zeros": lambda seed: seed[:65536].ljust(65536, b"\0"),
    "zeros": lambda _: bytes(65536),
    "0xff": lambda _: b"\xff" * 65536,
    "open lists": lambda _: b"[" * 65536,
    "many small members": lambda _: b"{" + b'"a":1,' * 10_000 + b'"b":1}',
    "many small elements": lambda _: b"<a>" + b"<b/>" * 16_000 + b"</a>",
    "many small DER elements": lambda _: b"\x30\x82\xff\xfc" + b"\x05\x00" * 32_766,
    "many short PEM blocks": lambda _: b"-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n" * 1100,
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=list(SHAPES))
def test_the_work_for_64_kib_is_bounded_by_count(shape: Callable[[bytes], bytes]) -> None:
    for parser in PARSERS:
        data = shape(seeds(parser.name)[0])
        calls = counted(lambda parser=parser, data=data: tried(parser, data))  # type: ignore[misc]
        assert calls < MAX_CALLS, parser.name
