# SPDX-License-Identifier: Apache-2.0
"""Quotes from the kernel: configfs-tsm (Linux, Documentation/ABI/testing/configfs-tsm), one entry per quote.

The kernel hands out whatever the host put into the buffer, so every quote is parsed and must hold our REPORTDATA.
"""

from __future__ import annotations

import errno
import os
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from attestation.errors import AttestationError
from attestation.tdx.quote import MAX_QUOTE, Quote

from .seams import QuoteUnavailable

REPORTS: Final = Path("/sys/kernel/config/tsm/report")
PROVIDER: Final = "tdx_guest"
REPORT_DATA_SIZE: Final = 64
ATTEMPTS: Final = 4
BUSY_SECONDS: Final = 10.0  # how long the host may own an earlier, timed-out request
_RETRY_SOON: Final = frozenset({errno.EINTR, errno.ETIMEDOUT, errno.EAGAIN})
_MEANINGS: Final = {
    errno.ENXIO: "no TDX quote provider is loaded (module tdx_guest)",
    errno.ENOENT: "configfs-tsm is not there: mount configfs and load tdx_guest",
    errno.EACCES: "this process may not ask for quotes",
    errno.EPERM: "this process may not ask for quotes",
    errno.EIO: "the host or the TDX module failed to make a quote",
    errno.EINVAL: "the kernel refused the request",
    errno.EFBIG: "the host claims a quote larger than the kernel allows",
    errno.EBUSY: "the host still owns an earlier request",
    errno.ETIMEDOUT: "the host did not answer in time",
}


class _Again(Exception):
    """This attempt gave nothing usable; another may."""

    def __init__(self, why: str, *, after: float = 0.0) -> None:
        super().__init__(why)
        self.after = after


class ConfigfsQuoteSource:
    """The QuoteSource seam over configfs-tsm. Collateral is not the guest's business: clients or a cache fetch it."""

    def __init__(self, root: Path = REPORTS, *, sleep: Callable[[float], None] = time.sleep) -> None:
        self._root = root
        self._sleep = sleep

    def quote(self, report_data: bytes) -> bytes:
        """Give a quote over `report_data` (64 bytes). Raises QuoteUnavailable after a bounded number of attempts."""
        if len(report_data) != REPORT_DATA_SIZE:
            raise ValueError("REPORTDATA has 64 bytes")
        why = ""
        for _ in range(ATTEMPTS):
            try:
                return self._attempt(report_data)
            except _Again as again:
                why = str(again)
                self._sleep(again.after)
        raise QuoteUnavailable(f"{why} ({ATTEMPTS} attempts)")

    def collateral(self, quote: bytes) -> bytes:  # noqa: ARG002 - the seam's
        """Give none."""
        return b""

    def _attempt(self, report_data: bytes) -> bytes:
        entry = self._root / f"sericin-{os.getpid()}-{secrets.token_hex(8)}"
        try:
            entry.mkdir(mode=0o700)
        except OSError as e:
            raise _unusable(e) from None
        try:
            return self._ask(entry, report_data)
        except OSError as e:
            if e.errno == errno.EBUSY:
                raise _Again(_MEANINGS[errno.EBUSY], after=BUSY_SECONDS) from None
            if e.errno in _RETRY_SOON:
                raise _Again(_MEANINGS.get(e.errno, "interrupted"), after=0.1) from None
            raise _unusable(e) from None
        finally:
            try:
                entry.rmdir()
            except OSError as e:
                if e.errno not in (errno.ENOENT, errno.EBUSY):
                    raise QuoteUnavailable(f"{entry}: cannot remove the entry ({e.strerror})") from None

    def _ask(self, entry: Path, report_data: bytes) -> bytes:
        before = _generation(entry)
        _write(entry / "inblob", report_data)
        if _generation(entry) != before + 1:
            raise _Again("somebody else wrote to our entry")
        quote = _read(entry / "outblob", MAX_QUOTE)
        provider = _read(entry / "provider", 64).decode("ascii", "replace").strip()
        if provider != PROVIDER:
            raise QuoteUnavailable(f"the quote provider is {provider[:40]!r}, not {PROVIDER}")
        if _generation(entry) != before + 1:
            raise _Again("the quote changed while it was read")
        return _require_ours(quote, report_data)


def _require_ours(quote: bytes, report_data: bytes) -> bytes:
    try:
        parsed = Quote.parse(quote)
    except AttestationError as e:
        raise _Again(f"the host returned no quote: {e}", after=1.0) from None
    if parsed.report.report_data != report_data:
        raise QuoteUnavailable("the host returned a quote over other data than ours")
    return parsed.raw  # hosts pad with zeros, and evidence holds exact bytes


def _generation(entry: Path) -> int:
    text = _read(entry / "generation", 32).decode("ascii", "replace").strip()
    if not text.isdigit():
        raise QuoteUnavailable("configfs-tsm gave no generation number")
    return int(text)


def _write(path: Path, data: bytes) -> None:
    """Write in one piece: the kernel takes no second one."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        if os.write(fd, data) != len(data):
            raise QuoteUnavailable(f"{path.name}: a short write")
    finally:
        os.close(fd)


def _read(path: Path, limit: int) -> bytes:
    """Read to the end, at most `limit` bytes."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        data = bytearray()
        while portion := os.read(fd, 4096):
            data += portion
            if len(data) > limit:
                raise QuoteUnavailable(f"{path.name}: more than {limit} bytes")
        return bytes(data)
    finally:
        os.close(fd)


def _unusable(error: OSError) -> QuoteUnavailable:
    meaning = _MEANINGS.get(error.errno or 0, error.strerror or "failed")
    return QuoteUnavailable(f"configfs-tsm: {meaning} (errno {error.errno})")
