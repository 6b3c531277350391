# SPDX-License-Identifier: Apache-2.0
"""Kernels: the Authenticode hash, the header that older QEMU patches, and what is refused."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attestation.errors import Malformed
from attestation.tdx import measure_kernel
from attestation.tdx.measure import kernel_version
from attestation.tdx.measure_kernel import authenticode, patched
from tests.kernel_forms import PE, Kernel, second_authenticode

GIB = 1 << 30


def test_the_hash_is_as_a_second_implementation_says() -> None:
    data = Kernel().data()
    assert authenticode(data) == second_authenticode(data)


@pytest.mark.parametrize("at", [0x50, 0x300, 0x401, 0xFFF])
def test_every_other_byte_is_hashed(at: int) -> None:
    data = bytearray(Kernel().data())
    before = authenticode(bytes(data))
    data[at] ^= 1
    assert authenticode(bytes(data)) != before


def test_checksum_and_signature_are_left_out() -> None:
    data = bytearray(Kernel().data())
    before = authenticode(bytes(data))
    data[PE + 24 + 64] ^= 1
    assert authenticode(bytes(data)) == before
    for certificates in (b"a signature".ljust(64, b"\0"), bytes(8)):
        signed = Kernel(certificates=certificates).data()
        assert authenticode(signed) == before == second_authenticode(signed, len(certificates))


def test_what_lies_behind_the_sections_is_hashed() -> None:
    kernel = Kernel(sections=[(0x400, 0x200), (0x600, 0x800)])
    assert authenticode(kernel.data()) == second_authenticode(kernel.data())
    more = authenticode(Kernel().data() + b"\0")
    assert more != authenticode(Kernel().data())


MALFORMED: list[tuple[str, bytes]] = [
    ("empty", b""),
    ("no MZ", Kernel(mz=b"ZM").data()),
    ("no PE", Kernel(mark=b"PE\0\1").data()),
    ("a PE header past the file", Kernel(pe=0xFFFFFFFF).data()),
    ("32 bits", Kernel(machine=0x14C, magic=0x10B).data()),
    ("another machine", Kernel(machine=0xAA64).data()),
    ("no sections", Kernel(sections=[]).data()),
    ("97 sections", Kernel(count=97).data()),
    ("a huge count", Kernel(count=0xFFFF).data()),
    ("no certificate directory", Kernel(directories=4).data()),
    ("an optional header that ends before the directory", Kernel(optional_size=150).data()),
    ("headers that cut the section table", Kernel(headers=0x100).data()),
    ("headers past the file", Kernel(headers=0x2000).data()),
    ("a gap between sections", Kernel(sections=[(0x400, 0x200), (0x700, 0x900)]).data()),
    ("overlapping sections", Kernel(sections=[(0x400, 0x300), (0x600, 0xA00)]).data()),
    ("a section in the headers", Kernel(sections=[(0x200, 0x200), (0x400, 0xC00)]).data()),
    ("a section past the file", Kernel(sections=[(0x400, 0x200), (0x600, 0xFFFFFFF0)]).data()),
    ("certificates that are not the end", Kernel(certificates=bytes(64)).data() + b"\0"),
    ("certificates past the file", Kernel(certificate_offset=0x1000, certificate_size=8).data()),
    ("certificates over a section", Kernel(certificate_offset=0xF00, certificate_size=0x100).data()),
    ("an offset of no certificates", Kernel(certificate_offset=0x1000, certificate_size=0).data()),
    ("cut", Kernel().data()[:0x120]),
]


@pytest.mark.parametrize("data", [row[1] for row in MALFORMED], ids=[row[0] for row in MALFORMED])
def test_what_readers_could_disagree_about_is_malformed(data: bytes) -> None:
    with pytest.raises(Malformed) as caught:
        authenticode(data)
    assert caught.value.code == "MalformedImage"


@pytest.mark.parametrize(
    ("kernel", "where"),
    [
        (Kernel(optional_size=150), "kernel.directories"),
        (Kernel(headers=0x100), "kernel.headers"),
        (Kernel(headers=0x2000), "kernel.headers"),
        (Kernel(count=97), "kernel.sections"),
        (Kernel(directories=4), "kernel.directories"),
    ],
)
def test_the_part_that_is_wrong_is_named(kernel: Kernel, where: str) -> None:
    with pytest.raises(Malformed) as caught:
        authenticode(kernel.data())
    assert caught.value.where == where


def test_a_kernel_has_a_largest_size(monkeypatch: pytest.MonkeyPatch) -> None:
    data = Kernel().data()
    monkeypatch.setattr(measure_kernel, "MAX_KERNEL", len(data))
    authenticode(data)
    monkeypatch.setattr(measure_kernel, "MAX_KERNEL", len(data) - 1)
    with pytest.raises(Malformed):
        authenticode(data)


@pytest.mark.parametrize(
    ("memory", "initrd", "address"),
    [
        (2 * GIB, 0x1000, 0x80000000 - 0x28000 - 0x2000),
        (64 * GIB, 0x1000, 0x80000000 - 0x28000 - 0x2000),
        (GIB, 1, 0x40000000 - 0x28000 - 0x1000),
        (GIB, 0xFFF, 0x40000000 - 0x28000 - 0x1000),
        (0xB0000000 - 0x100000, 0x1000, 0xB0000000 - 0x100000 - 0x28000 - 0x2000),
    ],
)
def test_qemu_fills_in_eleven_bytes(memory: int, initrd: int, address: int) -> None:
    before, after = Kernel().data(), patched(Kernel().data(), initrd_size=initrd, memory=memory)
    fields = {0x210: b"\xb0\x81", 0x218: struct.pack("<II", address, initrd), 0x224: b"\0\xfe", 0x228: b"\0\0\2\0"}
    for at, value in fields.items():
        assert after[at : at + len(value)] == value
    outside = [i for at, value in fields.items() for i in range(at, at + len(value))]
    assert [i for i in range(len(before)) if before[i] != after[i] and i not in outside] == []


def test_an_old_kernel_has_a_limit_of_its_own() -> None:
    kernel = Kernel(flags=0, initrd_limit=0x37FFFFFF)
    address = struct.unpack_from("<I", patched(kernel.data(), initrd_size=0x1000, memory=GIB), 0x218)[0]
    assert address == (0x37FFFFFF - 0x1000) & ~0xFFF


@pytest.mark.parametrize(
    ("kernel", "initrd", "memory"),
    [
        (Kernel(boot_magic=b"XdrS"), 0x1000, GIB),
        (Kernel(protocol=0x20B), 0x1000, GIB),
        (Kernel(), 0, GIB),
        (Kernel(), GIB, GIB),
        (Kernel(size=0x100), 1, GIB),
    ],
    ids=["no boot header", "protocol 2.11", "no initrd", "an initrd as large as memory", "cut"],
)
def test_what_qemu_could_not_load_is_malformed(kernel: Kernel, initrd: int, memory: int) -> None:
    with pytest.raises(Malformed):
        patched(kernel.data(), initrd_size=initrd, memory=memory)


@pytest.mark.parametrize(
    ("text", "release"), [(b"6.16.3-test", (6, 16)), (b"7.2-rc1", (7, 2)), (b"6.12.117+deb13", (6, 12))]
)
def test_a_kernel_names_its_release(text: bytes, release: tuple[int, int]) -> None:
    assert kernel_version(Kernel(version=text).data()) == release


@pytest.mark.parametrize("text", [b"six.16.3 and so on", b"6 16 3 and so on", b"99999.1.1 and so on"])
def test_another_text_is_no_release(text: bytes) -> None:
    with pytest.raises(Malformed):
        kernel_version(Kernel(version=text).data())


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 0x400), st.binary(min_size=1, max_size=60), st.integers(0, 0x1000))
def test_only_typed_errors_leave_the_readers(at: int, noise: bytes, end: int) -> None:
    data = bytearray(replace(Kernel(), certificates=bytes(64)).data())
    data[at : at + len(noise)] = noise
    for cut in (bytes(data), bytes(data[:end])):
        for reader in (authenticode, kernel_version, lambda k: patched(k, initrd_size=9, memory=GIB)):
            try:
                reader(cut)
            except Malformed:
                continue
