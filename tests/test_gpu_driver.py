# SPDX-License-Identifier: Apache-2.0
"""The collector against a driver that is played: a shared object, loaded by NVIDIA's own binding in the real child."""

from __future__ import annotations

import shutil
import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from attestation.gpu.evidence import GpuDeviceEvidence, GpuEndorsementSet
from enclave.gate import gate_judge
from enclave.gpu import NvmlGpuSource, count_gpus
from enclave.seams import GpuReport, GpuUnavailable
from tests.forged import StoppedClock
from tests.gpu_cases import NONCE, NOW, anchor, machine, ocsp_responses, rims

SOURCE = Path(__file__).parent / "fake_nvml.c"


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compile the driver."""
    pytest.importorskip("pynvml")
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler here")
    folder = tmp_path_factory.mktemp("driver")
    command = [compiler, "-shared", "-fPIC", "-Wall", "-Werror", "-o", str(folder / "libnvidia-ml.so.1"), str(SOURCE)]
    subprocess.run(command, check=True)
    return folder


@pytest.fixture
def source(library: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> NvmlGpuSource:
    """Give a collector over the played driver, which has one GPU of the simulator's hierarchy."""
    device = machine("spt", 1)[0]
    (tmp_path / "report").write_bytes(device.report(NONCE))
    (tmp_path / "chain").write_bytes(device.pem)
    monkeypatch.setenv("LD_LIBRARY_PATH", str(library))
    monkeypatch.setenv("FAKE_NVML_REPORT", str(tmp_path / "report"))
    monkeypatch.setenv("FAKE_NVML_CHAIN", str(tmp_path / "chain"))
    monkeypatch.delenv("FAKE_NVML", raising=False)
    return NvmlGpuSource(present=lambda: 1)


def on_the_bus(folder: Path, *devices: str) -> Path:
    for number, device in enumerate(devices):
        slot = folder / f"0000:0{number}:00.0"
        slot.mkdir(parents=True)
        for name, value in zip(("vendor", "class"), device.split(), strict=True):
            (slot / name).write_text(value + "\n")
    return folder


def gated(reports: tuple[GpuReport, ...]) -> None:
    """Pass the boot gate, or raise."""
    judge = gate_judge(anchor(), count=1, clock=StoppedClock(datetime.fromtimestamp(NOW.timestamp(), UTC)))
    devices = [GpuDeviceEvidence(kind=r.kind, report=r.report, chain=r.chain, cc_state=r.cc_state) for r in reports]
    judge(devices, GpuEndorsementSet(rims=rims("GH100"), ocsp=ocsp_responses("spt", 1), crls=()), NONCE)


def test_a_gpu_in_order_passes_the_gate_and_is_made_ready(source: NvmlGpuSource) -> None:
    found = source.collect(NONCE)
    assert found[0].cc_state["cc_feature"] == 1
    gated(found)
    source.ready()


PLAYED = [
    ("no-driver", "driver is not loaded"),
    ("old-gpu", "no confidential mode, or it is off"),
    ("not-capable", "cannot do confidential computing: it takes Hopper"),
    ("cc-off", "the host sets the GPU's CC mode to on and resets it"),
    ("no-tdx", "start this virtual machine as a TDX guest"),
    ("developer", "developer tools are on"),
    ("simulation", "not a production one"),
    ("999", "999: the GPU is in a bad state: the host must reset it"),
    ("lost", "fell off the bus"),
    ("crash", "no answer"),
    ("report-size", "8193 bytes of a buffer of 8192"),
    ("chain-size", "5121 bytes of a buffer of 5120"),
    ("no-report", "0 bytes of a buffer"),
]


@pytest.mark.parametrize(("played", "words"), PLAYED, ids=[row[0] for row in PLAYED])
def test_a_gpu_out_of_order_is_refused_in_words_that_say_what_to_do(
    source: NvmlGpuSource, monkeypatch: pytest.MonkeyPatch, played: str, words: str
) -> None:
    monkeypatch.setenv("FAKE_NVML", played)
    with pytest.raises(GpuUnavailable, match=words):
        source.collect(NONCE)


@pytest.mark.parametrize("played", ["hang", "late"])
def test_a_driver_that_hangs_or_comes_late_takes_nobody_with_it(
    source: NvmlGpuSource, monkeypatch: pytest.MonkeyPatch, played: str
) -> None:
    """What comes after the deadline is never used, and the next request finds a fresh child."""
    monkeypatch.setenv("FAKE_NVML", played)
    monkeypatch.setattr("enclave.gpu.COLLECT_SECONDS", 0.5)
    began = time.monotonic()
    with pytest.raises(GpuUnavailable, match="did not answer"):
        source.collect(NONCE)
    assert time.monotonic() - began < 4
    monkeypatch.setattr("enclave.gpu.COLLECT_SECONDS", 60.0)
    monkeypatch.setenv("FAKE_NVML", "")
    assert len(source.collect(NONCE)) == 1


def test_another_multi_gpu_mode_than_the_report_says_does_not_pass_the_gate(
    source: NvmlGpuSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_NVML", "protected-pcie")
    with pytest.raises(GpuUnavailable, match="GpuModeRejected"):
        gated(source.collect(NONCE))


def test_ready_needs_permission(source: NvmlGpuSource, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_NVML", "not-root")
    with pytest.raises(GpuUnavailable, match="run as root"):
        source.ready()


@pytest.mark.usefixtures("source")
def test_a_gpu_that_nvml_does_not_list_is_missed() -> None:
    with pytest.raises(GpuUnavailable, match="2 NVIDIA GPUs, 1 gave evidence"):
        NvmlGpuSource(present=lambda: 2).collect(NONCE)


def test_the_inventory_counts_display_controllers_of_nvidia(tmp_path: Path) -> None:
    rows = ["0x10de 0x030200", "0x10de 0x030000", "0x10de 0x068000", "0x8086 0x030000", "0x10de 0x040300"]
    folder = on_the_bus(tmp_path, *rows)
    (folder / "gone").mkdir()
    assert count_gpus(folder) == 2
    assert count_gpus(tmp_path / "none") == 0
