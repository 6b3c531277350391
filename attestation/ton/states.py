# SPDX-License-Identifier: Apache-2.0
"""What a proof shows of a shard's state: accounts, and in the masterchain's also shards and older blocks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ..errors import Untrusted
from .blocks import take_shard
from .cells import Cell
from .hashmap import lookup
from .slices import Slice

_CODE: Final = "MalformedBlock"
_STATE: Final = 0x9023AFE2
_MASTERCHAIN_EXTRA: Final = 0xCC26


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """A shard's state as far as a proof shows it."""

    global_id: int
    workchain: int
    shard: int
    seqno: int
    gen_utime: int
    accounts: Cell
    custom: Cell | None  # McStateExtra of the masterchain


def read_state(root: Cell, where: str) -> State:
    """Read a `ShardStateUnsplit` whose root cell is known to be true. Raises MalformedBlock."""
    at = Slice(root, what=where, code=_CODE)
    at.tag(32, _STATE)
    global_id = at.signed(32, "global_id")
    workchain, shard = take_shard(at)
    seqno = at.uint(32, "seq_no")
    at.uint(32, "vert_seq_no")
    gen_utime = at.uint(32, "gen_utime")
    at.uint(64 + 32, "gen_lt and min_ref_mc_seqno")
    at.ref("out_msg_queue_info")
    at.flag("before_split")
    accounts = at.ref("accounts")
    at.ref("overload and balance")
    custom = at.maybe_ref("custom")
    at.end()
    return State(
        global_id=global_id,
        workchain=workchain,
        shard=shard,
        seqno=seqno,
        gen_utime=gen_utime,
        accounts=accounts,
        custom=custom,
    )


def _extra(state: State, where: str) -> Slice:
    if state.custom is None:
        raise Untrusted("BlockProofInvalid", where, want="a state of the masterchain", got="another")
    at = Slice(state.custom, what=f"{where}.custom", code=_CODE)
    at.tag(16, _MASTERCHAIN_EXTRA)
    return at


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardTop:
    """The newest block of a shard that the masterchain has taken in."""

    shard: int
    seqno: int
    root_hash: bytes
    file_hash: bytes


def find_shard(state: State, workchain: int, address: bytes, where: str) -> ShardTop:
    """Find the shard of account `address` (32 bytes) in a masterchain state.

    Raises MalformedBlock, and ShardProofInvalid when the workchain is absent.
    """
    shards = _extra(state, where).maybe_ref("shard_hashes")
    what = f"{where}.shard_hashes"
    found = None if shards is None else lookup(shards, workchain & 0xFFFFFFFF, 32, what=what, code=_CODE)
    if found is None:
        raise Untrusted("ShardProofInvalid", what, want=f"workchain {workchain}", got="none")
    at = found.child("tree")
    path = int.from_bytes(address[:8], "big")
    length = 0
    while at.flag("fork"):
        if length == 60:
            raise at.malformed("fork", want="at most 60 levels", got="more")
        zero, one = at.ref("left"), at.ref("right")
        at.end()
        at = Slice(one if path >> 63 - length & 1 else zero, what=what, code=_CODE)
        length += 1
    tag = at.uint(4, "tag")
    if tag not in {0xA, 0xB}:
        raise at.malformed("tag", want="0xa or 0xb", got=hex(tag))
    seqno = at.uint(32, "seq_no")
    at.uint(32 + 128, "reg_mc_seqno and lt")
    prefix = path >> 64 - length << 64 - length
    return ShardTop(
        shard=prefix | 1 << 63 - length,
        seqno=seqno,
        root_hash=at.octets(32, "root_hash"),
        file_hash=at.octets(32, "file_hash"),
    )


def find_account(state: State, address: bytes, where: str) -> tuple[Cell, bytes, int] | None:
    """Find account `address` (32 bytes): its cell, and hash and time of its last transaction; None: proved absent.

    Raises MalformedBlock.
    """
    at = Slice(state.accounts, what=f"{where}.accounts", code=_CODE)
    root = at.maybe_ref("accounts")
    if root is None:
        return None
    found = lookup(root, int.from_bytes(address, "big"), 256, what=f"{where}.accounts", code=_CODE)
    if found is None:
        return None
    found.uint(5, "split_depth")
    found.coins("balance")
    found.maybe_ref("extra currencies")
    account, last_hash, last_lt = found.ref("account"), found.octets(32, "last_hash"), found.uint(64, "last_lt")
    found.end()
    return account, last_hash, last_lt


def find_old_block(root: Cell, seqno: int, where: str) -> tuple[bool, bytes, bytes] | None:
    """Find an earlier masterchain block in a masterchain state: whether a key block, root hash, file hash.

    Raises MalformedBlock.
    """
    at = _extra(read_state(root, where), where)
    at.maybe_ref("shard_hashes")
    at.octets(32, "config_addr")
    at.ref("config")
    more = at.child("more")
    if more.uint(16, "flags") > 1:
        raise more.malformed("flags", want="0 or 1", got="more")
    more.uint(65, "validator_info")
    blocks = more.maybe_ref("prev_blocks")
    what = f"{where}.prev_blocks"
    found = None if blocks is None else lookup(blocks, seqno, 32, what=what, code=_CODE)
    if found is None:
        return None
    found.uint(65, "max_end_lt")
    key = found.flag("key")
    found.uint(64, "end_lt")
    stated = found.uint(32, "seq_no")
    if stated != seqno:
        raise found.malformed("seq_no", want=seqno, got=stated)
    root_hash, file_hash = found.octets(32, "root_hash"), found.octets(32, "file_hash")
    found.end()
    return key, root_hash, file_hash
