# SPDX-License-Identifier: Apache-2.0
"""The one thing that the host may tell a guest: end. QEMU's power button is an input device (Linux, input.h).

The host can end the machine at any time; the button lets the enclave sign its last batch and forget its keys first.
"""

from __future__ import annotations

import os
import selectors
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

INPUTS: Final = Path("/sys/class/input")
DEVICES: Final = Path("/dev/input")
MAX_BUTTONS: Final = 8
_NAME: Final = "Power Button"  # drivers/acpi/button.c
_EVENT: Final = struct.Struct("<qqHHi")  # struct input_event: seconds, microseconds, type, code, value
_KEY: Final = 1  # EV_KEY
_POWER: Final = 116  # KEY_POWER
_READ: Final = 64 * _EVENT.size


def find_buttons(*, inputs: Path = INPUTS, devices: Path = DEVICES) -> list[Path]:
    """Give the devices of the machine's power buttons."""
    found = []
    for entry in sorted(inputs.glob("event*")):
        try:
            name = (entry / "device" / "name").read_text(encoding="utf-8", errors="replace").strip()
        except OSError:
            continue
        if name == _NAME:
            found.append(devices / entry.name)
    return found[:MAX_BUTTONS]


def pressed(data: bytes) -> bool:
    """Say whether one of these whole input events is a press of the button."""
    whole = len(data) - len(data) % _EVENT.size
    return any(event[2:] == (_KEY, _POWER, 1) for event in _EVENT.iter_unpack(data[:whole]))


def wait_for_press(buttons: list[Path]) -> bool:
    """Wait until a button is pressed; False when there is none left that could be. Raises OSError."""
    opened: list[int] = []
    try:
        with selectors.DefaultSelector() as ready:
            for button in buttons:
                opened.append(os.open(button, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
                ready.register(opened[-1], selectors.EVENT_READ)
            while ready.get_map():
                for key, _ in ready.select():
                    data = os.read(key.fd, _READ)
                    if pressed(data):
                        return True
                    if not data:
                        ready.unregister(key.fd)
            return False
    finally:
        for descriptor in opened:
            os.close(descriptor)


def watch(press: Callable[[], None]) -> None:
    """Call `press` at the first press, from a thread that ends with the process. A machine may have no button."""
    buttons = find_buttons()

    def run() -> None:
        if wait_for_press(buttons):
            press()

    if buttons:
        threading.Thread(target=run, daemon=True).start()
