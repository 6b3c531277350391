# SPDX-License-Identifier: Apache-2.0
"""What must a machine of this shape measure when it boots this image? Event by event, from bytes alone.

    prediction = predict(BootFiles(firmware=..., kernel=..., initrd=..., cmdline=...), shape, acpi=None)

gives MRTD and the events of RTMR0 to RTMR2. What cannot be known from what was given has no digest, and its register no
value: nothing is taken from the machine under test. RTMR3 is measure_runtime's.

A TD writes each event into one register. An emulated machine has no TDX: its firmware writes the same events to the
SHA-384 bank of a TPM, and the register of a PCR is the one that TDX firmware would take: PCR 1 and 7 RTMR0, PCR 2 to 6
RTMR1, PCR 8 to 15 RTMR2 (UEFI 2.10, 38.4.1). There separators come once per PCR, and the TD's first two events never.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha384
from typing import Final

from ..errors import Malformed
from ..image import AcpiDigests, Measurement
from ..shape import Shape
from ..wire import span
from . import measure_efi as efi
from .measure_firmware import Firmware
from .measure_hob import td_hob_digest
from .measure_kernel import authenticode, patched
from .measure_layout import Layout, layout_of

PREDICTED_REGISTERS: Final = 3
UNPATCHED_FROM: Final = (10, 0)  # QEMU that offers the kernel as shipped to a firmware that asks for it
TD_UNPATCHED_FROM: Final = (10, 2)  # QEMU that patches no kernel of a confidential machine
STUB_MEASURES_TD_FROM: Final = (6, 9)  # Linux whose stub measures into RTMR2 where there is no TPM
_VERSION: Final = re.compile(rb"([0-9]{1,3})\.([0-9]{1,4})[. +-]")


@dataclass(frozen=True, slots=True, kw_only=True)
class BootFiles:
    """What is booted: whole files, and the command line as its text."""

    firmware: bytes
    kernel: bytes
    initrd: bytes
    cmdline: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Predicted:
    """One event that must be measured, or is known to be measured with a digest that was not to be computed."""

    register: int  # 0 to 3
    type: int  # TCG event type
    name: str
    digest: bytes | None  # 48
    cause: str  # what a difference most likely comes from; or why there is no digest


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """Expected values of one image in one shape."""

    layout: str | None
    mr_td: bytes  # 48
    events: tuple[Predicted, ...]  # in the order of the log; registers interleave
    unknown: str | None  # why there are no events at all

    def of(self, register: int) -> tuple[Predicted, ...]:
        """Give the events of one register, in order."""
        return tuple(event for event in self.events if event.register == register)

    def rtmr(self, register: int) -> bytes | None:
        """Give the expected value of RTMR0 to RTMR2 (48 bytes), or None where it was not to be computed."""
        return extended(self.of(register)) if self.unknown is None else None

    def record(self, shape: Shape, acpi: AcpiDigests | None) -> Measurement | None:
        """Give what a manifest records of `shape`, or None where RTMR1 or RTMR2 was not to be computed."""
        rtmr1, rtmr2 = self.rtmr(1), self.rtmr(2)
        if rtmr1 is None or rtmr2 is None:
            return None
        return Measurement(
            shape_name=shape.name,
            shape_sha256=shape.digest,
            acpi=acpi,
            mr_td=self.mr_td,
            rtmr0=self.rtmr(0),
            rtmr1=rtmr1,
            rtmr2=rtmr2,
        )


def extended(events: tuple[Predicted, ...]) -> bytes | None:
    """Give the register after `events`, from 48 zero bytes; None when one of them has no digest."""
    value = bytes(48)
    for event in events:
        if event.digest is None:
            return None
        value = sha384(value + event.digest).digest()
    return value


def predict(files: BootFiles, shape: Shape, *, acpi: AcpiDigests | None) -> Prediction:
    """Give what `files` measure to in `shape`.

    `acpi` are the digests of the ACPI blobs for this very shape, made with a QEMU of the verifier's own; never those of
    a log. Raises Malformed(MalformedFirmware or MalformedImage).
    """
    firmware = Firmware.parse(files.firmware)
    layout = layout_of(files.firmware)
    unknown = _unknown(files, shape, layout)
    events = tuple(_events(files, shape, firmware, layout, acpi)) if layout is not None and unknown is None else ()
    mr_td = firmware.mr_td(single_pass=True)
    return Prediction(layout=layout.name if layout else None, mr_td=mr_td, events=events, unknown=unknown)


def kernel_version(kernel: bytes) -> tuple[int, int]:
    """Give the release that a Linux kernel names in its setup header. Raises Malformed(MalformedImage)."""
    what, code = "kernel.version", "MalformedImage"
    at = 0x200 + int.from_bytes(span(kernel, 0x20E, 2, what=what, code=code), "little")
    found = _VERSION.match(span(kernel, at, 16, what=what, code=code))
    if found is None:
        raise Malformed(code, what, want="a release such as 6.16.3", got="other text")
    return int(found[1]), int(found[2])


def served_kernel(files: BootFiles, shape: Shape, *, takes_unpatched: bool) -> bytes:
    """Give the kernel as the firmware of this shape gets it from QEMU, patched or as shipped."""
    oldest = TD_UNPATCHED_FROM if shape.machine == "tdx" else None
    if (takes_unpatched and shape.qemu >= UNPATCHED_FROM) or (oldest is not None and shape.qemu >= oldest):
        return files.kernel
    return patched(files.kernel, initrd_size=len(files.initrd), memory=shape.memory)


def _unknown(files: BootFiles, shape: Shape, layout: Layout | None) -> str | None:
    if layout is None:
        return "this firmware's order of events is not known: RTMR0 to RTMR2 are not computed"
    if shape.machine != "tdx":
        return None
    if not layout.tdx:
        return f"the order of events of {layout.name} inside a TD is not established"
    if kernel_version(files.kernel) < STUB_MEASURES_TD_FROM:
        return "a kernel before 6.9 measures neither command line nor initrd inside a TD"
    return None


def _events(
    files: BootFiles, shape: Shape, firmware: Firmware, layout: Layout, acpi: AcpiDigests | None
) -> Iterator[Predicted]:
    td = shape.machine == "tdx"
    if td:
        yield _event(0, efi.EV_EFI_HANDOFF_TABLES2, "TD HOB", td_hob_digest(firmware, shape.memory), _MEMORY)
        yield _event(0, efi.EV_EFI_PLATFORM_FIRMWARE_BLOB2, "variable store", firmware.cfv_digest(), _FIRMWARE)
    for vendor, name in efi.SECURE_BOOT_VARIABLES:
        data = layout.secure_boot if name == "SecureBoot" else b""
        digest = efi.variable_digest(vendor, name, data)
        yield _event(0, efi.EV_EFI_VARIABLE_DRIVER_CONFIG, name, digest, "keys enrolled in the variable store")
    yield _event(0, efi.EV_SEPARATOR, "separator", efi.SEPARATOR, _FIRMWARE)
    yield from _acpi(shape, layout, acpi)
    kernel = authenticode(served_kernel(files, shape, takes_unpatched=layout.kernel_as_shipped))
    yield _event(1, efi.EV_EFI_BOOT_SERVICES_APPLICATION, "kernel", kernel, _KERNEL)
    if layout.smbios:
        yield _event(0, efi.EV_EFI_HANDOFF_TABLES, "SMBIOS tables", None, "not predicted: QEMU and firmware make them")
    order = sha384(efi.boot_order(len(layout.boot_options))).digest()
    yield _event(0, efi.EV_EFI_VARIABLE_BOOT, "BootOrder", order, _FIRMWARE)
    for at, option in enumerate(layout.boot_options):
        yield _event(0, efi.EV_EFI_VARIABLE_BOOT, f"Boot{at:04X}", sha384(option).digest(), _FIRMWARE)
    yield _action(efi.CALLING_APPLICATION)
    for register in (1,) if td else (0, *(1,) * 5):
        yield _event(register, efi.EV_SEPARATOR, "separator", efi.SEPARATOR, _FIRMWARE)
    options = sha384(efi.load_options(files.cmdline, initrd_first=layout.initrd_first)).digest()
    yield _event(2, efi.EV_EVENT_TAG, "command line", options, _CMDLINE)
    yield _event(2, efi.EV_EVENT_TAG, "initrd", sha384(files.initrd).digest(), "another initrd")
    for text in efi.EXIT_BOOT_SERVICES:
        yield _action(text)


_MEMORY: Final = "another amount of memory, or other firmware metadata"
_FIRMWARE: Final = "another firmware or variable store"
_KERNEL: Final = "another kernel, or a QEMU release that patches it: then initrd size and memory enter too"
_CMDLINE: Final = "another command line, or firmware that names the initrd on its other side"
_ACPI: Final = "another QEMU release or machine type, vCPUs, devices, slots, physical address bits or PCI window"


def _acpi(shape: Shape, layout: Layout, acpi: AcpiDigests | None) -> Iterator[Predicted]:
    if not layout.acpi:
        return
    kind = efi.EV_PLATFORM_CONFIG_FLAGS
    if shape.machine != "tdx":
        why = "not predicted: an emulated machine's TPM adds tables of its own"
        for name in ("loader", "RSDP", "TPM log area", "tables"):
            yield _event(0, kind, f"ACPI {name}", None, why)
        return
    for name in ("loader", "rsdp", "tables"):
        digest = None if acpi is None else getattr(acpi, name)
        cause = "no ACPI digests were given (--qemu or --acpi)" if acpi is None else _ACPI
        yield _event(0, kind, f"ACPI {name}", digest, cause)


def _action(text: str) -> Predicted:
    return _event(1, efi.EV_EFI_ACTION, text, efi.action_digest(text), _FIRMWARE)


def _event(register: int, kind: int, name: str, digest: bytes | None, cause: str) -> Predicted:
    return Predicted(register=register, type=kind, name=name, digest=digest, cause=cause)
