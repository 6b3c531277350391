# SPDX-License-Identifier: Apache-2.0
"""From a plan to QEMU's command line. What moves a register comes from `attestation.qemu`; here are the back ends.

Everything that can be said in JSON is, so that no file name can say more than a file name. QEMU 10.1 or newer for TDX
(`tdx-guest`), 7.2 or newer for emulation.
"""

from __future__ import annotations

import base64
import json
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from attestation import qemu
from attestation.qemu import Placed
from attestation.shape import WRITABLE_DISKS, Shape

from ..image.devices import HEALTH_PORT, OUTLETS, Outlet, model_disk
from .plan import Plan

MEMORY: Final = "mem0"
CONFIG_ID: Final = "opt/sericin/mrconfigid"  # hex, on an emulated machine alone
TCG_PHYS_BITS: Final = 40  # QEMU's software processor has no other width
OUTLET_PROGRAM: Final = Path(__file__).with_name("outlet.py")
LOCKS_PATCHED_CODE: Final = (8, 1)  # the first QEMU release that locks a page while it translates code from it


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where a running enclave's own files lie: its folder, and the disks that it writes."""

    folder: Path  # documents padded to sectors, sockets
    ledger: Path | None  # the one disk that the guest writes, where the shape has it

    def document(self, name: str) -> Path:
        """Give the place of a document's padded copy."""
        return self.folder / f"{name}.img"

    @property
    def monitor(self) -> Path:
        """The socket of QEMU's monitor (QMP)."""
        return self.folder / "monitor"

    @property
    def health(self) -> Path:
        """The socket of the health port."""
        return self.folder / "health"

    @property
    def tpm(self) -> Path:
        """The control socket of the software TPM."""
        return self.folder / "tpm"


def command_line(plan: Plan, places: Places, *, program: str) -> list[str]:
    """Give the words of the command, the program first."""
    shape = plan.shape
    words = [program, "-name", f"guest={plan.name}", "-nodefaults", "-no-user-config"]
    words += ["-display", "none", "-vga", "none", "-serial", "none", "-parallel", "none", "-monitor", "none"]
    words += ["-no-reboot"]  # a trust domain cannot be reset; a kernel that panics ends its machine
    words += _machine(plan, shape)
    words += ["-smp", qemu.processors(shape), "-m", f"size={shape.memory_mib}M"]
    words += ["-object", _json({"qom-type": "memory-backend-memfd", "id": MEMORY, "size": shape.memory, "share": True})]
    words += ["-bios", str(plan.file(plan.manifest.firmware.file))]
    words += ["-kernel", str(plan.file(plan.manifest.kernel_file))]
    words += ["-initrd", str(plan.file(plan.manifest.initrd_file))]
    words += ["-append", plan.manifest.cmdline]
    words += qemu.window(shape)
    if shape.gpus:
        words += ["-object", _json({"qom-type": "iommufd", "id": "iommufd0"})]
    gpus = iter(shape.host.gpus)
    for placed in qemu.devices(shape):
        words += _with_back_end(placed, plan, places, next(gpus) if placed.device.type == "gpu" else None)
    if shape.machine == "emulated":
        words += _tpm(places)
    return [*words, "-chardev", _socket("monitor", places.monitor), "-mon", "chardev=monitor,mode=control"]


def _machine(plan: Plan, shape: Shape) -> list[str]:
    base = qemu.machine(shape, memory=MEMORY)
    if shape.machine == "emulated":
        cpu = f"max,phys-bits={shape.phys_bits}"
        # What a trust domain has in its report: an emulated guest is told it by its platform, too.
        told = f"name={CONFIG_ID},string={plan.config_digest.hex()}"
        # An older QEMU may run code that another processor is patching: Linux dies of it once in a while.
        threads = "multi" if shape.qemu >= LOCKS_PATCHED_CODE else "single"
        return ["-accel", f"tcg,thread={threads}", "-cpu", cpu, "-machine", base, "-fw_cfg", told]
    guest: dict[str, object] = {
        "qom-type": "tdx-guest",
        "id": "tdx",
        "sept-ve-disable": True,
        "mrconfigid": base64.b64encode(plan.config_digest).decode(),
        "quote-generation-socket": _quote_socket(shape.host.quote_socket or ""),
    }
    # The guest's width must be the host's: QEMU compares them only where it is told not to copy.
    cpu = f"host,host-phys-bits=off,phys-bits={shape.phys_bits}"
    return [
        "-accel", "kvm", "-cpu", cpu, "-object", _json(guest),
        "-machine", f"{base},kernel-irqchip=split,confidential-guest-support=tdx",
    ]  # fmt: skip


def _quote_socket(text: str) -> dict[str, str]:
    kind, _, rest = text.partition(":")
    if kind == "unix":
        return {"type": "unix", "path": rest}
    cid, _, port = rest.partition(":")
    return {"type": "vsock", "cid": cid, "port": port}


def _with_back_end(placed: Placed, plan: Plan, places: Places, gpu: str | None) -> list[str]:
    kind, own = placed.device.type, {"driver": placed.driver, "id": placed.id, **placed.options}
    if kind == "disk":
        node = f"disk-{placed.id}"
        own |= {"drive": node, "serial": placed.id}
        return ["-blockdev", _json(_block(node, placed, plan, places)), "-device", _json(own)]
    if kind == "network":
        forward = "".join(f",hostfwd=tcp:{f.address}:{f.port}-:{f.guest_port}" for f in plan.shape.host.forward)
        out = "".join(map(guest_forward, OUTLETS)) if plan.shape.gpus else ""
        return [
            "-netdev", f"user,id=net0,restrict=on,ipv6=off{forward}{out}", "-device", _json(own | {"netdev": "net0"}),
        ]  # fmt: skip
    if kind == "vsock":
        return ["-device", _json(own | {"guest-cid": plan.shape.host.vsock_cid})]
    if kind == "console":
        health = {"driver": "virtserialport", "bus": "console.0", "nr": 1, "chardev": "health", "name": HEALTH_PORT}
        return [
            "-device", _json(own),
            "-chardev", "stdio,id=stdout,signal=off",
            "-device", _json({"driver": "virtconsole", "bus": "console.0", "nr": 0, "chardev": "stdout"}),
            "-chardev", _socket("health", places.health),
            "-device", _json(health),
        ]  # fmt: skip
    # A GPU: its expansion ROM would run in the guest's firmware, so it has none.
    card = {"driver": "vfio-pci", "host": gpu, "bus": placed.id, "addr": "0x0", "iommufd": "iommufd0", "rombar": 0}
    return ["-device", _json(own), "-device", _json(card)]


def guest_forward(outlet: Outlet) -> str:
    """Lead one address of the guest's network to one service: for each connection QEMU starts a program of ours."""
    program = shlex.join([sys.executable, "-I", str(OUTLET_PROGRAM), outlet.name, str(outlet.port)])
    return f",guestfwd=tcp:{outlet.address}:{outlet.port}-cmd:{_comma(program)}"


def _block(node: str, placed: Placed, plan: Plan, places: Places) -> dict[str, object]:
    name = placed.device.disk or ""
    read_only = name not in WRITABLE_DISKS
    rootfs = plan.manifest.rootfs
    path = {
        "rootfs": plan.file(rootfs.file),
        "verity": plan.file(rootfs.verity_file),
        **{document: places.document(document) for document in plan.documents},
        **({"ledger": places.ledger} if places.ledger is not None else {}),
        **{model_disk(index): model for index, model in enumerate(plan.models)},
    }[placed.id if name == "model" else name]
    file = {"driver": "file", "filename": str(path), "read-only": read_only}
    return {"driver": "raw", "node-name": node, "read-only": read_only, "file": file}


def _tpm(places: Places) -> list[str]:
    """Give the software TPM: the one witness that an emulated guest has of its own firmware's measurements."""
    return [
        "-chardev", f"socket,id=tpm,path={_comma(places.tpm)}",
        "-tpmdev", "emulator,id=tpm0,chardev=tpm",
        "-device", _json({"driver": "tpm-crb", "tpmdev": "tpm0"}),
    ]  # fmt: skip


def _socket(name: str, path: Path) -> str:
    return f"socket,id={name},path={_comma(path)},server=on,wait=off"


def _comma(text: Path | str) -> str:
    """Write a text as a value of an option list, where a comma is said twice."""
    return str(text).replace(",", ",,")


def _json(value: Mapping[str, object]) -> str:
    return json.dumps(value, separators=(",", ":"))
