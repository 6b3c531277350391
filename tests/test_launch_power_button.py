# SPDX-License-Identifier: Apache-2.0
"""The power button as the guest hears it: an input device whose events are read, and nothing else of them."""

from __future__ import annotations

import os
import struct
import threading
from pathlib import Path

import pytest

from enclave.agent.power_button import find_buttons, pressed, wait_for_press


def event(kind: int, code: int, value: int) -> bytes:
    return struct.pack("<qqHHi", 1, 2, kind, code, value)


PRESS, RELEASE, SYNC = event(1, 116, 1), event(1, 116, 0), event(0, 0, 0)
OTHERS = [RELEASE, SYNC, event(1, 117, 1), event(2, 116, 1), event(1, 116, 2), b"", PRESS[:-1], b"\0" * 24]


def device(root: Path, name: str, called: str) -> None:
    folder = root / "class" / name / "device"
    folder.mkdir(parents=True)
    (folder / "name").write_text(called + "\n")


def test_only_power_buttons_are_found(tmp_path: Path) -> None:
    for name, called in (("event0", "AT keyboard"), ("event1", "Power Button"), ("event2", "Power Button")):
        device(tmp_path, name, called)
    device(tmp_path, "mouse0", "Power Button")
    (tmp_path / "class" / "event3").mkdir()
    found = find_buttons(inputs=tmp_path / "class", devices=tmp_path)
    assert found == [tmp_path / "event1", tmp_path / "event2"]
    assert find_buttons(inputs=tmp_path / "none", devices=tmp_path) == []


def test_a_press() -> None:
    assert pressed(PRESS)
    assert pressed(SYNC + RELEASE + PRESS + SYNC)


@pytest.mark.parametrize("data", OTHERS)
def test_what_is_no_press(data: bytes) -> None:
    assert not pressed(data)


def test_it_waits_until_one_is_pressed(tmp_path: Path) -> None:
    pipes = [tmp_path / "one", tmp_path / "two"]
    for pipe in pipes:
        os.mkfifo(pipe)
    ends = [os.open(pipe, os.O_RDWR) for pipe in pipes]
    answers: list[bool] = []
    waiting = threading.Thread(target=lambda: answers.append(wait_for_press(pipes)))
    waiting.start()
    os.write(ends[0], SYNC + RELEASE)
    waiting.join(0.2)
    assert waiting.is_alive()
    os.write(ends[1], PRESS + SYNC)
    waiting.join(10)
    assert answers == [True]
    for end in ends:
        os.close(end)


def test_devices_that_end_give_no_press(tmp_path: Path) -> None:
    pipe = tmp_path / "gone"
    os.mkfifo(pipe)
    end = os.open(pipe, os.O_RDWR)
    answers: list[bool] = []
    waiting = threading.Thread(target=lambda: answers.append(wait_for_press([pipe])))
    waiting.start()
    waiting.join(0.2)
    os.close(end)
    waiting.join(10)
    assert answers == [False]
    assert not wait_for_press([])
