# SPDX-License-Identifier: Apache-2.0
"""Send what a plan says and see it happen: every transfer at most once, across crashes and lying servers.

1. what is under way from before is followed to its end, its very bytes sent again while they can still run
2. a new transfer is written to the outbox, on the disk, before it is sent
3. it has happened when the registry's proved heads say so; it can no longer happen when the wallet's proved sequence
   number has gone past it, or the chain's proved time past its end and what shards may be behind
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from attestation.errors import Refused

from ..errors import Unreachable, UsageFault
from ..ledger_file import KeyChain
from . import queries
from .amounts import gram
from .anchor_plan import Item, Plan, make_plan, require_machines
from .chain import ChainView
from .network import Network
from .outbox import Outbox, Pending
from .registry_view import RegistryView, view_registry
from .wallet import Wallet

VALID_SECONDS: Final = 120  # of the chain, that a transfer may wait to run
MAX_HEAD_AGE: Final = 60  # seconds: from an older block on, a transfer's time might be over before it is sent
MAX_EXPIRED: Final = 3  # transfers of one run that nobody took in time
SETTLE_SECONDS: Final = (
    30  # of the chain, by which a shard's blocks may reach the masterchain later than they were made
)
CONFIRM_SECONDS: Final = 200  # of the client's clock: longer than a transfer can still run
FLIGHT_SECONDS: Final = 45  # of the chain, from the wallet to the registry
POLL_SECONDS: Final = 1.5
SEND_TRIES: Final = 4
WALLET_RESERVE: Final = 20_000_000  # nanograms for the wallet's own fees of one transfer

Now = Callable[[], datetime]


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """Registry and wallet at one block, proved."""

    view: RegistryView
    wallet_seqno: int
    deployed: bool
    balance: int

    def reached(self, goals: Mapping[bytes, int]) -> bool:
        """Whether the registry knows every key of `goals` and its head is at least there."""
        enclaves = self.view.state.enclaves
        return all(key in enclaves and enclaves[key].seqno >= seqno for key, seqno in goals.items())


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What was done. `paid` is what the wallet has less than before, in nanograms."""

    done: tuple[Item, ...]
    resumed: dict[bytes, int]
    blocked: dict[bytes, str]
    paid: int
    view: RegistryView


class Publisher:
    """One run over one lite server. `step` is told what is going on."""

    def __init__(
        self,
        chain: ChainView,
        *,
        network: Network,
        wallet: Wallet,
        now: Now,
        step: Callable[[str], None],
        poll: float = POLL_SECONDS,
    ) -> None:
        self._chain = chain
        self._network = network
        self._wallet = wallet
        self._now = now
        self._step = step
        self._poll = poll

    async def look(self) -> Seen:
        """Read registry and wallet at the newest block. Raises Malformed, Untrusted, Refused or Unreachable."""
        view = await view_registry(self._chain, self._network.registry, now=self._now(), max_age=MAX_HEAD_AGE)
        address = self._wallet.address(view.global_id)
        account = (await self._chain.read(address, view.block)).proved.account
        return Seen(
            view=view,
            wallet_seqno=self._wallet.seqno(account),
            deployed=account is not None and account.code is not None,
            balance=0 if account is None else account.balance,
        )

    async def plan(self, chains: Mapping[bytes, KeyChain]) -> tuple[Plan, Seen]:
        """Say what would be sent, and send nothing."""
        seen = await self.look()
        require_machines(self._network, chains.values(), global_id=seen.view.global_id)
        return self._plan(chains, seen), seen

    def _plan(self, chains: Mapping[bytes, KeyChain], seen: Seen) -> Plan:
        return make_plan(chains, seen.view.state, self._network.registry, now=seen.view.gen_utime)

    async def run(self, chains: Mapping[bytes, KeyChain], outbox: Outbox) -> Report:
        """Send everything and wait until it is proved. Raises Unreachable when it is not: run again, and it goes on."""
        plan, seen = await self.plan(chains)
        before = seen.balance
        done: list[Item] = []
        resumed: dict[bytes, int] = {}
        pending = outbox.load()
        if pending is not None:  # 1
            if pending.registry != str(self._network.registry):
                raise UsageFault(f"a transfer to registry {pending.registry} is under way; finish that first")
            self._step("following the transfer of an earlier run")
            seen, happened = await self._follow(pending, outbox, seen=seen)
            resumed = pending.goals if happened else {}
            plan = self._plan(chains, seen)
        expired = 0
        while plan.items:
            chunk = plan.items[: self._wallet.capacity]
            pending = self._sign(chunk, seen)
            outbox.save(pending)  # 2
            self._step(f"sending {len(chunk)} of {len(plan.items)} messages")
            seen, happened = await self._follow(pending, outbox, seen=None)
            if happened:
                done += chunk
            else:
                expired += 1
            if expired == MAX_EXPIRED:
                raise Unreachable(
                    f"{expired} transfers ran out of time; is the network busy? Run the same command again"
                )
            plan = self._plan(chains, seen)
        paid = max(0, before - seen.balance)
        return Report(done=tuple(done), resumed=resumed, blocked=plan.blocked, paid=paid, view=seen.view)

    def _sign(self, chunk: Sequence[Item], seen: Seen) -> Pending:
        need = sum(item.message.value for item in chunk) + WALLET_RESERVE
        if seen.balance < need:
            address = self._wallet.address(seen.view.global_id)
            raise UsageFault(f"the wallet {address} has {gram(seen.balance)}; {gram(need)} are needed, most comes back")
        valid_until = seen.view.gen_utime + VALID_SECONDS
        boc = self._wallet.transfer(
            [item.message for item in chunk],
            seqno=seen.wallet_seqno,
            valid_until=valid_until,
            global_id=seen.view.global_id,
            deployed=seen.deployed,
        )
        return Pending(
            registry=str(self._network.registry),
            wallet_seqno=seen.wallet_seqno,
            valid_until=valid_until if seen.wallet_seqno else (1 << 32) - 1,
            boc=boc,
            goals={item.key: item.seqno for item in chunk},
        )

    async def _follow(self, pending: Pending, outbox: Outbox, *, seen: Seen | None) -> tuple[Seen, bool]:
        """Bring a transfer to its end: True when it happened, False when it no longer can."""
        end = asyncio.get_running_loop().time() + CONFIRM_SECONDS
        refusals, ran_at, said = 0, None, ""
        while True:
            if seen is not None:
                if seen.reached(pending.goals):  # 3
                    outbox.clear()
                    return seen, True
                if seen.wallet_seqno > pending.wallet_seqno:
                    ran_at = seen.view.gen_utime if ran_at is None else ran_at
                    if seen.view.gen_utime - ran_at > FLIGHT_SECONDS:
                        outbox.clear()
                        raise Refused(
                            "RegistryRejected", "anchor", want="heads that moved", got="a transfer that ran in vain"
                        )
                elif seen.view.gen_utime > pending.valid_until + SETTLE_SECONDS:
                    outbox.clear()
                    return seen, False
            if ran_at is None and refusals < SEND_TRIES:
                said = await self._send(pending)
                refusals = refusals + 1 if said else SEND_TRIES + 1
            if asyncio.get_running_loop().time() > end or refusals == SEND_TRIES:
                reason = f" ({said})" if said else ""
                raise Unreachable(f"not confirmed{reason}; run the same command again, it goes on from here")
            await asyncio.sleep(self._poll)
            seen = await self.look()

    async def _send(self, pending: Pending) -> str:
        """Send a transfer; give what a server that does not take it says. It may have run all the same."""
        try:
            status = queries.send_status(await self._chain.ask(queries.send_message(pending.boc)))
        except Unreachable as e:
            return str(e)
        return "" if status == 1 else f"status {status}"
