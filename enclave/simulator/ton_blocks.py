# SPDX-License-Identifier: Apache-2.0
"""Blocks and states of a simulated TON, whole by the schema (block.tlb) and with nothing in them but what is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from pytoniq_core.boc.builder import Builder
from pytoniq_core.boc.cell import Cell
from pytoniq_core.tlb.account import Account

from .ton_cells import bag, dictionary, end, maybe_dictionary, merkle_update

MASTERCHAIN: Final = -1
WHOLE: Final = 1 << 63
CONFIG_ADDRESS: Final = b"\x55" * 32
_NOTHING: Final = Builder().store_uint(0, 5).end_cell()  # CurrencyCollection of zero


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockRef:
    """The name of a block: TL `tonNode.blockIdExt`. `shard` has its marking bit."""

    workchain: int
    shard: int
    seqno: int
    root_hash: bytes
    file_hash: bytes

    def encode(self) -> bytes:
        """Give the 80 bytes of the TL form."""
        head = self.workchain.to_bytes(4, "little", signed=True) + self.shard.to_bytes(8, "little")
        return head + self.seqno.to_bytes(4, "little") + self.root_hash + self.file_hash


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The numbers in a block's header, and in the state after it. A test may make the two differ."""

    global_id: int
    workchain: int
    shard: int
    seqno: int
    gen_utime: int
    key_block: bool = False
    validator_list_hash_short: int = 0
    catchain_seqno: int = 0
    prev_key_block_seqno: int = 0

    @property
    def lt(self) -> int:
        """The logical time at the block's end."""
        return (self.seqno + 1) * 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A block, the state after it, and its name."""

    ref: BlockRef
    plan: Plan
    block: Cell
    state: Cell


def link_to(made: Made | None) -> Cell:
    """Write an `ExtBlkRef`; the block before the first is all zero."""
    if made is None:
        return end(Builder().store_uint(0, 64 + 32 + 256 + 256))
    builder = Builder().store_uint(made.plan.lt, 64).store_uint(made.ref.seqno, 32)
    return end(builder.store_bytes(made.ref.root_hash).store_bytes(made.ref.file_hash))


def make_block(
    plan: Plan, header: Plan, *, previous: Made | None, master: Made | None, state: Cell, custom: Cell
) -> Made:
    """Put the block of `plan` together, its header by `header`; `custom` is the `Maybe ^McBlockExtra` to append."""
    old_state = previous.state if previous else Builder().end_cell()
    flow = Builder().store_uint(0xB8E48DFB, 32).store_ref(_several(4)).store_cell(_NOTHING).store_ref(_several(4))
    extra = Builder().store_uint(0x4A33F6FD, 32)
    extra.store_ref(Builder().store_uint(0, 1 + 4 + 5).end_cell())  # in_msg_descr
    extra.store_ref(Builder().store_uint(0, 1 + 5).end_cell())  # out_msg_descr
    extra.store_ref(Builder().store_uint(0, 1 + 5).end_cell())  # account_blocks
    seed = sha256(old_state.hash + state.hash).digest()
    extra.store_bytes(seed).store_bytes(bytes(32)).store_cell(custom)
    block = Builder().store_uint(0x11EF55AA, 32).store_int(header.global_id, 32)
    block.store_ref(_info(header, previous, master)).store_ref(flow.end_cell())
    cell = block.store_ref(merkle_update(old_state, state)).store_ref(extra.end_cell()).end_cell()
    ref = BlockRef(
        workchain=plan.workchain,
        shard=plan.shard,
        seqno=plan.seqno,
        root_hash=cell.hash,
        file_hash=sha256(bag(cell)).digest(),
    )
    return Made(ref=ref, plan=plan, block=cell, state=state)


def _info(plan: Plan, previous: Made | None, master: Made | None) -> Cell:
    not_master = plan.workchain != MASTERCHAIN
    info = Builder().store_uint(0x9BC7A987, 32).store_uint(0, 32).store_uint(not_master, 1).store_uint(0, 5)
    info.store_uint(plan.key_block, 1).store_uint(0, 1 + 8)
    info.store_uint(plan.seqno, 32).store_uint(0, 32).store_cell(_shard_ident(plan))
    info.store_uint(plan.gen_utime, 32).store_uint(plan.lt - 999_999, 64).store_uint(plan.lt, 64)
    info.store_uint(plan.validator_list_hash_short, 32).store_uint(plan.catchain_seqno, 32)
    info.store_uint(0 if master is None else master.ref.seqno, 32).store_uint(plan.prev_key_block_seqno, 32)
    if not_master:
        info.store_ref(link_to(master))
    return end(info.store_ref(link_to(previous)))


def _shard_ident(plan: Plan) -> Cell:
    length = 63 - ((plan.shard & -plan.shard).bit_length() - 1)
    prefix = plan.shard & (plan.shard - 1)
    return end(Builder().store_uint(length, 8).store_int(plan.workchain, 32).store_uint(prefix, 64))


def make_state(plan: Plan, accounts: Mapping[bytes, bytes], *, custom: Cell | None = None) -> Cell:
    """Write a `ShardStateUnsplit` whose accounts are address -> bag of one `Account`."""
    cells = {int.from_bytes(address, "big"): Cell.one_from_boc(boc) for address, boc in accounts.items()}
    balances = {key: _balance(cell) for key, cell in cells.items()}

    def extra(keys: Sequence[int]) -> Cell:
        total = sum(balances[key] for key in keys)
        return end(Builder().store_uint(0, 5).store_coins(total).store_uint(0, 1))

    leaves = {key: Builder().store_ref(cell).store_uint(0, 256 + 64).end_cell() for key, cell in cells.items()}
    builder = Builder().store_uint(0x9023AFE2, 32).store_int(plan.global_id, 32).store_cell(_shard_ident(plan))
    builder.store_uint(plan.seqno, 32).store_uint(0, 32).store_uint(plan.gen_utime, 32).store_uint(plan.lt, 64)
    builder.store_uint(0, 32)
    builder.store_ref(Builder().store_uint(0, 1 + 64 + 1 + 1).end_cell())  # out_msg_queue_info
    builder.store_uint(0, 1).store_ref(maybe_dictionary(leaves, 256, extra=extra))
    totals = Builder().store_uint(0, 128).store_coins(sum(balances.values())).store_uint(0, 1)
    builder.store_ref(totals.store_cell(_NOTHING).store_uint(0, 2).end_cell())
    return end(builder.store_maybe_ref(custom))


def _balance(account: Cell) -> int:
    found = Account.deserialize(account.begin_parse())
    return 0 if found is None else int(found.storage.balance.grams)


def shard_hashes(tops: Sequence[Made]) -> Cell:
    """Write `ShardHashes` of one workchain whose shards, in order, are a whole level of the tree."""
    level = [_shard_descr(top) for top in tops]
    while len(level) > 1:
        pairs = zip(level[::2], level[1::2], strict=True)
        level = [Builder().store_uint(1, 1).store_ref(a).store_ref(b).end_cell() for a, b in pairs]
    return maybe_dictionary({tops[0].ref.workchain: Builder().store_ref(level[0]).end_cell()}, 32)


def _shard_descr(top: Made) -> Cell:
    plan = top.plan
    leaf = Builder().store_uint(0, 1).store_uint(0xA, 4).store_uint(top.ref.seqno, 32).store_uint(plan.seqno, 32)
    leaf.store_uint(plan.lt - 999_999, 64).store_uint(plan.lt, 64)
    leaf.store_bytes(top.ref.root_hash).store_bytes(top.ref.file_hash).store_uint(0, 5 + 3)
    leaf.store_uint(0, 32).store_uint(top.ref.shard, 64).store_uint(0, 32).store_uint(plan.gen_utime, 32)
    return end(leaf.store_uint(0, 1).store_ref(_several(2)))


def master_state_extra(shards: Cell, config: Cell, history: Sequence[Made], plan: Plan, last_key: Made | None) -> Cell:
    """Write a `McStateExtra`; `history` are all masterchain blocks before this state's."""
    made = {one.ref.seqno: one for one in history}

    def newest(keys: Sequence[int]) -> Cell:
        key = any(made[seqno].plan.key_block for seqno in keys)
        return end(Builder().store_uint(key, 1).store_uint(max((made[k].plan.lt for k in keys), default=0), 64))

    old = {
        seqno: Builder().store_uint(one.plan.key_block, 1).store_cell(link_to(one)).end_cell()
        for seqno, one in made.items()
    }
    more = Builder().store_uint(0, 16).store_uint(plan.validator_list_hash_short, 32)
    more.store_uint(plan.catchain_seqno, 32).store_uint(0, 1).store_cell(maybe_dictionary(old, 32, extra=newest))
    more.store_uint(plan.key_block, 1).store_uint(last_key is not None, 1)
    if last_key is not None:
        more.store_cell(link_to(last_key))
    builder = Builder().store_uint(0xCC26, 16).store_cell(shards).store_bytes(CONFIG_ADDRESS).store_ref(config)
    return end(builder.store_ref(more.end_cell()).store_cell(_NOTHING))


def master_block_extra(shards: Cell, config: Cell | None) -> Cell:
    """Write a `Maybe ^McBlockExtra`; `config` in a key block."""
    builder = Builder().store_uint(0xCCA5, 16).store_uint(config is not None, 1).store_cell(shards)
    builder.store_uint(0, 1).store_cell(_NOTHING).store_cell(_NOTHING)  # shard_fees
    builder.store_ref(Builder().store_uint(0, 3).end_cell())
    if config is not None:
        builder.store_bytes(CONFIG_ADDRESS).store_ref(config)
    return end(Builder().store_uint(1, 1).store_ref(builder.end_cell()))


def configuration(parameters: Mapping[int, Cell]) -> Cell:
    """Write a configuration dictionary."""
    return dictionary({key: Builder().store_ref(cell).end_cell() for key, cell in parameters.items()}, 32)


def active_account(
    address: bytes, *, code: bytes, data: bytes, balance: int, now: int, workchain: int = 0, last_lt: int = 0
) -> bytes:
    """Write an active account, with code and data from bags of cells, as a bag of one `Account`."""
    builder = Builder().store_uint(1, 1).store_uint(0b100, 3).store_int(workchain, 8).store_bytes(address)
    builder.store_uint(1, 3).store_uint(1, 8).store_uint(1, 3).store_uint(1, 8).store_uint(0, 3)
    builder.store_uint(now, 32).store_uint(0, 1).store_uint(last_lt, 64).store_coins(balance).store_uint(0, 1)
    builder.store_uint(1, 1).store_uint(0b0011, 4)
    builder.store_ref(Cell.one_from_boc(code)).store_ref(Cell.one_from_boc(data)).store_uint(0, 1)
    return bag(builder.end_cell())


def _several(count: int) -> Cell:
    builder = Builder()
    for _ in range(count):
        builder.store_cell(_NOTHING)
    return end(builder)
