# SPDX-License-Identifier: Apache-2.0
"""An account at a masterchain block: what a lite server must show, and whether it is so (`liteServer.accountState`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ..errors import Malformed, Untrusted
from .accounts import Account, read_account
from .blockid import MASTERCHAIN, WHOLE, BlockId
from .blocks import proved, read_block, read_header, state_hash
from .boc import read_boc
from .cells import MERKLE_PROOF, Cell
from .states import State, find_account, find_shard, read_state

MAX_PROOF: Final = 128 * 1024
MAX_STATE: Final = 16 * 1024 * 1024
_PROOF_CELLS: Final = 8192
_STATE_CELLS: Final = 262_144
_CODE: Final = "MalformedProof"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What was said about one account at masterchain block `block`. All three parts are bags of cells.

    `shard_proof`: Merkle proofs of the block and of its state; empty for an account of the masterchain. `proof`: Merkle
    proofs of the shard's block and of its state. `state`: the account, whole or as a Merkle proof; empty when absent.
    """

    block: BlockId
    workchain: int
    address: bytes  # 32
    shard_proof: bytes
    proof: bytes
    state: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Proved:
    """What is true of the account at that block; `account` is None when it is proved not to exist."""

    account: Account | None
    global_id: int
    gen_utime: int  # of the masterchain block, unix seconds


def verify_reading(reading: Reading) -> Proved:
    """Verify a reading against the block that it names; that the block is the chain's is the trust path's to prove.

    Raises MalformedProof, MalformedBlock, MalformedAccount, BlockProofInvalid, ShardProofInvalid or
    AccountProofInvalid.
    """
    reading.block.require_masterchain("reading.block", code="MalformedBlock")
    if len(reading.address) != 32:
        raise ValueError("an account's address has 32 bytes")
    block_cell, state_cell = _pair(reading.proof, "account_proof")
    if reading.workchain == MASTERCHAIN:
        if reading.shard_proof:
            raise Malformed(_CODE, "shard_proof", want="none for the masterchain", got="one")
        state = top = _masterchain_state(block_cell, state_cell, reading.block, "masterchain")
    else:
        top = _masterchain_state(*_pair(reading.shard_proof, "shard_proof"), reading.block, "masterchain")
        state = _shard_state(block_cell, state_cell, top, reading)
    account = _account(state, reading)
    return Proved(account=account, global_id=top.global_id, gen_utime=top.gen_utime)


def _pair(boc: bytes, what: str) -> tuple[Cell, Cell]:
    first, second = read_boc(boc, what=what, roots=2, limit=MAX_PROOF, max_cells=_PROOF_CELLS, code=_CODE)
    return first, second


def _masterchain_state(block_cell: Cell, state_cell: Cell, block: BlockId, where: str) -> State:
    header = read_block(block_cell, block, where=where)
    want = state_hash(header, where)
    state = read_state(proved(state_cell, want, where=f"{where}.state", code="BlockProofInvalid"), f"{where}.state")
    for field, stated, wanted in (
        ("workchain", state.workchain, MASTERCHAIN),
        ("shard", state.shard, WHOLE),
        ("seqno", state.seqno, block.seqno),
        ("global_id", state.global_id, header.global_id),
        ("gen_utime", state.gen_utime, header.gen_utime),
    ):
        if stated != wanted:
            raise Untrusted("BlockProofInvalid", f"{where}.state.{field}", want=wanted, got=stated)
    return state


def _shard_state(block_cell: Cell, state_cell: Cell, masterchain: State, reading: Reading) -> State:
    code = "ShardProofInvalid"
    top = find_shard(masterchain, reading.workchain, reading.address, "masterchain.state")
    header = read_header(proved(block_cell, top.root_hash, where="shard.root_hash", code=code), "shard")
    want = state_hash(header, "shard")
    state = read_state(proved(state_cell, want, where="shard.state", code=code), "shard.state")
    for field, stated, wanted in (
        ("workchain", header.workchain, reading.workchain),
        ("shard", header.shard, top.shard),
        ("seqno", header.seqno, top.seqno),
        ("state.workchain", state.workchain, reading.workchain),
        ("state.shard", state.shard, top.shard),
        ("state.seqno", state.seqno, top.seqno),
        ("global_id", header.global_id, masterchain.global_id),
        ("state.global_id", state.global_id, masterchain.global_id),
    ):
        if stated != wanted:
            raise Untrusted(code, f"shard.{field}", want=wanted, got=stated)
    return state


def _account(state: State, reading: Reading) -> Account | None:
    code = "AccountProofInvalid"
    found = find_account(state, reading.address, "shard.state")
    if found is None:
        if reading.state:
            raise Untrusted(code, "account", want="nothing: proved absent", got="an account")
        return None
    if not reading.state:
        raise Untrusted(code, "account", want="the account: it exists", got="nothing")
    (cell,) = read_boc(reading.state, what="account", limit=MAX_STATE, max_cells=_STATE_CELLS, code="MalformedAccount")
    want = found[0].hashes[0]
    if cell.kind == MERKLE_PROOF:
        cell = proved(cell, want, where="account", code=code)
    elif cell.mask or cell.hash != want:
        raise Untrusted(code, "account", want=want.hex(), got=cell.hash.hex())
    account = read_account(cell)
    if account is not None and (account.workchain, account.address) != (reading.workchain, reading.address):
        raise Untrusted(code, "account.address", want=reading.address.hex(), got=account.address.hex())
    return account
