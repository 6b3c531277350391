# SPDX-License-Identifier: Apache-2.0
"""The sealed answer of one run: engine events in, wire frames and the receipt's contents out. Sans I/O."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

from attestation.boot import BootMap, ModelRecord
from attestation.channel.response import CELL_CAPACITY, ResponseSealer
from attestation.exchange import (
    FINISH_CODES,
    ChoiceEnd,
    Delta,
    Item,
    SealedRefusal,
    Start,
    Usage,
    WholeObject,
    commit,
    params_digest,
    token_bytes,
)
from attestation.operator import Prices
from attestation.receipt import MACHINE_CODES, Receipt, Status

from .admission import Admitted
from .seams import EngineEvent, EventKind
from .session import Opened

GRID_SECONDS: Final = 0.05  # between two ticks
GRID_FRAMES: Final = 4  # frames of every tick, data or dummies
MAX_PENDING: Final = 1 << 20  # bytes of an answer that wait for the wire


class PendingFull(Exception):
    """The answer grows faster than it can leave."""


class OverMaximum(Exception):
    """One more token would cost more than the client's maximum total."""


@dataclass(frozen=True, slots=True)
class _Mark:
    """Where in the pending bytes an item ends, and the completion ids that it carries."""

    end: int
    ids: tuple[int, ...]


class Reply:
    """Turns events of one job into the answer. `flush` (or `tick`, for grid padding) gives the wire bytes."""

    def __init__(
        self, admitted: Admitted, *, record: ModelRecord, resp_nonce: bytes, prices: Prices | None, token_limit: int
    ) -> None:
        self._admitted = admitted
        self._record = record
        self._prices = prices
        self._token_limit = token_limit
        self.padding = admitted.opened.header.padding
        self._sealer = ResponseSealer(admitted.opened.schedule, resp_nonce=resp_nonce, padding=self.padding)
        self._preamble = self._sealer.preamble
        self._pending = bytearray()
        self._pushed = self._sealed = 0  # bytes of data items
        self._marks: deque[_Mark] = deque()
        self._start: Start | None = None
        self._finish = ""
        self._offered: dict[int, int] = {}  # completion ids by choice, pending ones too
        self._cut: set[int] = set()  # choices whose last tokens were left out
        self._ids: list[int] = []  # completion ids sealed so far
        self._reasoning = 0
        self.usage: Usage | None = None

    @property
    def started(self) -> bool:
        """Whether the engine has begun."""
        return self._start is not None

    @property
    def idle(self) -> bool:
        """Whether nothing waits for the wire."""
        return not self._pending

    def push(self, event: EngineEvent, *, wall_now: int) -> bool:
        """Take one event; True when the job should be cancelled because a limit is reached.

        Raises PendingFull, and OverMaximum before a token that the client would not pay for.
        """
        match event.kind:
            case EventKind.STARTED:
                start = Start(
                    created=wall_now, prompt_ids=event.tokens, params=event.params, cached_tokens=event.cached_tokens
                )
                self._require_affordable(start, 0)
                self._start = start
                self._put(start)
            case EventKind.DELTA:
                return self._delta(event)
            case EventKind.CHOICE_END:
                self._choice_end(event)
            case EventKind.FINISHED:
                self._reasoning = event.reasoning_tokens
                if event.detail:
                    self._put(WholeObject(event.detail))
                self.usage = self._usage(sum(self._offered.values()))
                self._put(self.usage)
            case EventKind.FAILED:
                raise ValueError("a failure is no part of an answer")
        return False

    def _delta(self, event: EngineEvent) -> bool:
        if self._start is None:
            raise ValueError("a delta before the start")
        offered = sum(self._offered.values()) + len(event.tokens)
        self._require_affordable(self._start, offered)
        count = self._offered.get(event.choice, 0)
        if count >= self._token_limit:
            self._cut.add(event.choice)
            return True  # generated after the limit and before the cancel: never sealed, never charged
        self._offered[event.choice] = count + len(event.tokens)
        delta = Delta(choice=event.choice, text=event.text.decode("utf-8"), ids=event.tokens, detail=event.detail)
        self._put(delta, event.tokens)
        return all(n >= self._token_limit for n in self._offered.values())

    def _choice_end(self, event: EngineEvent) -> None:
        full = self._offered.get(event.choice, 0) >= self._token_limit
        finish = "length" if event.choice in self._cut or (full and event.finish == "cancelled") else event.finish
        if event.choice == 0:
            self._finish = finish
        self._put(ChoiceEnd(choice=event.choice, finish=finish))

    def _require_affordable(self, start: Start, completion: int) -> None:
        most = self._admitted.body.maximum_total
        if most is None:
            return
        if self._price(len(start.prompt_ids), start.cached_tokens, completion) > most:
            raise OverMaximum

    def _price(self, prompt: int, cached: int, completion: int) -> int:
        return self._prices.total(prompt=prompt, cached=cached, completion=completion) if self._prices else 0

    def _put(self, item: Item, ids: tuple[int, ...] = ()) -> None:
        encoded = item.encode()
        if self._pending and len(self._pending) + len(encoded) > MAX_PENDING:
            raise PendingFull
        self._pending += encoded
        self._pushed += len(encoded)
        self._marks.append(_Mark(self._pushed, ids))

    def _take(self, most: int) -> bytes:
        data = bytes(self._pending[:most])
        del self._pending[:most]
        self._sealed += len(data)
        while self._marks and self._marks[0].end <= self._sealed:
            self._ids += self._marks.popleft().ids
        return data

    def opening(self) -> bytes:
        """Give resp_nonce, with which every answer begins; nothing from the second time on."""
        opening, self._preamble = self._preamble, b""
        return opening

    def flush(self) -> bytes:
        """Seal everything that waits: once for each engine step."""
        return self._sealer.data(self._take(len(self._pending))) if self._pending else b""

    def tick(self) -> bytes:
        """Seal exactly GRID_FRAMES frames: what waits, then dummies."""
        data = self._take(GRID_FRAMES * CELL_CAPACITY)
        frames = self._sealer.data(data) if data else b""
        missing = GRID_FRAMES - -(-len(data) // CELL_CAPACITY)
        return frames + b"".join(self._sealer.dummy() for _ in range(missing))

    def error(self, refusal: SealedRefusal) -> bytes:
        """Seal the error item."""
        return self._sealer.error(refusal.encode())

    def end(self, receipt: bytes | None) -> bytes:
        """Seal the receipt item, if there is one, and the final frame."""
        return (self._sealer.receipt(receipt) if receipt else b"") + self._sealer.final()

    def _usage(self, completion: int) -> Usage:
        start = self._start
        prompt, cached = (len(start.prompt_ids), start.cached_tokens) if start else (0, 0)
        return Usage(prompt=prompt, cached=cached, completion=completion, reasoning=min(self._reasoning, completion))

    def receipt(self, status: Status, *, boot: BootMap, wall_now: int, serial: int, previous: bytes) -> Receipt:
        """Give the receipt over everything sealed so far. Raises ValueError before the start."""
        if self._start is None:
            raise ValueError("no run, no receipt")
        opened, body = self._admitted.opened, self._admitted.body
        usage = self._usage(len(self._ids))
        charged = 0 if status is Status.FAILED else self._price(usage.prompt, usage.cached, usage.completion)
        finish = self._finish if status is Status.COMPLETE else "cancelled" if status is Status.ABORTED else ""
        return Receipt(
            epoch=opened.epoch.number,
            serial=serial,
            issued_at=wall_now,
            status=status,
            previous=previous,
            ciphertext=opened.ciphertext_hash,
            request=opened.commitment,
            response=self._sealer.commitment,
            tokens=commit(opened.schedule.salts.tokens, token_bytes((*self._start.prompt_ids, *self._ids))),
            transcript=self._sealer.transcript_hash,
            nonce=body.nonce,
            request_id=opened.header.request_id,
            boot=boot.digest,
            image=boot.image_id,
            model=self._record.digest,
            machine=MACHINE_CODES[boot.machine],
            prompt_tokens=usage.prompt,
            cached_tokens=usage.cached,
            completion_tokens=usage.completion,
            reasoning_tokens=usage.reasoning,
            params=params_digest(self._start.params),
            finish=FINISH_CODES[finish],
            price=charged,
            account=body.account or bytes(32),
        )


def refusal_wire(opened: Opened, no: SealedRefusal, *, resp_nonce: bytes, receipt: bytes | None) -> bytes:
    """Give the whole response that says no: resp_nonce, error, the earlier run's receipt if there is one, final."""
    sealer = ResponseSealer(opened.schedule, resp_nonce=resp_nonce, padding=opened.header.padding)
    wire = sealer.preamble + sealer.error(no.encode())
    return wire + (sealer.receipt(receipt) if receipt else b"") + sealer.final()
