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

SECONDS: Final = 60.0  # of a connection: one request and its answer
SILENCE: Final = 15.0  # seconds to connect, or until the other side takes what was sent
MAX_BYTES: Final = 4 << 20  # in each direction: the largest answer is a CRL or a reference value document
PORTION: Final = 64 * 1024


def pump(near: socket.socket, far: socket.socket, *, seconds: float = SECONDS, most: int = MAX_BYTES) -> None:
    """Pass bytes both ways until both sides have ended, `seconds` are over, or more than `most` came from one."""
    other, left = {near: far, far: near}, {near: most, far: most}
    ends = time.monotonic() + seconds
    with selectors.DefaultSelector() as ready:
        for side in other:
            side.settimeout(SILENCE)
            ready.register(side, selectors.EVENT_READ)
        while ready.get_map() and (rest := ends - time.monotonic()) > 0:
            for key, _ in ready.select(rest):
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
