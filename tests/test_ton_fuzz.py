# SPDX-License-Identifier: Apache-2.0
"""Mangled bytes and mangled trees: whatever comes, the proof checker ends with an AttestationError or an answer."""

from __future__ import annotations

import random  # noqa: TID251 - seeded: the same mangling on every run
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from attestation.batch import BatchStatement, Registration, check_inclusion
from attestation.errors import AttestationError, Malformed
from attestation.ton.accounts import read_account
from attestation.ton.anchoring import Anchoring
from attestation.ton.blocks import configuration, read_header, state_hash
from attestation.ton.boc import read_boc
from attestation.ton.cells import MERKLE_PROOF, MERKLE_UPDATE, Cell, make_cell
from attestation.ton.links import PartialProof, read_link
from attestation.ton.registry import find_key, prove_key, read_registry
from attestation.ton.states import find_account, find_old_block, find_shard, read_state
from attestation.ton.trustpath import TrustPath
from attestation.ton.validators import masterchain_validators
from tests.simulated_ton import LOW, MASTER, NOBODY, account, back, chain, flippable, forward, reading
from tests.test_ton_anchoring import BATCHED, PUBLIC, anchoring
from tests.test_ton_registry import KEYS, full

ROUNDS = 150


def mangled(data: bytes, rng: random.Random) -> bytes:
    """Overwrite, leave out, repeat or insert a few bytes."""
    bent = bytearray(data)
    for _ in range(rng.randrange(1, 5)):
        at = rng.randrange(len(bent) + 1)
        size = rng.choice((1, 1, 2, 4, 32))
        how = rng.randrange(4)
        if how == 0:
            bent[at : at + size] = rng.randbytes(len(bent[at : at + size]))
        elif how == 1:
            del bent[at : at + size]
        elif how == 2:
            bent[at:at] = bent[at : at + size]
        else:
            bent[at:at] = rng.choice((b"\0", b"\xff", b"\x7f")) * size
    return bytes(bent)


def decoders() -> list[tuple[str, bytes, Callable[[bytes], Any]]]:
    path = TrustPath(links=(read_link(chain().forward_link(1, 4)), read_link(chain().forward_link(4, 8))))
    answer = chain().partial_proof(chain().forward_path(1, 10), source=1, target=10)
    statement, signed = BATCHED.to_boc(), anchoring()
    return [
        ("trust path", path.encode(), TrustPath.decode),
        ("answer", answer, PartialProof.decode),
        ("anchoring", signed.encode(), Anchoring.decode),
        ("statement", statement, BatchStatement.from_boc),
        ("registration", statement, Registration.from_boc),
        (
            "inclusion",
            signed.inclusion,
            lambda data: check_inclusion(data, root=BATCHED.root, index=3, receipt_hash=bytes(32)),
        ),
        *[(name, data, check) for name, data, check in flippable()],
    ]


@pytest.mark.parametrize(("data", "check"), [row[1:] for row in decoders()], ids=[row[0] for row in decoders()])
def test_mangled_bytes_end_in_one_kind_of_error(data: bytes, check: Callable[[bytes], Any]) -> None:
    rng = random.Random(len(data))
    for _ in range(ROUNDS):
        with suppress(AttestationError):
            check(mangled(data, rng))
        with suppress(AttestationError):
            check(rng.randbytes(rng.randrange(len(data))))


# ---- trees


def regrown(cell: Cell, rng: random.Random, hit: int, at: list[int]) -> Cell:
    """Rebuild a tree with its cell number `hit` bent, so that every hash above fits again."""
    here, at[0] = at[0], at[0] + 1
    refs = [regrown(ref, rng, hit, at) for ref in cell.refs]
    data, bits = cell.data, cell.bits
    if here == hit:
        value = int.from_bytes(data, "big") >> (-bits % 8)
        how = rng.randrange(6)
        if how <= 1 and bits:
            value ^= 1 << rng.randrange(bits)
        elif how == 2 and bits:
            value, bits = value >> (cut := rng.randrange(1, bits + 1)), bits - cut
        elif how == 3 and bits < 1000:
            value, bits = value << 7 | rng.getrandbits(7), bits + 7
        elif how == 4 and refs:
            refs.pop(rng.randrange(len(refs)))
        elif refs:
            refs.insert(0, rng.choice(refs)) if len(refs) < 4 else rng.shuffle(refs)
        spare = -bits % 8
        data = (value << spare | (1 << spare - 1 if spare else 0)).to_bytes((bits + 7) // 8, "big")
    elif cell.kind in {MERKLE_PROOF, MERKLE_UPDATE}:
        hashes = b"".join(ref.hashes[0] for ref in refs)
        data = data[:1] + hashes + b"".join(ref.depths[0].to_bytes(2, "big") for ref in refs)
    return make_cell(data, bits, tuple(refs), cell.kind)


def size(cell: Cell) -> int:
    return 1 + sum(size(ref) for ref in cell.refs)


def tree(boc: bytes, roots: int = 1, which: int = 0) -> Cell:
    found = read_boc(boc, what="tree", roots=roots, limit=1 << 20, max_cells=9999)[which]
    return found.refs[0] if found.kind == MERKLE_PROOF else found


def readers() -> list[tuple[str, Cell, Callable[[Cell], Any]]]:
    shown = reading(LOW)
    masterchain, shard = tree(shown.shard_proof, 2, 1), tree(shown.proof, 2, 1)
    whole = tree(account(LOW))
    return [
        ("header", tree(shown.proof, 2, 0), lambda c: state_hash(read_header(c, "x"), "x")),
        ("whole block", tree(chain().block_boc(8)), lambda c: configuration(read_header(c, "x"), "x")),
        (
            "key block",
            tree(forward(4, 8).config_proof),
            lambda c: masterchain_validators(configuration(read_header(c, "x"), "x"), 3),
        ),
        ("shards", masterchain, lambda c: find_shard(read_state(c, "x"), 0, LOW, "x")),
        ("accounts", shard, lambda c: find_account(read_state(c, "x"), LOW, "x")),
        ("absence", tree(reading(NOBODY).proof, 2, 1), lambda c: find_account(read_state(c, "x"), NOBODY, "x")),
        (
            "the masterchain's account",
            tree(reading(MASTER, workchain=-1).proof, 2, 1),
            lambda c: find_account(read_state(c, "x"), MASTER, "x"),
        ),
        ("older blocks", tree(back(10, 3).state_proof), lambda c: find_old_block(c, 3, "x")),
        ("account", whole, read_account),
        ("registry", full(), read_registry),
        ("a key", full(), lambda c: find_key(c, KEYS[0])),
        ("the proof of a key", full(), lambda c: prove_key(whole, c, KEYS[0])),
        ("anchored account", tree(anchoring().reading.state), lambda c: find_key(_data(c), PUBLIC)),
        ("statement", BATCHED.to_cell(), BatchStatement.from_cell),
    ]


def _data(cell: Cell) -> Cell:
    found = read_account(cell)
    if found is None or found.data is None:
        raise Malformed("MalformedAccount", "x", want="data", got="none")
    return found.data


@pytest.mark.parametrize(("root", "read"), [row[1:] for row in readers()], ids=[row[0] for row in readers()])
def test_mangled_trees_end_in_one_kind_of_error(root: Cell, read: Callable[[Cell], Any]) -> None:
    """As if everybody who signs had signed nonsense: hashes fit, contents do not."""
    rng = random.Random(size(root))
    read(root)
    for _ in range(2 * ROUNDS):
        with suppress(AttestationError):
            read(regrown(root, rng, rng.randrange(size(root)), [0]))
