# SPDX-License-Identifier: Apache-2.0
"""Quotes and RTMR3 of a real guest, against a kernel that is played: every way in which it can fail."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from hashlib import sha384
from pathlib import Path
from typing import Any

import pytest

from attestation import runtime_log
from attestation.tdx.quote import Quote
from enclave import tsm
from enclave.guest import open_guest
from enclave.rtmr import REGISTER, SysfsRuntimeLog
from enclave.seams import QuoteUnavailable
from enclave.simulator.machine import RealMachine, require_no_real_provider
from enclave.simulator.tdx_quote import QuotePlan, ReportPlan
from enclave.tsm import ATTEMPTS, ConfigfsQuoteSource
from tests.tdx_cases import authority

DATA = bytes(range(64))


def quote(data: bytes = DATA) -> bytes:
    return QuotePlan.of(authority(), ReportPlan(report_data=data)).sign()


class Kernel:
    """configfs-tsm as far as one entry goes: opened files are answered from here."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.generation = 0
        self.provider = b"tdx_guest\n"
        self.answer: Callable[[bytes], bytes] = quote
        self.errors: list[tuple[str, int]] = []  # (file, errno), each raised once
        self.extra_writes = 0
        self.generation_after_read = 0
        self.inblobs: list[bytes] = []
        monkeypatch.setattr(tsm, "_read", self.read)
        monkeypatch.setattr(tsm, "_write", self.write)

    def _fail(self, name: str) -> None:
        for entry in self.errors:
            if entry[0] == name:
                self.errors.remove(entry)
                raise OSError(entry[1], os.strerror(entry[1]))

    def read(self, path: Path, limit: int) -> bytes:
        self._fail(path.name)
        if path.name == "generation":
            return f"{self.generation}\n".encode()
        if path.name == "provider":
            return self.provider
        self.generation += self.generation_after_read
        data = self.answer(self.inblobs[-1])
        if len(data) > limit:
            raise QuoteUnavailable("too long")
        return data

    def write(self, path: Path, data: bytes) -> None:
        self._fail(path.name)
        self.inblobs.append(data)
        self.generation += 1 + self.extra_writes


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    return Kernel(monkeypatch)


@pytest.fixture
def slept() -> list[float]:
    return []


@pytest.fixture
def source(tmp_path: Path, slept: list[float]) -> Iterator[ConfigfsQuoteSource]:
    yield ConfigfsQuoteSource(tmp_path, sleep=slept.append)
    assert list(tmp_path.iterdir()) == [], "an entry was left behind"


def test_a_quote_over_our_data_is_given(source: ConfigfsQuoteSource, kernel: Kernel) -> None:
    assert source.quote(DATA) == quote_of(kernel)
    assert kernel.inblobs == [DATA]
    assert source.collateral(b"") == b""


def quote_of(kernel: Kernel) -> bytes:
    kernel.answer = lambda _: b""
    return LAST[-1]


LAST: list[bytes] = []


@pytest.fixture(autouse=True)
def _remember(kernel: Kernel) -> None:
    def answer(data: bytes) -> bytes:
        LAST.append(quote(data))
        return LAST[-1]

    kernel.answer = answer


def test_the_zeros_of_a_host_are_cut_off(source: ConfigfsQuoteSource, kernel: Kernel) -> None:
    kernel.answer = lambda data: quote(data) + bytes(8192 - len(quote(data)))
    given = source.quote(DATA)
    assert (Quote.parse(given).padding, Quote.parse(given).report.report_data) == (0, DATA)


@pytest.mark.parametrize("number", [errno.EINTR, errno.ETIMEDOUT, errno.EBUSY])
def test_what_passes_is_tried_again(
    source: ConfigfsQuoteSource, kernel: Kernel, slept: list[float], number: int
) -> None:
    kernel.errors = [("outblob", number), ("outblob", number)]
    assert source.quote(DATA) == LAST[-1]
    assert len(slept) == 2
    assert (slept[0] >= 10) is (number == errno.EBUSY)


@pytest.mark.parametrize(
    ("name", "number", "words"),
    [
        ("outblob", errno.EIO, "failed to make a quote"),
        ("outblob", errno.EINVAL, "refused the request"),
        ("outblob", errno.EFBIG, "larger than the kernel allows"),
        ("outblob", errno.ENXIO, "no TDX quote provider"),
        ("inblob", errno.EACCES, "may not ask"),
    ],
)
def test_what_does_not_pass_is_said(
    source: ConfigfsQuoteSource, kernel: Kernel, name: str, number: int, words: str
) -> None:
    kernel.errors = [(name, number)]
    with pytest.raises(QuoteUnavailable, match=words):
        source.quote(DATA)


def test_a_host_that_never_answers_ends(source: ConfigfsQuoteSource, kernel: Kernel) -> None:
    kernel.errors = [("outblob", errno.ETIMEDOUT)] * 99
    with pytest.raises(QuoteUnavailable, match=f"{ATTEMPTS} attempts"):
        source.quote(DATA)
    assert len(kernel.inblobs) == ATTEMPTS


@pytest.mark.parametrize("junk", [b"", b"x", bytes(5000)])
def test_junk_from_the_host_is_no_quote(source: ConfigfsQuoteSource, kernel: Kernel, junk: bytes) -> None:
    kernel.answer = lambda _: junk
    with pytest.raises(QuoteUnavailable, match="returned no quote"):
        source.quote(DATA)


def test_a_quote_over_other_data_is_refused(source: ConfigfsQuoteSource, kernel: Kernel) -> None:
    kernel.answer = lambda _: quote(bytes(64))
    with pytest.raises(QuoteUnavailable, match="other data"):
        source.quote(DATA)


def test_somebody_elses_write_is_noticed(source: ConfigfsQuoteSource, kernel: Kernel) -> None:
    kernel.extra_writes = 1
    with pytest.raises(QuoteUnavailable, match="somebody else"):
        source.quote(DATA)
    kernel.extra_writes, kernel.generation_after_read = 0, 1
    with pytest.raises(QuoteUnavailable, match="changed while it was read"):
        source.quote(DATA)


def test_another_provider_is_refused(source: ConfigfsQuoteSource, kernel: Kernel) -> None:
    kernel.provider = b"sev_guest\n"
    with pytest.raises(QuoteUnavailable, match="sev_guest"):
        source.quote(DATA)


def test_a_machine_without_the_tree_says_so(tmp_path: Path) -> None:
    with pytest.raises(QuoteUnavailable, match="configfs"):
        ConfigfsQuoteSource(tmp_path / "none", sleep=lambda _: None).quote(DATA)


def test_only_64_bytes_are_asked_for(source: ConfigfsQuoteSource) -> None:
    with pytest.raises(ValueError, match="64"):
        source.quote(bytes(63))


def test_real_files_are_read_and_written_whole(tmp_path: Path) -> None:
    import importlib

    real = importlib.reload(tsm)
    (tmp_path / "inblob").write_bytes(b"")
    real._write(tmp_path / "inblob", DATA)
    assert real._read(tmp_path / "inblob", 64) == DATA
    with pytest.raises(Exception, match="more than 63"):
        real._read(tmp_path / "inblob", 63)


# ---- RTMR3


class Register:
    """rtmr3:sha384 as the kernel keeps it."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, *, lies: bool = False) -> None:
        self.path = folder / REGISTER
        self.path.write_bytes(bytes(48))
        real = os.write

        def write(fd: int, data: bytes) -> int:
            if os.path.realpath(f"/proc/self/fd/{fd}") != str(self.path.resolve()):
                return real(fd, data)
            value = self.path.read_bytes()
            self.path.write_bytes(sha384((bytes(48) if lies else value) + data + (b"x" if lies else b"")).digest())
            return len(data)

        monkeypatch.setattr("enclave.rtmr.os.write", write)


def test_the_log_replays_to_the_register(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register = Register(tmp_path, monkeypatch)
    log = SysfsRuntimeLog(tmp_path)
    log.extend("image-id", bytes(32))
    log.extend("ready", bytes(32))
    log.close()
    assert runtime_log.replay(runtime_log.parse(log.bytes())) == register.path.read_bytes()
    with pytest.raises(RuntimeError, match="closed"):
        log.extend("late", b"")


def test_a_register_that_was_extended_before_is_refused(tmp_path: Path) -> None:
    (tmp_path / REGISTER).write_bytes(b"\1" * 48)
    with pytest.raises(QuoteUnavailable, match="extended before"):
        SysfsRuntimeLog(tmp_path)


def test_a_register_that_somebody_else_extends_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Register(tmp_path, monkeypatch, lies=True)
    log = SysfsRuntimeLog(tmp_path)
    with pytest.raises(QuoteUnavailable, match="somebody else"):
        log.extend("image-id", bytes(32))
    with pytest.raises(RuntimeError):
        log.extend("config", bytes(48))


@pytest.mark.parametrize("content", [None, b"", bytes(47), bytes(96)])
def test_a_kernel_without_the_register_is_refused(tmp_path: Path, content: Any) -> None:
    if content is not None:
        (tmp_path / REGISTER).write_bytes(content)
    with pytest.raises(QuoteUnavailable):
        SysfsRuntimeLog(tmp_path)


def test_a_guest_without_a_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(QuoteUnavailable, match="manifest"):
        open_guest(manifest=tmp_path / "manifest.json", event_log=tmp_path / "none")
    (tmp_path / "manifest.json").write_bytes(bytes(70_000))
    with pytest.raises(QuoteUnavailable, match="more than"):
        open_guest(manifest=tmp_path / "manifest.json", event_log=tmp_path / "none")


def test_nothing_is_simulated_where_a_real_provider_is(tmp_path: Path) -> None:
    require_no_real_provider((tmp_path / "none",))
    with pytest.raises(RealMachine, match="TDX guest"):
        require_no_real_provider((tmp_path,))
