# SPDX-License-Identifier: Apache-2.0
"""The NVML collector against a child that misbehaves, and the child against a driver that is played."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from enclave import gpu_child
from enclave.gpu import NvmlGpuSource
from enclave.seams import GpuUnavailable

STATE = {"cc_feature": 1, "dev_tools": 0, "environment": 2, "multi_gpu_mode": 0, "ready": 0}
NONCE = bytes(range(32))


def asked(answer: object) -> NvmlGpuSource:
    listed = answer.get("devices") if isinstance(answer, dict) else None
    count = len(listed) if isinstance(listed, list) else 0
    data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
    return NvmlGpuSource(ask=lambda _: data, present=lambda: count)


def device(**changes: Any) -> dict[str, Any]:
    return {"report": "aa" * 100, "chain": "bb" * 100, "cc_state": STATE} | changes


def test_what_the_child_collected_is_given() -> None:
    (found,) = asked({"devices": [device()]}).collect(NONCE)
    assert (found.kind, found.report, found.chain, found.cc_state) == ("gpu", b"\xaa" * 100, b"\xbb" * 100, STATE)


BAD: list[object] = [
    b"", b"[]", b"not json", {"devices": []}, {"devices": 7}, {"devices": [7]}, {"devices": [device()] * 17},
    {"devices": [device(report="zz")]}, {"devices": [device(report="")]}, {"devices": [device(report="aa" * 9000)]},
    {"devices": [device(chain="bb" * 6000)]}, {"devices": [device(cc_state={})]}, {"error": "NVML error 999: x"},
    {"devices": [device(cc_state=STATE | {"ready": "soon"})]},
]  # fmt: skip


@pytest.mark.parametrize("answer", BAD, ids=[str(b)[:40] for b in BAD])
def test_an_answer_of_another_form_is_refused(answer: object) -> None:
    with pytest.raises(GpuUnavailable):
        asked(answer).collect(NONCE)


def test_a_driver_that_hangs_ends_with_its_deadline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    slow = tmp_path / "python"
    slow.write_text("#!/bin/sh\nexec sleep 30\n")
    slow.chmod(0o755)
    monkeypatch.setattr("enclave.gpu.COLLECT_SECONDS", 0.3)
    monkeypatch.setattr("enclave.gpu.sys.executable", str(slow))
    with pytest.raises(GpuUnavailable, match="did not answer"):
        NvmlGpuSource().collect(NONCE)


def test_endorsements_lie_beside_the_image(tmp_path: Path) -> None:
    (tmp_path / "a.xml").write_bytes(b"rim")
    (tmp_path / "b.ocsp").write_bytes(b"ocsp")
    (tmp_path / "c.crl").write_bytes(b"crl")
    (tmp_path / "d.xml").write_bytes(bytes(600_000))
    found = NvmlGpuSource(endorsements=tmp_path, ask=lambda _: b"{}").endorsements(())
    assert (found.rims, found.ocsp, found.crls) == ((b"rim",), (b"ocsp",), (b"crl",))
    assert NvmlGpuSource(endorsements=tmp_path / "none", ask=lambda _: b"{}").endorsements(()).rims == ()


class Driver(ModuleType):
    """A played pynvml."""

    class NVMLError(Exception):
        """An error with its number."""

        def __init__(self, value: int) -> None:
            super().__init__(value)
            self.value = value

    def __init__(self, *, fails: dict[str, int] | None = None) -> None:
        super().__init__("pynvml")
        self.calls: list[str] = []
        self.fails = fails or {}
        self.made_ready = 0

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            self.calls.append(name)
            if name in self.fails:
                raise self.NVMLError(self.fails[name])
            return self._answer(name, arguments)

        return call

    def _answer(self, name: str, arguments: Sequence[Any]) -> Any:
        if name == "nvmlSystemGetConfComputeCapabilities":
            return SimpleNamespace(cpuCaps=2, gpusCaps=1)
        if name == "nvmlSystemGetConfComputeState":
            return SimpleNamespace(ccFeature=1, devToolsMode=0, environment=2)
        if name == "c_nvmlSystemConfComputeSettings_v1_t":
            import ctypes

            class Settings(ctypes.Structure):
                _fields_ = (("version", ctypes.c_uint), ("multiGpuMode", ctypes.c_uint))

            return Settings()
        if name == "nvmlDeviceGetConfComputeGpuAttestationReport":
            assert len(arguments[1]) == 32
            return SimpleNamespace(attestationReport=[0xAA] * 8192, attestationReportSize=100)
        if name == "nvmlDeviceGetConfComputeGpuCertificate":
            return SimpleNamespace(attestationCertChain=[0xBB] * 5120, attestationCertChainSize=200)
        if name == "nvmlSystemSetConfComputeGpusReadyState":
            self.made_ready = arguments[0]
        return {"nvmlDeviceGetCount": 2, "nvmlSystemGetConfComputeGpusReadyState": self.made_ready}.get(name, 0)


def child(driver: Driver, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    monkeypatch.setitem(sys.modules, "pynvml", driver)
    assert gpu_child.main(list(words)) == 0
    return json.loads(capsys.readouterr().out)


def test_the_child_collects_every_device(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    driver = Driver()
    answer = child(driver, monkeypatch, capsys, "collect", NONCE.hex())
    found = asked(answer).collect(NONCE)
    assert [len(d.report) for d in found] == [100, 100]
    assert found[0].cc_state["cc_feature"] == 1
    assert driver.calls[-1] == "nvmlShutdown"
    assert "nvmlSystemSetConfComputeGpusReadyState" not in driver.calls


def test_the_child_lets_the_gpus_work(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    driver = Driver()
    assert child(driver, monkeypatch, capsys, "ready") == {"ready": 1}


@pytest.mark.parametrize(
    ("name", "number", "words"),
    [
        ("nvmlInit", 12, "installed"),
        ("nvmlInit", 9, "not loaded"),
        ("nvmlSystemGetConfComputeState", 13, "too old"),
        ("nvmlDeviceGetConfComputeGpuAttestationReport", 3, "no confidential mode"),
        ("nvmlDeviceGetConfComputeGpuAttestationReport", 999, "999"),
        ("nvmlDeviceGetConfComputeGpuCertificate", 15, "fell off"),
    ],
)
def test_every_error_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, number: int, words: str
) -> None:
    answer = child(Driver(fails={name: number}), monkeypatch, capsys, "collect", NONCE.hex())
    with pytest.raises(GpuUnavailable, match=words):
        asked(answer).collect(NONCE)


def test_no_driver_here_is_said_plainly() -> None:
    """The real child with the real binding: this machine has no GPU, or one that is not in confidential mode."""
    pytest.importorskip("pynvml")
    with pytest.raises(GpuUnavailable, match="NVML"):
        NvmlGpuSource().collect(NONCE)
