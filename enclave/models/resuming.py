# SPDX-License-Identifier: Apache-2.0
"""Answers: how does a large file come over a connection that breaks? By going on where it broke, and by its digest.

RFC 9110, sections 13.1.5 (If-Range) and 14 (Range). Nothing that the other side says of the file is believed but its
bytes, and those only when the SHA-256 over all of them is the one that was asked for; the same for what an earlier
process, ended in the middle, has left.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Callable
from io import BufferedRandom
from pathlib import Path

import httpx2

from .refusal import ModelRefused

RESUMES = 8  # connections in a row that may bring nothing before a download is given up
STALL = 60.0  # seconds without a byte after which a connection counts as broken
WHOLE = 1800.0  # seconds for everything
_PAUSE = 0.5  # seconds before the second try, doubled with each one that brings nothing
_REDIRECTS = 5
_LATER = {408, 429}  # the two client errors that waiting mends
_RANGE = re.compile(r"bytes ([0-9]{1,18})-[0-9]{1,18}/(?:[0-9]{1,18}|\*)")


class Resuming:
    """One download of `url` into a file: at most `most` bytes, of the given SHA-256."""

    def __init__(
        self, url: str, *, sha256: bytes, most: int, stall: float = STALL, whole: float = WHOLE, pause: float = _PAUSE
    ) -> None:
        self._url = url
        self._sha256 = sha256
        self._most = most
        self._stall = stall
        self._until = time.monotonic() + whole
        self._pause = pause
        self._etag = ""

    def fetch(self, path: Path, progress: Callable[[int], None]) -> None:
        """Make `path` the whole file; what an earlier call left there is gone on with.

        `progress` is told how many bytes are there, less those that are fetched anew. Raises ModelRefused: model_pull
        for a server that does not answer, and what has come stays in `path`; model_digest for another file, and
        nothing does.
        """
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            with os.fdopen(os.open(path, flags, 0o600), "r+b") as target:
                self._all(target, progress)
        except BaseException as error:
            if path.stat().st_size == 0 or (isinstance(error, ModelRefused) and error.code == "model_digest"):
                path.unlink()
            raise

    def _all(self, target: BufferedRandom, progress: Callable[[int], None]) -> None:
        earlier = target.seek(0, os.SEEK_END)
        progress(earlier)
        if earlier and self._is_whole(target):
            return
        limits = httpx2.Timeout(self._stall)
        with httpx2.Client(timeout=limits, follow_redirects=True, max_redirects=_REDIRECTS) as client:
            self._come(client, target, progress)
            if earlier and not self._is_whole(target):  # of another file, perhaps: once more without it
                self._restart(target, progress)
                self._come(client, target, progress)
        if not self._is_whole(target):
            raise ModelRefused("model_digest", f"the server has another file under {self._url.rsplit('/', 1)[-1]}")

    def _is_whole(self, target: BufferedRandom) -> bool:
        target.seek(0)
        return hashlib.file_digest(target, "sha256").digest() == self._sha256

    def _come(self, client: httpx2.Client, target: BufferedRandom, progress: Callable[[int], None]) -> None:
        """Fetch until the server says that this was all."""
        failures = 0
        while True:
            had = target.seek(0, os.SEEK_END)
            try:
                if self._go_on(client, target, progress):
                    return
            except httpx2.HTTPError:
                pass  # what has come is kept, and counts only by its digest
            failures = 0 if target.tell() > had else failures + 1
            if failures > RESUMES or time.monotonic() > self._until:
                raise ModelRefused("model_pull", f"the download broke {failures} times at byte {target.tell()}")
            time.sleep(self._pause * 2**failures if failures else 0.0)

    def _go_on(self, client: httpx2.Client, target: BufferedRandom, progress: Callable[[int], None]) -> bool:
        """Fetch from where `target` stands; true when the server says that this was all."""
        at = target.tell()
        headers = {"accept-encoding": "identity"}
        if at:
            # Without a strong validator a changed file shows in the digest alone.
            headers |= {"range": f"bytes={at}-"} | ({"if-range": self._etag} if self._etag else {})
        with client.stream("GET", self._url, headers=headers) as answer:
            if answer.status_code == httpx2.codes.PARTIAL_CONTENT:
                found = _RANGE.fullmatch(answer.headers.get("content-range", ""))
                if found is None or int(found[1]) != at:
                    self._restart(target, progress)
                    return False
            elif answer.status_code == httpx2.codes.OK:
                self._restart(target, progress)
            else:
                if answer.status_code == httpx2.codes.RANGE_NOT_SATISFIABLE:
                    self._restart(target, progress)
                elif answer.is_client_error and answer.status_code not in _LATER:
                    raise ModelRefused("model_pull", f"the server answers {answer.status_code}")
                return False
            etag = answer.headers.get("etag", "")
            self._etag = "" if etag.startswith("W/") else etag
            for portion in answer.iter_raw():
                if target.tell() + len(portion) > self._most:
                    raise ModelRefused("model_digest", f"more than {self._most} bytes came")
                target.write(portion)
                target.flush()  # a process that is killed now has fetched this
                progress(len(portion))
                if time.monotonic() > self._until:
                    return False
            return True

    def _restart(self, target: BufferedRandom, progress: Callable[[int], None]) -> None:
        progress(-target.tell())
        target.seek(0)
        target.truncate()
