# SPDX-License-Identifier: Apache-2.0
"""Predictions: equal to what real firmware wrote into a TPM, to known digests, and silent about what is not known."""

from __future__ import annotations

import json
from dataclasses import replace
from hashlib import sha384
from pathlib import Path
from typing import Any

import pytest

from attestation.image import AcpiDigests
from attestation.tdx import measure, measure_efi, measure_layout
from attestation.tdx.measure import BootFiles, Prediction, predict, served_kernel
from attestation.tdx.measure_kernel import authenticode
from attestation.tdx.measure_layout import Layout, layout_of
from tests.firmware_forms import Build
from tests.image_forms import SHAPE, bent, shape
from tests.kernel_forms import Kernel

BOOTS = json.loads((Path(__file__).parent / "vectors" / "measured-boots.json").read_text())
FILES = BootFiles(firmware=Build().data(), kernel=Kernel().data(), initrd=b"initrd" * 99, cmdline=BOOTS["command_line"])
DEBIAN_13 = "14954040cc754ade0c625ac3470ea46d4c14318b5b1396de4ef77090203d76db"
ACPI = AcpiDigests(loader=b"\1" * 48, rsdp=b"\2" * 48, tables=b"\3" * 48)
EMULATED = bent(bent(SHAPE, "machine", "emulated"), "host/quote_socket", None)


def known(monkeypatch: pytest.MonkeyPatch, digest: str = DEBIAN_13, **changes: Any) -> Layout:
    """Take the small firmware for one whose layout is known."""
    layout = replace(measure_layout._LAYOUTS[digest], **changes)
    monkeypatch.setattr(measure, "layout_of", lambda _: layout)
    return layout


def with_qemu(document: dict[str, Any], release: str) -> dict[str, Any]:
    return bent(bent(document, "qemu", release), "machine_type", f"pc-q35-{release}")


@pytest.mark.parametrize("boot", BOOTS["boots"], ids=lambda boot: f"{boot['qemu']}-{boot['firmware_sha256'][:8]}")
def test_a_prediction_is_what_real_firmware_wrote(boot: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Nine boots of one kernel under software emulation: three QEMU releases, three firmware releases."""
    known(monkeypatch, boot["firmware_sha256"])
    emulated = shape(with_qemu(bent(EMULATED, "memory_mib", BOOTS["memory_mib"]), boot["qemu"]))
    # The kernel and initrd of those boots are not here, their digests are.
    shipped, by_qemu = BOOTS["kernel_as_shipped"], BOOTS["kernel_patched"]
    monkeypatch.setattr(
        measure, "authenticode", lambda kernel: bytes.fromhex(shipped if kernel == FILES.kernel else by_qemu)
    )
    prediction = predict(FILES, emulated, acpi=None)
    events = [
        (event.register, event.type, BOOTS["initrd_sha384"] if event.name == "initrd" else event.digest)
        for event in prediction.events
    ]
    assert len(events) == len(boot["events"])
    for mine, (register, kind, digest) in zip(events, boot["events"], strict=True):
        assert mine[:2] == (register, kind)
        value = mine[2].hex() if isinstance(mine[2], bytes) else mine[2]
        assert value in {None, digest}
    unknown = {event.name for event in prediction.events if event.digest is None}
    assert all(name.startswith(("ACPI", "SMBIOS")) for name in unknown)


def test_the_events_of_a_td(monkeypatch: pytest.MonkeyPatch) -> None:
    known(monkeypatch)
    prediction = predict(FILES, shape(), acpi=ACPI)
    short = [
        (event.register, event.name, event.digest.hex()[:8] if event.digest else "") for event in prediction.events
    ]
    hob, variables = short[0][2], sha384(FILES.firmware[:0x2000]).hexdigest()[:8]
    assert short == [
        (0, "TD HOB", hob),
        (0, "variable store", variables),
        (0, "SecureBoot", "9dc3a1f8"),
        (0, "PK", "6f2e3cbc"),
        (0, "KEK", "d607c0ef"),
        (0, "db", "08a74f89"),
        (0, "dbx", "18cc6e01"),
        (0, "separator", "394341b7"),
        (0, "ACPI loader", "01010101"),
        (0, "ACPI rsdp", "02020202"),
        (0, "ACPI tables", "03030303"),
        (1, "kernel", authenticode(FILES.kernel).hex()[:8]),
        (0, "BootOrder", "1dd6f7b4"),
        (0, "Boot0000", "23ada07f"),
        (1, "Calling EFI Application from Boot Option", "77a0dab2"),
        (1, "separator", "394341b7"),
        (2, "command line", "84d8bb0c"),
        (2, "initrd", sha384(FILES.initrd).hexdigest()[:8]),
        (1, "Exit Boot Services Invocation", "214b0bef"),
        (1, "Exit Boot Services Returned with Success", "0a2e01c8"),
    ]
    for register in range(3):
        value = bytes(48)
        for event in prediction.of(register):
            assert event.digest is not None
            value = sha384(value + event.digest).digest()
        assert prediction.rtmr(register) == value


def test_the_newer_boot_options_have_their_known_digests() -> None:
    options = measure_layout._LAYOUTS["6a3e8f438ad7269f5dfd884647587b88391fb23965bb3aa7902b519438dba129"].boot_options
    assert [sha384(option).hexdigest()[:8] for option in options] == ["5068e6a9", "dd424f2e"]
    assert sha384(measure_efi.boot_order(2)).hexdigest().startswith("52b9a02d")


def test_the_command_line_has_two_forms() -> None:
    suffix, prefix = (measure_efi.load_options("a b", initrd_first=first) for first in (False, True))
    assert suffix == "a b initrd=initrd\0".encode("utf-16-le")
    assert prefix == "initrd=initrd a b\0".encode("utf-16-le")


@pytest.mark.parametrize(
    ("machine", "release", "takes", "shipped"),
    [
        ("emulated", "7.2", True, False),
        ("emulated", "9.2", True, False),
        ("emulated", "10.0", True, True),
        ("emulated", "10.0", False, False),
        ("emulated", "11.1", False, False),
        ("tdx", "10.1", True, True),
        ("tdx", "10.1", False, False),
        ("tdx", "10.2", False, True),
    ],
)
def test_the_kernel_is_served_as_the_releases_do(machine: str, release: str, *, takes: bool, shipped: bool) -> None:
    document = SHAPE if machine == "tdx" else EMULATED
    served = served_kernel(FILES, shape(with_qemu(document, release)), takes_unpatched=takes)
    assert (served == FILES.kernel) is shipped


def moved(monkeypatch: pytest.MonkeyPatch, files: BootFiles = FILES, document: dict[str, Any] = SHAPE) -> list[int]:
    """Give the registers, MRTD as -1, that differ from those of the unchanged image in the unchanged shape."""
    known(monkeypatch)
    old, new = predict(FILES, shape(), acpi=ACPI), predict(files, shape(document), acpi=ACPI)
    return [r for r in range(-1, 3) if (old.mr_td != new.mr_td if r < 0 else old.rtmr(r) != new.rtmr(r))]


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


@pytest.mark.parametrize(
    ("field", "value", "registers"),
    [
        ("firmware", flipped(FILES.firmware, 0x2000), [-1]),
        ("firmware", flipped(FILES.firmware, 0), [0]),
        ("kernel", flipped(FILES.kernel, 0x800), [1]),
        ("initrd", FILES.initrd + b"\0", [2]),
        ("cmdline", FILES.cmdline + " ", [2]),
    ],
    ids=["firmware code", "variables", "kernel", "initrd", "command line"],
)
def test_one_changed_byte_moves_one_register(
    field: str, value: Any, registers: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert moved(monkeypatch, replace(FILES, **{field: value})) == registers


def test_memory_moves_the_memory_list_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert moved(monkeypatch, document=bent(SHAPE, "memory_mib", 4096)) == [0]
    # The tables do not come from here: whoever gives ACPI digests gives those of this shape.
    assert moved(monkeypatch, document=bent(SHAPE, "vcpus", 8)) == []


def test_without_acpi_digests_rtmr0_is_not_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    known(monkeypatch)
    prediction = predict(FILES, shape(), acpi=None)
    assert prediction.rtmr(0) is None
    assert prediction.rtmr(1) is not None
    assert [event.name for event in prediction.events if event.digest is None] == [
        "ACPI loader",
        "ACPI rsdp",
        "ACPI tables",
    ]


def test_acpi_digests_say_nothing_of_an_emulated_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    known(monkeypatch)
    assert predict(FILES, shape(EMULATED), acpi=ACPI).rtmr(0) is None


def _nothing(prediction: Prediction, words: str) -> None:
    assert prediction.unknown is not None
    assert words in prediction.unknown
    assert prediction.events == ()
    assert [prediction.rtmr(r) for r in range(3)] == [None] * 3
    assert len(prediction.mr_td) == 48


def test_an_unknown_firmware_has_mrtd_alone() -> None:
    assert layout_of(FILES.firmware) is None
    _nothing(predict(FILES, shape(), acpi=ACPI), "not known")


def test_an_order_that_is_not_established_inside_a_td_is_not_guessed(monkeypatch: pytest.MonkeyPatch) -> None:
    for digest, layout in measure_layout._LAYOUTS.items():
        known(monkeypatch, digest)
        prediction = predict(FILES, shape(), acpi=ACPI)
        if layout.tdx:
            assert prediction.unknown is None
        else:
            _nothing(prediction, "not established")
        assert predict(FILES, shape(EMULATED), acpi=None).unknown is None


@pytest.mark.parametrize(("release", "holds"), [(b"6.8.12 ", False), (b"6.9.0 ", True), (b"6.1.0-52", False)])
def test_a_kernel_that_measures_nothing_inside_a_td_is_said(
    release: bytes, *, holds: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    known(monkeypatch)
    prediction = predict(replace(FILES, kernel=Kernel(version=release).data()), shape(), acpi=ACPI)
    assert (prediction.unknown is None) is holds
    assert predict(replace(FILES, kernel=Kernel(version=release).data()), shape(EMULATED), acpi=None).unknown is None
