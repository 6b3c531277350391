# SPDX-License-Identifier: Apache-2.0
"""Validators of a simulated TON: keys from a seed, their place in the configuration, and their signatures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256, sha512
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pytoniq_core.boc.builder import Builder
from pytoniq_core.boc.cell import Cell
from pytoniq_core.crypto.crc import crc32c

from .ton_blocks import BlockRef
from .ton_cells import maybe_dictionary

# Constructor tags as they stand on the wire.
_PUBLIC_KEY: Final = bytes.fromhex("c6b41348")
_VALIDATOR_SET: Final = bytes.fromhex("ed601690")
_BLOCK_ID: Final = bytes.fromhex("706e0bc5")
_ORDINARY: Final = bytes.fromhex("e6a644f6")
_SIMPLEX: Final = bytes.fromhex("009824ac")
_DATA_TO_SIGN: Final = bytes.fromhex("f83de3a8")
_FINALIZE: Final = bytes.fromhex("05e1a740")
_CANDIDATE_ID: Final = bytes.fromhex("3fcd91b6")
_CANDIDATE: Final = bytes.fromhex("dcbcf9e8")
_CANDIDATE_PARENT: Final = bytes.fromhex("f19a4b1a")


@dataclass(frozen=True, slots=True, kw_only=True)
class Validators:
    """Everybody who signs between two key blocks, in the order of the configuration."""

    keys: tuple[Ed25519PrivateKey, ...] = field(repr=False)
    weights: tuple[int, ...]
    shuffled: bool

    @classmethod
    def from_seed(cls, seed: bytes, generation: int, weights: Sequence[int], *, shuffled: bool) -> Validators:
        """Make the keys of one generation."""
        head = b"SIMULATED TON validator" + seed + generation.to_bytes(4, "big")
        secrets = (sha256(head + index.to_bytes(4, "big")).digest() for index in range(len(weights)))
        keys = tuple(Ed25519PrivateKey.from_private_bytes(secret) for secret in secrets)
        return cls(keys=keys, weights=tuple(weights), shuffled=shuffled)

    def public(self, index: int) -> bytes:
        """Give a public key, 32 bytes."""
        return self.keys[index].public_key().public_bytes_raw()

    def node_id(self, index: int) -> bytes:
        """Give the short id that signatures name."""
        return sha256(_PUBLIC_KEY + self.public(index)).digest()

    def parameters(self, since: int) -> dict[int, Cell]:
        """Give configuration parameters 28 (catchain) and 34 (current validators)."""
        catchain = Builder().store_uint(0xC2, 8).store_uint(0, 7).store_uint(self.shuffled, 1)
        for number in (250, 250, 1000, 7):
            catchain.store_uint(number, 32)
        count = len(self.keys)
        current = Builder().store_uint(0x12, 8).store_uint(since, 32).store_uint(since + 65536, 32)
        current.store_uint(count, 16).store_uint(count, 16).store_uint(sum(self.weights), 64)
        listed = {
            index: Builder()
            .store_uint(0x73, 8)
            .store_uint(0x8E81278A, 32)
            .store_bytes(self.public(index))
            .store_uint(self.weights[index], 64)
            .store_bytes(self._adnl(index))
            .end_cell()
            for index in range(count)
        }
        return {28: catchain.end_cell(), 34: current.store_cell(maybe_dictionary(listed, 16)).end_cell()}

    def _adnl(self, index: int) -> bytes:
        return sha256(b"SIMULATED adnl" + self.public(index)).digest()

    def order(self, catchain_seqno: int) -> list[int]:
        """Give the indexes in the order in which they sign the blocks of one catchain."""
        places: list[int] = []
        drawn: list[int] = []
        for index in range(len(self.keys)):
            if not self.shuffled:
                places.append(index)
                continue
            if index % 8 == 0:
                seed = (index // 8).to_bytes(32, "big") + b"\x80" + bytes(7) + b"\xff" * 4
                digest = sha512(seed + catchain_seqno.to_bytes(4, "big")).digest()
                drawn = [int.from_bytes(digest[at : at + 8], "big") for at in range(0, 64, 8)]
            other = drawn[index % 8] * (index + 1) >> 64
            places.append(places[other] if other < index else index)
            places[other] = index
        return places

    def hash_short(self, catchain_seqno: int) -> int:
        """Compute what block headers say of this set."""
        data = _VALIDATOR_SET + catchain_seqno.to_bytes(4, "little") + len(self.keys).to_bytes(4, "little")
        for index in self.order(catchain_seqno):
            data += self.public(index) + self.weights[index].to_bytes(8, "little") + self._adnl(index)
        return int.from_bytes(crc32c(data), "little")

    def signatures(
        self, block: BlockRef, catchain_seqno: int, *, simplex: bool, signers: Sequence[int] | None = None
    ) -> bytes:
        """Sign `block` and give the TL `liteServer.SignatureSet`. `signers` may leave out and repeat."""
        set_hash, catchain = (n.to_bytes(4, "little") for n in (self.hash_short(catchain_seqno), catchain_seqno))
        message, tail = _BLOCK_ID + block.root_hash + block.file_hash, b""
        if simplex:
            message, tail = _vote(block)
        chosen = range(len(self.keys)) if signers is None else signers
        signed = [self.node_id(index) + tl_bytes(self.keys[index].sign(message)) for index in chosen]
        head = _SIMPLEX + catchain + set_hash if simplex else _ORDINARY + set_hash + catchain
        return head + len(signed).to_bytes(4, "little") + b"".join(signed) + tail


def _vote(block: BlockRef) -> tuple[bytes, bytes]:
    """Give what a Simplex validator signs, and what the signature set says beside the signatures."""
    session = sha256(b"SIMULATED session").digest()
    slot = (block.seqno * 4).to_bytes(4, "little")
    parent = _CANDIDATE_PARENT + _CANDIDATE_ID + (block.seqno * 4 - 4 & 0xFFFFFFFF).to_bytes(4, "little") + bytes(32)
    candidate = _CANDIDATE + block.encode() + sha256(b"SIMULATED collated").digest() + parent
    vote = _FINALIZE + _CANDIDATE_ID + slot + sha256(candidate).digest()
    return _DATA_TO_SIGN + session + tl_bytes(vote), session + slot + tl_bytes(candidate)


def tl_bytes(data: bytes) -> bytes:
    """Give `data` as a TL `bytes`."""
    head = bytes((len(data),)) if len(data) < 254 else b"\xfe" + len(data).to_bytes(3, "little")
    return head + data + bytes(-(len(head) + len(data)) % 4)
