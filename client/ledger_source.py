# SPDX-License-Identifier: Apache-2.0
"""Where a host's ledger is: a file, or an address from which it is fetched first. It is not believed by itself."""

from __future__ import annotations

import tempfile
import time
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import httpx2

from .errors import Unreachable, UsageFault
from .ton.network import Network

MAX_LEDGER: Final = 1 << 30  # bytes fetched: a million receipts
SILENCE_SECONDS: Final = 20.0
TOTAL_SECONDS: Final = 600.0
_LOCAL: Final = ("127.0.0.1", "::1", "localhost")


@contextmanager
def opened_ledger(given: str | None, network: Network) -> Iterator[Path]:
    """Give the file of the ledger that --ledger or the network file names. Raises UsageFault or Unreachable."""
    place = given or network.ledger
    if place is None:
        raise UsageFault('which ledger? Name it with --ledger, or as "ledger" in the network file')
    if "://" not in place:
        yield Path(place)
        return
    with tempfile.TemporaryDirectory(prefix="sericin-ledger-") as folder:
        path = Path(folder) / "ledger"
        _fetch(place, path)
        yield path


def _fetch(url: str, path: Path) -> None:
    """Fetch `url` into `path`: https, or http on this machine; bounded, no redirects, no credentials."""
    parts = urllib.parse.urlsplit(url)
    plain = parts.scheme == "http" and parts.hostname in _LOCAL
    if not (parts.scheme == "https" or plain) or not parts.hostname or parts.username or parts.fragment:
        raise UsageFault(f"{url}: want a file, or an https address")
    ends, size = time.monotonic() + TOTAL_SECONDS, 0
    try:
        with (
            path.open("wb") as file,
            httpx2.Client(timeout=SILENCE_SECONDS, follow_redirects=False, trust_env=False) as client,
            client.stream("GET", url, headers={"Accept-Encoding": "identity"}) as answer,
        ):
            if answer.status_code != 200 or answer.headers.get("Content-Encoding", "identity") != "identity":
                raise Unreachable(f"{url}: status {answer.status_code}")
            for portion in answer.iter_raw():
                size += len(portion)
                if size > MAX_LEDGER or time.monotonic() > ends:
                    raise Unreachable(f"{url}: more than {MAX_LEDGER} bytes, or not done after {TOTAL_SECONDS:.0f} s")
                file.write(portion)
    except httpx2.HTTPError as e:
        raise Unreachable(f"{url}: {type(e).__name__}") from None
    except OSError as e:
        raise UsageFault(f"{path}: {e.strerror}") from None
