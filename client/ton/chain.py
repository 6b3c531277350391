# SPDX-License-Identifier: Apache-2.0
"""Follow a TON from a trusted block to its newest one over an untrusted lite server, and read accounts there.

1. every link from the trusted block on is verified, in one direction, each one going on
2. an account is what `attestation.ton.reading` proves at the block that the links end at
3. how old that block is, is said by its validators and compared with the client's clock
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final, TypeVar

from attestation.errors import AttestationError, Malformed, Refused, Untrusted
from attestation.ton.blockid import BlockId
from attestation.ton.links import BackLink, Link
from attestation.ton.reading import Proved, Reading, verify_reading
from attestation.ton.registry import Address
from attestation.ton.trustpath import MAX_LINKS, MAX_PATH, TrustPath

from ..errors import Unreachable
from . import queries
from .checkpoint import Checkpoint
from .liteserver import LiteServer
from .network import Network

JOB_SECONDS: Final = 300.0  # for everything that one command asks of one server
MAX_AGE: Final = 600  # seconds: an older newest block is no newest block
MAX_AHEAD: Final = 120  # seconds that validators' clocks may be ahead of the client's

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """An account at a block, proved, with the raw proofs."""

    reading: Reading
    proved: Proved


class ChainView:
    """What the user of `trusted` may believe, starting at `start`: a key block that was verified from there before."""

    def __init__(
        self,
        server: LiteServer,
        trusted: BlockId,
        *,
        start: BlockId | None = None,
        step: Callable[[str], None] | None = None,
    ) -> None:
        self._server = server
        self._trusted = trusted
        self._step = step
        self._head = self._key = start or trusted

    @property
    def key_block(self) -> BlockId:
        """The newest key block that was verified; where the next run may start."""
        return self._key

    async def ask(self, query: bytes) -> bytes:
        """Ask the lite server anything. Raises Unreachable."""
        return await self._server.ask(query)

    async def head(self) -> BlockId:
        """Go on to the newest block. Raises Malformed, Untrusted or Unreachable."""
        said = queries.masterchain_info(await self.ask(queries.get_masterchain_info()))
        if said == self._head:
            return said
        if said.seqno <= self._head.seqno:
            want = f"block {self._head.seqno} or a later one"
            raise Untrusted("TrustPathInvalid", "head", want=want, got=str(said))
        async for link in self._way(self._key, said):
            if link.to_key_block:
                self._key = link.target
        self._head = said
        return said

    async def _way(self, source: BlockId, target: BlockId) -> AsyncIterator[Link]:
        """Give the links from `source` to `target` one by one, each verified: forward ones, or one back."""
        at, backward = source, target.seqno < source.seqno
        while at != target:
            answer = queries.block_proof(await self.ask(queries.get_block_proof(at, target)))
            if not answer.links:
                raise Untrusted("TrustPathInvalid", "path", want=f"a link from {at.seqno}", got="none")
            for link in answer.links:
                _goes_on(link, at, target, backward=backward)
                link.verify()
                at = link.target
                yield link
            if self._step is not None and at != target:
                self._step(f"verified up to block {at.seqno} of {target.seqno}")
            await asyncio.sleep(0)  # verifying takes time that others may need

    async def trust_path(self, target: BlockId) -> TrustPath | None:
        """Give the way from the trusted block to `target`; None when it is that block itself.

        Raises Malformed, Untrusted or Unreachable.
        """
        links: list[Link] = []
        size = 0
        async for link in self._way(self._trusted, target):
            links.append(link)
            size += len(link.encode())
            if len(links) > MAX_LINKS or size > MAX_PATH:
                want = f"at most {MAX_LINKS} links and {MAX_PATH} bytes"
                raise Untrusted("TrustPathInvalid", "path", want=want, got="more; name a later init block")
        return TrustPath(links=tuple(links)) if links else None

    async def read(self, account: Address, block: BlockId) -> Read:
        """Read an account at `block`, which is known to be the chain's. Raises Malformed, Untrusted or Unreachable."""
        answer = await self.ask(queries.get_account_state(block, account))
        reading = queries.account_state(answer, block=block, account=account)
        return Read(reading=reading, proved=verify_reading(reading))

    async def newest(self, account: Address, *, now: datetime, max_age: int = MAX_AGE) -> Read:
        """Read an account at the newest block. Raises also Refused(RegistryStale) when that is old."""
        read = await self.read(account, await self.head())
        require_fresh(read.proved, now=now, max_age=max_age)
        return read

    async def earlier(self, account: Address, block: BlockId) -> Read:
        """Read an account at any block that the newest one leads back to. Raises Malformed, Untrusted, Unreachable."""
        head = await self.head()
        if block.seqno > head.seqno:
            raise Untrusted("TrustPathInvalid", "block", want=f"block {head.seqno} or an earlier one", got=str(block))
        async for _ in self._way(head, block):
            pass
        return await self.read(account, block)


def _goes_on(link: Link, at: BlockId, target: BlockId, *, backward: bool) -> None:
    if link.source != at:
        raise Untrusted("TrustPathInvalid", "path.from", want=str(at), got=str(link.source))
    if isinstance(link, BackLink) != backward:
        want = "a link back" if backward else "links forward; name a key block as init block"
        raise Untrusted("TrustPathInvalid", "path.direction", want=want, got="the other")
    beyond = link.target.seqno < target.seqno if backward else link.target.seqno > target.seqno
    if beyond or (backward and link.target != target):
        raise Untrusted("TrustPathInvalid", "path.to", want=f"no further than {target.seqno}", got=link.target.seqno)


def require_fresh(proved: Proved, *, now: datetime, max_age: int) -> None:
    """Require that a block is at most `max_age` seconds old at `now`. Raises Refused(RegistryStale)."""
    age = int(now.timestamp()) - proved.gen_utime
    if not -MAX_AHEAD <= age <= max_age:
        raise Refused("RegistryStale", "head.gen_utime", want=f"at most {max_age} s old", got=f"{age} s")


Job = Callable[[ChainView], Awaitable[T]]


def with_chain(
    network: Network,
    job: Job[T],
    *,
    seconds: float = JOB_SECONDS,
    remember: Path | None = None,
    step: Callable[[str], None] | None = None,
) -> T:
    """Run `job` over the first lite server of `network` that lets it succeed.

    `remember` is the folder of checkpoints, `step` is told how far the way is. Raises what the first lying server was
    caught at; Unreachable when none answered.
    """
    checkpoint = Checkpoint(remember, network.init_block)
    caught: AttestationError | None = None
    silent: Unreachable | None = None
    for address in network.lite_servers:
        try:
            return asyncio.run(_with_server(LiteServer(address), checkpoint, network, job, seconds, step))
        except Refused as e:
            if e.code != "RegistryStale":
                raise
            caught = caught or e
        except (Malformed, Untrusted) as e:
            caught = caught or e
        except Unreachable as e:
            silent = silent or e
    raise caught or silent or Unreachable("no lite server is named")


async def _with_server(
    server: LiteServer,
    checkpoint: Checkpoint,
    network: Network,
    job: Job[T],
    seconds: float,
    step: Callable[[str], None] | None,
) -> T:
    chain = ChainView(server, network.init_block, start=checkpoint.load(), step=step)
    try:
        async with asyncio.timeout(seconds), server:
            return await job(chain)
    except TimeoutError:
        raise Unreachable(f"lite server {server.address}: not done after {seconds:.0f} s") from None
    finally:
        checkpoint.save(chain.key_block)
