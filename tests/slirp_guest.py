# SPDX-License-Identifier: Apache-2.0
"""A guest's end of QEMU's user-mode network without a guest: frames made by hand, QEMU's own network behind them."""

from __future__ import annotations

import select
import socket
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from enclave.launch.monitor import ask

ME, MY_CARD = socket.inet_aton("10.0.2.15"), b"\x52\x54\0\x12\x34\x56"
SYN, ACK, FIN, RST = 2, 16, 1, 4
WINDOW = 65535


def _sum(data: bytes) -> int:
    """Give the Internet checksum (RFC 1071)."""
    total: int = sum(struct.unpack(f"!{len(data) // 2 + len(data) % 2}H", data + b"\0" * (len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


class Wire:
    """The cable between hand-made frames and QEMU's network."""

    def __init__(self, door: socket.socket) -> None:
        self._door = door

    def send(self, kind: int, payload: bytes, *, to: bytes = b"\xff" * 6) -> None:
        self._door.send(to + MY_CARD + struct.pack("!H", kind) + payload)

    def frames(self, seconds: float) -> Iterator[tuple[int, bytes]]:
        """Give (kind, payload) of what comes until `seconds` are over."""
        ends = time.monotonic() + seconds
        while (left := ends - time.monotonic()) > 0 and select.select([self._door], [], [], left)[0]:
            frame = self._door.recv(65536)
            yield int.from_bytes(frame[12:14], "big"), frame[14:]

    def card_of(self, address: str, seconds: float = 1.0) -> bytes | None:
        """Ask by ARP who has an address."""
        there = socket.inet_aton(address)
        self.send(0x0806, struct.pack("!HHBBH6s4s6s4s", 1, 0x0800, 6, 4, 1, MY_CARD, ME, bytes(6), there))
        for kind, payload in self.frames(seconds):
            if kind == 0x0806 and payload[6:8] == b"\0\2" and payload[14:18] == there:
                return payload[8:14]
        return None


class Connection:
    """One TCP connection, as small as it can be: everything in order, nothing sent twice."""

    def __init__(self, wire: Wire, address: str, port: int, *, source: int) -> None:
        self._wire, self._there, self._ports = wire, socket.inet_aton(address), (source, port)
        self._card = wire.card_of(address) or b"\x52\x55\x0a\0\x02\x02"  # the network's own, where nobody answers
        self._sent, self._got, self.data, self.flags = 1000, 0, b"", 0

    def _segment(self, flags: int, data: bytes = b"") -> None:
        head = struct.pack("!HHIIBBHHH", *self._ports, self._sent, self._got, 5 << 4, flags, WINDOW, 0, 0)
        pseudo = ME + self._there + struct.pack("!BBH", 0, 6, len(head) + len(data))
        head = head[:16] + struct.pack("!H", _sum(pseudo + head + data)) + head[18:]
        ip = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(head) + len(data), 1, 0, 64, 6, 0) + ME + self._there
        ip = ip[:10] + struct.pack("!H", _sum(ip)) + ip[12:]
        self._wire.send(0x0800, ip + head + data, to=self._card)
        self._sent += len(data) + (flags & (SYN | FIN) != 0)

    def open(self, seconds: float = 2.0) -> bool:
        """Whether somebody accepts it."""
        self._segment(SYN)
        self.take(seconds, until=SYN | RST)
        return bool(self.flags & SYN) and not self.flags & RST

    def say(self, data: bytes) -> None:
        self._segment(ACK, data)

    def end(self) -> None:
        self._segment(ACK | FIN)

    def take(self, seconds: float, *, until: int = FIN | RST) -> None:
        """Collect data and flags until a flag comes, or the time is over."""
        for kind, packet in self._wire.frames(seconds):
            if kind != 0x0800 or packet[9] != 6 or packet[12:16] != self._there:
                continue
            segment = packet[(packet[0] & 15) * 4 : int.from_bytes(packet[2:4], "big")]
            number, flags = int.from_bytes(segment[4:8], "big"), segment[13]
            if int.from_bytes(segment[2:4], "big") != self._ports[0]:
                continue
            if flags & SYN:
                self._got = number
            if number == self._got:
                data = segment[(segment[12] >> 4) * 4 :]
                self.data += data
                self._got += len(data) + (flags & (SYN | FIN) != 0)
                self.flags |= flags
                if data or flags & (SYN | FIN):
                    self._segment(ACK)
            if self.flags & until:
                return


def _runs(monitor: Path) -> bool:
    """Whether QEMU has come as far as to run: what it gets before, it keeps waiting for good."""
    status = ask(monitor, "query-status")
    return isinstance(status, dict) and status["running"] is True


@contextmanager
def user_network(program: str, options: str) -> Iterator[Wire]:
    """Start QEMU with no machine but `-netdev user,OPTIONS`, and give the guest's end of it."""
    with tempfile.TemporaryDirectory(dir="/tmp") as short, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as door:
        door.bind(("127.0.0.1", 0))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        words = [program, "-machine", "none", "-nodefaults", "-display", "none"]
        words += ["-netdev", f"user,id=u,{options}"]
        words += ["-netdev", "hubport,id=a,hubid=0,netdev=u", "-netdev"]
        words += [f"socket,id=s,udp=127.0.0.1:{door.getsockname()[1]},localaddr=127.0.0.1:{port}"]
        words += ["-netdev", "hubport,id=b,hubid=0,netdev=s", "-qmp", f"unix:{short}/monitor,server=on,wait=off"]
        with subprocess.Popen(words, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as machine:
            try:
                ends = time.monotonic() + 20
                while not Path(short, "monitor").exists():
                    assert machine.poll() is None, machine.stderr.read() if machine.stderr else ""
                    assert time.monotonic() < ends
                    time.sleep(0.02)
                while not _runs(Path(short, "monitor")):
                    assert time.monotonic() < ends
                    time.sleep(0.02)
                door.connect(("127.0.0.1", port))
                yield Wire(door)
            finally:
                machine.terminate()
