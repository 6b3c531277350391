# SPDX-License-Identifier: Apache-2.0
"""A guest with GPUs reaches the services of their vendor, by names of its own and the launcher, and nothing else."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from click.testing import CliRunner

from enclave.commands.launch import command
from enclave.gpu_vendor import NVIDIA
from enclave.image.devices import GUEST_ADDRESS, OUTLETS, Outlet
from enclave.image.names import CERTIFICATES, add_names
from enclave.image.tree import Tree
from enclave.launch.line import OUTLET_PROGRAM, guest_forward
from enclave.launch.outlet import pump
from tests.image_forms import SHAPE
from tests.launch_cases import GPU_SHAPE, launchable
from tests.slirp_guest import Connection, user_network

QEMU = shutil.which(os.environ.get("SERICIN_QEMU", "qemu-system-x86_64"))


def test_the_outlets_are_the_services_that_the_gate_asks() -> None:
    asked = {urlsplit(url).hostname for url in (NVIDIA.rim, NVIDIA.ocsp)} | {NVIDIA.crl_host}
    assert {outlet.name for outlet in OUTLETS} == asked
    assert {urlsplit(url).scheme for url in (NVIDIA.rim, NVIDIA.ocsp)} == {"https"}
    assert len({(outlet.address, outlet.port) for outlet in OUTLETS}) == len(OUTLETS)
    for outlet in OUTLETS:
        assert {o.name for o in OUTLETS if o.address == outlet.address} == {outlet.name}, "one name for one address"
        assert outlet.address not in {GUEST_ADDRESS, "10.0.2.2", "10.0.2.3"}
        assert outlet.port in {80, 443}


def files(outlets: tuple[Outlet, ...]) -> dict[str, bytes]:
    tree = Tree()
    add_names(tree, outlets)
    return {path: node.content for path, node in tree.walk() if not node.is_folder and isinstance(node.content, bytes)}


def test_an_image_knows_the_names_that_it_can_reach() -> None:
    assert files(()) == {"etc/hosts": b"127.0.0.1 localhost\n"}
    found = files(OUTLETS)
    rows = [line.split() for line in found["etc/hosts"].decode().splitlines()]
    assert rows == [["127.0.0.1", "localhost"], *map(list, dict.fromkeys((o.address, o.name) for o in OUTLETS))]
    assert found["etc/nsswitch.conf"] == b"hosts: files\n", "no name server is asked"
    place = (Path("/etc/ssl") / found["etc/ssl/cert.pem"].decode()).parts
    assert "/".join(place).endswith(f"../../{CERTIFICATES}")


@pytest.mark.parametrize("profile", ["cpu", "gpu-hopper"])
def test_the_lock_has_the_root_certificates(profile: str) -> None:
    lock = Path(__file__).parent.parent / "enclave" / "data" / f"image-{profile}.lock.json"
    assert "certifi" in {wheel["name"] for wheel in json.loads(lock.read_text())["wheels"]}


def netdev(folder: Path, monkeypatch: pytest.MonkeyPatch, document: dict[str, object], *, gpus: int) -> str:
    for name, place in (("SERICIN_RUN", "run"), ("SERICIN_CACHE", "cache"), ("XDG_DATA_HOME", "data")):
        monkeypatch.setenv(name, str(folder / place))
    words = launchable(folder, gpus=gpus).words(document, "--dry-run", "--json")
    argv = json.loads(CliRunner().invoke(command, ["run", *words]).stdout)["argv"]
    found: str = argv[argv.index("-netdev") + 1]
    return found


def test_only_a_guest_with_gpus_has_outlets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "guestfwd" not in netdev(tmp_path / "cpu", monkeypatch, SHAPE, gpus=0)
    found = netdev(tmp_path / "gpu", monkeypatch, GPU_SHAPE, gpus=1)
    assert found.startswith("user,id=net0,restrict=on,ipv6=off")
    assert [part.split("-cmd:")[0] for part in found.split(",") if "guestfwd=" in part] == [
        f"guestfwd=tcp:{outlet.address}:{outlet.port}" for outlet in OUTLETS
    ]


def test_a_path_with_blanks_and_commas_is_one_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("enclave.launch.line.sys.executable", "/a folder, with a comma/python")
    said = guest_forward(OUTLETS[0]).split("-cmd:")[1].replace(",,", "\0")
    assert "," not in said
    assert shlex.split(said.replace("\0", ",")) == [
        "/a folder, with a comma/python", "-I", str(OUTLET_PROGRAM), OUTLETS[0].name, "443",
    ]  # fmt: skip


@contextmanager
def service(answer: bytes) -> Iterator[tuple[int, list[bytes]]]:
    """Serve on loopback: read to the end of what comes, answer, hang up. Gives the port and what came."""
    came: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(20)

        def serve() -> None:
            try:
                visitor, _ = listener.accept()
            except OSError:
                return
            with visitor:
                visitor.settimeout(20)
                data = b""
                while not data.endswith(b"?") and (part := visitor.recv(4096)):
                    data += part
                came.append(data)
                visitor.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1], came
        with socket.socket() as last:  # wake it, where nobody came
            last.connect_ex(listener.getsockname())
        thread.join(20)


class TestPump:
    def pair(self, *, seconds: float = 30, idle: float = 30) -> tuple[socket.socket, socket.socket, threading.Thread]:
        guest, near = socket.socketpair()
        far, vendor = socket.socketpair()

        def work() -> None:
            try:
                pump(near, far, seconds=seconds, idle=idle, most=100_000)
            finally:
                near.close()
                far.close()

        thread = threading.Thread(target=work)
        thread.start()
        guest.settimeout(10)
        vendor.settimeout(10)
        return guest, vendor, thread

    def test_bytes_pass_both_ways_and_an_end_is_passed_on(self) -> None:
        guest, vendor, thread = self.pair()
        with guest, vendor:
            guest.sendall(b"question")
            guest.shutdown(socket.SHUT_WR)
            assert vendor.recv(100) == b"question"
            assert vendor.recv(100) == b""
            vendor.sendall(b"answer")
            vendor.close()
            assert guest.recv(100) == b"answer"
            assert guest.recv(100) == b""
            thread.join(10)
            assert not thread.is_alive()

    def test_it_has_an_end(self) -> None:
        guest, vendor, thread = self.pair(idle=0.5)
        with guest, vendor:
            began = time.monotonic()
            thread.join(20)
            assert 0.4 < time.monotonic() - began < 15, "nobody said anything"

    def test_a_connection_does_not_stay_for_ever(self) -> None:
        guest, vendor, thread = self.pair(seconds=1)
        with guest, vendor:
            began = time.monotonic()
            while thread.is_alive() and time.monotonic() - began < 20:
                with contextlib.suppress(BrokenPipeError):
                    guest.sendall(b"x")
                thread.join(0.1)
            assert 0.9 < time.monotonic() - began < 15

    def test_it_is_no_way_to_carry_much(self) -> None:
        guest, vendor, thread = self.pair()
        with guest, vendor:
            sender = threading.Thread(target=lambda: guest.sendall(bytes(100_000)))
            sender.start()
            passed = 0
            while passed < 100_000:
                passed += len(vendor.recv(65536))
            sender.join(10)
            guest.sendall(b"one byte more"[:1])
            assert vendor.recv(65536) == b"", "it was cut"
            thread.join(10)
            assert not thread.is_alive()


def test_a_service_that_is_not_there_ends_the_connection() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    near, guest = socket.socketpair()
    with near, guest:
        words = [sys.executable, "-I", str(OUTLET_PROGRAM), "127.0.0.1", str(port)]
        done = subprocess.run(
            words, stdin=near.fileno(), stdout=near.fileno(), stderr=near.fileno(), check=False, timeout=30
        )
        near.close()
        assert done.returncode == 1
        assert guest.recv(100) == b"", "no word of ours in the guest's connection"


@pytest.mark.skipif(QEMU is None, reason="no qemu-system-x86_64")
def test_a_real_network_lets_out_what_it_is_told_and_nothing_else() -> None:
    """QEMU's own network, its guest's frames made by hand: the outlet answers, every other address is silent."""
    with service(b"the whole answer") as (port, came):
        outlet = Outlet(address="10.0.2.101", name="127.0.0.1", port=port)
        options = f"restrict=on,ipv6=off{guest_forward(outlet)}"
        with user_network(str(QEMU), options) as wire:
            assert wire.card_of("10.0.2.2"), "the network is up"
            for number, address in enumerate(("10.0.2.102", "10.0.2.2", "10.0.2.3")):
                assert not Connection(wire, address, port, source=5000 + number).open(0.4), address
            other = Connection(wire, outlet.address, port + 1 if port < 65535 else 1, source=5010)
            assert not other.open(0.4), "another port of that address"
            assert came == []
            wanted = Connection(wire, outlet.address, port, source=5020)
            assert wanted.open()
            wanted.say(b"a question?")
            wanted.take(15)
            assert wanted.data == b"the whole answer"
            assert came == [b"a question?"]
