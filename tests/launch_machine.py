# SPDX-License-Identifier: Apache-2.0
"""A program in QEMU's place: it answers its version and its monitor, prints, says how it is, and ends as it is told.

The first word of the kernel command line that it is given after `-append` does not steer it: the environment does.
PLAY: `good` ends at the power button, `deaf` only at SIGTERM, `stubborn` at SIGKILL alone, `dies` by itself.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import sys
import threading
import time

PLAY = os.environ.get("PLAY", "good")
LIFE = 60.0  # seconds, whatever a test forgets


def _listen(name: str) -> socket.socket:
    found = re.search(rf"id={name},path=([^,]+)", " ".join(sys.argv))
    if found is None:
        sys.exit(f"no {name}")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(found[1])
    listener.listen(4)
    return listener


def _monitor(listener: socket.socket) -> None:
    while True:
        connection, _ = listener.accept()
        with connection, connection.makefile("rwb") as lines:
            lines.write(b'{"QMP":{}}\n')
            lines.flush()
            for line in lines:
                asked = json.loads(line)["execute"]
                lines.write(b'{"event":"NOISE"}\n{"return":{}}\n')
                lines.flush()
                if asked == "system_powerdown" and PLAY == "good":
                    print("power button", flush=True)
                    os._exit(0)


def _health(listener: socket.socket) -> None:
    connection, _ = listener.accept()
    with connection:
        for line in (b"not json\n", b'{"stage":"loading","uptime":1}\n', b'{"stage":"serving",', b'"uptime":2}\n'):
            connection.sendall(line)
        connection.sendall(b"x" * 100_000 + b"\n")
        for beat in range(int(LIFE)):
            time.sleep(0.2)
            connection.sendall(json.dumps({"stage": "serving", "uptime": beat}).encode() + b"\n")


def main() -> None:
    if "--version" in sys.argv:
        print("QEMU emulator version 10.1.2 (played)")
        return
    print("\x1b[31mhello\x1b[0m from the guest", flush=True)
    if PLAY == "dies":
        print("Kernel panic - not syncing: verity", flush=True)
        print("played: something is missing", file=sys.stderr)
        sys.exit(3)
    if PLAY == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    for name, serve in (("monitor", _monitor), ("health", _health)):
        threading.Thread(target=serve, args=(_listen(name),), daemon=True).start()
    time.sleep(LIFE)


if __name__ == "__main__":
    main()
