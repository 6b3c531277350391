# SPDX-License-Identifier: Apache-2.0
"""A manifest and shapes for tests: valid ones to bend."""

from __future__ import annotations

import copy
import json
from hashlib import sha256, sha384
from typing import Any

from attestation.image import ImageManifest
from attestation.shape import Shape

ROOT_HASH = "5a" * 32
CMDLINE = f"console=hvc0 no-kvmclock clocksource=tsc roothash={ROOT_HASH}"


def _hash(name: str) -> str:
    return sha384(name.encode()).hexdigest()


def _file(data: bytes, size: int | None = None) -> dict[str, Any]:
    return {"sha256": sha256(data).hexdigest(), "size": len(data) if size is None else size}


SHAPE: dict[str, Any] = {
    "schema": "sericin-shape/1",
    "name": "cpu-4",
    "machine": "tdx",
    "qemu": "10.1",
    "machine_type": "pc-q35-10.1",
    "vcpus": 4,
    "memory_mib": 2048,
    "phys_bits": 46,
    "mmio64_mib": None,
    "devices": [
        {"slot": 1, "type": "console"},
        {"slot": 2, "type": "disk", "holds": "rootfs"},
        {"slot": 3, "type": "disk", "holds": "verity"},
        {"slot": 4, "type": "disk", "holds": "manifest"},
        {"slot": 5, "type": "disk", "holds": "config"},
        {"slot": 6, "type": "disk", "holds": "operator"},
        {"slot": 7, "type": "disk", "holds": "model"},
        {"slot": 8, "type": "disk", "holds": "ledger"},
        {"slot": 9, "type": "network"},
        {"slot": 10, "type": "vsock"},
    ],
    "host": {
        "quote_socket": "unix:/var/run/tdx-qgs/qgs.socket",
        "vsock_cid": 7,
        "gpus": [],
        "forward": [{"listen": "127.0.0.1:8443", "guest_port": 8443}],
    },
}

MANIFEST: dict[str, Any] = {
    "schema": "sericin-image/1",
    "name": "sericin-cpu",
    "version": "0.1.0",
    "profile": "cpu",
    "platform": "qemu",
    "source": {"commit": "0f" * 20, "lock_sha256": "ab" * 32},
    "files": {
        "OVMF.fd": _file(b"firmware"),
        "cmdline": _file(CMDLINE.encode()),
        "initrd": _file(b"initrd"),
        "rootfs.img": _file(b"rootfs", 8 * 4096),
        "rootfs.verity": _file(b"verity"),
        "vmlinuz": _file(b"kernel"),
    },
    "components": [
        {"name": "libc6", "version": "2.36-9", "sha256": "01" * 32, "licence": "LGPL-2.1-or-later"},
        {"name": "sericin", "version": "0.1.0", "sha256": "02" * 32, "licence": "Apache-2.0"},
    ],
    "firmware": {"file": "OVMF.fd", "mr_td": {"single_pass": _hash("one"), "two_pass": _hash("two")}},
    "kernel": {"file": "vmlinuz", "authenticode_sha384": _hash("kernel")},
    "initrd": {"file": "initrd", "sha384": _hash("initrd")},
    "cmdline": {"file": "cmdline", "text": CMDLINE},
    "rootfs": {
        "file": "rootfs.img",
        "format": "squashfs",
        "verity": {"file": "rootfs.verity", "root_hash": ROOT_HASH, "salt": "00" * 32, "data_blocks": 8},
    },
    "measurements": [
        {
            "shape": {"name": "cpu-4", "sha256": Shape.parse(json.dumps(SHAPE).encode()).digest.hex()},
            "acpi": {"loader": _hash("loader"), "rsdp": _hash("rsdp"), "tables": _hash("tables")},
            "mr_td": _hash("one"),
            "rtmr0": _hash("rtmr0"),
            "rtmr1": _hash("rtmr1"),
            "rtmr2": _hash("rtmr2"),
        }
    ],
}


def bent(document: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """Give a copy with one field set, or taken out where `value` is `...`. Numbers in `path` index lists."""
    changed = copy.deepcopy(document)
    *steps, last = [int(step) if step.isdigit() else step for step in path.split("/")]
    at: Any = changed
    for step in steps:
        at = at[step]
    if value is ...:
        del at[last]
    else:
        at[last] = value
    return changed


def canonical(document: dict[str, Any]) -> bytes:
    """Give the one encoding, by the standard library alone."""
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def manifest(document: dict[str, Any] = MANIFEST) -> ImageManifest:
    """Parse a manifest document."""
    return ImageManifest.parse(canonical(document))


def shape(document: dict[str, Any] = SHAPE) -> Shape:
    """Parse a shape document."""
    return Shape.parse(json.dumps(document).encode())
