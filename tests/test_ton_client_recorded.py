# SPDX-License-Identifier: Apache-2.0
"""Answers of real lite servers over pytoniq's transport: carried unread, and believed for what they prove."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from attestation.errors import Untrusted
from attestation.ton.links import ForwardLink
from attestation.ton.registry import Address
from client.ton.chain import ChainView
from client.ton.liteserver import LiteServer
from client.ton.network import LiteServerAddress
from enclave.simulator.ton_answers import TonAnswers, untl_bytes
from enclave.simulator.ton_server import TonServer
from enclave.simulator.ton_validators import tl_bytes
from tests.recorded_ton import LINKS, READINGS, octets, partial_proof, reading

T = TypeVar("T")
GET_INFO, GET_STATE, GET_PROOF = "2ee6b589", "250e896b", "449cea8a"


def over(answers: dict[str, bytes], job: Callable[[LiteServer], Awaitable[T]]) -> T:
    """Serve recorded answers by the function that is asked for, and run `job` over a connection."""

    async def work() -> T:
        server = TonServer(lambda query: answers[untl_bytes(query[4:])[:4].hex()], key=Ed25519PrivateKey.generate())
        address = LiteServerAddress(host="127.0.0.1", port=await server.start(), key=server.public)
        try:
            async with LiteServer(address) as lite:
                return await job(lite)
        finally:
            await server.stop()

    return asyncio.run(work())


@pytest.mark.parametrize("name", LINKS)
def test_a_recorded_way_is_gone(name: str) -> None:
    """Simplex signatures included, whose candidate reads like another message."""
    answer = partial_proof(name)
    recorded = {GET_INFO: TonAnswers.info(answer.target.encode()), GET_PROOF: octets(name)}

    async def go(lite: LiteServer) -> None:
        chain = ChainView(lite, answer.source)
        assert await chain.head() == answer.target
        last = answer.links[-1]
        assert chain.key_block == (answer.target if last.to_key_block else last.source)
        path = await chain.trust_path(answer.target)
        assert path is not None
        assert path.links == answer.links

    over(recorded, go)


def test_a_recorded_way_with_one_signature_exchanged_is_not() -> None:
    name = "one-link-simplex"
    answer = partial_proof(name)
    (link,) = answer.links
    assert isinstance(link, ForwardLink)
    bent = octets(name).replace(link.signatures.signatures[0][1], link.signatures.signatures[1][1], 1)
    recorded = {GET_INFO: TonAnswers.info(answer.target.encode()), GET_PROOF: bent}
    with pytest.raises(Untrusted, match="TrustPathInvalid"):
        over(recorded, lambda lite: ChainView(lite, answer.source).head())


@pytest.mark.parametrize("name", READINGS)
def test_a_recorded_account_is_read(name: str) -> None:
    """The whole answer as a lite server gives it, the absent account's too."""
    known = reading(name)
    parts = (known.shard_proof, known.proof, known.state)
    answer = bytes.fromhex("51c77970") + known.block.encode() * 2 + b"".join(tl_bytes(part) for part in parts)
    who = Address(workchain=known.workchain, account=known.address)

    async def go(lite: LiteServer) -> None:
        read = await ChainView(lite, known.block).read(who, known.block)
        assert read.reading == known
        assert read.proved.global_id == -239
        assert (read.proved.account is None) == (name == "read-absent")

    over({GET_STATE: answer}, go)
