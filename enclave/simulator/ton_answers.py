# SPDX-License-Identifier: Apache-2.0
"""What an honest lite server says about a TON in a box (TL, lite_api.tl). A test that lies overrides one method."""

from __future__ import annotations

from itertools import pairwise
from typing import Final

from .ton_box import Rejected, TonBox
from .ton_machine import MachineFailed
from .ton_validators import tl_bytes

LINKS: Final = 2  # of one answer: a client has to ask again for more
_QUERY: Final = bytes.fromhex("df068c79")
_MASTERCHAIN_INFO: Final = bytes.fromhex("81288385")
_ACCOUNT_STATE: Final = bytes.fromhex("51c77970")
_STATUS: Final = bytes.fromhex("97e55039")
_ERROR: Final = bytes.fromhex("48e1a9bb")
_BLOCK: Final = 80


class TonAnswers:
    """Answers queries about `box`. None as an answer keeps the asker waiting."""

    def __init__(self, box: TonBox, *, simplex: bool = True) -> None:
        self.box = box
        self._simplex = simplex

    def answer(self, query: bytes) -> bytes | None:
        """Answer one liteServer.query."""
        function = untl_bytes(query[4:]) if query[:4] == _QUERY else b""
        name, rest = function[:4].hex(), function[4:]
        try:
            if name == "2ee6b589":
                return self.masterchain_info()
            if name == "250e896b":
                workchain = int.from_bytes(rest[_BLOCK : _BLOCK + 4], "little", signed=True)
                return self.account_state(self.seqno(rest[:_BLOCK]), workchain, rest[_BLOCK + 4 : _BLOCK + 36])
            if name == "449cea8a":
                return self.block_proof(self.seqno(rest[4 : 4 + _BLOCK]), self.seqno(rest[4 + _BLOCK : 4 + 2 * _BLOCK]))
            if name == "82d40a69":
                return self.send_message(untl_bytes(rest))
        except LookupError:
            return error(651, "block not found in db")
        return error(-400, "unknown query")

    def seqno(self, block: bytes) -> int:
        """Find a block of the masterchain by its 80 bytes. Raises LookupError."""
        seqno = int.from_bytes(block[12:16], "little")
        if not 1 <= seqno <= self.box.chain.head.seqno or self.box.chain.block(seqno).encode() != block:
            raise LookupError(seqno)
        return seqno

    def masterchain_info(self) -> bytes:
        """Name the newest block."""
        self.box.tick()
        return self.info(self.box.chain.head.encode())

    @staticmethod
    def info(block: bytes) -> bytes:
        """Say that `block` is the newest."""
        return _MASTERCHAIN_INFO + block + bytes(32) + (-1).to_bytes(4, "little", signed=True) + bytes(64)

    def account_state(self, seqno: int, workchain: int, address: bytes) -> bytes:
        """Prove an account."""
        found = self.box.chain.account_state(address, at=seqno, workchain=workchain)
        parts = (found.shard_proof, found.proof, found.state)
        head = _ACCOUNT_STATE + found.block.encode() + found.shard_block.encode()
        return head + b"".join(tl_bytes(part) for part in parts)

    def block_proof(self, known: int, target: int) -> bytes:
        """Prove the way from one block to another."""
        chain = self.box.chain
        if target < known:
            return chain.partial_proof([chain.back_link(known, target)], source=known, target=target)
        links, start = [], known
        if not chain.is_key_block(known):
            start = chain.last_key_block(known)
            links.append(chain.back_link(known, start))
        stops = [start, *(n for n in range(start + 1, target) if chain.is_key_block(n)), target]
        stops = stops[: LINKS + 1]
        links += [chain.forward_link(a, b, simplex=self._simplex) for a, b in pairwise(stops)]
        return chain.partial_proof(links, source=known, target=stops[-1], complete=stops[-1] == target)

    def send_message(self, boc: bytes) -> bytes:
        """Take an external message in."""
        try:
            self.box.external(boc)
        except (Rejected, MachineFailed) as e:
            return error(0, f"cannot apply external message: {e}")
        return _STATUS + (1).to_bytes(4, "little")


def error(code: int, message: str) -> bytes:
    """Give a liteServer.error."""
    return _ERROR + code.to_bytes(4, "little", signed=True) + tl_bytes(message.encode())


def untl_bytes(data: bytes) -> bytes:
    """Read a TL `bytes` off the front."""
    if data[:1] == b"\xfe":
        return data[4 : 4 + int.from_bytes(data[1:4], "little")]
    return data[1 : 1 + data[0]] if data else b""
