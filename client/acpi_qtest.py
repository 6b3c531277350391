# SPDX-License-Identifier: Apache-2.0
"""ACPI digests of a shape from a stock QEMU: no guest runs; its test interface is asked for what a firmware would read.

QEMU makes the three blobs anew when a firmware first reads them, from the devices and from what the firmware has set
up by then. So the few registers that EDK II sets are set here, and the blobs are read by DMA as it reads them (QEMU
docs/specs/fw_cfg.rst; edk2 OvmfPkg, PlatformPei and AcpiPlatformDxe).
"""

from __future__ import annotations

import json
import re
import shutil
import struct
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import sha384
from pathlib import Path
from typing import IO, Final

from attestation import qemu
from attestation.image import AcpiDigests
from attestation.shape import Shape
from attestation.tdx.measure_hob import low_memory

from .errors import UsageFault

FILES: Final = ("etc/table-loader", "etc/acpi/rsdp", "etc/acpi/tables")
MAX_BLOB: Final = 4 * 1024 * 1024  # 128 KiB in stock releases, which grow them by doubling
MAX_DIRECTORY: Final = 1024
SECONDS: Final = 60  # for the whole conversation; a second is usual
PHYS_BITS: Final = (41, 52)  # below 41 a firmware does not believe the width and keeps another window
_FOUR_GIB: Final = 1 << 32
_STAND_IN: Final = "virtio-rng-pci"  # for a vsock device, which needs a kernel module; the tables know slots, not kinds
_CARD: Final = "pci-testdev"  # for a GPU: a function behind its root port, with one BAR of any size
_VERSION: Final = re.compile(r"version (\d+)\.(\d+)")
_SCRATCH: Final = 0x100000  # guest memory that nothing else uses
_CONFIG_ADDRESS, _CONFIG_DATA, _DMA = 0xCF8, 0xCFC, 0x514
_DIRECTORY: Final = 0x19
_READ, _SELECT = 2, 8
_LPC: Final = 31 << 3


def window_base(shape: Shape) -> int:
    """Give where EDK II puts the 64-bit PCI window on an Intel processor.

    It is the last eighth of what it can address; where the shape says how large, the first place above all memory that
    is a multiple of that size's highest bit. Raises UsageFault for a shape for which this is not established.
    """
    if shape.machine != "tdx":
        raise UsageFault("ACPI digests are for a tdx shape: an emulated machine's TPM adds tables of its own")
    low, high = PHYS_BITS
    if not low <= shape.phys_bits <= high:
        raise UsageFault(f"ACPI digests need phys_bits from {low} to {high}")
    size, end = qemu.window_size(shape), 1 << min(shape.phys_bits, qemu.WIDEST)
    if shape.mmio64_mib is None:
        base = end - size
    else:
        step = 1 << (size.bit_length() - 1)
        base = -(-(_FOUR_GIB + shape.memory - low_memory(shape.memory)) // step) * step
    # The largest BAR is placed first, at the base: the tables begin there.
    if base + size > end or sum(gpu.bar_mib or 0 for gpu in shape.gpus) << 20 >= size:
        raise UsageFault("ACPI digests need a PCI window that holds the GPUs' BARs below the end of all addresses")
    return base


def acpi_digests(shape: Shape, *, program: str) -> AcpiDigests:
    """Give the digests of the ACPI blobs that `program`, a QEMU of the shape's release, makes for a shape.

    Raises UsageFault where the program is not there, is of another release, or does not answer.
    """
    base = window_base(shape)
    found = shutil.which(program)
    if found is None:
        raise UsageFault(f"{program}: no such program; the shape is for QEMU {shape.qemu[0]}.{shape.qemu[1]}")
    is_of = release(found)
    # A machine type keeps devices, not tables: releases make other tables for one and the same.
    if is_of != shape.qemu:
        raise UsageFault(f"{program} is QEMU {is_of[0]}.{is_of[1]}, the shape is for {shape.qemu[0]}.{shape.qemu[1]}")
    with session(found, shape) as machine:
        machine.set_up(shape, base)
        loader, rsdp, tables = (sha384(machine.file(name)).digest() for name in FILES)
    return AcpiDigests(loader=loader, rsdp=rsdp, tables=tables)


def release(program: str) -> tuple[int, int]:
    """Give the release of a QEMU program. Raises UsageFault for what is none."""
    try:
        said = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=SECONDS, check=True)
    except (OSError, subprocess.SubprocessError) as e:
        raise UsageFault(f"{program}: does not say its version: {type(e).__name__}") from None
    match = _VERSION.search(said.stdout)
    if match is None:
        raise UsageFault(f"{program}: not a QEMU")
    return int(match[1]), int(match[2])


def arguments(shape: Shape, *, firmware: Path | None = None) -> list[str]:
    """Give QEMU's options for a shape with stand-ins behind its devices, stopped before its first instruction.

    With `firmware`, a unified file, it runs: what it sets up can then be compared (scripts/compare-acpi).
    """
    # No guest touches it: an auditor's machine may have less than the shape.
    memory = {"qom-type": "memory-backend-ram", "id": "mem0", "size": shape.memory, "reserve": False}
    words = ["-S"] if firmware is None else ["-bios", str(firmware)]
    words += ["-accel", "tcg", "-qtest", "stdio", "-nodefaults", "-no-user-config", "-display", "none"]
    words += ["-vga", "none", "-serial", "none", "-parallel", "none", "-monitor", "none", "-qtest-log", "none"]
    words += ["-cpu", f"max,vendor=GenuineIntel,phys-bits={shape.phys_bits}"]
    words += ["-machine", qemu.machine(shape, memory="mem0"), "-smp", qemu.processors(shape)]
    words += ["-m", f"size={shape.memory_mib}M", "-object", json.dumps(memory), *qemu.window(shape)]
    for placed in qemu.devices(shape):
        options: dict[str, object] = {"driver": placed.driver, "id": placed.id, **placed.options}
        kind = placed.device.type
        if kind == "disk":
            node = {"driver": "null-co", "node-name": f"null-{placed.id}", "size": 1 << 20, "read-zeroes": True}
            words += ["-blockdev", json.dumps(node)]
            options["drive"] = node["node-name"]
        elif kind == "network":
            words += ["-netdev", "hubport,id=net0,hubid=0"]
            options["netdev"] = "net0"
        elif kind == "vsock":
            options["driver"] = _STAND_IN
        words += ["-device", json.dumps(options)]
        if kind == "gpu":
            card = {"driver": _CARD, "bus": placed.id, "addr": "0x0", "membar": (placed.device.bar_mib or 0) << 20}
            words += ["-device", json.dumps(card)]
    return words


class Session:
    """QEMU's test protocol: one line asked, one line answered."""

    def __init__(self, to: IO[bytes], back: IO[bytes]) -> None:
        self._to = to
        self._back = back
        self._directory: dict[str, tuple[int, int]] = {}  # name: (selector, size)

    def _ask(self, line: str) -> str:
        self._to.write(line.encode("ascii") + b"\n")
        self._to.flush()
        answer = self._back.readline(2 * MAX_BLOB + 64)
        if not answer.startswith(b"OK"):
            raise EOFError
        return answer[2:].strip().decode("ascii")

    def _write(self, at: int, data: bytes) -> None:
        self._ask(f"write {at:#x} {len(data)} 0x{data.hex()}")

    def read(self, at: int, size: int) -> bytes:
        """Read guest memory."""
        return bytes.fromhex(self._ask(f"read {at:#x} {size}").removeprefix("0x"))

    def _configure(self, device: int, register: int, value: int) -> None:
        """Write a configuration register of PCI bus 0."""
        self._ask(f"outl {_CONFIG_ADDRESS:#x} {0x80000000 | device << 8 | register:#x}")
        self._ask(f"outl {_CONFIG_DATA:#x} {value:#x}")

    def set_up(self, shape: Shape, base: int) -> None:
        """Set what the firmware sets: ECAM, ACPI registers, a 64-bit BAR at the base of the window."""
        self._configure(0, 0x60, 0xE0000001)
        self._configure(0, 0x64, 0)
        self._configure(_LPC, 0x40, 0x601)
        self._configure(_LPC, 0x44, 0x80)
        first = shape.devices[0].slot << 3
        self._configure(first, 0x20, base & 0xFFFFFFFF)
        self._configure(first, 0x24, base >> 32)
        self._configure(first, 0x04, 6)

    def _transfer(self, selector: int, size: int) -> bytes:
        """Read an item of fw_cfg by DMA."""
        control = selector << 16 | _SELECT | _READ
        self._write(_SCRATCH, struct.pack(">IIQ", control, size, _SCRATCH + 0x1000))
        for port, value in ((_DMA, 0), (_DMA + 4, _SCRATCH)):
            self._ask(f"outl {port:#x} {int.from_bytes(value.to_bytes(4, 'little'), 'big'):#x}")
        if self.read(_SCRATCH, 4) != bytes(4):
            raise EOFError
        return self.read(_SCRATCH + 0x1000, size)

    def file(self, name: str) -> bytes:
        """Give a file of fw_cfg. Raises UsageFault when QEMU has none of that name, or an unreasonable one."""
        if not self._directory:
            count = int.from_bytes(self._transfer(_DIRECTORY, 4), "big")
            rows = self._transfer(_DIRECTORY, 4 + 64 * min(count, MAX_DIRECTORY))[4:]
            for size, selector, text in struct.iter_unpack(">IHxx56s", rows):
                self._directory[text.rstrip(b"\0").decode("ascii", "replace")] = (selector, size)
        selector, size = self._directory.get(name, (0, 0))
        if not 0 < size <= MAX_BLOB:
            raise UsageFault(f"QEMU offers no {name} of 1 to {MAX_BLOB} bytes")
        return self._transfer(selector, size)


@contextmanager
def session(program: str, shape: Shape, *, firmware: Path | None = None) -> Iterator[Session]:
    """Start QEMU for one conversation; whatever happens, it is gone afterwards."""
    with tempfile.TemporaryFile() as complaints:
        process = subprocess.Popen(
            [program, *arguments(shape, firmware=firmware)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=complaints,
        )
        timer = threading.Timer(SECONDS, process.kill)
        timer.start()
        try:
            if process.stdin is None or process.stdout is None:
                raise UsageFault("QEMU: no pipe")
            yield Session(process.stdin, process.stdout)
        except (BrokenPipeError, EOFError, ValueError):
            complaints.seek(0)
            said = complaints.read(2000).decode("utf-8", "replace").strip().splitlines()
            raise UsageFault(f"{program}: {said[-1] if said else 'no answer'}") from None
        finally:
            timer.cancel()
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with suppress(BrokenPipeError):  # what was not sent any more
                        pipe.close()
