# SPDX-License-Identifier: Apache-2.0
"""What is asked of a lite server, and what its answers must look like (TL, lite_api.tl). Nothing here is believed."""

from __future__ import annotations

from typing import Final

from attestation.errors import Malformed, Untrusted
from attestation.ton.blockid import BlockId
from attestation.ton.links import PartialProof
from attestation.ton.reading import MAX_PROOF, MAX_STATE, Reading
from attestation.ton.registry import Address
from attestation.ton.tl import put_bytes, take_bytes
from attestation.wire import Reader

from ..errors import Unreachable

MAX_MESSAGE: Final = 64 * 1024  # an external message, as the network limits it
_CODE: Final = "MalformedProof"
_MAX_TEXT: Final = 4096
_QUERY: Final = bytes.fromhex("df068c79")
_GET_MASTERCHAIN_INFO: Final = bytes.fromhex("2ee6b589")
_GET_ACCOUNT_STATE: Final = bytes.fromhex("250e896b")
_GET_BLOCK_PROOF: Final = bytes.fromhex("449cea8a")
_SEND_MESSAGE: Final = bytes.fromhex("82d40a69")
_MASTERCHAIN_INFO: Final = 0x85832881
_ACCOUNT_STATE: Final = 0x7079C751
_SEND_MESSAGE_STATUS: Final = 0x3950E597
_ERROR: Final = 0xBBA9E148


def query(function: bytes) -> bytes:
    """Wrap a function for a lite server."""
    return _QUERY + put_bytes(function)


def get_masterchain_info() -> bytes:
    """Ask for the newest masterchain block."""
    return query(_GET_MASTERCHAIN_INFO)


def get_account_state(block: BlockId, account: Address) -> bytes:
    """Ask for an account with its proofs at `block`."""
    who = account.workchain.to_bytes(4, "little", signed=True) + account.account
    return query(_GET_ACCOUNT_STATE + block.encode() + who)


def get_block_proof(known: BlockId, target: BlockId) -> bytes:
    """Ask for links from `known` to `target`."""
    return query(_GET_BLOCK_PROOF + (1).to_bytes(4, "little") + known.encode() + target.encode())


def send_message(boc: bytes) -> bytes:
    """Hand an external message in."""
    return query(_SEND_MESSAGE + put_bytes(boc))


def _open(answer: bytes, tag: int, what: str) -> Reader:
    """Take the constructor off an answer. Raises Malformed, and Unreachable for an error that the server reports."""
    reader = Reader(answer, what=what, code=_CODE)
    found = reader.u32le("tag")
    if found == _ERROR:
        code = reader.uint(4, "code", "little")
        text = take_bytes(reader, "message", limit=_MAX_TEXT, code=_CODE).decode("utf-8", "replace")
        shown = "".join(c for c in text if c.isprintable())[:200]
        raise Unreachable(f"the lite server says {code - (code >> 31 << 32)}: {shown}")
    if found != tag:
        raise Malformed(_CODE, f"{what}.tag", want=f"{tag:08x}", got=f"{found:08x}")
    return reader


def masterchain_info(answer: bytes) -> BlockId:
    """Read which masterchain block is said to be the newest. Raises Malformed or Unreachable."""
    reader = _open(answer, _MASTERCHAIN_INFO, "masterchain_info")
    last = BlockId.take(reader, "last")
    reader.take(32 + 4 + 32 + 32, "state_root_hash and init")
    reader.end(code=_CODE)
    last.require_masterchain("masterchain_info.last", code=_CODE)
    return last


def account_state(answer: bytes, *, block: BlockId, account: Address) -> Reading:
    """Read the parts of an account's proof. Raises Malformed, Untrusted for another block's, or Unreachable."""
    reader = _open(answer, _ACCOUNT_STATE, "account_state")
    stated = BlockId.take(reader, "id")
    if stated != block:
        raise Untrusted("BlockProofInvalid", "account_state.id", want=str(block), got=str(stated))
    BlockId.take(reader, "shardblk")  # the proofs say which block it is
    shard_proof, proof, state = (
        take_bytes(reader, field, limit=limit, code=_CODE)
        for field, limit in (("shard_proof", MAX_PROOF), ("proof", MAX_PROOF), ("state", MAX_STATE - 1))
    )
    reader.end(code=_CODE)
    return Reading(
        block=block,
        workchain=account.workchain,
        address=account.account,
        shard_proof=b"" if account.workchain == block.workchain else shard_proof,
        proof=proof,
        state=state,
    )


def block_proof(answer: bytes) -> PartialProof:
    """Read links. Raises Malformed or Unreachable."""
    if answer[:4] == _ERROR.to_bytes(4, "little"):
        _open(answer, 0, "block_proof")
    return PartialProof.decode(answer)


def send_status(answer: bytes) -> int:
    """Read what became of a message: 1 is accepted into the queue. Raises Malformed or Unreachable."""
    reader = _open(answer, _SEND_MESSAGE_STATUS, "send_status")
    status = reader.u32le("status")
    reader.end(code=_CODE)
    return status
