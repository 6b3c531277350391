# SPDX-License-Identifier: Apache-2.0
"""Verified connections to one enclave, kept while their evidence holds, each for one run at a time."""

from __future__ import annotations

import json
import secrets
import threading
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, Final

from attestation import strict_json
from attestation.errors import AttestationError
from attestation.exchange import Item

from .attested import Attested, Now
from .exchange import Run, RunRequest
from .memory import ReceiptMemory
from .openai_shapes import real_model

MAX_IDLE: Final = 8
MAX_BODY: Final = 8 * 1024 * 1024


class BadRequest(Exception):
    """The caller's request cannot be sent: a code and a field, never its value."""

    def __init__(self, code: str, field: str) -> None:
        super().__init__(code, field)
        self.code = code
        self.field = field


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Question:
    """A caller's request, read. Has no repr: it holds the prompt."""

    endpoint: str
    model: str
    stream: bool
    usage_wanted: bool
    body: bytes

    @classmethod
    def read(cls, endpoint: str, data: bytes) -> Question:
        """Read an OpenAI body. Raises BadRequest."""
        try:
            value = strict_json.loads(data, limit=MAX_BODY, what="body")
        except AttestationError:
            raise BadRequest("invalid_request", "body") from None
        if not isinstance(value, dict) or not isinstance(value.get("model"), str):
            raise BadRequest("invalid_request", "model")
        stream, options = value.get("stream"), value.get("stream_options")
        if stream not in (None, True, False):
            raise BadRequest("invalid_request", "stream")
        body: dict[str, Any] = value | {"model": real_model(str(value["model"]))}
        return cls(
            endpoint=endpoint,
            model=str(body["model"]),
            stream=stream is True,
            usage_wanted=isinstance(options, dict) and options.get("include_usage") is True,
            body=json.dumps(body).encode(),
        )


class Upstream:
    """One enclave behind a proxy or a transport. `connect` verifies it anew; nothing else opens a connection."""

    def __init__(self, connect: Callable[[], Attested], *, now: Now, memory: ReceiptMemory) -> None:
        self._connect = connect
        self._now = now
        self._memory = memory
        self._lock = threading.Lock()
        self._idle: list[Attested] = []
        self._tenant = secrets.token_bytes(32)  # runs of this process may share their prefix cache, and no others
        self._closed = False

    def attested(self) -> Attested:
        """Give a verified connection that nobody uses. Raises AttestationError or Unreachable."""
        with self._lock:
            while self._idle:
                kept = self._idle.pop()
                if kept.fresh(self._now()) and kept.connection.still_open:
                    return kept
                kept.connection.close()
        return self._connect()

    def give_back(self, attested: Attested) -> None:
        """Keep a connection whose last answer was read to its end."""
        with self._lock:
            if not self._closed and len(self._idle) < MAX_IDLE and attested.connection.reusable:
                self._idle.append(attested)
                return
        attested.connection.close()

    def run(self, question: Question) -> Run:
        """Prepare a run on a verified connection."""
        attested = self.attested()
        names = [model.name for model in attested.verified.boot.models]
        if question.model not in names:
            self.give_back(attested)
            raise BadRequest("model_unknown", "model")
        request = RunRequest(
            endpoint=question.endpoint,
            openai=question.body,
            model=question.model,
            stream=question.stream,
            tenant=self._tenant,
        )
        return Run(attested, request, reattest=self._connect, now=self._now, memory=self._memory)

    def items(self, run: Run) -> Generator[Item, None, None]:
        """Give the answer's items; afterwards the connection is kept or closed."""
        try:
            yield from run.items()
        except BaseException:
            run.attested.connection.close()
            raise
        self.give_back(run.attested)

    def close(self) -> None:
        """Close every idle connection."""
        with self._lock:
            self._closed = True
            for kept in self._idle:
                kept.connection.close()
            self._idle.clear()
