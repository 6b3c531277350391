# SPDX-License-Identifier: Apache-2.0
"""From one trusted masterchain block to another: a link, and whether it holds (TL `liteServer.BlockLink`).

A forward link starts at a key block and needs signatures of the validators that its configuration names. A backward
link needs none: the state after a block names every block before it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ..errors import Malformed, Untrusted
from ..wire import Reader
from .blockid import BlockId
from .blocks import Block, configuration, proved, read_block, state_hash
from .boc import read_boc
from .cells import Cell
from .signatures import SignatureSet
from .states import find_old_block
from .tl import put_bool, put_bytes, take_bool, take_bytes, take_count
from .validators import masterchain_validators, require_signatures, validator_set_hash

MAX_LINK: Final = 256 * 1024
MAX_STEPS: Final = 64  # of one answer of a lite server
_CODE: Final = "MalformedTrustPath"
_BACK: Final = 0xEF1B7EEF
_FORWARD: Final = 0x520FCE1C
_PARTIAL_PROOF: Final = 0x8ED0D2C1
_MAX_PROOF: Final = 128 * 1024  # a configuration of 400 validators was 36 KB in 2026; 1,000 may come
_MAX_CELLS: Final = 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwardLink:
    """A later block, signed by the validators that key block `source` names."""

    source: BlockId
    target: BlockId
    to_key_block: bool
    dest_proof: bytes
    config_proof: bytes
    signatures: SignatureSet

    def encode(self) -> bytes:
        """Give the TL form."""
        head = _FORWARD.to_bytes(4, "little") + put_bool(value=self.to_key_block)
        proofs = put_bytes(self.dest_proof) + put_bytes(self.config_proof)
        return head + self.source.encode() + self.target.encode() + proofs + self.signatures.encode()

    def verify(self) -> Block:
        """Verify that who trusts `source` may trust `target`; gives the target's header.

        Raises MalformedProof, MalformedBlock, BlockProofInvalid or TrustPathInvalid.
        """
        target = _header(self.dest_proof, self.target, "link.to", key_block=self.to_key_block)
        if self.target.seqno <= self.source.seqno:
            raise Untrusted("TrustPathInvalid", "link.to", want=f"after {self.source.seqno}", got=self.target.seqno)
        if target.prev_key_block_seqno != self.source.seqno:
            raise Untrusted(
                "TrustPathInvalid", "link.from", want=f"key block {target.prev_key_block_seqno}", got=self.source.seqno
            )
        source = read_block(_cell(self.config_proof, "config_proof"), self.source, where="link.from")
        _same_network(source, target)
        validators = masterchain_validators(configuration(source, "link.from"), target.catchain_seqno)
        found = validator_set_hash(validators, target.catchain_seqno)
        for where, want, got in (
            ("link.to.validator_list_hash_short", found, target.validator_list_hash_short),
            ("link.signatures.validator_set_hash", found, self.signatures.validator_set_hash),
            ("link.signatures.catchain_seqno", target.catchain_seqno, self.signatures.catchain_seqno),
        ):
            if want != got:
                raise Untrusted("TrustPathInvalid", where, want=want, got=got)
        message = self.signatures.message(self.target)
        require_signatures(validators, self.signatures.signatures, message, where="link.signatures")
        return target


@dataclass(frozen=True, slots=True, kw_only=True)
class BackLink:
    """An earlier block, named by the state after `source`."""

    source: BlockId
    target: BlockId
    to_key_block: bool
    dest_proof: bytes
    proof: bytes
    state_proof: bytes

    def encode(self) -> bytes:
        """Give the TL form."""
        head = _BACK.to_bytes(4, "little") + put_bool(value=self.to_key_block)
        proofs = put_bytes(self.dest_proof) + put_bytes(self.proof) + put_bytes(self.state_proof)
        return head + self.source.encode() + self.target.encode() + proofs

    def verify(self) -> Block:
        """Verify that who trusts `source` may trust `target`; gives the target's header.

        Raises MalformedProof, MalformedBlock, BlockProofInvalid or TrustPathInvalid.
        """
        target = _header(self.dest_proof, self.target, "link.to", key_block=self.to_key_block)
        if self.target.seqno >= self.source.seqno:
            raise Untrusted("TrustPathInvalid", "link.to", want=f"before {self.source.seqno}", got=self.target.seqno)
        source = read_block(_cell(self.proof, "proof"), self.source, where="link.from")
        _same_network(source, target)
        want = state_hash(source, "link.from")
        state = proved(_cell(self.state_proof, "state_proof"), want, where="link.state_proof", code="BlockProofInvalid")
        old = find_old_block(state, self.target.seqno, "link.state_proof")
        if old is None or old[1:] != (self.target.root_hash, self.target.file_hash):
            raise Untrusted("TrustPathInvalid", "link.to", want="the block that the state names", got=str(self.target))
        if old[0] != self.to_key_block:
            raise Untrusted("TrustPathInvalid", "link.to_key_block", want=old[0], got=self.to_key_block)
        return target


Link = ForwardLink | BackLink


def take_link(reader: Reader) -> Link:
    """Take one link off `reader`. Raises MalformedTrustPath."""
    tag = reader.u32le("link")
    if tag not in {_BACK, _FORWARD}:
        raise Malformed(_CODE, "link", want="a link back or forward", got=f"{tag:08x}")
    to_key_block = take_bool(reader, "to_key_block", code=_CODE)
    source, target = BlockId.take(reader, "from"), BlockId.take(reader, "to")
    for block, where in ((source, "link.from"), (target, "link.to")):
        block.require_masterchain(where, code=_CODE)
    dest_proof, proof = (take_bytes(reader, field, limit=_MAX_PROOF, code=_CODE) for field in ("dest_proof", "proof"))
    if tag == _BACK:
        return BackLink(
            source=source,
            target=target,
            to_key_block=to_key_block,
            dest_proof=dest_proof,
            proof=proof,
            state_proof=take_bytes(reader, "state_proof", limit=_MAX_PROOF, code=_CODE),
        )
    return ForwardLink(
        source=source,
        target=target,
        to_key_block=to_key_block,
        dest_proof=dest_proof,
        config_proof=proof,
        signatures=SignatureSet.take(reader),
    )


def read_link(data: bytes) -> Link:
    """Read one link, every byte of it. Raises MalformedTrustPath."""
    if len(data) > MAX_LINK:
        raise Malformed(_CODE, "link", want=f"at most {MAX_LINK} bytes", got=len(data))
    reader = Reader(data, what="link", code=_CODE)
    link = take_link(reader)
    reader.end(code=_CODE)
    return link


@dataclass(frozen=True, slots=True, kw_only=True)
class PartialProof:
    """A lite server's answer to "prove the way from one block to another" (TL `liteServer.partialBlockProof`)."""

    complete: bool
    source: BlockId
    target: BlockId
    links: tuple[Link, ...]

    @classmethod
    def decode(cls, data: bytes) -> PartialProof:
        """Read an answer of at most 64 links. Raises MalformedTrustPath."""
        if len(data) > MAX_STEPS * MAX_LINK:
            raise Malformed(_CODE, "answer", want=f"at most {MAX_STEPS * MAX_LINK} bytes", got=len(data))
        reader = Reader(data, what="answer", code=_CODE)
        tag = reader.u32le("answer")
        if tag != _PARTIAL_PROOF:
            raise Malformed(_CODE, "answer", want=f"{_PARTIAL_PROOF:08x}", got=f"{tag:08x}")
        complete = take_bool(reader, "complete", code=_CODE)
        source, target = BlockId.take(reader, "from"), BlockId.take(reader, "to")
        count = take_count(reader, "steps", limit=MAX_STEPS, code=_CODE)
        links = tuple(take_link(reader) for _ in range(count))
        reader.end(code=_CODE)
        return cls(complete=complete, source=source, target=target, links=links)

    def encode(self) -> bytes:
        """Give the TL form."""
        head = _PARTIAL_PROOF.to_bytes(4, "little") + put_bool(value=self.complete)
        ends = self.source.encode() + self.target.encode()
        return head + ends + len(self.links).to_bytes(4, "little") + b"".join(link.encode() for link in self.links)


def _cell(boc: bytes, what: str) -> Cell:
    (cell,) = read_boc(boc, what=what, limit=_MAX_PROOF, max_cells=_MAX_CELLS, code="MalformedProof")
    return cell


def _header(proof: bytes, block: BlockId, where: str, *, key_block: bool) -> Block:
    header = read_block(_cell(proof, "dest_proof"), block, where=where)
    if header.key_block != key_block:
        raise Untrusted("BlockProofInvalid", f"{where}.key_block", want=key_block, got=header.key_block)
    return header


def _same_network(source: Block, target: Block) -> None:
    if source.global_id != target.global_id:
        raise Untrusted("TrustPathInvalid", "link.global_id", want=source.global_id, got=target.global_id)
