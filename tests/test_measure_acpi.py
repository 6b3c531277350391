# SPDX-License-Identifier: Apache-2.0
"""ACPI digests over QEMU's test interface: of a real QEMU where one is there, and of programs that lie."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from hashlib import sha384
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from attestation import qemu
from attestation.image import AcpiDigests
from client import acpi_qtest
from client.acpi_qtest import acpi_digests, arguments, window_base
from client.commands import measure
from client.commands.measure import command
from client.errors import UsageFault
from client.measuring import read_acpi_file
from tests.image_forms import SHAPE, bent, shape

GPU = {"slot": 16, "type": "gpu", "model": "H100-PCIe-80GB", "bar_mib": 131072}


def with_gpus(*bars: int, **changes: Any) -> dict[str, Any]:
    """Give a shape document with GPUs of these largest BARs."""
    cards = [GPU | {"slot": 16 + i, "bar_mib": bar} for i, bar in enumerate(bars)]
    host = SHAPE["host"] | {"gpus": [f"0000:4{i}:00.0" for i in range(len(bars))]}
    return SHAPE | {"devices": [*SHAPE["devices"], *cards], "host": host} | changes


def real_qemu() -> tuple[str, tuple[int, int]]:
    """Give a QEMU that has phys-bits under software emulation, and its release; or skip."""
    program = shutil.which(os.environ.get("SERICIN_QEMU", "qemu-system-x86_64"))
    if program is None:
        pytest.skip("no qemu-system-x86_64: apt-get install qemu-system-x86, or name one in SERICIN_QEMU")
    text = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"version (\d+)\.(\d+)", text)
    assert found is not None
    return program, (int(found[1]), int(found[2]))


def of_release(release: tuple[int, int], document: dict[str, Any] = SHAPE) -> Any:
    """Give a shape that this release could launch, were it new enough for TDX."""
    return replace(shape(document), qemu=release, machine_type=min(release, (9, 2)) if release > (8, 0) else release)


def test_a_real_qemu_makes_tables_that_depend_on_the_shape() -> None:
    program, release = real_qemu()
    base = acpi_digests(of_release(release), program=program)
    assert base == acpi_digests(of_release(release), program=program)
    assert len({base.loader, base.rsdp, base.tables}) == 3
    for memory in (4096, 1 << 20):  # a machine of 1 TiB is measured on one that has less
        same = acpi_digests(of_release(release, bent(SHAPE, "memory_mib", memory)), program=program)
        assert same == base  # from 2 GiB on, memory is in the TD HOB and not in the tables
    for other in (
        bent(SHAPE, "vcpus", 5),
        bent(SHAPE, "devices/9", ...) | {"host": SHAPE["host"] | {"vsock_cid": None}},
    ):
        found = acpi_digests(of_release(release, other), program=program)
        assert found.tables != base.tables


def test_a_gpus_tables_name_the_whole_window_and_nothing_of_its_bars() -> None:
    program, release = real_qemu()

    def tables(document: dict[str, Any]) -> bytes:
        return acpi_digests(of_release(release, document), program=program).tables

    one = tables(with_gpus(131072))
    assert one == tables(with_gpus(16384))
    others = [tables(with_gpus(131072, 131072)), tables(with_gpus(131072, mmio64_mib=262144)), tables(SHAPE)]
    assert len({one, *others}) == 4
    assert tables(with_gpus(131072, mmio64_mib=262144)) == tables(with_gpus(65536, mmio64_mib=262144))


@pytest.mark.parametrize("document", [SHAPE, with_gpus(131072, 65536, mmio64_mib=262144)], ids=["no GPU", "GPUs"])
def test_devices_are_the_launchers(document: dict[str, Any]) -> None:
    """What moves a table comes from the one list: stand-ins are only behind it."""
    words = arguments(shape(document))
    every = [json.loads(words[i + 1]) for i, word in enumerate(words) if word == "-device"]
    mine = [device for device in every if device["driver"] != "pci-testdev"]
    cards = [(device["bus"], device["addr"], device["membar"]) for device in every if device not in mine]
    assert cards == [
        (f"port{i}", "0x0", gpu.bar_mib << 20) for i, gpu in enumerate(shape(document).gpus) if gpu.bar_mib
    ]
    placed = qemu.devices(shape(document))
    window = qemu.window(shape(document))
    assert any(words[i : i + len(window)] == window for i in range(len(words)))
    assert [(d["id"], d["addr"]) for d in mine] == [(p.id, p.options["addr"]) for p in placed]
    assert [d["driver"] for d in mine if d["id"] != "vsock"] == [p.driver for p in placed if p.device.type != "vsock"]
    assert words[words.index("-machine") + 1] == qemu.machine(shape(document), memory="mem0")
    assert words[words.index("-smp") + 1] == qemu.processors(shape(document))


@pytest.mark.parametrize(("bits", "base"), [(46, 0x380000000000), (52, 0x380000000000), (45, 0x1C0000000000)])
def test_the_window_is_where_the_firmware_puts_it(bits: int, base: int) -> None:
    assert window_base(shape(bent(SHAPE, "phys_bits", bits))) == base


@pytest.mark.parametrize(
    ("mmio64", "memory", "base"),
    [
        (262144, 2048, 256 << 30), (262144, 98304, 256 << 30), (262144, 262144, 512 << 30), (1024, 2048, 4 << 30),
        (1024, 4096, 6 << 30), (3072, 4096, 6 << 30), (4096, 4096, 8 << 30), (1025, 2816, 6 << 30),
        (1025, 2815, 4 << 30),
    ],
)  # fmt: skip
def test_a_window_that_the_shape_asks_for_is_above_its_memory(mmio64: int, memory: int, base: int) -> None:
    assert window_base(shape(SHAPE | {"mmio64_mib": mmio64, "memory_mib": memory})) == base


@pytest.mark.parametrize(
    "document",
    [
        bent(bent(SHAPE, "machine", "emulated"), "host/quote_socket", None),
        bent(SHAPE, "phys_bits", 40),
        SHAPE | {"phys_bits": 41, "mmio64_mib": 1 << 21},
        with_gpus(131072, mmio64_mib=131072),
        with_gpus(131072, 131072, phys_bits=41),
    ],
    ids=["emulated", "a width that firmware does not believe", "no room", "a BAR too large", "BARs too large"],
)
def test_what_is_not_established_is_refused(document: dict[str, Any]) -> None:
    with pytest.raises(UsageFault, match="ACPI digests"):
        acpi_digests(shape(document), program="true")


def program(folder: Path, body: str, version: str = "QEMU emulator version 10.1.2") -> str:
    path = folder / "qemu"
    path.write_text(f'#!/bin/sh\nif [ "$1" = --version ]; then echo "{version}"; exit; fi\n{body}\n')
    path.chmod(0o755)
    return str(path)


# A QEMU that answers as one does: memory, and files behind the DMA port. It goes wrong where its argument says.
SERVER = """
import struct, sys
wrong = "WRONG"
blobs = {0x20: ("etc/table-loader", b"l" * 64), 0x21: ("etc/acpi/rsdp", b"r" * 20)}
blobs[0x22] = ("etc/acpi/tables", b"t" * 999)
if wrong == "no tables":
    del blobs[0x22]
if wrong == "an empty file":
    blobs[0x21] = ("etc/acpi/rsdp", b"")
sizes = {key: 1 << 30 if wrong == "a huge file" and key == 0x22 else len(data) for key, (_, data) in blobs.items()}
rows = b"".join(struct.pack(">IHxx56s", sizes[key], key, name.encode()) for key, (name, _) in blobs.items())
blobs[0x19] = ("", struct.pack(">I", len(blobs)) + rows)
memory, high, count = bytearray(1 << 21), 0, 0
for line in sys.stdin:
    words, answer, count = line.split(), "OK", count + 1
    if words[0] == "write":
        data = bytes.fromhex(words[3][2:])
        memory[int(words[1], 16) : int(words[1], 16) + len(data)] = data
    elif words[0] == "read":
        at = int(words[1], 16)
        answer = "OK 0x" + memory[at : at + int(words[2])].hex()
    elif int(words[1], 16) == 0x518:
        at = int.from_bytes(int(words[2], 16).to_bytes(4, "little"), "big")
        control, size, address = struct.unpack_from(">IIQ", memory, at)
        data = blobs[control >> 16][1][:size]
        memory[address : address + size] = data.ljust(size, b"\\0")
        memory[at : at + 4] = struct.pack(">I", 1 if wrong == "a failed transfer" and control >> 16 == 0x22 else 0)
    if wrong == "a refused register" and count == 6:
        answer = "FAIL Unknown"
    print(answer, flush=True)
"""


def server(folder: Path, wrong: str = "") -> str:
    (folder / "server.py").write_text(SERVER.replace("WRONG", wrong))
    return program(folder, f"exec {sys.executable} {folder / 'server.py'}")


def test_the_files_behind_the_port_are_hashed(tmp_path: Path) -> None:
    found = acpi_digests(shape(), program=server(tmp_path))
    assert found.loader == sha384(b"l" * 64).digest()
    assert found.rsdp == sha384(b"r" * 20).digest()
    assert found.tables == sha384(b"t" * 999).digest()


@pytest.mark.parametrize(
    "wrong", ["no tables", "an empty file", "a huge file", "a failed transfer", "a refused register"]
)
def test_one_thing_wrong_and_there_are_no_digests(wrong: str, tmp_path: Path) -> None:
    with pytest.raises(UsageFault):
        acpi_digests(shape(), program=server(tmp_path, wrong))


FAKES = {
    "ends at once": "exit 1",
    "says why it cannot": "echo cannot do that >&2; exit 1",
    "answers nothing": "exec 1>&-; sleep 20",
    "fails": "while read l; do echo FAIL; done",
    "answers without data": "while read l; do echo OK; done",
    "answers no hex": "while read l; do echo OK 0xzz; done",
    "says that the transfer failed": "while read l; do echo OK 0x01000000; done",
    "has no files": "while read l; do echo OK 0x00000000; done",
    "never ends a line": "yes | tr -d '\\n'",
}


@pytest.mark.parametrize("body", FAKES.values(), ids=FAKES.keys())
def test_a_program_that_is_no_qemu_is_refused(body: str, tmp_path: Path) -> None:
    with pytest.raises(UsageFault):
        acpi_digests(shape(), program=program(tmp_path, body))


def test_its_complaint_is_passed_on(tmp_path: Path) -> None:
    with pytest.raises(UsageFault, match="cannot do that"):
        acpi_digests(shape(), program=program(tmp_path, FAKES["says why it cannot"]))


def test_a_program_that_does_not_answer_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acpi_qtest, "SECONDS", 1)
    began = time.monotonic()
    with pytest.raises(UsageFault):
        acpi_digests(shape(), program=program(tmp_path, "exec sleep 30"))
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("version", ["QEMU emulator version 10.0.13", "QEMU emulator version 11.1.3", "something else"])
def test_another_release_makes_other_tables_and_is_refused(version: str, tmp_path: Path) -> None:
    with pytest.raises(UsageFault, match=r"10\.1|not a QEMU"):
        acpi_digests(shape(), program=program(tmp_path, "exit", version))


def test_a_missing_program_is_named() -> None:
    with pytest.raises(UsageFault, match="no such program"):
        acpi_digests(shape(), program="no-such-qemu")


def test_the_command_writes_what_measure_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = AcpiDigests(loader=b"\1" * 48, rsdp=b"\2" * 48, tables=b"\3" * 48)
    monkeypatch.setattr(measure, "acpi_digests", lambda _shape, **_: made)
    (tmp_path / "shape.json").write_text(json.dumps(SHAPE))
    words = ["acpi", "--shape", str(tmp_path / "shape.json"), "--qemu", "q"]
    (tmp_path / "acpi.json").write_text(CliRunner().invoke(command, [*words, "--json"]).stdout)
    assert read_acpi_file(tmp_path / "acpi.json", shape()) == made
    assert made.tables.hex() in CliRunner().invoke(command, words).stdout
