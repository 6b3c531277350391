# SPDX-License-Identifier: Apache-2.0
"""An image, a model, documents and shapes to launch: small files, each the one that its manifest or config names."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from attestation.shape import Shape
from enclave.image.model_disk import digest_model_disk
from enclave.launch.records import Process, Record
from tests.forged import config_document
from tests.image_forms import MANIFEST, SHAPE, bent, canonical

EMULATED: dict[str, Any] = {
    **SHAPE,
    "name": "trial",
    "machine": "emulated",
    "qemu": "7.2",
    "machine_type": "pc-q35-7.2",
    "vcpus": 1,
    "memory_mib": 512,
    "phys_bits": 40,
    "devices": [
        *SHAPE["devices"][:8],
        {"slot": 9, "type": "disk", "holds": "state"},
        {"slot": 10, "type": "network"},
    ],
    "host": {"quote_socket": None, "vsock_cid": None, "gpus": [], "forward": []},
}
GPU_SHAPE: dict[str, Any] = {
    **SHAPE,
    "name": "hopper-1",
    "memory_mib": 98304,
    "mmio64_mib": 262144,
    "devices": [*SHAPE["devices"], {"slot": 11, "type": "gpu", "model": "H100", "bar_mib": 131072}],
    "host": {**SHAPE["host"], "quote_socket": "vsock:2:4050", "gpus": ["0000:41:00.0"]},
}


def _kernel() -> bytes:
    """Give what QEMU takes for a Linux kernel (Documentation/arch/x86/boot.rst): a setup header and nothing to run."""
    image = bytearray(8192)
    for offset, data in (
        (0x1F1, b"\x01"),  # setup sectors
        (0x1FE, b"\x55\xaa\xeb\x66HdrS\x0c\x02"),  # protocol 2.12
        (0x211, b"\x01"),  # loaded high
        (0x22C, b"\xff\xff\xff\x7f"),  # highest place of an initial file system
        (0x238, b"\xff\x07\x00\x00"),  # length of a command line
    ):
        image[offset : offset + len(data)] = data
    return bytes(image)


STATE = b'{"schema":"sericin-state/1","files":{"ca.json":"{}"}}'.ljust(512, b"\0")
FILES = {
    "OVMF.fd": b"\xf4" * 131072,  # halts at every instruction: a machine that starts and does nothing
    "vmlinuz": _kernel(),
    "initrd": b"initrd" * 100,
    "rootfs.img": bytes(8 * 4096),
    "rootfs.verity": b"tree" * 1024,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Launchable:
    """The files of one launch."""

    folder: Path
    image: Path
    config: Path
    operator: Path
    model: Path
    state: Path

    def shape(self, document: dict[str, Any]) -> Path:
        path = self.folder / f"{document['name']}.json"
        path.write_text(json.dumps(document))
        return path

    def words(self, shape: dict[str, Any], *more: str) -> list[str]:
        """Give the words behind `sericin launch run`."""
        files = ["--image", self.image, "--config", self.config, "--operator", self.operator, "--model", self.model]
        if any(device.get("holds") == "state" for device in shape["devices"]):
            files += ["--state", self.state]
        return [str(word) for word in (self.shape(shape), *files, *more)]


def operator_document() -> bytes:
    return json.dumps(
        {
            "schema": "sericin-operator/1",
            "listen": {"ra_tls": "0.0.0.0:8443"},
            "state": "/run/state",
            "ledger": "/run/ledger",
            "model_dir": "/run/models",
            "ton_address": None,
            "prices": {"prompt": 1, "cached": 1, "completion": 1},
            "contact": "",
        }
    ).encode()


def config_for(model: Path, *, machine: str, gpus: int = 0, **changes: Any) -> bytes:
    """Give a config that names this one model and its disk."""
    document = json.loads(config_document())
    pin = digest_model_disk(model, progress=lambda _: None)
    disk = {"root": pin.root.hex(), "blocks": pin.blocks}
    document |= {
        "machine": machine,
        "gpu": {"mode": "nvml" if gpus else "none", "count": gpus},
        "models": [{"name": "small", "sha256": sha256(model.read_bytes()).hexdigest(), "disk": disk}],
        **changes,
    }
    return json.dumps(document).encode()


def launchable(
    folder: Path, *, machine: str = "tdx", gpus: int = 0, shapes: Sequence[dict[str, Any]] = ()
) -> Launchable:
    """Make everything that one launch needs below `folder`."""
    image = folder / "image"
    image.mkdir(parents=True)
    files = {**FILES, "cmdline": MANIFEST["cmdline"]["text"].encode()}
    for name, data in files.items():
        (image / name).write_bytes(data)
    records = {name: {"sha256": sha256(data).hexdigest(), "size": len(data)} for name, data in files.items()}
    manifest = bent(MANIFEST, "files", records)
    first = manifest["measurements"][0]
    rows = [
        {**first, "shape": {"name": shape["name"], "sha256": Shape.parse(json.dumps(shape).encode()).digest.hex()}}
        for shape in shapes
    ]
    (image / "manifest.json").write_bytes(canonical(bent(manifest, "measurements", rows or [first])))
    model = folder / "small.gguf"
    model.write_bytes(b"GGUF" + b"weights" * 3000)
    config = folder / "config.json"
    config.write_bytes(config_for(model, machine=machine, gpus=gpus))
    operator = folder / "operator.json"
    operator.write_bytes(operator_document())
    state = folder / "state.img"
    state.write_bytes(STATE)
    return Launchable(folder=folder, image=image, config=config, operator=operator, model=model, state=state)


def launch_record(process: Process) -> Record:
    """Give the record of an enclave whose every process is this one."""
    return Record(
        name="old", machine="tdx", shape="s", image="i 1", image_id="00", config_sha384="00", targets=[],
        vsock_cid=None, started=0, launcher=process, machine_process=process,
    )  # fmt: skip


def real_qemu() -> str:
    """Give a QEMU of 10.1 or newer: named by SERICIN_QEMU_TDX, unpacked by scripts/qemu-tdx, or installed."""
    base = os.environ.get("SERICIN_CACHE") or Path.home() / ".cache" / "sericin"
    places = [os.environ.get("SERICIN_QEMU_TDX"), *sorted(map(str, Path(base).glob("qemu-tdx/*/qemu-system-x86_64")))]
    for place in [*places, shutil.which("qemu-system-x86_64")]:
        if place:
            said = subprocess.run([place, "--version"], check=False, capture_output=True, text=True).stdout
            version = re.search(r"version (\d+)\.(\d+)", said)
            if version and (int(version[1]), int(version[2])) >= (10, 1):
                return place
    pytest.skip("no QEMU 10.1 or newer: scripts/qemu-tdx unpacks one")
