# SPDX-License-Identifier: Apache-2.0
"""The simulated TON is a TON: pytoniq-core, which never met it, reads its blocks and believes its proofs."""

from __future__ import annotations

from typing import Any

import pytest
import pytoniq_core
from pytoniq_core.proof.check_proof import (
    ProofError,
    check_account_proof,
    check_block_signatures,
    check_shard_proof,
    compute_validator_set,
)
from pytoniq_core.tlb.config import ConfigParam28, ConfigParam34

from enclave.simulator.ton_chain import BlockRef, TonChain
from tests.simulated_ton import ACCOUNTS, HIGH, LOW, MASTER, NOW, SEED, chain, grow

_library: Any = pytoniq_core


def their_id(ref: BlockRef) -> Any:
    shard = ref.shard - (ref.shard >> 63 << 64)
    return _library.BlockIdExt(ref.workchain, shard, ref.seqno, ref.root_hash, ref.file_hash)


def their_block(boc: bytes) -> Any:
    return _library.Block.deserialize(_library.Cell.one_from_boc(boc).begin_parse())


def _library_config(config: Any) -> tuple[Any, Any]:
    slices = [config.config[number].copy() for number in (28, 34)]
    catchain, current = (one if one.remaining_bits else one.load_ref().begin_parse() for one in slices)
    return ConfigParam28.deserialize(catchain), ConfigParam34.deserialize(current).cur_validators


def test_another_library_reads_every_block() -> None:
    for seqno in range(1, 11):
        block = their_block(chain().block_boc(seqno))
        assert (block.info.seqno, block.info.key_block, block.info.gen_utime) == (
            seqno,
            seqno in {1, 4, 8},
            NOW + (5 * seqno if seqno > 1 else 0),
        )
        assert block.info.prev_key_block_seqno == chain().last_key_block(seqno)
        shard = their_block(chain().block_boc(seqno, shard=0))
        assert (shard.info.seqno, shard.info.shard.workchain_id) == (seqno, 0)


def test_another_library_reads_the_configuration_of_key_blocks() -> None:
    config = their_block(chain().block_boc(4)).extra.custom.config
    current = _library_config(config)[1]
    assert [v.weight for v in current.list.values()] == [5, 4, 3, 2, 1]
    assert _library_config(config)[0].shuffle_mc_validators


@pytest.mark.parametrize("split", [0, 2])
def test_another_library_believes_the_proofs_of_accounts(split: int) -> None:
    made = grow(TonChain(seed=SEED, now=NOW, accounts=ACCOUNTS, split=split), upto=3)
    for address, workchain in ((LOW, 0), (HIGH, 0), (MASTER, -1)):
        answer = made.account_state(address, at=3, workchain=workchain)
        block, shard = their_id(answer.block), their_id(answer.shard_block)
        if workchain == 0:
            check_shard_proof(answer.shard_proof, block, shard)
        state = _library.Cell.one_from_boc(answer.state)
        found = check_account_proof(
            answer.proof, shard, _library.Address((workchain, address)), state, return_account_descr=True
        )
        assert found.cell is not None
        wrong = _library.Cell.one_from_boc(ACCOUNTS[0, HIGH if address == LOW else LOW])
        with pytest.raises(ProofError):
            check_account_proof(answer.proof, shard, _library.Address((workchain, address)), wrong)


def test_another_library_believes_the_ordinary_signatures() -> None:
    made = TonChain(seed=SEED, now=NOW, shuffled=False)
    made.append(now=NOW + 5)
    schemas = _library.TlGenerator.with_default_schemas().generate()
    link, _ = schemas.deserialize(made.forward_link(1, 2))
    catchain, current = _library_config(their_block(made.block_boc(1)).extra.custom.config)
    nodes = compute_validator_set(catchain, their_id(made.head), current)
    check_block_signatures(nodes, link["signatures"]["signatures"], their_id(made.head))
    with pytest.raises(ProofError):
        check_block_signatures(nodes, link["signatures"]["signatures"], their_id(made.init_block))


def test_block_names_are_the_hashes_of_blocks() -> None:
    from hashlib import sha256

    seen = set()
    for seqno in range(1, 11):
        for ref, boc in (
            (chain().block(seqno), chain().block_boc(seqno)),
            (chain().shard_blocks(seqno)[0], chain().block_boc(seqno, shard=0)),
        ):
            assert ref.file_hash == sha256(boc).digest()
            assert ref.root_hash == _library.Cell.one_from_boc(boc).hash
            assert len(ref.encode()) == 80
            seen.add(ref)
    assert len(seen) == 20


def test_another_seed_is_another_chain() -> None:
    one, two, again = (TonChain(seed=seed, now=NOW).init_block for seed in (b"1", b"2", b"1"))
    assert one == again
    assert one != two
