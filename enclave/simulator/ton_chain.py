# SPDX-License-Identifier: Apache-2.0
"""A simulated TON: a chain of blocks that its own validators really sign, and the proofs that a lite server gives.

    chain = TonChain(seed=secret, now=1_800_000_000)                   # block 1 is a key block: the init block
    chain.append(now=1_800_000_005, accounts={(0, address): account})  # bags of one TL-B Account; None: as before
    chain.append(now=1_800_000_010, key_block=True)                    # new validators from here on
    reading = chain.account_state(address, at=2)                       # proofs of presence or absence
    forward = chain.forward_link(1, 3)                                 # signed; simplex=True for the other form
    back = chain.back_link(3, 2)
    answer = chain.partial_proof([forward, back], source=1, target=2)  # liteServer.partialBlockProof

Every block is whole (`chain.block_boc(seqno)` hashes to its file hash) and has one more seqno than the one before; each
masterchain block takes in one new block of every shard of the basechain (2 ** `split` shards). Nothing here is
confidential or valuable: whoever has the seed can sign anything. Trust in it comes only from an init block that the
user of a client names; `GLOBAL_ID` is no real network's.

To lie, a test passes `signers` (indexes; fewer, repeated), or `bends`: numbers of headers and states to be wrong in
blocks that are hashed and signed as they stand.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, Final

from pytoniq_core.boc.builder import Builder
from pytoniq_core.boc.cell import Cell

from .ton_blocks import (
    CONFIG_ADDRESS,
    MASTERCHAIN,
    WHOLE,
    BlockRef,
    Made,
    Plan,
    active_account,
    configuration,
    make_block,
    make_state,
    master_block_extra,
    master_state_extra,
    shard_hashes,
)
from .ton_cells import bag, merkle_proof, way_down
from .ton_validators import Validators, tl_bytes

__all__ = ["GLOBAL_ID", "AccountAnswer", "Bends", "BlockRef", "TonChain", "active_account"]

GLOBAL_ID: Final = -52_170  # mainnet is -239, testnet -3
_FORWARD: Final = bytes.fromhex("1cce0f52")
_BACK: Final = bytes.fromhex("ef7e1bef")
_PARTIAL_PROOF: Final = bytes.fromhex("c1d2d08e")
_BOOL: Final = (bytes.fromhex("379779bc"), bytes.fromhex("b5757299"))

Accounts = Mapping[tuple[int, bytes], bytes]  # (workchain, address) -> bag of one Account


@dataclass(frozen=True, slots=True, kw_only=True)
class Bends:
    """Fields of `Plan` to be wrong: in the masterchain's header or state, or in every shard's."""

    header: Mapping[str, int] = field(default_factory=dict)
    state: Mapping[str, int] = field(default_factory=dict)
    shard_header: Mapping[str, int] = field(default_factory=dict)
    shard_state: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountAnswer:
    """The parts of a `liteServer.accountState`: block names, and bags of cells."""

    block: BlockRef
    shard_block: BlockRef
    shard_proof: bytes  # empty for an account of the masterchain
    proof: bytes
    state: bytes  # empty when absent


@dataclass(frozen=True, slots=True, kw_only=True)
class _Height:
    """A masterchain block, the shards it took in, and who signs it."""

    master: Made
    shards: tuple[Made, ...]
    signers: Validators
    next_signers: Validators
    accounts: Accounts


class TonChain:
    """The chain. `weights` are the validators' of every generation; `split` the depth of the basechain's shards."""

    def __init__(
        self,
        *,
        seed: bytes,
        now: int,
        accounts: Accounts | None = None,
        weights: Sequence[int] = (1,) * 7,
        shuffled: bool = True,
        split: int = 0,
    ) -> None:
        self._seed = seed
        self._weights = tuple(weights)
        self._shuffled = shuffled
        self._split = split
        self._heights: list[_Height] = []
        self.append(now=now, accounts=accounts or {}, key_block=True)

    @property
    def init_block(self) -> BlockRef:
        """The first block: what a client of this chain is told to trust."""
        return self.block(1)

    @property
    def head(self) -> BlockRef:
        """The newest masterchain block."""
        return self._heights[-1].master.ref

    def block(self, seqno: int) -> BlockRef:
        """Give the name of a masterchain block."""
        return self._heights[seqno - 1].master.ref

    def shard_blocks(self, seqno: int) -> tuple[BlockRef, ...]:
        """Give the names of the shards' blocks that a masterchain block took in."""
        return tuple(made.ref for made in self._heights[seqno - 1].shards)

    def block_boc(self, seqno: int, *, shard: int | None = None) -> bytes:
        """Give a whole masterchain block, or that of the shard with number `shard`."""
        height = self._heights[seqno - 1]
        return bag((height.master if shard is None else height.shards[shard]).block)

    def is_key_block(self, seqno: int) -> bool:
        """Tell whether a masterchain block is a key block."""
        return self._heights[seqno - 1].master.plan.key_block

    def last_key_block(self, seqno: int) -> int:
        """Give the seqno of the newest key block before `seqno`; 0 for none."""
        return max((n for n in range(1, seqno) if self.is_key_block(n)), default=0)

    def append(
        self, *, now: int, accounts: Accounts | None = None, key_block: bool = False, bends: Bends | None = None
    ) -> BlockRef:
        """Make the next block, of time `now`. Without `accounts` the state's stay. Gives the new block's name."""
        before = self._heights[-1] if self._heights else None
        found = accounts if accounts is not None else before.accounts if before else {}
        seqno, bends = len(self._heights) + 1, bends or Bends()
        generation = 1 + sum(height.master.plan.key_block for height in self._heights)
        upcoming = before.next_signers if before and not key_block else self._generation(generation)
        signers = before.next_signers if before else upcoming
        plan = Plan(
            global_id=GLOBAL_ID,
            workchain=MASTERCHAIN,
            shard=WHOLE,
            seqno=seqno,
            gen_utime=now,
            key_block=key_block,
            validator_list_hash_short=signers.hash_short(generation - 1),
            catchain_seqno=generation - 1,
            prev_key_block_seqno=self.last_key_block(seqno),
        )
        shards = self._shards(plan, found, before, bends)
        master = self._master(plan, shards, found, before, upcoming, bends)
        self._heights.append(
            _Height(master=master, shards=shards, signers=signers, next_signers=upcoming, accounts=dict(found))
        )
        return master.ref

    def _generation(self, number: int) -> Validators:
        return Validators.from_seed(self._seed, number, self._weights, shuffled=self._shuffled)

    def _shards(self, top: Plan, accounts: Accounts, before: _Height | None, bends: Bends) -> tuple[Made, ...]:
        made = []
        for number in range(1 << self._split):
            shard = (2 * number + 1) << 63 - self._split
            plan = replace(top, workchain=0, shard=shard, key_block=False, validator_list_hash_short=0)
            inside = {
                address: boc
                for (workchain, address), boc in accounts.items()
                if workchain == 0 and address[0] >> 8 - self._split == number
            }
            state = make_state(_bent(plan, bends.shard_state), inside)
            made.append(
                make_block(
                    plan,
                    _bent(plan, bends.shard_header),
                    previous=before.shards[number] if before else None,
                    master=before.master if before else None,
                    state=state,
                    custom=Builder().store_uint(0, 1).end_cell(),
                )
            )
        return tuple(made)

    def _master(
        self,
        plan: Plan,
        shards: tuple[Made, ...],
        accounts: Accounts,
        before: _Height | None,
        upcoming: Validators,
        bends: Bends,
    ) -> Made:
        parameters = {0: Builder().store_bytes(CONFIG_ADDRESS).end_cell(), **upcoming.parameters(plan.gen_utime)}
        config, tops = configuration(parameters), shard_hashes(shards)
        history = [height.master for height in self._heights]
        last_key = next((made for made in reversed(history) if made.plan.key_block), None)
        inside = {address: boc for (workchain, address), boc in accounts.items() if workchain == MASTERCHAIN}
        extra = master_state_extra(tops, config, history, plan, last_key)
        return make_block(
            plan,
            _bent(plan, bends.header),
            previous=before.master if before else None,
            master=None,
            state=make_state(_bent(plan, bends.state), inside, custom=extra),
            custom=master_block_extra(tops, config if plan.key_block else None),
        )

    # ---- what a lite server proves

    def account_state(self, address: bytes, *, at: int, workchain: int = 0) -> AccountAnswer:
        """Prove what account `address` (32 bytes) is at masterchain block `at`."""
        height = self._heights[at - 1]
        boc = height.accounts.get((workchain, address), b"")
        if workchain == MASTERCHAIN:
            top, shard_proof = height.master, b""
        else:
            number = address[0] >> 8 - self._split
            top = height.shards[number]
            shard_proof = bag(_header_proof(height.master), self._tops_proof(height.master, number))
        return AccountAnswer(
            block=height.master.ref,
            shard_block=top.ref,
            shard_proof=shard_proof,
            proof=bag(_header_proof(top), _account_proof(top.state, address)),
            state=boc,
        )

    def _tops_proof(self, master: Made, number: int) -> Cell:
        custom = master.state.refs[3]
        at = custom.refs[0].refs[0]
        way = [custom, custom.refs[2], custom.refs[0], at]
        for level in reversed(range(self._split)):
            at = at.refs[number >> level & 1]
            way.append(at)
        return merkle_proof(master.state, way)

    def forward_link(
        self, source: int, target: int, *, simplex: bool = False, signers: Sequence[int] | None = None
    ) -> bytes:
        """Give the TL link from key block `source` to `target`, signed by the validators that `source` names."""
        key, block = self._heights[source - 1], self._heights[target - 1].master
        extra = key.master.block.refs[3]
        custom = extra.refs[3]
        proof = merkle_proof(
            key.master.block,
            [*_header_cells(key.master), extra, custom],
            whole=[custom.refs[-1]],  # the configuration
        )
        head = _FORWARD + _BOOL[block.plan.key_block] + key.master.ref.encode() + block.ref.encode()
        signed = key.next_signers.signatures(block.ref, block.plan.catchain_seqno, simplex=simplex, signers=signers)
        return head + tl_bytes(bag(_header_proof(block))) + tl_bytes(bag(proof)) + signed

    def back_link(self, source: int, target: int) -> bytes:
        """Give the TL link from masterchain block `source` to an earlier one that the state after it names."""
        later, block = self._heights[source - 1].master, self._heights[target - 1].master
        custom = later.state.refs[3]
        more = custom.refs[2]
        state = merkle_proof(later.state, [custom, more, *way_down(more.refs[0], target, 32)])
        head = _BACK + _BOOL[block.plan.key_block] + later.ref.encode() + block.ref.encode()
        return head + b"".join(tl_bytes(bag(cell)) for cell in (_header_proof(block), _header_proof(later), state))

    def partial_proof(self, links: Sequence[bytes], *, source: int, target: int, complete: bool = True) -> bytes:
        """Give the TL answer that says: these links lead from `source` to `target`."""
        head = _PARTIAL_PROOF + _BOOL[complete] + self.block(source).encode() + self.block(target).encode()
        return head + len(links).to_bytes(4, "little") + b"".join(links)

    def forward_path(self, source: int, target: int, *, simplex: bool = False) -> list[bytes]:
        """Give the links from key block `source` over every key block between to `target`."""
        stops = [source, *(n for n in range(source + 1, target) if self.is_key_block(n)), target]
        return [self.forward_link(a, b, simplex=simplex) for a, b in pairwise(stops)]


def _bent(plan: Plan, bends: Mapping[str, Any]) -> Plan:
    return replace(plan, **bends)


def _header_cells(made: Made) -> list[Cell]:
    info = made.block.refs[0]
    return [info, *info.refs, made.block.refs[2]]


def _header_proof(made: Made) -> Cell:
    return merkle_proof(made.block, _header_cells(made))


def _account_proof(state: Cell, address: bytes) -> Cell:
    accounts = state.refs[1]
    way = way_down(accounts.refs[0], int.from_bytes(address, "big"), 256) if accounts.refs else []
    return merkle_proof(state, [accounts, *way])
