# SPDX-License-Identifier: Apache-2.0
"""A registry as it stands at the newest block, every value proved."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import cache
from importlib.resources import files

from attestation.ton.blockid import BlockId
from attestation.ton.cells import Cell
from attestation.ton.registry import Address, RegistryState, contract_code, read_registry, registry_data

from .chain import MAX_AGE, ChainView, Read


@cache
def registry_code() -> Cell:
    """Give the contract's code that this release carries."""
    return contract_code(files("attestation").joinpath("ton", "registry.boc").read_bytes())


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryView:
    """What a registry holds at `block`, whose validators say that it was made at `gen_utime` (unix seconds)."""

    address: Address
    block: BlockId
    gen_utime: int
    global_id: int
    balance: int  # nanograms
    state: RegistryState
    read: Read


async def view_registry(chain: ChainView, address: Address, *, now: datetime, max_age: int = MAX_AGE) -> RegistryView:
    """Read a registry. Raises Malformed, Untrusted, Refused(RegistryStale) or Unreachable."""
    read = await chain.newest(address, now=now, max_age=max_age)
    account = read.proved.account
    data = registry_data(account, code_hash=registry_code().hash)
    return RegistryView(
        address=address,
        block=read.reading.block,
        gen_utime=read.proved.gen_utime,
        global_id=read.proved.global_id,
        balance=account.balance if account is not None else 0,
        state=read_registry(data),
        read=read,
    )
