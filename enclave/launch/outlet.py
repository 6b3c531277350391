# SPDX-License-Identifier: Apache-2.0
"""One connection of a guest to one service of its GPUs' vendor: QEMU starts this program for it (`guestfwd`).

It stands alone, so that QEMU can start it wherever it is. The guest chooses neither name nor port: both are on QEMU's
command line. What passes is sealed by TLS or signed by the vendor; this host can only hold it up.
"""

from __future__ import annotations

import os
import selectors
import socket
import sys
import time
from typing import Final

SECONDS: Final = 600.0  # of a connection, which takes one request after another
IDLE: Final = 60.0  # seconds without a byte: longer than the guest waits for an answer
SILENCE: Final = 15.0  # seconds to connect, or until the other side takes what was sent
MAX_BYTES: Final = 16 << 20  # in each direction: some dozens of answers of at most 512 KiB
PORTION: Final = 64 * 1024


def pump(
    near: socket.socket, far: socket.socket, *, seconds: float = SECONDS, idle: float = IDLE, most: int = MAX_BYTES
) -> None:
    """Pass bytes both ways until both sides have ended.

    Or until `seconds` are over, `idle` seconds without a byte, or more than `most` bytes came from one side.
    """
    other, left = {near: far, far: near}, {near: most, far: most}
    ends = time.monotonic() + seconds
    with selectors.DefaultSelector() as ready:
        for side in other:
            side.settimeout(SILENCE)
            ready.register(side, selectors.EVENT_READ)
        while ready.get_map() and (rest := ends - time.monotonic()) > 0:
            heard = ready.select(min(rest, idle))
            if not heard:
                return
            for key, _ in heard:
                side = near if key.fileobj is near else far
                data = side.recv(PORTION)
                left[side] -= len(data)
                if left[side] < 0:
                    return
                if data:
                    other[side].sendall(data)
                else:
                    ready.unregister(side)
                    other[side].shutdown(socket.SHUT_WR)


def main() -> None:
    """Connect standard input, which is a socket, with the service that the arguments name: a host and a port."""
    name, port = sys.argv[1:]
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)  # it is the guest's connection, too
    try:
        with (
            socket.socket(fileno=os.dup(0)) as near,
            socket.create_connection((name, int(port)), timeout=SILENCE) as far,
        ):
            pump(near, far)
    except OSError:
        sys.exit(1)  # the guest sees its connection end, and says which service did not answer


if __name__ == "__main__":
    main()
