# SPDX-License-Identifier: Apache-2.0
"""A forward link's signatures: which bytes the validators of either consensus signed (TL `liteServer.SignatureSet`)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

from ..errors import Malformed, Untrusted
from ..wire import Reader
from .blockid import BlockId
from .tl import put_bytes, take_bytes, take_count
from .validators import MAX_MAIN

_CODE: Final = "MalformedTrustPath"
_ORDINARY: Final = 0xF644A6E6
_SIMPLEX: Final = 0xAC249800
_BLOCK: Final = bytes.fromhex("706e0bc5")  # TL ton.blockId
_DATA_TO_SIGN: Final = bytes.fromhex("f83de3a8")
_FINALIZE: Final = bytes.fromhex("05e1a740")
_CANDIDATE_ID: Final = bytes.fromhex("3fcd91b6")
_CANDIDATE: Final = 0xE8F9BCDC
_EMPTY_CANDIDATE: Final = 0x72B4D933
_PARENT: Final = 0x1A4B9AF1
_NO_PARENT: Final = 0x22CBCCA9
_MAX_CANDIDATE: Final = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Simplex:
    """What a Simplex vote names beside the block."""

    session_id: bytes  # 32
    slot: int
    candidate: bytes  # TL consensus.CandidateHashData


@dataclass(frozen=True, slots=True, kw_only=True)
class SignatureSet:
    """Signatures over one block. `signatures` are (node id, signature) as they came."""

    validator_set_hash: int
    catchain_seqno: int
    signatures: tuple[tuple[bytes, bytes], ...]
    simplex: Simplex | None

    @classmethod
    def take(cls, reader: Reader) -> SignatureSet:
        """Take a signature set of either form off `reader`. Raises MalformedTrustPath."""
        tag = reader.u32le("signatures")
        if tag not in {_ORDINARY, _SIMPLEX}:
            raise Malformed(_CODE, "signatures", want="ordinary or simplex", got=f"{tag:08x}")
        first, second = reader.u32le("set"), reader.u32le("set")
        set_hash, seqno = (first, second) if tag == _ORDINARY else (second, first)
        count = take_count(reader, "signatures", limit=MAX_MAIN, code=_CODE)
        signatures = []
        for _ in range(count):
            node_id = reader.take(32, "node_id_short")
            signature = take_bytes(reader, "signature", limit=64, code=_CODE)
            if len(signature) != 64:
                raise Malformed(_CODE, "signature", want="64 bytes", got=len(signature))
            signatures.append((node_id, signature))
        simplex = None
        if tag == _SIMPLEX:
            session_id, slot = reader.take(32, "session_id"), reader.u32le("slot")
            candidate = take_bytes(reader, "candidate", limit=_MAX_CANDIDATE, code=_CODE)
            simplex = Simplex(session_id=session_id, slot=slot, candidate=candidate)
        return cls(validator_set_hash=set_hash, catchain_seqno=seqno, signatures=tuple(signatures), simplex=simplex)

    def encode(self) -> bytes:
        """Give the TL form."""
        numbers = (self.validator_set_hash, self.catchain_seqno)
        if self.simplex is not None:
            numbers = numbers[::-1]
        tag = _ORDINARY if self.simplex is None else _SIMPLEX
        parts = [number.to_bytes(4, "little") for number in (tag, *numbers, len(self.signatures))]
        parts += [node_id + put_bytes(signature) for node_id, signature in self.signatures]
        if self.simplex is not None:
            slot = self.simplex.slot.to_bytes(4, "little")
            parts += [self.simplex.session_id, slot, put_bytes(self.simplex.candidate)]
        return b"".join(parts)

    def message(self, block: BlockId) -> bytes:
        """Give the bytes that a validator signed for `block`. Raises TrustPathInvalid for another block's candidate."""
        if self.simplex is None:
            return _BLOCK + block.root_hash + block.file_hash
        named = _candidate_block(self.simplex.candidate)
        if named != block:
            raise Untrusted("TrustPathInvalid", "signatures.candidate", want=str(block), got=str(named))
        slot = self.simplex.slot.to_bytes(4, "little")
        vote = _FINALIZE + _CANDIDATE_ID + slot + hashlib.sha256(self.simplex.candidate).digest()
        return _DATA_TO_SIGN + self.simplex.session_id + put_bytes(vote)


def _candidate_block(candidate: bytes) -> BlockId:
    """Give the block of a TL `consensus.CandidateHashData`, every byte of it read. Raises MalformedTrustPath."""
    reader = Reader(candidate, what="candidate", code=_CODE)
    tag = reader.u32le("tag")
    if tag not in {_CANDIDATE, _EMPTY_CANDIDATE}:
        raise Malformed(_CODE, "candidate.tag", want="a candidate of either kind", got=f"{tag:08x}")
    block = BlockId.take(reader, "block")
    if tag == _CANDIDATE:
        reader.take(32, "collated_file_hash")
        parent = reader.u32le("parent")
        if parent == _PARENT:
            if reader.take(4, "parent.id") != _CANDIDATE_ID:
                raise Malformed(_CODE, "candidate.parent", want="a candidate id", got="another")
            reader.take(36, "parent.id")
        elif parent != _NO_PARENT:
            raise Malformed(_CODE, "candidate.parent", want="a parent or none", got=f"{parent:08x}")
    else:
        reader.take(36, "parent")
    reader.end(code=_CODE)
    return block
