# SPDX-License-Identifier: Apache-2.0
"""Links and trust paths of a simulated chain that really signs: both forms verify, and no bent one does."""

from __future__ import annotations

from dataclasses import replace

import pytest

from attestation import cbor
from attestation.errors import Malformed
from attestation.ton.blockid import BlockId
from attestation.ton.links import MAX_LINK, MAX_STEPS, PartialProof, read_link
from attestation.ton.signatures import SignatureSet, Simplex
from attestation.ton.tl import put_bytes, take_bool, take_bytes, take_count
from attestation.ton.trustpath import FORMAT, MAX_LINKS, TrustPath
from attestation.wire import Reader
from enclave.simulator.ton_chain import Bends, TonChain
from tests.simulated_ton import NOW, SEED, back, block_id, chain, forward, grow
from tests.ton_refusals import refuse

FORMS = pytest.mark.parametrize("simplex", [False, True], ids=["ordinary", "simplex"])


def bent_chain(**header: int) -> TonChain:
    """Give a chain whose block 3, signed like any other, has a header that says something else."""
    made = TonChain(seed=SEED, now=NOW, weights=(5, 4, 3, 2, 1))
    made.append(now=NOW + 5)
    made.append(now=NOW + 10, bends=Bends(header=header))
    return grow(made, upto=6)


# ---- what holds


@FORMS
@pytest.mark.parametrize("shuffled", [False, True])
@pytest.mark.parametrize("count", [1, 7, 9, 100])
def test_signed_links_verify(count: int, *, shuffled: bool, simplex: bool) -> None:
    made = TonChain(seed=SEED, now=NOW, weights=range(1, count + 1), shuffled=shuffled)
    grow(made, (3,), upto=4)
    links = tuple(read_link(link) for link in made.forward_path(1, 4, simplex=simplex))
    assert [link.encode() for link in links] == made.forward_path(1, 4, simplex=simplex)
    TrustPath(links=links).verify(trusted=block_id(made.init_block), target=block_id(made.head))


def test_a_thousand_validators_fit() -> None:
    made = TonChain(seed=SEED, now=NOW, weights=(1,) * 1000)
    made.append(now=NOW + 5)
    link = forward(1, 2, made, simplex=True)
    assert len(link.signatures.signatures) == 1000
    assert len(link.encode()) < MAX_LINK
    link.verify()


def test_links_back_verify_from_any_later_block() -> None:
    for source in (2, 9, 10):
        for target in range(1, source):
            link = back(source, target)
            assert link.encode() == chain().back_link(source, target)
            header = link.verify()
            assert (header.seqno, header.key_block) == (target, target in {1, 4, 8})
    TrustPath(links=(back(10, 2),)).verify(trusted=block_id(chain().head), target=block_id(chain().block(2)))


def test_an_answer_of_a_lite_server_reads() -> None:
    links = chain().forward_path(1, 10)
    data = chain().partial_proof(links, source=1, target=10, complete=False)
    answer = PartialProof.decode(data)
    assert (answer.complete, answer.source.seqno, answer.target.seqno) == (False, 1, 10)
    assert [link.encode() for link in answer.links] == links
    assert answer.encode() == data


def test_a_trust_path_is_a_file() -> None:
    ahead = tuple(read_link(link) for link in chain().forward_path(1, 10))
    for path in (TrustPath(links=ahead), TrustPath(links=ahead[:1]), TrustPath(links=(back(10, 2),))):
        assert TrustPath.decode(path.encode()) == path


# ---- signatures


@FORMS
def test_signers_count_once(*, simplex: bool) -> None:
    for signers in ([0] * 15, [0, 1, 2, 3, 4, 0], [0, 0, 1, 2]):
        refuse("TrustPathInvalid", "signatures.signer", forward(4, 8, signers=signers, simplex=simplex).verify)


@FORMS
def test_more_than_two_thirds_must_sign(*, simplex: bool) -> None:
    """The weights are 5, 4, 3, 2, 1: ten is exactly two thirds."""
    forward(4, 8, signers=[0, 1, 3], simplex=simplex).verify()
    for signers in ([0, 1, 4], [0, 2, 3], [0, 1], [3], []):
        refuse("TrustPathInvalid", "signatures.weight", forward(4, 8, signers=signers, simplex=simplex).verify)


@FORMS
def test_validators_of_another_generation_or_chain_are_strangers(*, simplex: bool) -> None:
    signed_later = forward(8, 9, simplex=simplex).signatures
    refuse("TrustPathInvalid", "signatures.", replace(forward(4, 8, simplex=simplex), signatures=signed_later).verify)
    good = forward(4, 8, simplex=simplex)
    kept = replace(good.signatures, signatures=signed_later.signatures)
    refuse("TrustPathInvalid", "signatures.signer", replace(good, signatures=kept).verify)
    other = grow(TonChain(seed=b"another", now=NOW, weights=(5, 4, 3, 2, 1)))
    theirs = replace(good.signatures, signatures=forward(4, 8, other, simplex=simplex).signatures.signatures)
    refuse("TrustPathInvalid", "signatures.signer", replace(good, signatures=theirs).verify)
    swapped = forward(4, 6, simplex=simplex).signatures
    refuse("TrustPathInvalid", "signatures.", replace(good, signatures=swapped).verify)


def test_a_signature_is_over_both_hashes_and_in_its_own_form() -> None:
    ordinary, simplex = forward(4, 8), forward(4, 8, simplex=True)
    for good in (ordinary, simplex):
        bent = replace(good, target=replace(good.target, file_hash=bytes(32)))
        refuse("TrustPathInvalid", "signatures.", bent.verify)
    crossed = replace(ordinary.signatures, simplex=simplex.signatures.simplex)
    refuse("TrustPathInvalid", "signatures.signature", replace(ordinary, signatures=crossed).verify)
    crossed = replace(simplex.signatures, simplex=None)
    refuse("TrustPathInvalid", "signatures.signature", replace(simplex, signatures=crossed).verify)


def vote(**changes: object) -> Simplex:
    found = forward(4, 8, simplex=True).signatures.simplex
    assert found is not None
    return replace(found, **changes)  # type: ignore[arg-type]  # a test's keyword arguments


def test_a_simplex_vote_names_slot_session_and_candidate() -> None:
    good = forward(4, 8, simplex=True)
    candidate = vote().candidate
    for bent, where in (
        (vote(slot=vote().slot + 1), "signatures.signature"),
        (vote(session_id=bytes(32)), "signatures.signature"),
        (vote(candidate=candidate[:-1] + b"\1"), "signatures.signature"),
        (vote(candidate=candidate[:4] + forward(4, 6).target.encode() + candidate[84:]), "signatures.candidate"),
    ):
        refuse("TrustPathInvalid", where, replace(good, signatures=replace(good.signatures, simplex=bent)).verify)


def candidate(*, tag: str = "dcbcf9e8", tail: str = "", block: bool = True) -> SignatureSet:
    data = bytes.fromhex(tag) + (forward(4, 8).target.encode() if block else b"") + bytes.fromhex(tail)
    return replace(forward(4, 8, simplex=True).signatures, simplex=vote(candidate=data))


def test_candidates_of_every_form_and_no_other() -> None:
    target, zeros = forward(4, 8).target, "00" * 32
    parent, identifier, slot = "f19a4b1a", "3fcd91b6", "07000000"
    for tag, tail in (
        ("dcbcf9e8", zeros + parent + identifier + slot + zeros),
        ("dcbcf9e8", zeros + "a9cccb22"),  # without a parent
        ("33d9b472", slot + zeros),  # an empty candidate
    ):
        assert candidate(tag=tag, tail=tail).message(target)[:4].hex() == "f83de3a8"
    for tag, tail in (
        ("dcbcf9e7", zeros + "a9cccb22"),
        ("dcbcf9e8", zeros + "a9cccb23"),
        ("dcbcf9e8", zeros + parent + "3fcd91b7" + slot + zeros),
        ("dcbcf9e8", zeros + "a9cccb2200"),
        ("dcbcf9e8", zeros[2:]),
        ("33d9b472", slot + zeros + "00"),
        ("33d9b472", slot),
    ):
        refuse("MalformedTrustPath", "candidate", candidate(tag=tag, tail=tail).message, target)
    refuse("MalformedTrustPath", "candidate", candidate(block=False, tail="00" * 79).message, target)


# ---- headers


@FORMS
def test_a_link_is_to_the_block_that_its_header_says(*, simplex: bool) -> None:
    good = forward(4, 8, simplex=simplex)
    for changes, where in (
        ({"seqno": 9}, "link.to.seqno"),
        ({"workchain": 0}, "link.to.workchain"),
        ({"shard": 1 << 62}, "link.to.shard"),
        ({"root_hash": bytes(32)}, "link.to.root_hash"),
    ):
        bent = replace(good.target, **changes)
        refuse("BlockProofInvalid", where, replace(good, target=bent).verify)
    refuse("BlockProofInvalid", "link.to.key_block", replace(good, to_key_block=False).verify)
    refuse("BlockProofInvalid", "link.to.key_block", replace(forward(4, 6), to_key_block=True).verify)
    refuse("BlockProofInvalid", "link.from.root_hash", replace(good, config_proof=forward(1, 4).config_proof).verify)
    refuse("BlockProofInvalid", "link.to.root_hash", replace(good, dest_proof=good.config_proof).verify)


@pytest.mark.parametrize(
    ("header", "code", "where"),
    [
        ({"validator_list_hash_short": 1}, "TrustPathInvalid", "link.to.validator_list_hash_short"),
        ({"catchain_seqno": 2}, "TrustPathInvalid", "link.to.validator_list_hash_short"),
        ({"prev_key_block_seqno": 2}, "TrustPathInvalid", "link.from"),
        ({"global_id": -239}, "TrustPathInvalid", "link.global_id"),
        ({"seqno": 4}, "BlockProofInvalid", "link.to.seqno"),
        ({"key_block": 1}, "BlockProofInvalid", "link.to.key_block"),
        ({"workchain": 0}, "BlockProofInvalid", "link.to.workchain"),
    ],
)
def test_signed_headers_that_contradict_the_way_are_refused(header: dict[str, int], code: str, where: str) -> None:
    refuse(code, where, forward(1, 3, bent_chain(**header)).verify)


def test_a_signature_set_says_what_the_header_and_the_configuration_say() -> None:
    good = forward(4, 8)
    for name in ("validator_set_hash", "catchain_seqno"):
        bent = replace(good.signatures, **{name: getattr(good.signatures, name) ^ 1})
        refuse("TrustPathInvalid", f"signatures.{name}", replace(good, signatures=bent).verify)


def test_a_forward_link_goes_forward_from_the_last_key_block() -> None:
    refuse("TrustPathInvalid", "link.to", forward(8, 5).verify)
    refuse("TrustPathInvalid", "link.to", forward(8, 8).verify)
    refuse("TrustPathInvalid", "link.from", forward(1, 6).verify)  # over key block 4
    no_key_block = replace(forward(4, 6), source=block_id(chain().block(5)), config_proof=back(6, 5).dest_proof)
    refuse("TrustPathInvalid", "link.from", no_key_block.verify)
    made = bent_chain(prev_key_block_seqno=2)
    plain = replace(forward(1, 3, made), source=block_id(made.block(2)), config_proof=back(3, 2, made).dest_proof)
    refuse("MalformedBlock", "link.from", plain.verify)  # block 2 is none


# ---- links back


def test_a_link_back_goes_back_to_a_block_that_the_state_names() -> None:
    good = back(10, 3)
    assert refuse("TrustPathInvalid", "link.to", replace(good, source=good.target).verify).want == "before 3"
    forked = grow(TonChain(seed=b"another", now=NOW))
    elsewhere = back(10, 3, forked)
    stolen = replace(good, target=elsewhere.target, dest_proof=elsewhere.dest_proof)
    refuse("TrustPathInvalid", "link.to", stolen.verify)
    refuse("TrustPathInvalid", "link.to", replace(good, target=replace(good.target, file_hash=bytes(32))).verify)
    refuse("BlockProofInvalid", "link.to.root_hash", replace(good, dest_proof=elsewhere.dest_proof).verify)
    refuse("BlockProofInvalid", "link.from.root_hash", replace(good, proof=elsewhere.proof).verify)
    refuse("BlockProofInvalid", "link.state_proof", replace(good, state_proof=elsewhere.state_proof).verify)
    refuse("BlockProofInvalid", "link.state_proof", replace(good, state_proof=back(9, 3).state_proof).verify)
    refuse("MalformedBlock", "prev_blocks", replace(back(10, 3), state_proof=back(10, 9).state_proof).verify)
    refuse("BlockProofInvalid", "link.to.key_block", replace(good, to_key_block=True).verify)


def test_a_link_back_to_a_block_that_the_state_does_not_name() -> None:
    made = TonChain(seed=SEED, now=NOW)
    made.append(now=NOW + 5, bends=Bends(header={"seqno": 0}))
    made.append(now=NOW + 10)
    link = back(3, 2, made)
    nowhere = replace(link, target=replace(link.target, seqno=0), state_proof=back(3, 1, made).state_proof)
    assert refuse("TrustPathInvalid", "link.to", nowhere.verify).want == "the block that the state names"


def test_a_link_back_names_key_blocks_as_the_state_does() -> None:
    made = bent_chain(key_block=1)  # the header says key block, later states do not
    refuse("BlockProofInvalid", "link.to.key_block", back(6, 3, made).verify)
    refuse("TrustPathInvalid", "link.to_key_block", replace(back(6, 3, made), to_key_block=True).verify)
    refuse("TrustPathInvalid", "link.global_id", back(6, 3, bent_chain(global_id=-239)).verify)


def test_a_link_back_from_the_first_block_has_nowhere_to_go() -> None:
    lone = TonChain(seed=SEED, now=NOW)
    two = TonChain(seed=b"another", now=NOW)
    two.append(now=NOW + 5)
    link = back(2, 1, two)
    bent = replace(link, target=replace(block_id(lone.init_block), seqno=1))
    refuse("BlockProofInvalid", "link.to.root_hash", bent.verify)


# ---- the way


def test_a_path_has_no_gap() -> None:
    one, two, three = (read_link(link) for link in chain().forward_path(1, 10))
    trusted, target = one.source, three.target
    for links, where in (((one, three), "[1].from"), ((two, three), "[0].from"), ((one, two), "end")):
        refuse("TrustPathInvalid", where, TrustPath(links=links).verify, trusted=trusted, target=target)
    path = TrustPath(links=(one, two, three))
    path.verify(trusted=trusted, target=target)
    for wrong in (replace(trusted, file_hash=bytes(32)), replace(trusted, root_hash=bytes(32)), target):
        refuse("TrustPathInvalid", "[0].from", path.verify, trusted=wrong, target=target)
    refuse("TrustPathInvalid", "end", path.verify, trusted=trusted, target=replace(target, file_hash=bytes(32)))
    bent = replace(two, signatures=replace(two.signatures, signatures=()))  # type: ignore[arg-type,union-attr]
    refuse("TrustPathInvalid", "weight", TrustPath(links=(one, bent, three)).verify, trusted=trusted, target=target)


def test_files_that_are_no_trust_path() -> None:
    ahead, behind = forward(1, 4).encode(), back(4, 1).encode()
    for value, where in (
        ({1: FORMAT, 2: [ahead], 3: 0}, "trust_path"),
        ({1: FORMAT, 2: [ahead], 64: 0}, "trust_path"),
        ({1: FORMAT, 2: []}, "links"),
        ({1: "sericin-trust-path/2", 2: [ahead]}, "format"),
        ({1: FORMAT, 2: [ahead, behind]}, "links"),
        ({1: FORMAT, 2: [behind, behind]}, "links"),
        ({1: FORMAT, 2: [ahead + b"\0"]}, "link"),
        ({1: FORMAT, 2: [b""]}, "link"),
        ({1: FORMAT, 2: ["link"]}, "link"),
        ({1: FORMAT, 2: [bytes(MAX_LINK + 1)]}, "link"),
        ({1: FORMAT, 2: [b""] * (MAX_LINKS + 1)}, "links"),
    ):
        refuse("MalformedTrustPath", where, TrustPath.decode, cbor.encode(value))
    refuse("MalformedTrustPath", "trust_path", TrustPath.decode, cbor.encode({1: FORMAT}))
    refuse("MalformedTrustPath", "trust_path", TrustPath.decode, b"")


def test_a_block_s_name_has_80_bytes() -> None:
    name = block_id(chain().head).encode()
    for data in (name[:-1], name + b"\0", b""):
        refuse("MalformedBlock", "block", BlockId.decode, data, what="block")


def test_links_are_of_the_masterchain_and_of_a_known_kind() -> None:
    good = forward(4, 8)
    for changed, where in (
        (replace(good, source=replace(good.source, workchain=0)), "link.from"),
        (replace(good, target=replace(good.target, workchain=0)), "link.to"),
        (replace(good, target=replace(good.target, shard=1 << 62)), "link.to"),
    ):
        refuse("MalformedTrustPath", where, read_link, changed.encode())
    data = bytearray(good.encode())
    for at, where in ((0, "link"), (4, "to_key_block")):
        bent = bytearray(data)
        bent[at] ^= 1
        refuse("MalformedTrustPath", where, read_link, bytes(bent))
    signed = good.signatures.encode()
    refuse("MalformedTrustPath", "signatures", read_link, bytes(data).replace(signed[:4], b"\0\0\0\1"))
    short = signed.replace(b"\x40" + good.signatures.signatures[0][1], b"\x3c" + good.signatures.signatures[0][1][:60])
    refuse("MalformedTrustPath", "", read_link, bytes(data).replace(signed, short))
    many = signed[:12] + (1025).to_bytes(4, "little") + signed[16:]
    refuse("MalformedTrustPath", "signatures", read_link, bytes(data).replace(signed, many))


def test_links_are_bounded() -> None:
    half = bytes(128 * 1024)
    long = replace(forward(4, 8), dest_proof=half, config_proof=half).encode()
    assert "at most" in refuse("MalformedTrustPath", "link", read_link, long).want
    longer = replace(forward(4, 8), dest_proof=half + b"\0").encode()
    assert "at most" in refuse("MalformedTrustPath", "dest_proof", read_link, longer).want


def test_answers_are_bounded_and_read_to_the_end() -> None:
    data = chain().partial_proof(chain().forward_path(1, 10), source=1, target=10)
    refuse("MalformedTrustPath", "answer", PartialProof.decode, data + b"\0\0\0\0")
    refuse("MalformedTrustPath", "answer", PartialProof.decode, b"\0" + data[1:])
    refuse("MalformedTrustPath", "", PartialProof.decode, data[:-1])
    count = 8 + 160
    refuse("MalformedTrustPath", "steps", PartialProof.decode, data[:count] + (MAX_STEPS + 1).to_bytes(4, "little"))
    assert (
        "at most" in refuse("MalformedTrustPath", "answer", PartialProof.decode, bytes(MAX_STEPS * MAX_LINK + 1)).want
    )


# ---- TL


def test_tl_has_one_encoding() -> None:
    def take(data: bytes, limit: int = 1000) -> bytes:
        reader = Reader(data, what="tl", code="MalformedTrustPath")
        found = take_bytes(reader, "field", limit=limit, code="MalformedTrustPath")
        reader.end(code="MalformedTrustPath")
        return found

    for size in (0, 1, 3, 4, 253, 254, 255, 300, 1000):
        assert take(put_bytes(b"x" * size)) == b"x" * size
    for bad in (
        b"\xfe\x05\x00\x00xxxxx\0\0\0",  # long form of a short string
        b"\x05xxxxx\0\1",  # padding that says something
        b"\x05xxxxx",  # no padding
        b"\xff" + b"x" * 255,
        put_bytes(b"x" * 1001),
        b"\xfe\xff\xff\xff" + b"x" * 100,
        b"",
    ):
        with pytest.raises(Malformed):
            take(bad)
    for taken, data in ((take_bool, b"\0\0\0\0"), (take_bool, b"\0")):
        with pytest.raises(Malformed):
            taken(Reader(data, what="tl", code="MalformedTrustPath"), "field", code="MalformedTrustPath")
    with pytest.raises(Malformed, match="at most 4"):
        take_count(Reader(b"\x05\0\0\0", what="tl", code="MalformedTrustPath"), "n", limit=4, code="MalformedTrustPath")
