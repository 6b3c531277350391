# SPDX-License-Identifier: Apache-2.0
"""Write the TON structures that the product only reads: dictionaries, messages, accounts, a configuration."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from attestation.ton.cells import Cell
from attestation.ton.hashmap import label_bits
from attestation.ton.slices import Builder

GAS_PRICE = 400  # nanograms per unit of gas in the basechain
REGISTRY_BALANCE = 2_000_000_000


def append(builder: Builder, cell: Cell) -> Builder:
    """Append the bits and references of `cell` to `builder`."""
    value = int.from_bytes(cell.data, "big") >> (-cell.bits % 8)
    builder.uint(value, cell.bits)
    for ref in cell.refs:
        builder.ref(ref)
    return builder


Extra = Callable[[list[Cell]], Cell]


def hashmap(items: Mapping[int, Cell], bits: int, *, fork_extra: Extra | None = None) -> Cell:
    """Write a `Hashmap bits X` (or `HashmapAug`, leaves beginning with their extra) from values as cells."""
    label_length = bits
    keys = sorted(items)
    if len(keys) > 1:
        label_length = bits - (keys[0] ^ keys[-1]).bit_length()
    left = bits - label_length
    label = keys[0] >> left
    builder = Builder().uint(*label_bits(label, label_length, bits))
    if not left:
        return append(builder, items[keys[0]]).cell()
    mask = (1 << left - 1) - 1
    side = 1 << left - 1
    halves = [{key & mask: items[key] for key in keys if bool(key & side) == one} for one in (False, True)]
    for half in halves:
        builder.ref(hashmap(half, left - 1, fork_extra=fork_extra))
    if fork_extra is not None:
        append(builder, fork_extra([items[key] for key in keys]))
    return builder.cell()


def maybe_hashmap(builder: Builder, items: Mapping[int, Cell], bits: int) -> Builder:
    """Append a `HashmapE`."""
    return builder.maybe_ref(hashmap(items, bits) if items else None)


def address(builder: Builder, workchain: int, account: bytes) -> Builder:
    """Append an `addr_std`."""
    return builder.uint(0b100, 3).uint(workchain & 255, 8).octets(account, 32)


def internal_message(source: bytes, target: bytes, value: int, body: Cell, *, bounce: bool = True, lt: int = 0) -> Cell:
    """Write an internal message between two basechain accounts, its body in a reference."""
    builder = Builder().uint(0b0100 | bounce << 1, 4)
    address(address(builder, 0, source), 0, target).coins(value).uint(0, 1).coins(0).coins(0).uint(lt, 64).uint(0, 32)
    return builder.uint(0, 1).uint(1, 1).ref(body).cell()


def account(address_of: bytes, code: Cell, data: Cell, *, balance: int, now: int, last_lt: int = 0) -> Cell:
    """Write an active basechain account."""
    builder = address(Builder().uint(1, 1), 0, address_of)
    builder.uint(1, 3).uint(1, 8).uint(1, 3).uint(1, 8).uint(0, 3).uint(now, 32).uint(0, 1)  # storage_stat
    builder.uint(last_lt, 64).coins(balance).uint(0, 1)
    return builder.uint(1, 1).uint(0b0011, 4).ref(code).ref(data).uint(0, 1).cell()


def shard_account(content: Cell, *, last_hash: bytes = bytes(32), last_lt: int = 0) -> Cell:
    """Write a `ShardAccount` around an account."""
    return Builder().ref(content).octets(last_hash, 32).uint(last_lt, 64).cell()


def state_init(code: Cell, data: Cell) -> Cell:
    """Write a StateInit; its hash is the account's address."""
    return Builder().uint(0b00110, 5).ref(code).ref(data).cell()


def configuration(*, version: int) -> Cell:
    """Write a blockchain configuration with what a virtual machine needs: prices, limits, one workchain."""

    def gas(flat_price: int, price: int) -> Cell:
        builder = Builder().uint(0xD1, 8).uint(100, 64).uint(flat_price, 64)
        for field in (price << 16, 1_000_000, 10_000_000, 10_000, 10_000_000, 100_000_000, 1_000_000_000):
            builder.uint(field, 64) if field != price << 16 else builder.uint(0xDE, 8).uint(field, 64)
        return builder.cell()

    def forward(lump: int, bit: int, cell: int) -> Cell:
        builder = Builder().uint(0xEA, 8).uint(lump, 64).uint(bit << 16, 64).uint(cell << 16, 64)
        return builder.uint(98304, 32).uint(21845, 16).uint(21845, 16).cell()

    storage = Builder().uint(0xCC, 8).uint(0, 32).uint(1, 64).uint(500, 64).uint(1000, 64).uint(500_000, 64).cell()
    workchain = Builder().uint(0xA6, 8).uint(0, 32).uint(0, 8).uint(0, 8).uint(4, 8).uint(0b111, 3).uint(0, 13)
    workchain.uint(0, 512).uint(0, 32).uint(1, 4).uint(0xFFFFFFFF, 32).uint(0, 64)
    parameters = {
        0: Builder().octets(b"\x55" * 32, 32).cell(),
        8: Builder().uint(0xC4, 8).uint(version, 32).uint(0x1EE, 64).cell(),
        12: maybe_hashmap(Builder(), {0: workchain.cell()}, 32).cell(),
        18: hashmap({0: storage}, 32),
        20: gas(1_000_000, 10_000),
        21: gas(40_000, GAS_PRICE),
        24: forward(10_000_000, 10_000, 1_000_000),
        25: forward(400_000, 400, 40_000),
        31: Builder().uint(0, 1).cell(),
    }
    return hashmap({key: Builder().ref(cell).cell() for key, cell in parameters.items()}, 32)
