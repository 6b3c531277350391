# SPDX-License-Identifier: Apache-2.0
"""The anchoring proof of a dossier: from a receipt's hash to a registry's head at one masterchain block (docs/ton.md).

It ends at a block id. That this block is the chain's is the trust path's to prove.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from .. import cbor
from ..batch import MAX_RECOVERED, BatchStatement, Recovered, check_inclusion, verify_signature
from ..errors import Malformed, Untrusted
from .blockid import SIZE, BlockId
from .reading import MAX_PROOF, Proved, Reading, verify_reading
from .registry import Address, Enclave, find_key, registry_data

FORMAT: Final = "sericin-anchoring/1"
MAX_ANCHORING: Final = 768 * 1024
MAX_LATER: Final = 2048  # statements between the receipt's and the head: 90 KB, two weeks of a batch every ten minutes
MAX_ACCOUNT: Final = 128 * 1024
_CODE: Final = "MalformedProof"
_MAX_BOC: Final = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Later:
    """What a later statement says of its own: boot, number and previous hash follow from the statement before it."""

    root: bytes  # 32
    count: int
    time: int  # unix seconds, the host's claim
    recovered: Recovered | None = None

    @classmethod
    def of(cls, statement: BatchStatement) -> Later:
        """Give what has to be kept of a statement."""
        return cls(root=statement.root, count=statement.count, time=statement.time, recovered=statement.recovered)

    def after(self, before: BatchStatement) -> BatchStatement:
        """Give the whole statement, as the one after `before`."""
        return BatchStatement(
            boot=before.boot, seqno=before.seqno + 1, previous=before.hash, root=self.root, count=self.count,
            time=self.time, recovered=self.recovered,
        )  # fmt: skip

    def to_list(self) -> list[object]:
        """Give [root, count, time], and the count and root of recovered receipts where there are any."""
        listed: list[object] = [self.root, self.count, self.time]
        return listed if self.recovered is None else [*listed, self.recovered.count, self.recovered.root]

    @classmethod
    def from_value(cls, value: cbor.Value) -> Later:
        """Read the list. Raises MalformedProof."""
        where = "anchoring.later"
        given = cbor.as_list(value, where, code=_CODE, limit=5, least=3)
        root, count = cbor.as_bytes(given[0], where, code=_CODE, size=32), _number(given[1], 32)
        if len(given) == 4 or (not count and (any(root) or len(given) == 3)) or (count and not any(root)):
            raise Malformed(_CODE, where, want="receipts with a root, recovered ones, or both", got="another list")
        recovered = None
        if len(given) == 5:
            found = _number(given[3], 32)
            if not 1 <= found <= MAX_RECOVERED:
                raise Malformed(_CODE, where, want=f"1 to {MAX_RECOVERED} recovered receipts", got=found)
            recovered = Recovered(count=found, root=cbor.as_bytes(given[4], where, code=_CODE, size=32))
        return cls(root=root, count=count, time=_number(given[2], 64), recovered=recovered)


def _number(value: cbor.Value, bits: int) -> int:
    return cbor.as_uint(value, "anchoring.later", code=_CODE, limit=(1 << bits) - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Anchoring:
    """A receipt's place in a batch, the statements from there to the head, and the head in a proved registry."""

    index: int
    inclusion: bytes  # bag of one Merkle-proof cell
    statement: bytes  # bag of one BatchStatement
    signature: bytes  # 64
    later: tuple[Later, ...]  # the statements after it, in order, up to the head
    reading: Reading  # of the registry

    def encode(self) -> bytes:
        """Give the CBOR map. Raises ValueError beyond the limits."""
        reading = self.reading
        data = cbor.encode(
            {
                1: FORMAT,
                2: self.index,
                3: self.inclusion,
                4: self.statement,
                5: self.signature,
                6: [later.to_list() for later in self.later],
                7: reading.block.encode(),
                8: [reading.workchain, reading.address],
                9: reading.shard_proof,
                10: reading.proof,
                11: reading.state,
            }
        )
        if len(data) > MAX_ANCHORING or len(self.later) > MAX_LATER:
            raise ValueError(f"an anchoring proof has at most {MAX_ANCHORING} bytes and {MAX_LATER} later statements")
        return data

    @classmethod
    def decode(cls, data: bytes) -> Anchoring:
        """Read the CBOR map. Raises MalformedProof; cells are read by `verify`."""
        m = cbor.decode_map(data, limit=MAX_ANCHORING, what="anchoring", code=_CODE, required=range(1, 12))
        if m.keys() != set(range(1, 12)):
            raise Malformed(_CODE, "anchoring", want="known keys only", got="others")
        if m[1] != FORMAT:
            raise Malformed(_CODE, "anchoring.format", want=FORMAT, got="another format")
        later = cbor.as_list(m[6], "anchoring.later", code=_CODE, limit=MAX_LATER)
        place = cbor.as_list(m[8], "anchoring.registry", code=_CODE, limit=2, least=2)
        workchain = place[0]
        if workchain not in {0, -1} or isinstance(workchain, bool) or not isinstance(workchain, int):
            raise Malformed(_CODE, "anchoring.registry", want="workchain 0 or -1", got="another")
        block = cbor.as_bytes(m[7], "anchoring.block", code=_CODE, size=SIZE)
        return cls(
            index=cbor.as_uint(m[2], "anchoring.index", code=_CODE, limit=2**32 - 1),
            inclusion=cbor.as_bytes(m[3], "anchoring.inclusion", code=_CODE, limit=8192),
            statement=cbor.as_bytes(m[4], "anchoring.statement", code=_CODE, limit=_MAX_BOC),
            signature=cbor.as_bytes(m[5], "anchoring.signature", code=_CODE, size=64),
            later=tuple(Later.from_value(one) for one in later),
            reading=Reading(
                block=BlockId.decode(block, what="anchoring.block", code=_CODE),
                workchain=workchain,
                address=cbor.as_bytes(place[1], "anchoring.registry", code=_CODE, size=32),
                shard_proof=cbor.as_bytes(m[9], "anchoring.shard_proof", code=_CODE, limit=MAX_PROOF),
                proof=cbor.as_bytes(m[10], "anchoring.proof", code=_CODE, limit=MAX_PROOF),
                state=cbor.as_bytes(m[11], "anchoring.state", code=_CODE, limit=MAX_ACCOUNT),
            ),
        )

    @property
    def registry(self) -> Address:
        """The registry that the proof is about; shown, never trusted."""
        return Address(workchain=self.reading.workchain, account=self.reading.address)

    def check_statement(self, *, receipt_hash: bytes, receipt_key: bytes, boot: bytes) -> BatchStatement:
        """Check that the receipt is in the batch and that `receipt_key` signed its statement for `boot`.

        Raises MalformedProof, MalformedBatch, BatchProofInvalid or BatchSignatureInvalid.
        """
        statement = BatchStatement.from_boc(self.statement)
        verify_signature(statement, signature=self.signature, key=receipt_key)
        if statement.boot != boot:
            raise Untrusted("BatchProofInvalid", "statement.boot", want=boot.hex(), got=statement.boot.hex())
        if self.index >= statement.count:
            raise Untrusted("BatchProofInvalid", "statement.count", want=f"more than {self.index}", got=statement.count)
        check_inclusion(self.inclusion, root=statement.root, index=self.index, receipt_hash=receipt_hash)
        return statement

    def check_chain(self, enclave: Enclave) -> None:
        """Check that the statements, each made to name the one before, lead to the head that `enclave` has.

        Raises MalformedBatch or NotAnchored.
        """
        head = BatchStatement.from_boc(self.statement)
        if head.seqno + len(self.later) != enclave.seqno:  # before numbers are counted on: they stay within 64 bits
            want = f"{enclave.seqno - head.seqno} statements after {head.seqno}"
            raise Untrusted("NotAnchored", "registry.head", want=want, got=len(self.later))
        for later in self.later:
            head = later.after(head)
        if head.hash != enclave.head:
            raise Untrusted("NotAnchored", "registry.head", want=head.hash.hex(), got=enclave.head.hex())

    def check_registry(self, *, receipt_key: bytes, boot: bytes, code_hash: bytes) -> tuple[Enclave, Proved]:
        """Check that the proved account runs the registry's code and knows the key, not revoked.

        Raises MalformedProof, MalformedBlock, MalformedAccount, BlockProofInvalid, ShardProofInvalid,
        AccountProofInvalid, RegistryProofInvalid or NotAnchored.
        """
        proved = verify_reading(self.reading)
        status = find_key(registry_data(proved.account, code_hash=code_hash), receipt_key)
        if status.enclave is None:
            raise Untrusted("NotAnchored", "registry.key", want=receipt_key.hex(), got="not registered")
        if status.revoked_at is not None:
            raise Untrusted("RegistryProofInvalid", "registry.key", want="not revoked", got=f"at {status.revoked_at}")
        if status.enclave.boot != boot:
            raise Untrusted("RegistryProofInvalid", "registry.boot", want=boot.hex(), got=status.enclave.boot.hex())
        return status.enclave, proved
