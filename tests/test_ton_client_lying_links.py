# SPDX-License-Identifier: Apache-2.0
"""Lite servers that lie about the way from one block to another: signatures, links, and ways without end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from attestation.errors import AttestationError
from attestation.ton.blockid import BlockId
from attestation.ton.trustpath import TrustPath
from client.ton import chain as chain_module
from client.ton.chain import ChainView, with_chain
from enclave.simulator.ton_answers import TonAnswers
from enclave.simulator.ton_chain import TonChain
from tests.lying_servers import be_impatient, caught, grown_box, lying
from tests.ton_in_box import NOW, InBox


@pytest.fixture(scope="module")
def ton(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InBox]:
    with grown_box(tmp_path_factory.mktemp("ton")) as made:
        yield made


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    be_impatient(monkeypatch)


def _links_of(make: Callable[[TonAnswers, int, int], list[bytes]], *, complete: bool = True) -> type[TonAnswers]:
    class Links(TonAnswers):
        def block_proof(self, known: int, target: int) -> bytes:
            links = make(self, known, target)
            return self.box.chain.partial_proof(links, source=known, target=target, complete=complete)

    return Links


@pytest.mark.parametrize(
    ("signers", "where"),
    [
        ([0] * 7, "signer"),
        ([0, 1, 2, 3, 3], "signer"),
        ([0, 1, 2, 3], "weight"),
        ([], "weight"),
        ([0] * 1000, "signer"),
    ],
)
@pytest.mark.parametrize("simplex", [False, True])
def test_one_that_repeats_signatures_or_has_too_few(
    ton: InBox, signers: list[int], where: str, *, simplex: bool
) -> None:
    def make(at: TonAnswers, known: int, target: int) -> list[bytes]:  # noqa: ARG001 - the first link is enough
        return [at.box.chain.forward_link(known, 8, signers=signers, simplex=simplex)]

    caught(ton, _links_of(make, complete=False), "TrustPathInvalid", where)


def test_one_that_forges_a_link(ton: InBox) -> None:
    """The link is signed by validators of its own, whose key block it shows in the place of the trusted one."""
    evil = TonChain(seed=b"evil", now=NOW)
    evil.append(now=NOW)

    def make(at: TonAnswers, known: int, target: int) -> list[bytes]:  # noqa: ARG001
        link = evil.forward_link(1, 2)
        return [link.replace(evil.init_block.encode(), at.box.chain.block(known).encode(), 1)]

    caught(ton, _links_of(make), "BlockProofInvalid", "link.from")


def test_one_that_sends_links_of_another_chain(ton: InBox) -> None:
    evil = TonChain(seed=b"evil", now=NOW)
    evil.append(now=NOW)
    caught(ton, _links_of(lambda *_: [evil.forward_link(1, 2)]), "TrustPathInvalid", "path.from")


def test_one_that_goes_past_the_target(ton: InBox) -> None:
    class Past(TonAnswers):
        def masterchain_info(self) -> bytes:
            return self.info(self.box.chain.block(self.box.chain.head.seqno - 4).encode())

        def block_proof(self, known: int, target: int) -> bytes:
            return super().block_proof(known, target + 4)

    caught(ton, Past, "TrustPathInvalid", "no further")


def test_one_that_gives_no_links_for_ever(ton: InBox) -> None:
    caught(ton, _links_of(lambda *_: [], complete=False), "TrustPathInvalid", "a link")


def test_one_that_goes_back_and_forth_for_ever(ton: InBox) -> None:
    def make(at: TonAnswers, known: int, target: int) -> list[bytes]:  # noqa: ARG001
        chain = at.box.chain
        return [chain.forward_link(known, 8), chain.back_link(8, known)] * 10

    caught(ton, _links_of(make, complete=False), "TrustPathInvalid", "path.direction")


# ---- on the way back, which is one link to the very block


@pytest.mark.parametrize(
    ("make", "where"),
    [
        (lambda chain, known, target: chain.back_link(known, target + 1), "path.to"),  # would go on from there
        (lambda chain, known, target: chain.back_link(known, target - 1), "path.to"),
        (lambda chain, known, target: chain.back_link(known - 1, target), "path.from"),
        (lambda chain, known, _: chain.forward_link(known, known + 1), "path.direction"),
    ],
    ids=["not far enough", "past the target", "from elsewhere", "forward"],
)
def test_one_that_leads_back_to_another_block(
    ton: InBox, make: Callable[[TonChain, int, int], bytes], where: str
) -> None:
    chain = ton.box.chain
    known, target = chain.last_key_block(chain.head.seqno), 5
    start, wanted = (BlockId.decode(chain.block(n).encode(), what="block") for n in (known, target))

    async def way(view: ChainView) -> TrustPath | None:
        return await view.trust_path(wanted)

    answers = _links_of(lambda at, known, target: [make(at.box.chain, known, target)])
    with lying(ton, answers) as network, pytest.raises(AttestationError, match=f"TrustPathInvalid: {where}"):
        with_chain(replace(network, init_block=start), way, seconds=10.0)
    honest = with_chain(replace(ton.network, init_block=start), way)
    assert honest is not None
    assert [link.target for link in honest.links] == [wanted]


@pytest.mark.parametrize(("name", "bound"), [("MAX_LINKS", 3), ("MAX_PATH", None)])
def test_a_way_is_as_long_as_a_trust_path_may_be(
    ton: InBox, monkeypatch: pytest.MonkeyPatch, name: str, bound: int | None
) -> None:
    head = BlockId.decode(ton.box.chain.head.encode(), what="head")

    async def way(view: ChainView) -> TrustPath | None:
        return await view.trust_path(head)

    path = with_chain(ton.network, way)
    assert path is not None
    exactly = bound or sum(len(link.encode()) for link in path.links)
    assert (len(path.links), bound) in {(3, 3), (3, None)}
    monkeypatch.setattr(chain_module, name, exactly)
    assert with_chain(ton.network, way) == path
    monkeypatch.setattr(chain_module, name, exactly - 1)
    with pytest.raises(AttestationError, match=r"TrustPathInvalid: path.*name a later init block"):
        with_chain(ton.network, way)


def test_one_that_repeats_a_link_for_ever(ton: InBox) -> None:
    def make(at: TonAnswers, known: int, target: int) -> list[bytes]:  # noqa: ARG001
        return [at.box.chain.forward_link(known, 8)] * 50

    caught(ton, _links_of(make, complete=False), "TrustPathInvalid", "path.from")
