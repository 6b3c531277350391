# SPDX-License-Identifier: Apache-2.0
"""Guests of a built image under emulation: one at a time, small, each with its own TPM, ended by whoever started it."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha384
from pathlib import Path
from typing import Any

from attestation.boot import ModelRecord
from attestation.evidence import MAX_MANIFEST
from attestation.image import ImageManifest
from attestation.shape import Shape
from enclave.clock import SystemClock
from enclave.engine.echo import EchoEngine
from enclave.image.authorities import _image
from enclave.image.manifest import record
from enclave.image.state_disk import pack_state
from enclave.launch.line import CONFIG_ID, Places, command_line
from enclave.launch.plan import Plan
from enclave.simulator.gpu_authority import GpuAuthority
from enclave.simulator.public import PUBLIC_FILE, write_public_of
from enclave.simulator.tdx_ca import SimulatedCa
from tests.forged import MODEL

QEMU = "qemu-system-x86_64"
TOOLS = (QEMU, "swtpm", "swtpm_setup")
SHAPE = Path(__file__).parent.parent / "enclave" / "data" / "shape-emulated.json"
NEEDED = {"rootfs", "verity", "manifest", "config", "operator", "state"}
SECONDS = 300  # a guest on a machine that has other things to do


def missing_tools() -> list[str]:
    """Give the programs that are not here."""
    return [name for name in TOOLS if shutil.which(name) is None]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass(frozen=True, kw_only=True)
class Copy:
    """An image whose files a test may change."""

    folder: Path

    @property
    def manifest(self) -> ImageManifest:
        with (self.folder / "manifest.json").open("rb") as file:
            return ImageManifest.parse(file.read(MAX_MANIFEST))

    def change(self, name: str, data: bytes) -> None:
        """Replace a file, and make a manifest that lists what is there now."""
        (self.folder / name).unlink()
        (self.folder / name).write_bytes(data)
        old = self.manifest
        changes: dict[str, Any] = {"files": tuple(record(self.folder / f.path) for f in old.files)}
        if name == "cmdline":
            root = re.search(rb"roothash=([0-9a-f]{64})", data)
            assert root is not None
            changes |= {
                "cmdline": data.decode(),
                "rootfs": dataclasses.replace(old.rootfs, root_hash=bytes.fromhex(root[1].decode())),
            }
        if name == "initrd":
            changes["initrd_sha384"] = sha384(data).digest()
        (self.folder / "manifest.json").write_bytes(dataclasses.replace(old, **changes).encode())


def copy_image(image: Path, folder: Path) -> Copy:
    """Copy an image by links: a changed file replaces its link."""
    folder.mkdir()
    for path in image.iterdir():
        (folder / path.name).hardlink_to(path) if path.name != "manifest.json" else shutil.copy(path, folder)
    return Copy(folder=folder)


def documents(image: Path, **changes: Any) -> dict[str, bytes]:
    """Give the documents of an echo enclave in this image."""
    config = {
        "schema": "sericin-config/1", "machine": "simulated", "gpu": {"mode": "none", "count": 0},
        "engine": {"kind": "echo", "n_ctx": 512, "n_seq": 1, "n_ubatch": 64, "threads": 1},
        "models": [{"name": MODEL, "sha256": echo_record().weights.hex()}],
        "limits": {"max_request_bytes": 65536, "max_completion_tokens": 16, "queue_length": 4},
        "anchor_within": 86400, "retention": 600, "logging": "codes",
    }  # fmt: skip
    operator = {
        "schema": "sericin-operator/1", "listen": {"ra_tls": "10.0.2.15:8443"}, "state": "/run/sericin/state",
        "ledger": "/run/sericin/ledger", "model_dir": "/run/sericin/models", "ton_address": None,
        "prices": {"prompt": 0, "cached": 0, "completion": 0}, "contact": "",
    }  # fmt: skip
    return {
        "manifest": (image / "manifest.json").read_bytes(),
        "config": json.dumps(config | changes).encode(),
        "operator": json.dumps(operator).encode(),
    }


def echo_record() -> ModelRecord:
    engine = EchoEngine(clock=SystemClock(), name=MODEL, context=512, queue_limit=4)
    try:
        return ModelRecord.decode(engine.model_records()[0])
    finally:
        engine.close()


def authorities(state: Path, manifest: ImageManifest, config: bytes) -> bytes:
    """Make a state directory with `public.json` for this image; give the state document."""
    ca = SimulatedCa.load_or_create(state, now=datetime.now(UTC))
    GpuAuthority.load_or_make(state, now=datetime.now(UTC))
    echo = echo_record()
    write_public_of(
        state,
        _image(manifest, Shape.parse(SHAPE.read_bytes())),
        root_pem=ca.root_pem,
        gpus=0,
        config_sha384=sha384(config).digest(),
        engine="echo",
        models=[(echo.name, echo.weights, echo.template)],
    )
    return pack_state(state, leave=frozenset({PUBLIC_FILE}))


def shape(port: int, held: set[str]) -> Shape:
    """Give the emulated shape with these disks, its TLS port forwarded from `port`."""
    document = json.loads(SHAPE.read_text())
    document["devices"] = [row for row in document["devices"] if row["type"] != "disk" or row["holds"] in held]
    document["host"]["forward"] = [{"listen": f"127.0.0.1:{port}", "guest_port": 8443}]
    return Shape.parse(json.dumps(document).encode())


class EmulatorCrashed(Exception):
    """QEMU itself died: nothing was learnt of the image. QEMU 7.2 does so once in a while when it starts."""


class Guest:
    """A running machine. Use through `guest()`."""

    def __init__(self, machine: subprocess.Popen[bytes], console: Path, port: int) -> None:
        self._machine, self._console, self.port = machine, console, port

    def text(self) -> str:
        return self._console.read_bytes().decode("utf-8", "replace").replace("\r", "")

    def type(self, keys: bytes) -> None:
        """Type on the guest's console, as only its host can."""
        assert self._machine.stdin is not None
        self._machine.stdin.write(keys)
        self._machine.stdin.flush()

    def wait_for(self, pattern: str) -> str:
        """Wait until the console shows a line; give it. Fails when the machine ends without it."""
        end = time.monotonic() + SECONDS
        while True:
            over = self._machine.poll() is not None
            if found := re.search(pattern, self.text()):
                return found[0]
            if over and self._machine.returncode < 0:
                raise EmulatorCrashed(f"QEMU died of signal {-self._machine.returncode}")
            assert not over, f"the machine ended without {pattern!r}:\n{self.text()[-3000:]}"
            assert time.monotonic() < end, f"no {pattern!r} within {SECONDS} s:\n{self.text()[-3000:]}"
            time.sleep(0.2)

    def wait_for_end(self) -> None:
        self._machine.wait(SECONDS)


@contextmanager
def guest(
    folder: Path,
    image: Copy,
    held: dict[str, bytes],
    *,
    models: tuple[Path, ...] = (),
    config_id: bytes | None = None,
    firmware: bool = True,
    ledger: Path | None = None,
) -> Iterator[Guest]:
    """Start a machine with this image and these documents.

    `config_id` is what the platform says instead of the config's own digest. Without `firmware` QEMU's own BIOS boots
    the same kernel in seconds and there is no TPM: enough for what refuses before anything is signed.
    """
    folder.mkdir()
    port = free_port()
    disks = {"rootfs", "verity"} | ({"model"} if models else set()) | ({"ledger"} if ledger else set())
    plan = Plan(
        name="guest",
        shape=shape(port, set(held) | disks),
        manifest=image.manifest,
        image=image.folder,
        documents=held,
        models=models,
    )
    places = Places(folder=folder, ledger=ledger)
    for name, data in held.items():
        places.document(name).write_bytes(data + bytes(-len(data) % 512))
    words = command_line(plan, places, program=QEMU)
    if config_id is not None:
        at = next(i for i, word in enumerate(words) if CONFIG_ID in word)
        words[at] = f"name={CONFIG_ID},string={config_id.hex()}"
    if not firmware:
        words = _without_firmware(words)
    console = folder / "console"
    tpm = _tpm(places) if firmware else None
    try:
        with (
            console.open("wb") as out,
            subprocess.Popen(
                [*words, "-no-reboot"], stdin=subprocess.PIPE, stdout=out, stderr=subprocess.STDOUT
            ) as machine,
        ):
            try:
                yield Guest(machine, console, port)
            finally:
                machine.kill()
    finally:
        if tpm is not None:
            tpm.kill()
            tpm.wait()


def _without_firmware(words: list[str]) -> list[str]:
    """Leave out the firmware, the TPM and its socket: each an option and its value."""
    dropped = {i for i, word in enumerate(words) if word in {"-bios", "-tpmdev"}}
    dropped |= {i - 1 for i, word in enumerate(words) if word.startswith("socket,id=tpm,") or '"tpm-crb"' in word}
    return [word for i, word in enumerate(words) if not {i, i - 1} & dropped]


def _tpm(places: Places) -> subprocess.Popen[bytes]:
    state = places.folder / "tpm-state"
    state.mkdir()
    setup = ["swtpm_setup", "--tpm2", "--tpmstate", str(state), "--pcr-banks", "sha384", "--overwrite"]
    subprocess.run(setup, check=True, stdin=subprocess.DEVNULL, capture_output=True, timeout=60)
    tpm = subprocess.Popen(
        [
            "swtpm",
            "socket",
            "--tpm2",
            "--tpmstate",
            f"dir={state}",
            "--ctrl",
            f"type=unixio,path={places.tpm}",
            "--terminate",
        ]
    )
    end = time.monotonic() + 60
    while not places.tpm.exists():
        assert time.monotonic() < end
        time.sleep(0.05)
    return tpm
