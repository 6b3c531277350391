# SPDX-License-Identifier: Apache-2.0
"""Collect what shows a stranger that a receipt is anchored: its place in a batch, and the head in a proved registry."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from attestation.batch import BatchStatement
from attestation.boot import BootMap
from attestation.dossier import Dossier
from attestation.errors import Untrusted
from attestation.evidence import Evidence
from attestation.receipt import SignedReceipt
from attestation.ton.anchoring import MAX_LATER, Anchoring, Later
from attestation.ton.blockid import BlockId
from attestation.ton.boc import read_boc, write_boc
from attestation.ton.reading import MAX_STATE
from attestation.ton.registry import find_key, prove_key, registry_data
from attestation.ton.trustpath import TrustPath

from ..errors import UsageFault
from ..ledger_file import KeyChain, Place, find_receipt, is_recovered, read_chains
from .chain import ChainView, Read
from .network import Network, block_json
from .registry_view import registry_code

_STATE_CELLS = 262_144


@dataclass(frozen=True, slots=True, kw_only=True)
class Located:
    """A dossier's receipt in its host's ledger."""

    key: bytes
    boot: bytes
    chain: KeyChain
    place: Place


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """An anchoring proof and the way to its block; `path` is None when the init block itself is that block."""

    anchoring: Anchoring
    path: TrustPath | None
    gen_utime: int

    def describe(self) -> dict[str, object]:
        """Give the documented JSON object."""
        anchoring = self.anchoring
        return {
            "batch": BatchStatement.from_boc(anchoring.statement).seqno,
            "position": anchoring.index,
            "later": len(anchoring.later),
            "registry": str(anchoring.registry),
            "block": {**block_json(anchoring.reading.block), "time": self.gen_utime},
            "bytes": len(anchoring.encode()),
            "links": 0 if self.path is None else len(self.path.links),
        }


def with_anchoring(dossier: Dossier, anchoring: Anchoring) -> bytes:
    """Give the dossier's file with the proof in it. Raises UsageFault beyond what a dossier may hold."""
    try:
        return replace(dossier, anchoring=anchoring.encode()).encode()
    except ValueError as e:
        raise UsageFault(f"the proof does not fit: {e}") from None


def locate(dossier: Dossier, ledger: Path) -> Located:
    """Find the dossier's receipt in a ledger. Raises UsageFault, Malformed or Untrusted(NotAnchored)."""
    boot = BootMap.decode(Evidence.decode(dossier.evidence).boot)
    signed = SignedReceipt.decode(dossier.receipt)
    signed.verify(boot.receipt_key)
    chain = read_chains(ledger).get(boot.receipt_key)
    place = None
    if chain is not None:
        place = find_receipt(ledger, chain, serial=signed.receipt.serial, receipt_hash=signed.receipt.hash)
    if chain is None or place is None:
        want = f"a batch with receipt {signed.receipt.serial} of key {boot.receipt_key.hex()[:16]}"
        got = "none yet; a batch closes by count, by age, or at the end"
        if is_recovered(ledger, boot.receipt_key, signed.receipt.serial):
            got = "none, for good: its boot ended first, and a later boot's key can only list it as recovered"
        raise Untrusted("NotAnchored", "ledger", want=want, got=got)
    return Located(key=boot.receipt_key, boot=boot.digest, chain=chain, place=place)


async def prove_anchoring(
    chain: ChainView, network: Network, located: Located, *, now: datetime, path: bool, block: BlockId | None = None
) -> Proof:
    """Read the registry at the newest block, or at `block`, and put the proof together.

    With `path` also the way from the network's init block. Raises Malformed, Untrusted, Refused, Unreachable, or
    UsageFault for a head too far from the receipt's batch.
    """
    if block is None:
        read = await chain.newest(network.registry, now=now)
    else:
        read = await chain.earlier(network.registry, block)
    enclave = find_key(registry_data(read.proved.account, code_hash=registry_code().hash), located.key).enclave
    statement = located.place.signed.statement
    if enclave is None or enclave.seqno < statement.seqno:
        got = "the key is not registered" if enclave is None else f"head {enclave.seqno}"
        raise Untrusted(
            "NotAnchored", "registry.head", want=f"{statement.seqno} or later", got=f"{got}; try again later"
        )
    anchoring = Anchoring(
        index=located.place.index,
        inclusion=located.place.inclusion,
        statement=statement.to_boc(),
        signature=located.place.signed.signature,
        later=_later(located.chain, statement.seqno, enclave.seqno),
        reading=replace(read.reading, state=_pruned(read, located.key)),
    )
    anchoring.check_chain(enclave)
    way = await chain.trust_path(read.reading.block) if path else None
    return Proof(anchoring=anchoring, path=way, gen_utime=read.proved.gen_utime)


def _later(chain: KeyChain, first: int, head: int) -> tuple[Later, ...]:
    """Give the statements after `first` up to `head`. Raises UsageFault for too many, Untrusted for one missing."""
    if head - first > MAX_LATER:
        raise UsageFault(
            f"the registry's head is {head - first} batches after the receipt's, and a proof has room for {MAX_LATER}: "
            "name with --block a masterchain block from when it was nearer, on a lite server that still has it"
        )
    later = []
    for seqno in range(first + 1, head + 1):
        signed = chain.statements.get(seqno)
        if signed is None:
            want = f"every statement up to {head}"
            raise Untrusted("NotAnchored", "ledger", want=want, got=f"no statement {seqno}; get the ledger anew")
        later.append(Later.of(signed.statement))
    return tuple(later)


def _pruned(read: Read, key: bytes) -> bytes:
    """Give the account's state with nothing but the way to `key` in it."""
    (account,) = read_boc(read.reading.state, what="account", limit=MAX_STATE, max_cells=_STATE_CELLS)
    data = registry_data(read.proved.account, code_hash=registry_code().hash)
    return write_boc(prove_key(account, data, key))
