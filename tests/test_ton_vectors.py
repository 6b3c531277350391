# SPDX-License-Identifier: Apache-2.0
"""Real proofs of the TON mainnet: each verifies as recorded, and no bent one does."""

from __future__ import annotations

import random  # noqa: TID251 - seeded: the same flips on every run
from dataclasses import replace

import pytest

from attestation.errors import AttestationError, Malformed
from attestation.ton.accounts import read_account
from attestation.ton.blocks import read_header, state_hash
from attestation.ton.boc import read_boc, write_boc
from attestation.ton.cells import Cell
from attestation.ton.links import ForwardLink, read_link
from attestation.ton.reading import Reading, verify_reading
from attestation.ton.signatures import Simplex
from attestation.ton.slices import Builder
from attestation.ton.trustpath import TrustPath
from tests import ton_oracle
from tests.recorded_ton import LINKS, READINGS, comments, flippable, manifest, octets, partial_proof, reading
from tests.ton_refusals import refuse

FLIPS = 40  # of each part of a recorded proof; scripts/sweep-proofs tries many more


def link(name: str, index: int = 0) -> ForwardLink:
    found = partial_proof(name).links[index]
    assert isinstance(found, ForwardLink)
    return found


def test_every_recorded_file_has_its_test() -> None:
    accounts = ("account-proof", "active-account", "storage-extra-account", "uninit-account")
    names = {f"ton-net/{name}.hex" for name in (*LINKS, *accounts, "block-basechain", "block-masterchain")}
    assert manifest().keys() == names | {f"ton-net/{name}.txt" for name in READINGS}


# ---- links


@pytest.mark.parametrize(
    ("name", "ends", "signers", "simplex"),
    [
        ("one-link-ordinary", (46894135, 46897112), [85], False),
        ("one-link-simplex", (59238081, 59379986), [66], True),
        ("chain", (46894135, 46920655), [85, 99, 95], False),
    ],
)
def test_recorded_links_verify(name: str, ends: tuple[int, int], signers: list[int], *, simplex: bool) -> None:
    answer = partial_proof(name)
    assert answer.encode() == octets(name)
    assert (answer.source.seqno, answer.target.seqno) == ends
    links = [link(name, index) for index in range(len(answer.links))]
    assert [len(one.signatures.signatures) for one in links] == signers
    assert all((one.signatures.simplex is not None) == simplex for one in links)
    path = TrustPath(links=answer.links)
    path.verify(trusted=answer.source, target=answer.target)
    assert TrustPath.decode(path.encode()) == path
    assert [read_link(one.encode()) for one in links] == links
    newest = links[-1].verify()
    assert (newest.seqno, newest.global_id, newest.key_block) == (ends[1], -239, links[-1].to_key_block)


@pytest.mark.parametrize("name", ["one-link-ordinary", "one-link-simplex"])
def test_recorded_signatures_count_once_and_must_be_more_than_two_thirds(name: str) -> None:
    good = link(name)
    signatures = good.signatures.signatures
    for chosen, where in (
        (signatures[:1] * len(signatures), "signer"),
        ((*signatures, signatures[0]), "signer"),
        (signatures[:40], "weight"),
        ((), "weight"),
    ):
        bent = replace(good, signatures=replace(good.signatures, signatures=chosen))
        refuse("TrustPathInvalid", f"signatures.{where}", bent.verify)
    swapped = ((signatures[0][0], signatures[1][1]), *signatures[1:])
    bent = replace(good, signatures=replace(good.signatures, signatures=swapped))
    refuse("TrustPathInvalid", "signatures.signature", bent.verify)
    stranger = ((b"\x01" * 32, signatures[0][1]), *signatures[1:])
    bent = replace(good, signatures=replace(good.signatures, signatures=stranger))
    refuse("TrustPathInvalid", "signatures.signer", bent.verify)


@pytest.mark.parametrize("name", ["one-link-ordinary", "one-link-simplex"])
def test_a_recorded_link_is_bound_to_its_blocks(name: str) -> None:
    good = link(name)
    target, source, zero = good.target, good.source, bytes(32)
    for bent, code, where in (
        (replace(good, target=replace(target, file_hash=zero)), "TrustPathInvalid", "signatures."),
        (replace(good, target=replace(target, root_hash=zero)), "BlockProofInvalid", "link.to.root_hash"),
        (replace(good, target=replace(target, seqno=target.seqno + 1)), "BlockProofInvalid", "link.to.seqno"),
        (replace(good, target=replace(target, workchain=0)), "BlockProofInvalid", "link.to.workchain"),
        (replace(good, target=replace(target, shard=1 << 62)), "BlockProofInvalid", "link.to.shard"),
        (replace(good, to_key_block=not good.to_key_block), "BlockProofInvalid", "link.to.key_block"),
        (replace(good, source=replace(source, root_hash=zero)), "BlockProofInvalid", "link.from.root_hash"),
        (replace(good, source=replace(source, seqno=source.seqno - 1)), "TrustPathInvalid", "link.from"),
        (replace(good, config_proof=good.dest_proof), "BlockProofInvalid", "link.from.root_hash"),
        (replace(good, dest_proof=good.config_proof), "BlockProofInvalid", "link.to.root_hash"),
        (replace(good, dest_proof=good.dest_proof[:-1]), "MalformedProof", "dest_proof"),
        (replace(good, config_proof=good.config_proof[:-1]), "MalformedProof", "config_proof"),
    ):
        refuse(code, where, bent.verify)


def test_a_recorded_configuration_of_another_block_is_refused() -> None:
    first, second = link("chain", 0), link("chain", 1)
    refuse("BlockProofInvalid", "link.from.root_hash", replace(second, config_proof=first.config_proof).verify)
    refuse(
        "TrustPathInvalid", "link.from", replace(second, source=first.source, config_proof=first.config_proof).verify
    )


def test_a_recorded_validator_set_hash_is_recomputed() -> None:
    for name in ("one-link-ordinary", "one-link-simplex"):
        good = link(name)
        number = good.signatures.validator_set_hash
        bent = replace(good, signatures=replace(good.signatures, validator_set_hash=number ^ 1))
        refuse("TrustPathInvalid", "signatures.validator_set_hash", bent.verify)
        number = good.signatures.catchain_seqno
        bent = replace(good, signatures=replace(good.signatures, catchain_seqno=number + 1))
        refuse("TrustPathInvalid", "signatures.catchain_seqno", bent.verify)


def test_a_recorded_simplex_vote_is_for_one_slot_session_and_candidate() -> None:
    good = link("one-link-simplex")
    vote = good.signatures.simplex
    assert vote is not None
    other_block = bytearray(vote.candidate)
    other_block[20] ^= 1
    for bent, where in (
        (replace(vote, slot=vote.slot + 1), "signatures.signature"),
        (replace(vote, session_id=bytes(32)), "signatures.signature"),
        (replace(vote, candidate=vote.candidate[:-1] + b"\0"), "signatures.signature"),
        (replace(vote, candidate=bytes(other_block)), "signatures.candidate"),
    ):
        link_bent = replace(good, signatures=replace(good.signatures, simplex=bent))
        refuse("TrustPathInvalid", where, link_bent.verify)
    for candidate in (vote.candidate + b"\0", vote.candidate[:-1], vote.candidate[4:], b""):
        bent_set = replace(good.signatures, simplex=Simplex(session_id=bytes(32), slot=0, candidate=candidate))
        refuse("MalformedTrustPath", "candidate", replace(good, signatures=bent_set).verify)
    refuse("TrustPathInvalid", "signature", replace(good, signatures=replace(good.signatures, simplex=None)).verify)


def test_a_recorded_path_has_no_gap_and_ends_where_it_should() -> None:
    answer = partial_proof("chain")
    one, two, three = answer.links
    trusted, target = answer.source, answer.target
    for links, where in (((one, three), "[1].from"), ((two, three), "[0].from"), ((one, two), "end")):
        refuse("TrustPathInvalid", where, TrustPath(links=links).verify, trusted=trusted, target=target)
    for other in (replace(trusted, root_hash=bytes(32)), replace(trusted, file_hash=bytes(32))):
        refuse("TrustPathInvalid", "[0].from", TrustPath(links=answer.links).verify, trusted=other, target=target)


# ---- accounts


def test_recorded_readings_verify() -> None:
    base = verify_reading(reading("read-basechain"))
    assert base.account is not None
    assert base.account.code is not None
    assert (base.account.balance, base.account.last_lt) == (1067259229327, 91472078000009)
    master = verify_reading(reading("read-masterchain"))
    assert master.account is not None
    assert (master.account.workchain, master.account.balance) == (-1, 222859282039087)
    absent = verify_reading(reading("read-absent"))
    assert absent.account is None
    assert {proved.global_id for proved in (base, master, absent)} == {-239}
    assert base.gen_utime < absent.gen_utime < master.gen_utime


def bent_readings() -> list[tuple[Reading, str, str]]:
    base, master, absent = (reading(name) for name in READINGS)
    zero = bytes(32)
    return [
        (replace(base, state=b""), "AccountProofInvalid", "account"),  # a server hides an account
        (replace(master, state=b""), "AccountProofInvalid", "account"),
        (replace(absent, state=base.state), "AccountProofInvalid", "account"),
        (replace(base, address=absent.address), "MalformedBlock", "accounts"),  # that path is pruned
        (replace(base, state=master.state), "AccountProofInvalid", "account"),
        (replace(base, proof=absent.proof), "ShardProofInvalid", "shard.root_hash"),
        (replace(base, shard_proof=absent.shard_proof), "BlockProofInvalid", "masterchain.root_hash"),
        (replace(base, block=absent.block), "BlockProofInvalid", "masterchain.root_hash"),
        (replace(base, block=replace(base.block, seqno=1)), "BlockProofInvalid", "masterchain.seqno"),
        (replace(base, block=replace(base.block, root_hash=zero)), "BlockProofInvalid", "masterchain.root_hash"),
        (replace(base, block=replace(base.block, workchain=0)), "MalformedBlock", "reading.block"),
        (replace(base, workchain=1), "ShardProofInvalid", "shard_hashes"),
        (replace(base, workchain=-1), "MalformedProof", "shard_proof"),
        (replace(master, workchain=0), "MalformedProof", "shard_proof"),
        (replace(master, shard_proof=base.shard_proof), "MalformedProof", "shard_proof"),
        (replace(base, state=base.state[:-1]), "MalformedAccount", "account"),
        (replace(base, state=base.state + b"\0"), "MalformedAccount", "account"),
        (replace(base, proof=base.proof[:-1]), "MalformedProof", "account_proof"),
        (replace(base, shard_proof=base.shard_proof[: len(base.shard_proof) // 2]), "MalformedProof", "shard_proof"),
    ]


def test_bent_readings_are_refused() -> None:
    for bent, code, where in bent_readings():
        refuse(code, where, verify_reading, bent)


def test_recorded_proofs_in_another_order_are_refused() -> None:
    base = reading("read-basechain")
    one, two = read_boc(base.proof, what="proof", roots=2, limit=9999, max_cells=999)
    refuse("ShardProofInvalid", "", verify_reading, replace(base, proof=write_boc(two, one)))
    refuse("MalformedProof", "", verify_reading, replace(base, proof=write_boc(one)))
    refuse("MalformedProof", "", verify_reading, replace(base, proof=write_boc(one.refs[0], two)))
    refuse("MalformedProof", "", verify_reading, replace(base, proof=write_boc(one, two.refs[0])))
    assert verify_reading(replace(base, proof=write_boc(one, two))).account is not None


def test_recorded_accounts_read() -> None:
    cells = {name: cell(octets(f"{name}-account")) for name in ("active", "uninit", "storage-extra")}
    active, uninit, extra = (read_account(one) for one in cells.values())
    assert active is not None
    assert uninit is not None
    assert extra is not None
    assert active.code is not None
    assert (active.balance, active.workchain) == (0, 0)
    assert (uninit.balance, uninit.code, uninit.data) == (6910657721334, None, None)
    assert extra.address == reading("read-basechain").address
    for one in cells.values():
        for bent in (replace_bits(one, one.bits - 1), replace_bits(one, one.bits // 2)):
            with pytest.raises(Malformed):
                read_account(bent)


def test_the_recorded_account_proof_hides_what_it_does_not_show() -> None:
    """It proves the configuration's account at a block that only the proof names, and carries no state."""
    block, state = read_boc(octets("account-proof"), what="proof", roots=2, limit=9999, max_cells=999)
    header = read_header(block.refs[0], "block")
    assert header.seqno == 80970741
    assert state_hash(header, "block") == state.refs[0].hashes[0]
    place = replace(reading("read-masterchain").block, seqno=header.seqno, root_hash=block.refs[0].hashes[0])
    bare = Reading(
        block=place, workchain=-1, address=b"\x55" * 32, shard_proof=b"", proof=octets("account-proof"), state=b""
    )
    refuse("AccountProofInvalid", "account", verify_reading, bare)
    refuse("AccountProofInvalid", "", verify_reading, replace(bare, state=octets("uninit-account")))
    refuse("MalformedBlock", "", verify_reading, replace(bare, address=b"\x33" * 32))  # pruned, not absent


def test_an_absence_next_to_a_pruned_path_is_not_proved() -> None:
    absent = reading("read-absent")
    for bit in (0, 1, 2, 3):
        other = int.from_bytes(absent.address, "big") ^ 1 << 255 - bit
        bent = replace(absent, address=other.to_bytes(32, "big"))
        refuse("MalformedBlock", "accounts", verify_reading, bent)


# ---- whole blocks


@pytest.mark.parametrize("name", ["block-basechain", "block-masterchain"])
def test_recorded_blocks_hash_to_their_names(name: str) -> None:
    """Every kind of cell at once: ordinary, pruned and update. A whole block comes with an index, which is refused."""
    data, want = octets(name), comments(name)
    refuse("MalformedCell", "flags", cell, data)
    root = cell(ton_oracle.read(data).to_boc())
    assert root.hash.hex() == want["root_hash"]
    header = read_header(root, name)
    assert header.workchain == (-1 if name == "block-masterchain" else 0)
    assert state_hash(header, name) == root.refs[2].refs[1].hashes[0]
    assert cell(write_boc(root)).hash == root.hash


def cell(boc: bytes) -> Cell:
    (found,) = read_boc(boc, what="recorded", limit=1 << 20, max_cells=1 << 14)
    return found


def replace_bits(one: Cell, bits: int) -> Cell:
    value = int.from_bytes(one.data, "big") >> (-one.bits % 8) >> one.bits - bits
    builder = Builder().uint(value, bits)
    for ref in one.refs:
        builder.ref(ref)
    return builder.cell()


# ---- any bit


def test_no_flipped_bit_of_a_recorded_proof_is_accepted() -> None:
    rng = random.Random(20260409)
    for name, data, check in flippable():
        check(data)
        for _ in range(FLIPS):
            bent, bit = bytearray(data), rng.randrange(len(data) * 8)
            bent[bit // 8] ^= 1 << bit % 8
            with pytest.raises(AttestationError):
                check(bytes(bent))
                pytest.fail(f"{name}: bit {bit} may be anything")


def test_no_part_of_a_recorded_proof_is_accepted() -> None:
    rng = random.Random(59379986)
    for _, data, check in flippable():
        for _ in range(20):
            with pytest.raises(AttestationError):
                check(data[: rng.randrange(len(data))])
        with pytest.raises(AttestationError):
            check(data + b"\0")
