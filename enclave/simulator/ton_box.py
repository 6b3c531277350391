# SPDX-License-Identifier: Apache-2.0
"""A TON in a box: accounts whose contracts really run, on a chain whose validators really sign.

    with TonMachine() as machine:
        box = TonBox(seed=secret, clock=lambda: int(time.time()), machine=machine)
        box.put(address, code=boc, data=boc, balance=10**9)      # an active account
        box.external(boc)                                        # as liteServer.sendMessage
        box.tick()                                               # a new block when the newest one is old

Every message that an account accepts is run to the end, with all that follow from it, and one block shows the result.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from pytoniq_core.boc.address import Address
from pytoniq_core.boc.builder import Builder
from pytoniq_core.boc.cell import Cell
from pytoniq_core.tlb.block import CurrencyCollection
from pytoniq_core.tlb.transaction import InternalMsgInfo, MessageAny

from .ton_cells import bag, end
from .ton_chain import TonChain, active_account
from .ton_machine import TonMachine

BLOCK_SECONDS: Final = 5  # at least so often somebody who asks gets a new block
KEY_BLOCK_EVERY: Final = 8
MAX_MESSAGES: Final = 1024  # that follow from one


class Rejected(Exception):
    """An external message that no account accepts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One message that was run: to whom, and how the contract ended."""

    address: bytes
    exit: int | None
    gas: int
    fees: int


class TonBox:
    """Accounts and their chain. Not for two threads at once. Without a `machine` accounts stay as they are put."""

    def __init__(self, *, seed: bytes, clock: Callable[[], int], machine: TonMachine | None) -> None:
        self._clock = clock
        self._machine = machine
        self._accounts: dict[bytes, Cell] = {}  # address -> ShardAccount
        self._lt = 0
        self.steps: list[Step] = []
        self._made_at = clock()  # time of the newest block
        self.chain = TonChain(seed=seed, now=self._made_at)

    def put(self, address: bytes, *, code: bytes, data: bytes, balance: int) -> None:
        """Place an active account of the basechain; it is there from the next block on."""
        account = active_account(address, code=code, data=data, balance=balance, now=self._clock())
        self._accounts[address] = _shard_account(Cell.one_from_boc(account))

    def fund(self, address: bytes, balance: int) -> None:
        """Give an account that has no code yet its balance."""
        builder = Builder().store_uint(1, 1).store_uint(0b100, 3).store_int(0, 8).store_bytes(address)
        builder.store_uint(1, 3).store_uint(1, 8).store_uint(1, 3).store_uint(1, 8).store_uint(0, 3)
        builder.store_uint(self._clock(), 32).store_uint(0, 1).store_uint(0, 64).store_coins(balance)
        self._accounts[address] = _shard_account(builder.store_uint(0, 1 + 2).end_cell())

    def external(self, boc: bytes) -> None:
        """Run an external message and everything that follows, and make a block. Raises Rejected."""
        try:
            cell = Cell.one_from_boc(boc)
            message = MessageAny.deserialize(cell.begin_parse())
            address = bytes(message.info.dest.hash_part)
        except Exception as e:
            raise Rejected(f"no message: {type(e).__name__}") from e
        if not message.is_external or address not in self._accounts:
            raise Rejected("not an external message to an account of the box")
        now = max(self._clock(), self._made_at)
        if not self._run(address, cell, now):
            raise Rejected("the account does not accept it")
        self.block()

    def send(self, source: bytes, to: bytes, body: bytes, *, value: int) -> int | None:
        """Run an internal message out of nowhere, `body` a bag of cells, and make a block; give the exit code."""
        info = InternalMsgInfo(
            ihr_disabled=True,
            bounce=True,
            bounced=False,
            src=Address((0, source)),
            dest=Address((0, to)),
            value=CurrencyCollection(value),
            ihr_fee=0,
            fwd_fee=0,
            created_lt=0,
            created_at=0,
        )
        message = MessageAny(info=info, init=None, body=Cell.one_from_boc(body))
        at = len(self.steps)
        self._run(to, message.serialize(), max(self._clock(), self._made_at))
        self.block()
        return self.steps[at].exit

    def _run(self, first: bytes, message: Cell, now: int) -> bool:
        waiting = deque([(first, message)])
        accepted = False
        if self._machine is None:
            raise Rejected("no virtual machine runs here")
        for _ in range(MAX_MESSAGES):
            if not waiting:
                break
            address, cell = waiting.popleft()
            self._lt += 1_000_000
            outcome = self._machine.run(self._accounts[address], cell, now=now, lt=self._lt)
            if outcome is None:
                return accepted
            accepted = True
            self._accounts[address] = outcome.account
            self.steps.append(Step(address=address, exit=outcome.exit, gas=outcome.gas, fees=outcome.fees))
            for out in outcome.messages:
                to = bytes(out.info.dest.hash_part) if out.is_internal else b""
                if to in self._accounts:  # what goes anywhere else leaves the box
                    waiting.append((to, out.serialize()))
        return accepted

    def block(self, *, key_block: bool | None = None) -> None:
        """Make a block of what the accounts are now; every eighth is a key block."""
        found = {(0, address): bag(cell.refs[0]) for address, cell in self._accounts.items()}
        key = (self.chain.head.seqno + 1) % KEY_BLOCK_EVERY == 0 if key_block is None else key_block
        self._made_at = max(self._clock(), self._made_at)
        self.chain.append(now=self._made_at, accounts=found, key_block=key)

    def tick(self) -> None:
        """Make a block when the newest one has grown old."""
        if self._clock() - self._made_at >= BLOCK_SECONDS:
            self.block()


def _shard_account(account: Cell) -> Cell:
    return end(Builder().store_ref(account).store_uint(0, 256 + 64))
