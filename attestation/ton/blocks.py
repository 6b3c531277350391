# SPDX-License-Identifier: Apache-2.0
"""What a block's proof shows: its header, the state after it, and a key block's configuration (block.tlb)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ..errors import Malformed, Untrusted
from .blockid import MASTERCHAIN, BlockId
from .cells import MERKLE_PROOF, MERKLE_UPDATE, Cell
from .slices import Slice

_CODE: Final = "MalformedBlock"
_BLOCK: Final = 0x11EF55AA
_INFO: Final = 0x9BC7A987
_EXTRA: Final = 0x4A33F6FD
_MASTERCHAIN_EXTRA: Final = 0xCCA5


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A block as far as a proof shows it. `gen_utime` is unix seconds by its validators' clocks."""

    global_id: int
    workchain: int
    shard: int
    seqno: int
    gen_utime: int
    key_block: bool
    validator_list_hash_short: int
    catchain_seqno: int
    prev_key_block_seqno: int
    root: Cell


def proved(proof: Cell, root_hash: bytes, *, where: str, code: str) -> Cell:
    """Give what the Merkle proof `proof` shows of the tree with hash `root_hash`. Raises Malformed or Untrusted(code).

    That the proof cell's stored hash and depth are its child's was checked when the cell was made.
    """
    if proof.kind != MERKLE_PROOF or proof.mask:
        raise Malformed("MalformedProof", where, want="a Merkle proof cell of level 0", got=f"kind {proof.kind}")
    found = proof.refs[0].hashes[0]
    if found != root_hash:
        raise Untrusted(code, where, want=root_hash.hex(), got=found.hex())
    return proof.refs[0]


def read_block(proof: Cell, block: BlockId, *, where: str) -> Block:
    """Read the header that `proof` shows of `block`, and require that it is that block's own.

    Raises MalformedProof, MalformedBlock or BlockProofInvalid.
    """
    header = read_header(proved(proof, block.root_hash, where=f"{where}.root_hash", code="BlockProofInvalid"), where)
    for field in ("workchain", "shard", "seqno"):
        want, got = getattr(block, field), getattr(header, field)
        if want != got:
            raise Untrusted("BlockProofInvalid", f"{where}.{field}", want=want, got=got)
    return header


def read_header(root: Cell, where: str) -> Block:
    """Read the header of a block whose root cell is known to be true. Raises MalformedBlock."""
    at = Slice(root, what=where, code=_CODE)
    at.tag(32, _BLOCK)
    global_id = at.signed(32, "global_id")
    info = at.child("info")
    info.tag(32, _INFO)
    info.uint(32, "version")
    not_master = info.flag("not_master")
    info.uint(5, "merge and split")
    key_block = info.flag("key_block")
    info.uint(1, "vert_seqno_incr")
    if info.uint(8, "flags") > 1:
        raise info.malformed("flags", want="0 or 1", got="more")
    seqno = info.uint(32, "seq_no")
    info.uint(32, "vert_seq_no")
    workchain, shard = take_shard(info)
    gen_utime = info.uint(32, "gen_utime")
    info.uint(128, "lt")
    hash_short, catchain_seqno = info.uint(32, "validator_list_hash_short"), info.uint(32, "catchain_seqno")
    info.uint(32, "min_ref_mc_seqno")
    prev_key = info.uint(32, "prev_key_block_seqno")
    if not_master == (workchain == MASTERCHAIN):
        raise info.malformed("not_master", want=workchain != MASTERCHAIN, got=not_master)
    return Block(
        global_id=global_id,
        workchain=workchain,
        shard=shard,
        seqno=seqno,
        gen_utime=gen_utime,
        key_block=key_block,
        validator_list_hash_short=hash_short,
        catchain_seqno=catchain_seqno,
        prev_key_block_seqno=prev_key,
        root=root,
    )


def take_shard(at: Slice) -> tuple[int, int]:
    """Take a `ShardIdent`: workchain, and the shard with its marking bit."""
    at.tag(2, 0, "shard")
    length = at.uint(6, "shard_pfx_bits")
    workchain, prefix = at.signed(32, "workchain_id"), at.uint(64, "shard_prefix")
    if length > 60 or prefix & ((1 << 64 - length) - 1):
        raise at.malformed("shard_prefix", want="at most 60 bits", got=f"{length}, {prefix:016x}")
    return workchain, prefix | 1 << 63 - length


def state_hash(block: Block, where: str) -> bytes:
    """Give the hash of the state after `block`. Raises MalformedBlock when the proof does not show it."""
    at = Slice(block.root, what=where, code=_CODE)
    at.ref("info"), at.ref("value_flow")
    update = Slice(at.ref("state_update"), what=f"{where}.state_update", code=_CODE, kind=MERKLE_UPDATE)
    update.uint(8, "type")
    update.octets(32, "old_hash")
    return update.octets(32, "new_hash")


def configuration(block: Block, where: str) -> Cell:
    """Give the configuration dictionary (`Hashmap 32 ^Cell`) of a key block. Raises MalformedBlock.

    Read through `BlockExtra` and `McBlockExtra`: the configuration stands behind shard hashes and fees.
    """
    if not block.key_block or block.workchain != MASTERCHAIN:
        raise Malformed(_CODE, where, want="a key block of the masterchain", got="another")
    at = Slice(block.root, what=where, code=_CODE)
    for field in ("info", "value_flow", "state_update"):
        at.ref(field)
    extra = at.child("extra")
    extra.tag(32, _EXTRA)
    for field in ("in_msg_descr", "out_msg_descr", "account_blocks"):
        extra.ref(field)
    extra.uint(512, "rand_seed and created_by")
    extra.tag(1, 1, "custom")
    custom = extra.child("custom")
    custom.tag(16, _MASTERCHAIN_EXTRA)
    custom.tag(1, 1, "key_block")
    custom.maybe_ref("shard_hashes")
    custom.maybe_ref("shard_fees")
    for field in ("fees", "create"):
        custom.coins(field)
        custom.maybe_ref(field)
    custom.ref("signatures and messages")
    custom.octets(32, "config_addr")
    return custom.ref("config")
