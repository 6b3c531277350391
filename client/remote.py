# SPDX-License-Identifier: Apache-2.0
"""One enclave as a Python program uses it: verify, ask, or hand it to an OpenAI client (docs/python.md)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import httpx2

from attestation.exchange import Delta
from attestation.policy import Policy
from attestation.receipt import SignedReceipt

from .attested import TIMEOUT, Attested, Now, connector
from .dossier import dossier_bytes
from .errors import UsageFault
from .exchange import Run, RunRequest
from .memory import ReceiptMemory
from .openai_shapes import CHAT
from .questions import chat_body, choose_model
from .transport import AsyncSealedTransport, SealedTransport
from .upstream import Upstream


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Reply:
    """A complete answer whose receipt was checked. Has no repr: it holds the answer."""

    text: str
    finish: str  # "stop", "length" or "tool_calls"
    receipt: SignedReceipt
    confidential: bool  # computed from the roots that were used
    run: Run
    policy: bytes

    def dossier(self) -> bytes:
        """Give everything that an auditor needs, prompt and answer included. Raises UsageFault for too long a run."""
        return dossier_bytes(self.run, policy=self.policy)


class RemoteEnclave:
    """An enclave at TARGET under one policy. Use as a context manager.

    `policy` is the exact policy document; `now` gives the time that evidence is judged at (`client.wall_clock`).
    `receipts` is the file that remembers receipts, so that equivocation shows; None remembers while this object lives.
    A simulated machine is refused, whatever the policy says, unless `allow_unconfidential` is true. Where the enclave
    sends no collateral, it is fetched from Intel, or from the caching service at `pccs` (https).
    """

    def __init__(
        self,
        target: str,
        *,
        policy: bytes,
        now: Now,
        receipts: Path | None = None,
        allow_unconfidential: bool = False,
        timeout: float = TIMEOUT,
        pccs: str | None = None,
    ) -> None:
        self._document = policy
        self._now = now
        self._connect = connector(
            target,
            Policy.parse(policy),
            now=now,
            allow_unconfidential=allow_unconfidential,
            pccs=pccs,
            timeout=timeout,
        )
        self._memory = ReceiptMemory(receipts)
        self._upstream = self.upstream()

    def __enter__(self) -> Self:
        """Give itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    def close(self) -> None:
        """Close every idle connection and the memory of receipts."""
        self._upstream.close()
        self._memory.close()

    def verify(self) -> Attested:
        """Verify the enclave over a fresh nonce: its verdict, keys and models. Sends no byte of a prompt.

        Raises attestation.Malformed, Untrusted or Refused, and Unreachable.
        """
        attested = self._connect()
        self._upstream.give_back(attested)
        return attested

    def ask(
        self,
        prompt: str,
        *,
        model: str | None = None,
        max_tokens: int = 256,
        temperature: float | None = None,
        seed: int | None = None,
        on_text: Callable[[str], None] = lambda _: None,
    ) -> Reply:
        """Ask one question and give the whole answer; `on_text` gets each piece as it comes.

        Raises what `verify` raises; Untrusted when stream or receipt is false; Declined when the enclave says no;
        RunOutcomeUnknown when it cannot be known whether the question ran.
        """
        attested = self._upstream.attested()
        names = [record.name for record in attested.verified.boot.models]
        try:
            name = choose_model(names, model)
        except UsageFault:
            self._upstream.give_back(attested)
            raise
        body = chat_body(prompt, model=name, max_tokens=max_tokens, temperature=temperature, seed=seed)
        request = RunRequest(endpoint=CHAT, openai=json.dumps(body).encode(), model=name, stream=True)
        run = Run(attested, request, reattest=self._connect, now=self._now, memory=self._memory)
        for text in _texts(self._upstream, run):
            on_text(text)
        if run.receipt is None:
            raise RuntimeError("a run that ended has a receipt")
        return Reply(
            text=run.answer.text(),
            finish=run.answer.finishes.get(0, ""),
            receipt=run.receipt,
            confidential=run.attested.verdict.confidential,
            run=run,
            policy=self._document,
        )

    def upstream(self) -> Upstream:
        """Give a pool of verified connections of its own: what a transport or a proxy asks through."""
        return Upstream(self._connect, now=self._now, memory=self._memory)

    def http_client(self) -> httpx2.Client:
        """Give an HTTP client for `openai.OpenAI(http_client=..., base_url=client.BASE_URL)`."""
        return httpx2.Client(transport=SealedTransport(self.upstream()))

    def async_http_client(self) -> httpx2.AsyncClient:
        """Give an HTTP client for `openai.AsyncOpenAI(http_client=..., base_url=client.BASE_URL)`, under asyncio."""
        return httpx2.AsyncClient(transport=AsyncSealedTransport(self.upstream()))


def _texts(upstream: Upstream, run: Run) -> Iterator[str]:
    for item in upstream.items(run):
        if isinstance(item, Delta) and item.text:
            yield item.text
