# SPDX-License-Identifier: Apache-2.0
"""The GPUs are judged again every ten minutes; from the first refusal on, nothing is served."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from enclave.seams import GpuEvidenceSource, GpuReport, GpuUnavailable
from enclave.service import GPU_CHECK_SECONDS
from tests.served import Served, served


class Bent:
    """The machine's GPUs, one thing about them changed from some moment on."""

    def __init__(self, source: GpuEvidenceSource) -> None:
        self.source = source
        self.bend: Any = lambda reports: reports
        self.asked = 0

    def collect(self, nonce: bytes) -> tuple[GpuReport, ...]:
        self.asked += 1
        return tuple(self.bend(self.source.collect(nonce)))

    def endorsements(self, reports: Sequence[GpuReport]) -> Any:
        return self.source.endorsements(reports)

    def ready(self) -> None:
        self.source.ready()


@pytest.fixture
def enclave(tmp_path: Path) -> Iterator[tuple[Served, Bent]]:
    with served(tmp_path, gpu={"mode": "simulated", "count": 1}) as running:
        gpus = Bent(running.booted.attester._gpus)
        running.booted.attester._gpus = gpus
        yield running, gpus


def tend(running: Served) -> None:
    running.do(running.service.tend())


def health(running: Served) -> int:
    try:
        with urlopen(running.service.targets["http"] + "/healthz", timeout=10) as answer:
            return int(answer.status)
    except HTTPError as e:
        return e.code


def happened(running: Served) -> list[str]:
    return [json.loads(line)["event"] for line in running.log.getvalue().splitlines()]


def test_gpus_in_order_are_judged_every_ten_minutes_and_serving_goes_on(enclave: tuple[Served, Bent]) -> None:
    running, gpus = enclave
    for _ in range(3):
        tend(running)
    assert gpus.asked == 0
    running.clock.forward(GPU_CHECK_SECONDS)
    tend(running)
    tend(running)
    assert gpus.asked == 1
    assert not running.service.failed.is_set()
    assert health(running) == 200


def refuse(_: object) -> Any:
    raise GpuUnavailable("NVML did not answer within 60 s")


def developer(reports: Sequence[GpuReport]) -> list[GpuReport]:
    return [replace(r, cc_state=r.cc_state | {"dev_tools": 1}) for r in reports]


def flipped(reports: Sequence[GpuReport]) -> list[GpuReport]:
    return [replace(r, report=r.report[:60] + bytes([r.report[60] ^ 1]) + r.report[61:]) for r in reports]


def of_another_device(reports: Sequence[GpuReport]) -> list[GpuReport]:
    from tests.gpu_cases import machine

    return [replace(r, chain=machine("spt", 1)[0].pem) for r in reports]


BENDS: dict[str, Any] = {
    "no answer": refuse, "developer tools on": developer, "a changed report": flipped,
    "another device": of_another_device, "no GPU any more": lambda _: [], "a bug": lambda _: 1 // 0,
}  # fmt: skip


@pytest.mark.parametrize("bend", BENDS.values(), ids=list(BENDS))
def test_the_first_refusal_ends_serving_for_good(enclave: tuple[Served, Bent], bend: Any) -> None:
    running, gpus = enclave
    gpus.bend = bend
    running.clock.forward(GPU_CHECK_SECONDS)
    try:
        tend(running)
    except ZeroDivisionError:
        assert bend is BENDS["a bug"]
    assert running.service.failed.is_set()
    assert "gpu_refused" in happened(running)
    assert health(running) == 503
    assert not running.floor.epochs.current.seal.live
    gpus.bend = lambda reports: reports
    running.clock.forward(2 * 3600)
    tend(running)
    assert running.service.failed.is_set()
    assert running.floor.epochs.current.number == 1


def test_a_process_whose_gpus_are_refused_ends_with_an_error(
    enclave: tuple[Served, Bent], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`sericin serve` stops the service and raises what the command turns into exit code 6."""
    from enclave.commands import serve

    running, _ = enclave
    done: list[str] = []

    class Failing:
        targets: ClassVar[dict[str, str]] = {}

        def __init__(self, _: object) -> None:
            self.failed = asyncio.Event()

        async def start(self) -> None:
            self.failed.set()

        async def stop(self) -> None:
            done.append("stopped")

    monkeypatch.setattr(serve, "Service", Failing)
    with pytest.raises(GpuUnavailable, match="no longer pass"):
        asyncio.run(serve._serve(running.booted))
    assert done == ["stopped"]
    assert GpuUnavailable in serve._UNUSABLE
