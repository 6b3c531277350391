# SPDX-License-Identifier: Apache-2.0
"""What an account cell says: address, balance, code and data (TL-B `Account`, block.tlb)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from .cells import Cell
from .slices import Slice

_CODE: Final = "MalformedAccount"


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """An account that exists. `code` and `data` are None unless it is active."""

    workchain: int
    address: bytes  # 32 bytes
    balance: int  # nanograms
    last_lt: int
    code: Cell | None
    data: Cell | None


def read_account(cell: Cell) -> Account | None:
    """Read an account cell that shows everything down to code and data; None is `account_none`. Raises Malformed."""
    at = Slice(cell, what="account", code=_CODE)
    if not at.flag("exists"):
        at.end()
        return None
    at.tag(3, 0b100, "address")  # addr_std without anycast
    workchain, address = at.signed(8, "workchain"), at.octets(32, "address")
    _skip_storage_info(at)
    last_lt, balance = at.uint(64, "last_trans_lt"), at.coins("balance")
    at.maybe_ref("extra currencies")
    code = data = None
    if at.flag("active"):
        code, data = _take_state(at)
    elif at.flag("frozen"):
        at.octets(32, "state_hash")
    at.end()
    return Account(workchain=workchain, address=address, balance=balance, last_lt=last_lt, code=code, data=data)


def _skip_storage_info(at: Slice) -> None:
    for field in ("cells", "bits"):
        at.uint(8 * at.uint(3, field), field)
    extra = at.uint(3, "storage_extra")
    if extra > 1:
        raise at.malformed("storage_extra", want="none or a dictionary hash", got=extra)
    if extra:
        at.octets(32, "dict_hash")
    at.uint(32, "last_paid")
    if at.flag("due_payment"):
        at.coins("due_payment")


def _take_state(at: Slice) -> tuple[Cell | None, Cell | None]:
    if at.flag("fixed_prefix_length"):
        at.uint(5, "fixed_prefix_length")
    if at.flag("special"):
        at.uint(2, "tick_tock")
    code, data = at.maybe_ref("code"), at.maybe_ref("data")
    at.maybe_ref("library")
    return code, data
