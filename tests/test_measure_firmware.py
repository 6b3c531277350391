# SPDX-License-Identifier: Apache-2.0
"""Firmware files: MRTD in both orders, known values of real files, the TD HOB, and what is refused."""

from __future__ import annotations

import time
from dataclasses import replace
from hashlib import sha256, sha384
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attestation.errors import Malformed
from attestation.tdx.measure_firmware import MAX_FIRMWARE, Firmware, SectionType
from attestation.tdx.measure_hob import low_memory, td_hob, td_hob_digest
from tests.firmware_forms import CODE, ROWS, SIZE, VARIABLES, Build, Row, debian_firmware, second_mr_td

GIB = 1 << 30
# SHA-256 of the file: MRTD single pass, the first bytes of two passes, the first bytes of the variables' digest.
KNOWN = {
    "7b456907dd0786d415999e801a1ac4637b8ed4d7cf5378cfc6edbe5e574dd773": (
        "4c7206f0f483c524f12c366c711e9049030a8d47c471ee5aa9c4999a08de4057fb887fed0744d5631a212967fb231c47",
        "acccbcc8",
        "f8730217",
    ),
    "14954040cc754ade0c625ac3470ea46d4c14318b5b1396de4ef77090203d76db": (
        "bdc6fb145880f06f30c8b346b8dce2a99d9351b56892df22f80fcf6574caa9f9c31df8e8576d53b4d0cd1c3f28910e11",
        "456f0790",
        "344bc51c",
    ),
    "6a3e8f438ad7269f5dfd884647587b88391fb23965bb3aa7902b519438dba129": (
        "ab742989d480d040f178cf83c3ae0734f923dbddb7325b4a826e0d87c30cb299aff85beb23ad30a1c6f975a8d0ce3e7a",
        "d1377011",
        "344bc51c",
    ),
    "a265075b4147a096109e501e76196df1ec8a18659c26f7401492c597ec88f312": (
        "a7a1f751abc454f9cbab198ca8d2edb2821935df525c74182b5e776cb0929e8c59aefecce725b0d08a5e9d3d3183bd08",
        "b90b2361",
        "327d4a91",
    ),
}
HOBS_2022_11 = {2 * GIB: "0b8772e5", 64 * GIB: "8ae1e425"}


def changed(at: int, **fields: int) -> list[Row]:
    names = ("offset", "size", "address", "memory", "type", "attributes")
    rows: list[Any] = [dict(zip(names, row, strict=True)) for row in ROWS]
    rows[at] |= fields
    return [tuple(row[name] for name in names) for row in rows]


@pytest.mark.parametrize("single_pass", [True, False])
def test_a_built_firmware_measures_as_a_second_implementation_says(*, single_pass: bool) -> None:
    data = Build().data()
    firmware = Firmware.parse(data)
    assert [section.type.name for section in firmware.sections] == ["BFV", "CFV", "TEMP_MEM", "TD_HOB"]
    assert firmware.mr_td(single_pass=single_pass) == second_mr_td(data, ROWS, single_pass=single_pass)


def test_the_orders_differ_and_every_measured_byte_counts() -> None:
    data = Build().data()
    value = Firmware.parse(data).mr_td(single_pass=True)
    assert value != Firmware.parse(data).mr_td(single_pass=False)
    flipped = bytearray(data)
    flipped[VARIABLES] ^= 1
    assert Firmware.parse(bytes(flipped)).mr_td(single_pass=True) != value
    flipped = bytearray(data)
    flipped[0] ^= 1  # the variables are added, not extended
    assert Firmware.parse(bytes(flipped)).mr_td(single_pass=True) == value


@pytest.mark.parametrize(
    "rows",
    [
        [*ROWS, (0, 0, 0x900000, 0x3000, 4, 2)],
        changed(1, attributes=1),
        [ROWS[2], ROWS[3], ROWS[0], ROWS[1]],
        changed(1, address=0x100000000 - SIZE - 0x1000, memory=VARIABLES + 0x1000, attributes=1),
    ],
    ids=["pages that are not added", "variables extended", "another order", "zeros behind the contents"],
)
def test_sections_are_measured_by_their_attributes_and_order(rows: list[Row]) -> None:
    data = Build(rows=rows).data()
    assert Firmware.parse(data).mr_td(single_pass=True) == second_mr_td(data, rows, single_pass=True)
    assert Firmware.parse(data).mr_td(single_pass=False) == second_mr_td(data, rows, single_pass=False)


def test_real_firmware_has_its_known_measurements() -> None:
    known = {sha256(path.read_bytes()).hexdigest(): path for path in debian_firmware()}
    found = {digest: path for digest, path in known.items() if digest in KNOWN}
    if not found:
        pytest.skip("no firmware with known measurements: apt-get install ovmf, or name files in SERICIN_OVMF")
    for digest, path in found.items():
        firmware = Firmware.parse(path.read_bytes())
        single, two, variables = KNOWN[digest]
        assert firmware.mr_td(single_pass=True).hex() == single
        assert firmware.mr_td(single_pass=False).hex().startswith(two)
        assert firmware.cfv_digest().hex().startswith(variables)


def test_the_td_hob_of_real_metadata_has_its_known_digests() -> None:
    """The metadata of Debian 12's firmware, by its rows: two real machines measured these two lists."""
    rows: list[Row] = [
        (VARIABLES, CODE, 0x100000000 - CODE, CODE, 0, 1),
        (0, VARIABLES, 0x100000000 - SIZE, VARIABLES, 1, 0),
        (0, 0, 0x810000, 0x10000, 3, 0),
        (0, 0, 0x80B000, 0x2000, 3, 0),
        (0, 0, 0x809000, 0x2000, 2, 0),
        (0, 0, 0x800000, 0x6000, 3, 0),
    ]
    firmware = Firmware.parse(Build(rows=rows).data())
    for memory, digest in HOBS_2022_11.items():
        assert td_hob_digest(firmware, memory).hex().startswith(digest)
    assert len(td_hob(firmware, 2 * GIB)) == 56 + 8 * 48
    assert len(td_hob(firmware, 64 * GIB)) == 56 + 9 * 48


def test_memory_is_split_as_q35_splits_it() -> None:
    assert low_memory(0xB0000000 - 1) == 0xB0000000 - 1
    assert low_memory(0xB0000000) == 0x80000000
    firmware = Firmware.parse(Build().data())
    lists = {memory: td_hob(firmware, memory) for memory in (2 * GIB, 0xB0000000 - 4096, 0xB0000000, 4 * GIB)}
    assert len(set(lists.values())) == 4
    with pytest.raises(Malformed):
        td_hob(firmware, 8 << 20)


MALFORMED: list[tuple[str, Build | bytes]] = [
    ("empty", b""),
    ("zeros", bytes(SIZE)),
    ("not whole pages", Build().data() + b"x"),
    ("too long", bytes(MAX_FIRMWARE + 4096)),
    ("cut in front", Build().data()[4096:]),
    ("cut behind", Build().data()[:-4096]),
    ("no table", Build(footer=bytes(16))),
    ("no TDX entry", Build(entry=bytes(16))),
    ("a table of 0 bytes", Build(table_length=0)),
    ("a table longer than the file", Build(table_length=0xFFFF)),
    ("an entry of 0 bytes: a loop", Build(entry_length=0)),
    ("an entry of 17 bytes", Build(entry_length=17)),
    ("an entry past the table", Build(entry_length=0xFFFF)),
    ("an entry without room for the offset", Build(entry_length=18)),
    ("the descriptor before the file", Build(distance=SIZE + 1)),
    ("the descriptor at the end", Build(distance=0)),
    ("the descriptor cut by the end", Build(distance=15)),
    ("sections cut by the end", Build(distance=100)),
    ("another signature", Build(signature=b"TDVX")),
    ("version 2", Build(version=2)),
    ("no sections", Build(rows=[])),
    ("a huge count", Build(count=0xFFFFFFFF)),
    ("65 sections", Build(count=65)),
    ("a length that is not the count's", Build(length=16)),
    ("an unknown type", Build(rows=changed(2, type=9))),
    ("a payload", Build(rows=changed(2, type=5))),
    ("an unknown attribute", Build(rows=changed(2, attributes=4))),
    ("extended and not added", Build(rows=changed(0, attributes=3))),
    ("an address within a page", Build(rows=changed(2, address=0x811001))),
    ("memory of part of a page", Build(rows=changed(2, memory=0xF001))),
    ("no memory", Build(rows=changed(2, memory=0))),
    ("memory past the address space", Build(rows=changed(2, address=(1 << 64) - 4096))),
    ("terabytes to add", Build(rows=changed(2, memory=1 << 40))),
    ("just too many pages to add", Build(rows=changed(2, memory=16384 << 12))),
    ("more contents than memory", Build(rows=changed(1, memory=0x1000))),
    ("temporary memory with contents", Build(rows=changed(2, offset=0, size=0x1000))),
    ("temporary memory that is extended", Build(rows=changed(2, attributes=1))),
    ("temporary memory with an offset", Build(rows=changed(2, offset=0x1000))),
    ("code without contents", Build(rows=changed(0, size=0))),
    ("no TD HOB", Build(rows=[*ROWS[:3]])),
    ("two TD HOBs", Build(rows=[*ROWS, (0, 0, 0x900000, 0x1000, 2, 0)])),
    ("no code", Build(rows=changed(0, type=1))),
    ("overlapping memory", Build(rows=changed(3, address=0x812000))),
    ("the same memory twice", Build(rows=[*ROWS, (0, 0, 0x811000, 0xF000, 3, 0)])),
    ("overlapping contents", Build(rows=changed(1, offset=0x1000))),
    ("contents past the file", Build(rows=changed(0, offset=VARIABLES + 0x1000))),
    ("contents far past the file", Build(rows=changed(0, offset=0xFFFFF000))),
    ("contents that are not the whole file", Build(rows=changed(1, size=0x1000))),
    ("code-only: offsets for a longer file", Build(size=CODE, rows=ROWS)),
    ("code that ends below 4 GiB", Build(rows=changed(0, address=0xF0000000))),
    ("nothing that is measured", Build(rows=changed(0, attributes=0))),
]


@pytest.mark.parametrize("build", [row[1] for row in MALFORMED], ids=[row[0] for row in MALFORMED])
def test_what_is_no_sound_firmware_is_malformed_at_once(build: Build | bytes) -> None:
    began = time.perf_counter()
    with pytest.raises(Malformed) as caught:
        Firmware.parse(build if isinstance(build, bytes) else build.data())
    assert caught.value.code == "MalformedFirmware"
    assert time.perf_counter() - began < 1


def test_a_sound_file_that_is_too_long_is_refused_before_it_is_read() -> None:
    size = MAX_FIRMWARE + 4096
    rows = [ROWS[0], (0, size - CODE, 0x100000000 - size, size - CODE, 1, 0), *ROWS[2:]]
    rows[0] = (size - CODE, CODE, 0x100000000 - CODE, CODE, 0, 1)
    with pytest.raises(Malformed) as caught:
        Firmware.parse(Build(size=size, rows=rows).data())
    assert caught.value.where == "firmware"


def test_the_largest_metadata_is_measured_in_bounded_time() -> None:
    rows = changed(2, memory=(16384 - 8 - 2) << 12, address=0x10000000)
    firmware = Firmware.parse(Build(rows=rows).data())
    began = time.perf_counter()
    firmware.mr_td(single_pass=True)
    assert time.perf_counter() - began < 5


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 0x500), st.binary(min_size=1, max_size=40))
def test_only_typed_errors_leave_the_parser(back: int, noise: bytes) -> None:
    data = bytearray(Build().data())
    at = max(0, len(data) - back - len(noise))
    data[at : at + len(noise)] = noise
    try:
        firmware = Firmware.parse(bytes(data))
    except Malformed:
        return
    assert len(firmware.mr_td(single_pass=True)) == 48


WORDS, LONGS, SMALL = st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1), st.integers(0, 8)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(WORDS, WORDS, LONGS, LONGS, SMALL, SMALL), max_size=9))
def test_any_section_list_is_measured_or_refused(rows: list[Any]) -> None:
    try:
        firmware = Firmware.parse(Build(rows=rows).data())
    except Malformed:
        return
    assert firmware.section(SectionType.TD_HOB) is not None


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, len(ROWS) - 1), st.sampled_from(["offset", "size", "address", "memory"]), st.integers(0, 2**20 - 1)
)
def test_one_bent_field_is_measured_or_refused(at: int, name: str, pages: int) -> None:
    try:
        firmware = Firmware.parse(replace(Build(), rows=changed(at, **{name: pages << 12})).data())
    except Malformed:
        return
    assert len(firmware.mr_td(single_pass=False)) == 48


def test_the_variables_are_a_digest_of_their_own() -> None:
    data = Build().data()
    assert Firmware.parse(data).cfv_digest() == sha384(data[:VARIABLES]).digest()
    without = [(0, SIZE, 0x100000000 - SIZE, SIZE, 0, 1), *ROWS[2:]]
    with pytest.raises(Malformed):
        Firmware.parse(Build(rows=without).data()).cfv_digest()
