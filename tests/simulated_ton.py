# SPDX-License-Identifier: Apache-2.0
"""A small simulated TON with the registry on it, and its proofs in the forms that the checks take."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from attestation.ton.blockid import BlockId
from attestation.ton.links import BackLink, ForwardLink, Link, read_link
from attestation.ton.reading import Reading, verify_reading
from attestation.ton.trustpath import TrustPath
from enclave.simulator.ton_chain import AccountAnswer, BlockRef, TonChain, active_account

CODE = (Path(__file__).parent.parent / "attestation" / "ton" / "registry.boc").read_bytes()
NOW = 1_800_000_000
SEED = b"tests"
LOW, HIGH, MASTER, NOBODY = b"\x01" * 32, b"\xf1" * 32, b"\x33" * 32, b"\x02" * 32


def account(address: bytes, *, workchain: int = 0, data: bytes = CODE, balance: int = 7) -> bytes:
    """Write an account that runs the registry's code."""
    return active_account(address, code=CODE, data=data, balance=balance, now=NOW, workchain=workchain)


ACCOUNTS = {
    (0, LOW): account(LOW, balance=11),
    (0, HIGH): account(HIGH, balance=12),
    (-1, MASTER): account(MASTER, workchain=-1, balance=13),
}


def grow(chain: TonChain, keys: tuple[int, ...] = (4, 8), *, upto: int = 10) -> TonChain:
    """Append blocks up to seqno `upto`, key blocks among them."""
    for seqno in range(chain.head.seqno + 1, upto + 1):
        chain.append(now=NOW + 5 * seqno, key_block=seqno in keys)
    return chain


@cache
def chain() -> TonChain:
    """Give a chain of ten blocks, key blocks 1, 4 and 8, with the accounts from block 1 on. Not to be appended to."""
    return grow(TonChain(seed=SEED, now=NOW, accounts=ACCOUNTS, weights=(5, 4, 3, 2, 1)))


def block_id(ref: BlockRef) -> BlockId:
    """Give a block's name as the checks take it."""
    return BlockId.decode(ref.encode(), what="block")


def forward(source: int, target: int, on: TonChain | None = None, **how: Any) -> ForwardLink:
    """Give a forward link."""
    link = read_link((on or chain()).forward_link(source, target, **how))
    assert isinstance(link, ForwardLink)
    return link


def back(source: int, target: int, on: TonChain | None = None) -> BackLink:
    """Give a link back."""
    link = read_link((on or chain()).back_link(source, target))
    assert isinstance(link, BackLink)
    return link


def read(answer: AccountAnswer, address: bytes, workchain: int = 0) -> Reading:
    """Give what a lite server answered as a reading."""
    return Reading(
        block=block_id(answer.block),
        workchain=workchain,
        address=address,
        shard_proof=answer.shard_proof,
        proof=answer.proof,
        state=answer.state,
    )


def reading(address: bytes, *, workchain: int = 0, at: int = 10, on: TonChain | None = None) -> Reading:
    """Give the reading of an account."""
    return read((on or chain()).account_state(address, at=at, workchain=workchain), address, workchain)


Check = Callable[[bytes], None]


def flippable() -> list[tuple[str, bytes, Check]]:
    """Give every proof with its name and a check that takes it, bent or not, for the truth."""
    links: list[tuple[str, Link]] = [
        ("ordinary", forward(4, 8)),
        ("simplex", forward(4, 8, simplex=True)),
        ("back", back(10, 3)),
    ]
    found = [(name, link.encode(), _link_check(link)) for name, link in links]
    for name, whole in (
        ("base", reading(LOW)),
        ("absent", reading(NOBODY)),
        ("master", reading(MASTER, workchain=-1)),
    ):
        parts = {part: getattr(whole, part) for part in ("shard_proof", "proof", "state")}
        found += [(f"{name}.{part}", data, _reading_check(whole, part)) for part, data in parts.items() if data]
    return found


def _link_check(good: Link) -> Check:
    def check(data: bytes) -> None:
        TrustPath(links=(read_link(data),)).verify(trusted=good.source, target=good.target)

    return check


def _reading_check(good: Reading, part: str) -> Check:
    def check(data: bytes) -> None:
        bent: dict[str, Any] = {part: data}
        verify_reading(replace(good, **bent))

    return check
