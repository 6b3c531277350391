# SPDX-License-Identifier: Apache-2.0
"""ACPI digests over QEMU's test interface: of a real QEMU where one is there, and of programs that lie."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from dataclasses import replace
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
    same = acpi_digests(of_release(release, bent(SHAPE, "memory_mib", 4096)), program=program)
    assert same == base  # from 2 GiB on, memory is in the TD HOB and not in the tables
    for other in (
        bent(SHAPE, "vcpus", 5),
        bent(SHAPE, "devices/9", ...) | {"host": SHAPE["host"] | {"vsock_cid": None}},
    ):
        found = acpi_digests(of_release(release, other), program=program)
        assert found.tables != base.tables


def test_devices_are_the_launchers() -> None:
    """What moves a table comes from the one list: stand-ins are only behind it."""
    words = arguments(shape())
    mine = [json.loads(words[i + 1]) for i, word in enumerate(words) if word == "-device"]
    placed = qemu.devices(shape())
    assert [(d["id"], d["addr"]) for d in mine] == [(p.id, p.options["addr"]) for p in placed]
    assert [d["driver"] for d in mine if d["id"] != "vsock"] == [p.driver for p in placed if p.device.type != "vsock"]
    assert words[words.index("-machine") + 1] == qemu.machine(shape(), memory="mem0")
    assert words[words.index("-smp") + 1] == qemu.processors(shape())


@pytest.mark.parametrize(("bits", "base"), [(46, 0x380000000000), (52, 0x380000000000), (45, 0x1C0000000000)])
def test_the_window_is_where_the_firmware_puts_it(bits: int, base: int) -> None:
    assert window_base(shape(bent(SHAPE, "phys_bits", bits))) == base


@pytest.mark.parametrize(
    "document",
    [
        bent(bent(SHAPE, "machine", "emulated"), "host/quote_socket", None),
        bent(bent(SHAPE, "devices", [*SHAPE["devices"], GPU]), "host/gpus", ["0000:41:00.0"]),
        bent(SHAPE, "phys_bits", 40),
        bent(SHAPE, "mmio64_mib", 262144),
    ],
    ids=["emulated", "a GPU", "a width that firmware does not believe", "a window of its own"],
)
def test_what_is_not_established_is_refused(document: dict[str, Any]) -> None:
    with pytest.raises(UsageFault, match="ACPI digests"):
        acpi_digests(shape(document), program="true")


def program(folder: Path, body: str, version: str = "QEMU emulator version 10.1.2") -> str:
    path = folder / "qemu"
    path.write_text(f'#!/bin/sh\nif [ "$1" = --version ]; then echo "{version}"; exit; fi\n{body}\n')
    path.chmod(0o755)
    return str(path)


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
