# SPDX-License-Identifier: Apache-2.0
"""The values that GPU evidence may have, and beside each every other: header bytes, fields of a kind, chips' names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import pytest

from attestation.errors import AttestationError
from attestation.gpu import appraise, binding, chip, opaque, spdm
from attestation.gpu.chip import CHIPS, chip_of
from attestation.gpu.opaque import GpuMode, OpaqueData, decode_opaque
from attestation.gpu.spdm import parse_report
from enclave.simulator.gpu_report import encode_opaque
from tests.gpu_cases import NONCE, machine

KINDS = ("gpu", "switch")


def device(kind: str) -> Any:
    return next(d for d in machine("ppcie", 1) if d.kind == kind)


def refused(work: Callable[[], object]) -> AttestationError:
    with pytest.raises(AttestationError) as e:
        work()
    return e.value


# ---- the header of a measurement block (DSP0274 1.1, table of the DMTF measurement specification)

FIRST_BLOCK = 45
PARTS = ("index", "specification", "size", "size", "value_type", "value_size", "value_size")
EVERY_HEADER_BYTE = [(at, part, byte) for at, part in enumerate(PARTS) for byte in range(256)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("block", [1, 2, 31])
def test_a_byte_of_a_blocks_header_has_one_value_of_256(kind: str, block: int) -> None:
    good = device(kind).report(NONCE)
    start = FIRST_BLOCK + (block - 1) * spdm.BLOCK_SIZE
    assert good[start : start + 7] == bytes([block, 1, 51, 0, 1, 48, 0])
    for at, part, byte in EVERY_HEADER_BYTE:
        bent = good[: start + at] + bytes([byte]) + good[start + at + 1 :]
        if bent == good:
            assert len(parse_report(bent, kind=kind).measurements) == spdm.BLOCKS[kind]
            continue
        e = refused(lambda bent=bent: parse_report(bent, kind=kind))  # type: ignore[misc]
        assert (e.code, e.where) == ("UnsupportedGpuReport", f"report.block[{block}].{part}")


@pytest.mark.parametrize("kind", ["cpu", "", "GPU"])
def test_a_report_of_no_known_kind_is_the_callers_bug(kind: str) -> None:
    with pytest.raises(ValueError, match=f"^not a kind of device: {kind}$"):
        parse_report(device("gpu").report(NONCE), kind=kind)


# ---- which fields of opaque data belong to which kind


def full(kind: str) -> dict[int, bytes]:
    """Give every field that a kind has of its own, a GPU's as of opaque data version 1."""
    more = {11: b"\xaa", 20: bytes(48), 21: b"\xaa", 22: bytes(144), 34: b"\1\0", 35: b"GB100\0", 36: b"\2\0"}
    return dict(device(kind).fields(NONCE).opaque) | (more if kind == "gpu" else {})


OWN = {"gpu": {3, 6, 11, 15, 17, 18, 20, 21, 22, 34, 35, 36}, "switch": {6, 22, 26}}


@pytest.mark.parametrize("kind", KINDS)
def test_a_field_of_a_kinds_own_is_not_unknown(kind: str) -> None:
    assert full(kind).keys() >= OWN[kind]
    found = decode_opaque(encode_opaque(tuple(full(kind).items())), kind=kind)
    assert found.unknown == ()
    assert found.mode is (GpuMode.PROTECTED_PCIE if kind == "gpu" else None)
    assert OWN["gpu"] == opaque._GPU_FIELDS
    assert OWN["switch"] == opaque._SWITCH_FIELDS


@pytest.mark.parametrize(
    ("kind", "stranger"), [("switch", n) for n in sorted(OWN["gpu"] - OWN["switch"])] + [("gpu", 26)]
)
def test_a_field_of_the_other_kind_is_unknown(kind: str, stranger: int) -> None:
    found = decode_opaque(encode_opaque((*full(kind).items(), (stranger, b"x"))), kind=kind)
    assert found.unknown == (stranger,)


@pytest.mark.parametrize("number", [11, 21])
def test_a_status_is_on_or_off_and_nothing_else(number: int) -> None:
    legacy = {n: value for n, value in full("gpu").items() if n not in (34, 36)}

    def decoded(byte: int) -> OpaqueData:
        return decode_opaque(encode_opaque(tuple((legacy | {number: bytes([byte])}).items())), kind="gpu")

    for byte in set(range(256)) - {0x55, 0xAA}:
        e = refused(lambda byte=byte: decoded(byte))  # type: ignore[misc]
        assert (e.code, e.where) == ("UnsupportedGpuReport", f"opaque.field[{number}]")
    on, off = (GpuMode.PROTECTED_PCIE, GpuMode.SINGLE) if number == 21 else (True, False)
    found = [d.mode if number == 21 else d.nvdec0_enabled for d in (decoded(0xAA), decoded(0x55))]
    assert found == [on, off]


def test_what_a_device_does_not_say_is_empty_or_none() -> None:
    silent = OpaqueData(vbios_version="1")
    assert {f.name: getattr(silent, f.name) for f in fields(silent)} == {
        "vbios_version": "1", "driver_version": "", "chip_sku": "", "project": "", "project_sku": "", "chip_info": "",
        "fwid": None, "nvdec0_enabled": None, "mode": None, "switch_pdis": frozenset(), "device_pdi": None,
        "gpu_pdis": frozenset(), "unknown": (),
    }  # fmt: skip
    assert [str(mode) for mode in GpuMode] == ["spt", "mpt", "ppcie"]


# ---- the names of a chip's certificates

NAMES = {
    "GH100": (
        "GH100 A01 GSP FMC LF", "GH100 A01 GSP BROM", "NVIDIA GH100 Provisioner ICA 1", "NVIDIA GH100 Identity",
        "NVIDIA Device Identity CA",
    ),
    "GB100": (
        "GB100 A99 GSP FMC LF", "GB100 A99 GSP BROM", "NVIDIA GB100 Provisioner ICA 99999", "NVIDIA GB100 Identity",
        "NVIDIA Device Identity CA",
    ),
    "LS10": (
        "LS_10 A01 FSP FMC LF", "LS_10 A01 FSP BROM", "NVIDIA LS_10 Provisioner ICA 1", "NVIDIA GH100 Identity",
        "NVIDIA Device Identity CA",
    ),
}  # fmt: skip
MISMATCH = "CertificateRoleMismatch"


@pytest.mark.parametrize("known", CHIPS, ids=lambda c: c.product)
def test_a_chip_is_a_device_of_its_own_kind_alone(known: chip.Chip) -> None:
    names = NAMES[known.product]
    assert chip_of(names, kind=known.kind, where="x") is known
    e = refused(lambda: chip_of(names, kind="switch" if known.kind == "gpu" else "gpu", where="x"))
    assert (e.code, e.where) == (MISMATCH, "x[0]")


@pytest.mark.parametrize("known", CHIPS, ids=lambda c: c.product)
@pytest.mark.parametrize("at", range(5))
def test_a_name_stands_in_its_own_place_with_nothing_around_it(known: chip.Chip, at: int) -> None:
    names = NAMES[known.product]
    for other in (f"{names[at]} ", f" {names[at]}", f"{names[at]}\n", names[at].upper() + "x", names[at - 1], ""):
        bent = (*names[:at], other, *names[at + 1 :])
        e = refused(lambda bent=bent: chip_of(bent, kind=known.kind, where="x"))  # type: ignore[misc]
        assert (e.code, e.where) == (MISMATCH, f"x[{at}]")


@pytest.mark.parametrize("known", CHIPS, ids=lambda c: c.product)
def test_a_name_too_few_or_too_many_is_the_callers_bug(known: chip.Chip) -> None:
    names = NAMES[known.product]
    for given in (names[:-1], (*names, names[-1])):
        with pytest.raises(ValueError, match="zip"):
            chip_of(given, kind=known.kind, where="x")


def test_a_chip_to_the_letter() -> None:
    assert [(c.product, c.architecture, c.kind, c.pdi_tag, c.fwid_oid) for c in CHIPS] == [
        ("GH100", "HOPPER", "gpu", 0x41, "2.23.133.5.4.1"),
        ("GB100", "BLACKWELL", "gpu", 0x41, "2.23.133.5.4.1.1"),
        ("LS10", "LS10", "switch", 0x50, "2.23.133.5.4.1"),
    ]
    assert (chip.COMPOSITE_DEVICE_ID, chip.DICE_TCB_INFO) == ("2.23.133.5.4.1", "2.23.133.5.4.1.1")
    assert {c.roles[-1] for c in CHIPS} == {chip._ROOT} == {"NVIDIA Device Identity CA"}


def test_every_name_that_a_module_gives_is_there() -> None:
    assert len(binding.__all__) == 7
    assert all(hasattr(binding, name) for name in binding.__all__)
    assert appraise.__all__ == ["GpuPolicy", "appraise_gpus"]
    assert all(hasattr(appraise, name) for name in appraise.__all__)
