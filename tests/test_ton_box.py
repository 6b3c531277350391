# SPDX-License-Identifier: Apache-2.0
"""A TON in a box from end to end: heads anchored over pytoniq's transport into the contract that really runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from attestation.errors import Refused
from attestation.ton.boc import write_boc
from client import registry_messages
from client.errors import Unreachable, UsageFault
from client.ledger_file import read_chains
from client.ton.chain import ChainView, with_chain
from client.ton.network import PUBLIC_IDS, Network
from client.ton.outbox import Pending, held_outbox
from client.ton.publishing import SETTLE_SECONDS, VALID_SECONDS, Publisher, Report
from client.ton.wallet import Wallet
from enclave.simulator.ton_answers import TonAnswers
from enclave.simulator.ton_chain import GLOBAL_ID
from enclave.simulator.ton_machine import TonMachine
from tests.ton_in_box import (
    CODE,
    NOW,
    OWNER,
    REGISTRY,
    Boot,
    BoxClock,
    InBox,
    in_box,
    needs_tonpy,
    registry_data,
    write_ledger,
)

pytestmark = needs_tonpy


@pytest.fixture(scope="module")
def machine() -> Iterator[TonMachine]:
    with TonMachine() as started:
        yield started


@pytest.fixture
def ton(tmp_path: Path, machine: TonMachine) -> Iterator[InBox]:
    with in_box(tmp_path, machine) as made:
        yield made


def publisher(ton: InBox, wallet: Wallet, chain: ChainView, network: Network | None = None) -> Publisher:
    return Publisher(
        chain, network=network or ton.network, wallet=wallet, now=ton.clock.now, step=lambda _: None, poll=0.01
    )


def run(ton: InBox, wallet: Wallet, *boots: Boot) -> Report:
    chains = read_chains(write_ledger(ton.folder / "ledger", boots))
    with held_outbox(ton.folder / "outbox", wallet.address(GLOBAL_ID), GLOBAL_ID) as outbox:
        return with_chain(ton.network, lambda chain: publisher(ton, wallet, chain).run(chains, outbox))


@pytest.mark.parametrize("version", ["v4r2", "v5r1"])
def test_a_new_boot_is_registered_and_its_batches_anchored(ton: InBox, version: str) -> None:
    wallet, _ = ton.wallet(version)
    boot = Boot()
    for _ in range(7):
        boot.batch()
    report = run(ton, wallet, boot)
    enclave = report.view.state.enclaves[boot.public]
    assert (enclave.seqno, enclave.head) == (7, boot.statements[-1].hash)
    assert [item.message.what for item in report.done] == ["register"] + ["anchor"] * 7
    assert ton.exits() == [0] * 8
    assert report.done[0].estimate > 50_000_000  # the registry's fee
    estimate = sum(item.estimate for item in report.done)
    assert estimate / 2 < report.paid < estimate * 1.2


def test_what_is_anchored_is_left_alone(ton: InBox) -> None:
    wallet, _ = ton.wallet()
    boot = Boot()
    boot.batch()
    run(ton, wallet, boot)
    before = len(ton.box.steps)
    report = run(ton, wallet, boot)
    assert (report.done, report.paid, len(ton.box.steps)) == ((), 0, before)
    boot.batch()
    boot.batch()
    assert [item.seqno for item in run(ton, wallet, boot).done] == [2, 3]
    assert ton.exits() == [0, 0, 0, 0]


def test_two_boots_of_one_ledger_each_keep_their_chain(ton: InBox) -> None:
    wallet, _ = ton.wallet()
    first, second = Boot("first"), Boot("second")
    first.batch(), second.batch(), first.batch()
    enclaves = run(ton, wallet, first, second).view.state.enclaves
    assert {key: it.seqno for key, it in enclaves.items()} == {first.public: 2, second.public: 1}


class Crash(BaseException):
    """The process is gone."""


def crashing(ton: InBox, wallet: Wallet, boot: Boot, monkeypatch: pytest.MonkeyPatch, *, where: str) -> None:
    """Run until a crash: before anything is sent, after it was sent, or after the wallet ran and before it was seen."""
    send = Publisher._send

    async def crash(self: Publisher, pending: Pending) -> str:
        if where == "before":
            raise Crash
        answer = await send(self, pending)
        assert answer == ""
        raise Crash

    with monkeypatch.context() as patch:
        patch.setattr(Publisher, "_send", crash)
        with pytest.raises(Crash):
            run(ton, wallet, boot)


@pytest.mark.parametrize("version", ["v4r2", "v5r1"])
@pytest.mark.parametrize("deployed", [False, True])
@pytest.mark.parametrize("where", ["before", "after"])
def test_a_crash_neither_loses_nor_doubles_an_anchor(
    ton: InBox, monkeypatch: pytest.MonkeyPatch, version: str, where: str, *, deployed: bool
) -> None:
    wallet, _ = ton.wallet(version)
    boot = Boot()
    boot.batch()
    if deployed:
        run(ton, wallet, boot)
        boot.batch()
    crashing(ton, wallet, boot, monkeypatch, where=where)
    sent = len(ton.exits())
    report = run(ton, wallet, boot)
    assert report.view.state.enclaves[boot.public].seqno == len(boot.statements)
    assert report.resumed == {boot.public: len(boot.statements)}
    assert ton.exits() == [0] * (1 + len(boot.statements))  # each once, none refused
    assert (len(ton.exits()) == sent) == (where == "after")


def test_a_transfer_that_can_no_longer_run_is_made_anew(ton: InBox, monkeypatch: pytest.MonkeyPatch) -> None:
    wallet, _ = ton.wallet()
    boot = Boot()
    boot.batch()
    run(ton, wallet, boot)
    boot.batch()
    crashing(ton, wallet, boot, monkeypatch, where="before")
    ton.clock.at += VALID_SECONDS + SETTLE_SECONDS + 10
    report = run(ton, wallet, boot)
    assert report.resumed == {}
    assert ton.exits() == [0, 0, 0]


def test_a_transfer_that_a_slow_shard_may_still_run_is_not_made_anew(
    ton: InBox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The masterchain's clock is past its end; a shard's block from before may not have reached it yet."""
    wallet, _ = ton.wallet()
    boot = Boot()
    boot.batch()
    run(ton, wallet, boot)
    boot.batch()
    crashing(ton, wallet, boot, monkeypatch, where="before")
    (file,) = (ton.folder / "outbox").glob("*.json")
    before = file.read_bytes()
    ton.clock.at += VALID_SECONDS + SETTLE_SECONDS
    monkeypatch.setattr("client.ton.publishing.CONFIRM_SECONDS", 1)
    with pytest.raises(Unreachable, match="not confirmed"):
        run(ton, wallet, boot)
    assert file.read_bytes() == before
    assert ton.exits() == [0, 0]


def test_a_lost_outbox_costs_no_second_anchor(ton: InBox, monkeypatch: pytest.MonkeyPatch) -> None:
    wallet, _ = ton.wallet()
    boot = Boot()
    boot.batch()
    crashing(ton, wallet, boot, monkeypatch, where="after")
    for file in (ton.folder / "outbox").glob("*.json"):
        file.unlink()
    assert run(ton, wallet, boot).done == ()
    assert ton.exits() == [0, 0]


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [(b"}", b"", "damaged"), (REGISTRY.hex().encode(), b"77" * 32, "finish that first")],
    ids=["damaged", "of a transfer for another registry"],
)
def test_an_outbox_that_is_not_this_runs_stops_everything(
    ton: InBox, monkeypatch: pytest.MonkeyPatch, old: bytes, new: bytes, words: str
) -> None:
    wallet, _ = ton.wallet()
    boot = Boot()
    boot.batch()
    crashing(ton, wallet, boot, monkeypatch, where="before")
    (file,) = (ton.folder / "outbox").glob("*.json")
    file.write_bytes(file.read_bytes().replace(old, new))
    with pytest.raises(UsageFault, match=words):
        run(ton, wallet, boot)
    assert ton.exits() == []


def test_two_runs_at_once_do_not_share_a_wallet(ton: InBox) -> None:
    wallet, _ = ton.wallet()
    boot = Boot()
    boot.batch()
    with (
        held_outbox(ton.folder / "outbox", wallet.address(GLOBAL_ID), GLOBAL_ID),
        pytest.raises(UsageFault, match="another anchor command"),
    ):
        run(ton, wallet, boot)


def test_an_empty_wallet_is_said_to_be_empty(ton: InBox) -> None:
    wallet, _ = ton.wallet(balance=1_000_000)
    boot = Boot()
    boot.batch()
    with pytest.raises(UsageFault, match=r"has 0\.001 GRAM; 0\.17 GRAM are needed"):
        run(ton, wallet, boot)
    assert ton.box.steps == []


def test_a_transfer_that_runs_in_vain_is_reported(ton: InBox, monkeypatch: pytest.MonkeyPatch) -> None:
    """The registry refuses: somebody has set its fee higher than the proved one said."""
    wallet, _ = ton.wallet()
    boot = Boot()
    boot.batch()
    monkeypatch.setattr("client.ton.anchor_plan.ATTACHED", 0)
    monkeypatch.setattr("client.ton.publishing.FLIGHT_SECONDS", -1)
    with pytest.raises(Refused, match="RegistryRejected"):
        run(ton, wallet, boot)
    assert set(ton.exits()) != {0}
    assert not list((ton.folder / "outbox").glob("*.json"))


def test_blocked_keys_say_why_and_hold_nobody_up(ton: InBox) -> None:
    wallet, _ = ton.wallet()
    good, expired, gap, unknown = Boot("good"), Boot("expired", valid_until=NOW - 1), Boot("gap"), Boot("unknown")
    for boot in (good, expired, gap, unknown):
        boot.batch(), boot.batch(), boot.batch()
    del gap.records[-5]  # the second statement; three receipts and the third follow
    del unknown.records[0]
    report = run(ton, wallet, good, expired, gap, unknown)
    assert report.blocked.keys() == {expired.public, gap.public, unknown.public}
    assert "expired" in report.blocked[expired.public]
    assert "statement 2 is missing" in report.blocked[gap.public]
    assert "no registration" in report.blocked[unknown.public]
    assert report.view.state.enclaves[good.public].seqno == 3
    assert report.view.state.enclaves[gap.public].seqno == 1


def test_a_revoked_key_is_not_sent_for(ton: InBox) -> None:
    wallet, _ = ton.wallet()
    boot = Boot()
    boot.batch()
    run(ton, wallet, boot)
    boot.batch()
    body = write_boc(registry_messages.list_digest("revoke_key", boot.public))
    assert ton.do(lambda: ton.box.send(OWNER, REGISTRY, body, value=10**8)) == 0
    report = run(ton, wallet, boot)
    assert (report.done, report.blocked) == ((), {boot.public: "the key is revoked"})
    assert ton.exits() == [0, 0, 0]


def test_a_registration_that_runs_out_is_said_to_have(ton: InBox) -> None:
    wallet, _ = ton.wallet()
    boot = Boot(valid_until=NOW + 200)
    boot.batch()
    run(ton, wallet, boot)
    ton.clock.at = NOW + 300
    assert run(ton, wallet, boot).blocked == {}  # nothing is left to send
    boot.batch()
    assert "expired with 1 statements to go" in run(ton, wallet, boot).blocked[boot.public]
    assert ton.exits() == [0, 0]


def test_a_ledger_that_parts_from_the_registry_is_not_sent(ton: InBox) -> None:
    """Two statements with one number: one is anchored, the ledger has the other. The key has contradicted itself."""
    wallet, _ = ton.wallet()
    boot, twin = Boot(), Boot()
    boot.batch(), twin.batch(count=1)
    run(ton, wallet, boot)
    boot.batch(), twin.batch()
    report = run(ton, wallet, twin)
    assert "statement 2 does not follow" in report.blocked[boot.public]
    assert ton.exits() == [0, 0]


def test_a_simulated_boot_is_stopped_by_the_proved_network_id(ton: InBox, monkeypatch: pytest.MonkeyPatch) -> None:
    """The network file names a block of its own; what the chain proves to be is what counts."""
    monkeypatch.setitem(PUBLIC_IDS, GLOBAL_ID, "this one")
    wallet, _ = ton.wallet()
    boot, real = Boot(), Boot("real", machine=1)
    boot.batch(), real.batch()
    with pytest.raises(Refused, match="MachineNotAllowed"):
        run(ton, wallet, boot)
    assert ton.box.steps == []
    assert len(run(ton, wallet, real).done) == 2


def test_an_account_that_is_no_wallet_any_more_is_not_used(ton: InBox) -> None:
    wallet, _ = ton.wallet()
    boot = Boot()
    boot.batch()
    data = write_boc(registry_data())
    ton.do(lambda: ton.box.put(wallet.address(GLOBAL_ID).account, code=CODE, data=data, balance=10**10))
    ton.do(ton.box.block)
    with pytest.raises(UsageFault, match="no v4r2 wallet"):
        run(ton, wallet, boot)


class Lost(TonAnswers):
    """Says that it takes a message, and drops it."""

    dropped = 0

    def send_message(self, boc: bytes) -> bytes:
        self.dropped += 1
        return super().send_message(boc) if self.dropped > 1 else bytes.fromhex("97e5503901000000")


def test_a_server_that_drops_the_transfer_costs_a_second_run(tmp_path: Path, machine: TonMachine) -> None:
    with in_box(tmp_path, machine, answers=Lost) as ton:
        wallet, _ = ton.wallet()
        boot = Boot()
        boot.batch()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("client.ton.publishing.CONFIRM_SECONDS", 1)
            with pytest.raises(Unreachable, match="run the same command again"):
                run(ton, wallet, boot)
        assert ton.exits() == []
        report = run(ton, wallet, boot)
        assert (report.resumed, ton.exits()) == ({boot.public: 1}, [0, 0])


class Frozen(TonAnswers):
    """Takes messages, and shows for ever what was before."""

    def masterchain_info(self) -> bytes:
        return self.info(self.box.chain.block(3).encode())


def test_a_server_that_shows_no_new_head_never_confirms(
    tmp_path: Path, machine: TonMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("client.ton.publishing.CONFIRM_SECONDS", 1)
    with in_box(tmp_path, machine, answers=Frozen) as ton:
        wallet, _ = ton.wallet()
        boot = Boot()
        boot.batch()
        with pytest.raises(Unreachable, match="not confirmed"):
            run(ton, wallet, boot)
        assert ton.exits() == [0, 0]
        with pytest.raises(Unreachable, match="not confirmed"):
            run(ton, wallet, boot)
        assert ton.exits() == [0, 0]  # the same bytes again: the wallet takes them once


class Deaf(TonAnswers):
    """Takes every message and runs none, while time goes on."""

    clock: BoxClock

    def send_message(self, boc: bytes) -> bytes:  # noqa: ARG002
        self.clock.at += VALID_SECONDS + SETTLE_SECONDS + 1
        return bytes.fromhex("97e5503901000000")


def test_a_network_that_takes_nothing_ends_the_run(tmp_path: Path, machine: TonMachine) -> None:
    with in_box(tmp_path, machine, answers=Deaf) as ton:
        assert isinstance(ton.answers, Deaf)
        ton.answers.clock = ton.clock
        wallet, _ = ton.wallet()
        boot = Boot()
        boot.batch(), boot.batch()
        with pytest.MonkeyPatch.context() as patch:  # a wallet's first transfer never runs out of time
            patch.setattr(Deaf, "send_message", TonAnswers.send_message)
            run(ton, wallet, boot)
        boot.batch()
        with pytest.raises(Unreachable, match="3 transfers ran out of time"):
            run(ton, wallet, boot)
        assert ton.exits() == [0, 0, 0]
