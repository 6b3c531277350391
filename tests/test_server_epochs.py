# SPDX-License-Identifier: Apache-2.0
"""Epochs, their replay sets and run ids over real sockets: what follows, what is dropped, what a client does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from enclave.metrics import Count
from tests.sealed_by_hand import refusal, sealed_for, text_of
from tests.served import served


def test_epochs_follow_one_another_and_old_keys_are_dropped(tmp_path: Path) -> None:
    with served(tmp_path) as enclave:
        epochs: Any = enclave.booted.floor.epochs
        old: Any = epochs.current
        sealed, _ = sealed_for(enclave)
        enclave.clock.forward(3600)
        enclave.do(enclave.service.tend())
        assert epochs.current.number == 2
        late, _ = sealed_for(enclave, header={"kid": old.seal.kid, "keyset_digest": old.digest})
        enclave.clock.forward(599)
        enclave.do(enclave.service.tend())
        assert [epoch.number for epoch in epochs._live] == [1, 2]
        enclave.clock.forward(1)
        enclave.do(enclave.service.tend())
        assert not old.seal.live
        assert enclave.post(late.wire)[0] == 422
        assert enclave.post(sealed.wire)[0] == 422
        assert text_of(list(enclave.run("new epoch").items())) == "new epoch"


def test_a_client_verifies_again_when_the_epoch_is_over(tmp_path: Path) -> None:
    with served(tmp_path) as enclave:
        run = enclave.run("after the change")
        enclave.clock.forward(4300)
        enclave.do(enclave.service.tend())
        assert text_of(list(run.items())) == "after the change"
        assert run.attested.verified.epoch.number == 2


def test_a_client_that_slept_through_epochs_is_served(tmp_path: Path) -> None:
    """Nothing of its request had left: its first attempt is in the epoch that it verified now."""
    with served(tmp_path) as enclave:
        run = enclave.run("after a long sleep")
        for _ in range(3):
            enclave.clock.forward(3700)
            enclave.do(enclave.service.tend())
        assert text_of(list(run.items())) == "after a long sleep"
        assert run.attested.verified.epoch.number == 4


def test_a_key_that_is_gone_is_verified_anew_once_under_the_same_run_id(tmp_path: Path) -> None:
    """The enclave's clock runs ahead: the client's evidence still holds, and the sealed path says 422."""
    with served(tmp_path) as enclave:
        run = enclave.run("twice sealed, once run")
        for _ in range(2):
            enclave.clock.since_boot += 2100
            enclave.do(enclave.service.tend())
        enclave.clock.since_boot += 600
        enclave.do(enclave.service.tend())
        assert text_of(list(run.items())) == "twice sealed, once run"
        assert run.attested.verified.epoch.number == 2
        assert enclave.count(Count.SEALED_REFUSED_OUTER) == 1
        assert enclave.count(Count.RUNS_COMPLETE) == 1


def test_a_replay_set_that_fills_brings_the_next_epoch_early(tmp_path: Path) -> None:
    with served(tmp_path, replay_capacity=4) as enclave:
        for _ in range(3):
            sealed, _ = sealed_for(enclave)
            assert enclave.post(sealed.wire)[0] == 200
        enclave.do(enclave.service.tend())
        assert enclave.booted.floor.epochs.current.number == 2


def test_a_full_replay_set_refuses_before_anything_is_opened(tmp_path: Path) -> None:
    with served(tmp_path, replay_capacity=2) as enclave:
        sealed = [sealed_for(enclave)[0] for _ in range(3)]
        assert [enclave.post(s.wire)[0] for s in sealed[:2]] == [200, 200]
        opened: list[bytes] = []
        seal: Any = enclave.floor.epochs.current.seal
        seal.open = lambda sealed_seed, **_: opened.append(sealed_seed)
        assert enclave.post(sealed[2].wire)[0] == 503
        assert opened == []


def test_an_old_run_id_is_expired(tmp_path: Path) -> None:
    with served(tmp_path) as enclave:
        for _ in range(2):
            enclave.clock.forward(3600)
            enclave.do(enclave.service.tend())
        assert refusal(enclave, first_epoch=1).code == "run_expired"
