# SPDX-License-Identifier: Apache-2.0
"""Lite servers that lie: each is caught by name and in bounded time, and one honest server beside them is enough."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from attestation.errors import AttestationError, Refused
from attestation.ton.registry import Address
from client.errors import ClientError, Unreachable
from client.ton import chain as chain_module
from client.ton import liteserver
from client.ton.chain import with_chain
from client.ton.network import LiteServerAddress, block_json
from enclave.simulator.ton_answers import TonAnswers, error
from enclave.simulator.ton_chain import Bends, TonChain
from enclave.simulator.ton_server import TonServer
from tests.lying_servers import be_impatient, caught, first_block, grown_box, lying, view
from tests.ton_in_box import NOW, InBox


@pytest.fixture(scope="module")
def ton(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InBox]:
    with grown_box(tmp_path_factory.mktemp("ton")) as made:
        yield made


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    be_impatient(monkeypatch)


# ---- what an honest server lets one see


def test_an_honest_server_is_believed_over_several_answers(ton: InBox) -> None:
    found = view(ton)
    assert (found.block.seqno, found.balance) == (ton.box.chain.head.seqno, 2 * 10**9)
    path = with_chain(ton.network, lambda chain: chain.trust_path(found.block))
    assert path is not None
    assert len(path.links) == 3  # over two key blocks, two links to an answer


def test_how_far_the_way_is_gone_is_said(ton: InBox) -> None:
    said: list[str] = []
    head = with_chain(ton.network, lambda chain: chain.head(), step=said.append)
    assert said == [f"verified up to block 16 of {head.seqno}"]  # after the first of two answers


def test_a_head_that_stays_is_gone_to_once(ton: InBox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ton.box, "tick", lambda: None)

    async def thrice(chain: chain_module.ChainView) -> list[int]:
        return [(await chain.head()).seqno for _ in range(3)]

    assert with_chain(ton.network, thrice) == [ton.box.chain.head.seqno] * 3


def test_what_was_refused_is_not_asked_of_the_next_server(ton: InBox) -> None:
    """Only a stale head is a server's fault: anything else that a policy refuses was proved."""
    twice = replace(ton.network, lite_servers=ton.network.lite_servers * 2)
    for code, count in (("RegistryRejected", 1), ("RegistryStale", 2)):
        asked: list[int] = []

        async def refuse(chain: chain_module.ChainView, code: str = code, asked: list[int] = asked) -> None:
            asked.append((await chain.head()).seqno)
            raise Refused(code, "here", want="something", got="something else")

        with pytest.raises(Refused, match=code):
            with_chain(twice, refuse)
        assert len(asked) == count


def test_a_head_is_as_old_as_the_caller_lets_it_be(ton: InBox) -> None:
    found = view(ton)
    for max_age in (60, 3600):
        last = found.gen_utime + max_age

        def at(now: int, max_age: int = max_age) -> int:
            when = datetime.fromtimestamp(now, UTC)
            job = lambda chain: chain.newest(ton.network.registry, now=when, max_age=max_age)  # noqa: E731
            proved: int = with_chain(ton.network, job).proved.gen_utime
            return proved

        assert at(last) == found.gen_utime
        with pytest.raises(Refused, match="RegistryStale"):
            at(last + 1)


def test_the_way_that_was_gone_is_remembered_and_nothing_else_is(ton: InBox, tmp_path: Path) -> None:
    network = ton.network

    def go() -> tuple[int, int]:
        async def job(chain: chain_module.ChainView) -> tuple[int, int]:
            start = chain.key_block.seqno
            return start, (await chain.head()).seqno

        return with_chain(network, job, remember=tmp_path)

    head = ton.box.chain.head.seqno
    assert go() == (1, head)
    assert go() == (16, head)  # the newest key block
    (file,) = tmp_path.glob("*.json")
    assert file.name == f"{network.init_block.root_hash.hex()}.json"
    kept = file.read_bytes()
    for bad in (b"", b"{}", kept[:-9], kept.replace(b'"seqno": 16', b'"seqno": 0')):
        file.write_bytes(bad)
        assert go() == (1, head)
    file.write_bytes(kept.replace(b'"root_hash": "', b'"root_hash": "0')[:-2] + b"}")
    assert go() == (1, head)


def test_a_forged_checkpoint_leads_nowhere(ton: InBox, tmp_path: Path) -> None:
    """Whoever writes into the user's own state directory can stop them, and still signs nothing."""
    path = tmp_path / f"{ton.network.init_block.root_hash.hex()}.json"
    path.write_text(json.dumps(block_json(replace(ton.network.init_block, seqno=8))))
    with pytest.raises((AttestationError, ClientError)):
        with_chain(ton.network, lambda chain: chain.head(), remember=tmp_path)


def test_an_account_that_is_not_there_is_proved_absent(ton: InBox) -> None:
    network = replace(ton.network, registry=Address(workchain=0, account=b"\x77" * 32))
    with pytest.raises(AttestationError, match=r"RegistryProofInvalid.*active account"):
        view(ton, network)


def test_the_ordinary_form_of_signatures_does_as_well(ton: InBox) -> None:
    class Ordinary(TonAnswers):
        def __init__(self, box: Any) -> None:
            super().__init__(box, simplex=False)

    with lying(ton, Ordinary) as network:
        assert view(ton, network).block.seqno == ton.box.chain.head.seqno


# ---- lies


def test_one_that_hides_the_account(ton: InBox) -> None:
    class Hides(TonAnswers):
        def account_state(self, seqno: int, workchain: int, address: bytes) -> bytes:
            whole = super().account_state(seqno, workchain, address)
            state = self.box.chain.account_state(address, at=seqno).state
            return whole[: whole.rindex(state[:16]) - (4 if len(state) >= 254 else 1)] + bytes(4)

    caught(ton, Hides, "AccountProofInvalid", "it exists")


def test_one_that_proves_the_absence_of_another_account(ton: InBox) -> None:
    class Other(TonAnswers):
        def account_state(self, seqno: int, workchain: int, address: bytes) -> bytes:  # noqa: ARG002
            return super().account_state(seqno, workchain, b"\xf0" * 32)

    caught(ton, Other, "MalformedBlock", "pruned")


def test_one_that_shows_the_account_at_another_block(ton: InBox) -> None:
    class Earlier(TonAnswers):
        def account_state(self, seqno: int, workchain: int, address: bytes) -> bytes:
            return super().account_state(seqno - 1, workchain, address)

    caught(ton, Earlier, "BlockProofInvalid", "account_state.id")


def test_one_that_changes_the_account(ton: InBox) -> None:
    class Richer(TonAnswers):
        def account_state(self, seqno: int, workchain: int, address: bytes) -> bytes:
            whole = super().account_state(seqno, workchain, address)
            return whole[:-200] + bytes((whole[-200] ^ 1,)) + whole[-199:]

    with lying(ton, Richer) as network, pytest.raises(AttestationError) as e:
        view(ton, network)
    assert e.value.code in {"AccountProofInvalid", "MalformedAccount", "MalformedProof"}


def test_one_that_serves_an_old_head(ton: InBox) -> None:
    class Old(TonAnswers):
        def masterchain_info(self) -> bytes:
            return self.info(self.box.chain.block(2).encode())

    ton.clock.at += 3600
    ton.do(ton.box.block)
    caught(ton, Old, "RegistryStale", "3600 s")


def test_one_whose_head_goes_back(ton: InBox) -> None:
    class Back(TonAnswers):
        asked = 0

        def masterchain_info(self) -> bytes:
            self.asked += 1
            return self.info(self.box.chain.block(self.box.chain.head.seqno - self.asked).encode())

    async def twice(chain: chain_module.ChainView) -> None:
        await chain.head()
        await chain.head()

    with lying(ton, Back) as network, pytest.raises(AttestationError, match=r"TrustPathInvalid: head"):
        with_chain(network, twice, seconds=10.0)


def test_one_whose_head_is_of_tomorrow(ton: InBox) -> None:
    ahead = TonChain(seed=b"ahead", now=NOW)
    network = replace(ton.network, init_block=first_block(ahead))

    class Tomorrow(TonAnswers):
        pass

    class Box:
        chain = ahead

        def tick(self) -> None:
            pass

    ahead.append(now=ton.clock.at + 86_400)
    server = TonServer(Tomorrow(Box()).answer, key=Ed25519PrivateKey.generate())  # type: ignore[arg-type]
    port = ton.await_(server.start())
    address = LiteServerAddress(host="127.0.0.1", port=port, key=server.public)
    with pytest.raises(AttestationError, match="RegistryStale"):
        view(ton, replace(network, lite_servers=(address,)))
    ton.await_(server.stop())


def test_one_that_names_a_block_that_does_not_exist(ton: InBox) -> None:
    class Invents(TonAnswers):
        def masterchain_info(self) -> bytes:
            return self.info(self.box.chain.head.encode()[:-1] + b"\x00")

    caught(ton, Invents, "Unreachable", "651")


def test_one_that_stalls(ton: InBox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(liteserver, "ANSWER_SECONDS", 1.0)

    class Stalls(TonAnswers):
        def answer(self, query: bytes) -> bytes | None:  # noqa: ARG002
            return None

    caught(ton, Stalls, "Unreachable", "in time")


def test_one_that_is_always_a_little_slow(ton: InBox) -> None:
    """Each answer comes in time; all of them together do not."""

    class Slow(TonAnswers):
        def block_proof(self, known: int, target: int) -> bytes:
            time.sleep(0.4)
            chain = self.box.chain
            return chain.partial_proof(chain.forward_path(known, target)[:1], source=known, target=target)

    with lying(ton, Slow) as network, pytest.raises(Unreachable, match="not done after 1 s"):
        with_chain(network, lambda chain: chain.head(), seconds=1.0)


@pytest.mark.parametrize("answer", [b"", b"\x00", b"\xff" * 4, bytes(1000), b"\x81\x28\x83\x85" + bytes(3)])
def test_one_that_answers_nonsense(ton: InBox, answer: bytes) -> None:
    class Nonsense(TonAnswers):
        def answer(self, query: bytes) -> bytes | None:  # noqa: ARG002
            return answer

    caught(ton, Nonsense, "MalformedProof")


def test_one_that_gives_the_answer_to_another_question(ton: InBox) -> None:
    class Other(TonAnswers):
        def masterchain_info(self) -> bytes:
            return b"\x51\xc7\x79\x70" + super().masterchain_info()[4:]

    caught(ton, Other, "MalformedProof", "masterchain_info.tag")


def test_one_whose_packets_are_longer_than_any_answer(ton: InBox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(liteserver, "MAX_PACKET", 500)
    with pytest.raises(Unreachable, match="closed"):
        view(ton)


def test_what_a_server_says_never_drives_the_terminal(ton: InBox) -> None:
    class Rude(TonAnswers):
        def answer(self, query: bytes) -> bytes | None:  # noqa: ARG002
            return error(1, "\x1b[2Jgone\n" + "x" * 1000)

    with lying(ton, Rude) as network, pytest.raises(Unreachable) as e:
        view(ton, network)
    assert "\x1b" not in str(e.value)
    assert len(str(e.value)) < 300


def test_another_server_behind_the_address(ton: InBox) -> None:
    with lying(ton, TonAnswers) as network:
        other = replace(network.lite_servers[0], key=Ed25519PrivateKey.generate().public_key().public_bytes_raw())
        with pytest.raises(Unreachable):
            view(ton, replace(network, lite_servers=(other,)))


@contextmanager
def raw_server(serve: Callable[[socket.socket], None]) -> Iterator[LiteServerAddress]:
    """Listen and hand one connection to `serve`."""
    import threading

    def accept() -> None:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        with connection:
            serve(connection)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield LiteServerAddress(host="127.0.0.1", port=listener.getsockname()[1], key=bytes(31) + b"\x01")
        listener.close()
    thread.join(timeout=5)


@pytest.mark.parametrize("data", [b"", b"\xff" * 4, bytes(100), b"x" * 100_000])
def test_something_else_behind_the_address(ton: InBox, monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(liteserver, "CONNECT_SECONDS", 1)

    def serve(connection: socket.socket) -> None:
        connection.recv(256)
        try:
            connection.sendall(data)
            connection.settimeout(2)
            connection.recv(1)
        except OSError:
            return

    with raw_server(serve) as address:
        key = ton.network.lite_servers[0].key
        network = replace(ton.network, lite_servers=(replace(address, key=key),))
        with pytest.raises(Unreachable):
            view(ton, network)


def test_nobody_behind_the_address(ton: InBox) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    nobody = replace(ton.network.lite_servers[0], port=port)
    with pytest.raises(Unreachable, match=str(port)):
        view(ton, replace(ton.network, lite_servers=(nobody,)))


def test_a_bent_state_of_the_registry_s_shard(ton: InBox) -> None:
    """The validators themselves sign nonsense: a state of another shard block."""
    chain = TonChain(seed=b"bent", now=ton.clock.at)
    accounts = dict(ton.box.chain._heights[-1].accounts)
    chain.append(now=ton.clock.at, accounts=accounts, bends=Bends(shard_state={"seqno": 7}))

    class Box:
        def __init__(self) -> None:
            self.chain = chain

        def tick(self) -> None:
            pass

    server = TonServer(TonAnswers(Box()).answer, key=Ed25519PrivateKey.generate())  # type: ignore[arg-type]
    port = ton.await_(server.start())
    address = LiteServerAddress(host="127.0.0.1", port=port, key=server.public)
    with pytest.raises(AttestationError, match="ShardProofInvalid"):
        view(ton, replace(ton.network, init_block=first_block(chain), lite_servers=(address,)))
    ton.await_(server.stop())
