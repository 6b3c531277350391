# SPDX-License-Identifier: Apache-2.0
"""The shape document `sericin-shape/1`: one file that says how a machine is launched and what it therefore measures.

Everything outside of `host` moves a register or the ACPI tables behind one, so it has no defaults (docs/image.md).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from . import document, strict_json
from .errors import Malformed

SCHEMA: Final = "sericin-shape/1"
MAX_SHAPE: Final = 32 * 1024
MACHINES: Final = ("tdx", "emulated")
FIRST_TDX_QEMU: Final = (10, 1)  # the first release with a tdx-guest object
OLDEST_QEMU: Final = (7, 2)
MAX_VCPUS: Final = 1024
MIN_MEMORY_MIB: Final = 512
MAX_MEMORY_MIB: Final = 16 * 1024 * 1024  # 16 TiB
PHYS_BITS: Final = (36, 52)
MAX_MMIO64_MIB: Final = 1 << 24
MAX_BAR_MIB: Final = 1 << 20  # 1 TiB
SLOTS: Final = (1, 30)  # of bus 0: slot 0 is the host bridge, slot 31 the LPC bridge
MAX_FORWARDS: Final = 16
VSOCK_CIDS: Final = (3, 2**32 - 2)
DISKS: Final = ("rootfs", "verity", "config", "operator", "manifest", "model", "ledger", "state")
"""What a disk may hold."""
WRITABLE_DISKS: Final = frozenset({"ledger"})
"""What the guest may write; every other disk is read-only."""
ONE_EACH: Final = ("network", "vsock", "console")
_REQUIRED_DISKS: Final = ("rootfs", "verity", "config", "manifest")

_CODE: Final = "MalformedShape"
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9.-]{0,63}")
_QEMU: Final = re.compile(r"([1-9][0-9]?)\.([0-9]{1,2})")
_BDF: Final = re.compile(r"[0-9a-f]{4}:[0-9a-f]{2}:[01][0-9a-f]\.[0-7]")
_FORWARD: Final = re.compile(r"((?:[0-9]{1,3}\.){3}[0-9]{1,3}):([0-9]{1,5})")
_UNIX_SOCKET: Final = re.compile(r"unix:(/[A-Za-z0-9._/-]{1,90})")
_VSOCK_SOCKET: Final = re.compile(r"vsock:([0-9]{1,10}):([0-9]{1,10})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One device of PCI bus 0, function 0."""

    slot: int
    type: str  # disk, network, vsock, console or gpu
    disk: str | None = None  # one of DISKS, for a disk
    gpu: str | None = None  # the GPU's model, for a gpu: it sits alone behind a root port in this slot
    bar_mib: int | None = None  # the largest BAR of a gpu


@dataclass(frozen=True, slots=True, kw_only=True)
class Forward:
    """A port of the host that leads to a port of the guest."""

    address: str
    port: int
    guest_port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """What one host fills in, and what no register holds."""

    quote_socket: str | None  # unix:/path or vsock:CID:PORT; None for an emulated machine
    vsock_cid: int | None
    gpus: tuple[str, ...]  # PCI addresses, in the order of the shape's gpu devices
    forward: tuple[Forward, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A parsed shape."""

    name: str
    machine: str  # one of MACHINES
    qemu: tuple[int, int]  # release that launches it: (major, minor)
    machine_type: tuple[int, int]  # pc-q35-X.Y: the version that its ACPI tables and devices keep to
    vcpus: int
    memory_mib: int
    phys_bits: int  # physical address bits that the guest sees
    mmio64_mib: int | None  # 64-bit PCI window asked of the firmware (opt/ovmf/X-PciMmio64Mb), or its own choice
    devices: tuple[Device, ...]  # ascending by slot
    host: Host

    @property
    def memory(self) -> int:
        """Guest memory in bytes."""
        return self.memory_mib << 20

    @property
    def gpus(self) -> tuple[Device, ...]:
        """Its GPUs, ascending by slot."""
        return tuple(device for device in self.devices if device.type == "gpu")

    @property
    def disks(self) -> tuple[Device, ...]:
        """Its disks, ascending by slot."""
        return tuple(device for device in self.devices if device.type == "disk")

    @property
    def digest(self) -> bytes:
        """SHA-256 of the canonical JSON of everything but `host`: 32 bytes, what a manifest names a shape by."""
        return sha256(strict_json.canonical(self._measured())).digest()

    def _measured(self) -> dict[str, object]:
        return {
            "schema": SCHEMA,
            "name": self.name,
            "machine": self.machine,
            "qemu": "{}.{}".format(*self.qemu),
            "machine_type": "pc-q35-{}.{}".format(*self.machine_type),
            "vcpus": self.vcpus,
            "memory_mib": self.memory_mib,
            "phys_bits": self.phys_bits,
            "mmio64_mib": self.mmio64_mib,
            "devices": [_device_json(device) for device in self.devices],
        }

    def encode(self) -> bytes:
        """Give the whole document, host part included, as canonical JSON."""
        forward = [{"listen": f"{f.address}:{f.port}", "guest_port": f.guest_port} for f in self.host.forward]
        host = {
            "quote_socket": self.host.quote_socket,
            "vsock_cid": self.host.vsock_cid,
            "gpus": list(self.host.gpus),
            "forward": forward,
        }
        return strict_json.canonical({**self._measured(), "host": host})

    @classmethod
    def parse(cls, data: bytes) -> Shape:
        """Read a shape document of at most 32 KiB, in any JSON layout. Raises Malformed."""
        value = strict_json.loads(data, limit=MAX_SHAPE, what="shape")
        with document.coded(_CODE):
            return _shape(value)


def _shape(value: object) -> Shape:
    keys = (
        "schema", "name", "machine", "qemu", "machine_type", "vcpus", "memory_mib", "phys_bits", "mmio64_mib",
        "devices", "host",
    )  # fmt: skip
    m = document.fields(value, keys, "shape")
    document.choice(m["schema"], "shape.schema", (SCHEMA,))
    machine = document.choice(m["machine"], "shape.machine", MACHINES)
    qemu = _version(m["qemu"], "shape.qemu", "")
    oldest = FIRST_TDX_QEMU if machine == "tdx" else OLDEST_QEMU
    if qemu < oldest:
        raise Malformed(_CODE, "shape.qemu", want=f"at least {oldest[0]}.{oldest[1]}", got=m["qemu"])
    # A bare q35 would follow the installed release, and every upgrade would move RTMR0.
    machine_type = _version(m["machine_type"], "shape.machine_type", "pc-q35-")
    if machine_type > qemu:
        raise Malformed(_CODE, "shape.machine_type", want=f"no newer than QEMU {m['qemu']}", got=m["machine_type"])
    mmio64 = m["mmio64_mib"]
    devices = _devices(m["devices"])
    return Shape(
        name=_name(m["name"]),
        machine=machine,
        qemu=qemu,
        machine_type=machine_type,
        vcpus=document.integer(m["vcpus"], "shape.vcpus", low=1, high=MAX_VCPUS),
        memory_mib=document.integer(m["memory_mib"], "shape.memory_mib", low=MIN_MEMORY_MIB, high=MAX_MEMORY_MIB),
        phys_bits=document.integer(m["phys_bits"], "shape.phys_bits", low=PHYS_BITS[0], high=PHYS_BITS[1]),
        mmio64_mib=None if mmio64 is None else document.integer(mmio64, "shape.mmio64_mib", low=1, high=MAX_MMIO64_MIB),
        devices=devices,
        host=_host(m["host"], machine, devices),
    )


def _name(value: object) -> str:
    name = document.text(value, "shape.name", limit=64)
    if not _NAME.fullmatch(name):
        raise Malformed(_CODE, "shape.name", want="[a-z0-9][a-z0-9.-]*", got="other characters")
    return name


def _version(value: object, where: str, prefix: str) -> tuple[int, int]:
    text = document.text(value, where, limit=16)
    found = _QEMU.fullmatch(text.removeprefix(prefix)) if text.startswith(prefix) else None
    if found is None:
        raise Malformed(_CODE, where, want=f"{prefix}MAJOR.MINOR", got=text)
    return int(found[1]), int(found[2])


def _devices(value: object) -> tuple[Device, ...]:
    where = "shape.devices"
    rows = document.items(value, where, least=len(_REQUIRED_DISKS), most=SLOTS[1])
    devices = tuple(_device(row, f"{where}[{i}]") for i, row in enumerate(rows))
    slots = [device.slot for device in devices]
    if sorted(set(slots)) != slots:
        raise Malformed(_CODE, where, want="each slot once, ascending", got=slots)
    disks = [device.disk for device in devices if device.disk is not None]
    for name in DISKS:
        if disks.count(name) > (1 if name != "model" else SLOTS[1]):
            raise Malformed(_CODE, where, want=f"one disk that holds {name}", got=disks.count(name))
    if absent := [name for name in _REQUIRED_DISKS if name not in disks]:
        raise Malformed(_CODE, where, want=f"a disk that holds {absent[0]}", got="none")
    for kind in ONE_EACH:
        if (count := sum(device.type == kind for device in devices)) > 1:
            raise Malformed(_CODE, where, want=f"at most one {kind}", got=count)
    return devices


def _device(value: object, where: str) -> Device:
    kind = value.get("type") if isinstance(value, dict) else None
    more = {"disk": ("holds",), "gpu": ("model", "bar_mib")}.get(kind if isinstance(kind, str) else "", ())
    m = document.fields(value, ("slot", "type", *more), where)
    document.choice(m["type"], f"{where}.type", ("disk", "gpu", *ONE_EACH))
    slot = document.integer(m["slot"], f"{where}.slot", low=SLOTS[0], high=SLOTS[1])
    if kind == "disk":
        return Device(slot=slot, type=kind, disk=document.choice(m["holds"], f"{where}.holds", DISKS))
    if kind == "gpu":
        bar = document.integer(m["bar_mib"], f"{where}.bar_mib", low=1, high=MAX_BAR_MIB)
        if bar & (bar - 1):
            raise Malformed(_CODE, f"{where}.bar_mib", want="a power of two", got=bar)
        return Device(slot=slot, type=kind, gpu=document.text(m["model"], f"{where}.model", limit=64), bar_mib=bar)
    return Device(slot=slot, type=str(kind))


def _device_json(device: Device) -> dict[str, object]:
    row: dict[str, object] = {"slot": device.slot, "type": device.type}
    if device.disk is not None:
        row["holds"] = device.disk
    if device.gpu is not None:
        row |= {"model": device.gpu, "bar_mib": device.bar_mib}
    return row


def _host(value: object, machine: str, devices: tuple[Device, ...]) -> Host:
    where = "shape.host"
    m = document.fields(value, ("quote_socket", "vsock_cid", "gpus", "forward"), where)
    types = [device.type for device in devices]
    socket = document.optional_text(m["quote_socket"], f"{where}.quote_socket", limit=120)
    if (machine == "tdx") != (socket is not None):
        raise Malformed(_CODE, f"{where}.quote_socket", want="one for a tdx machine, null for another", got=socket)
    if socket is not None and not (_UNIX_SOCKET.fullmatch(socket) or _VSOCK_SOCKET.fullmatch(socket)):
        raise Malformed(_CODE, f"{where}.quote_socket", want="unix:/path or vsock:CID:PORT", got="other text")
    cid = m["vsock_cid"]
    if cid is not None:
        cid = document.integer(cid, f"{where}.vsock_cid", low=VSOCK_CIDS[0], high=VSOCK_CIDS[1])
    if ("vsock" in types) != (cid is not None):
        raise Malformed(_CODE, f"{where}.vsock_cid", want="one with a vsock device, null without", got=cid)
    gpus = document.items(m["gpus"], f"{where}.gpus", least=types.count("gpu"), most=types.count("gpu"))
    forward = document.items(m["forward"], f"{where}.forward", least=0, most=MAX_FORWARDS)
    if forward and "network" not in types:
        raise Malformed(_CODE, f"{where}.forward", want="a network device", got="none")
    addresses = tuple(_bdf(gpu, f"{where}.gpus[{i}]") for i, gpu in enumerate(gpus))
    if len(set(addresses)) != len(addresses):
        raise Malformed(_CODE, f"{where}.gpus", want="each GPU once", got="one twice")
    return Host(
        quote_socket=socket,
        vsock_cid=cid,
        gpus=addresses,
        forward=tuple(_forward(row, f"{where}.forward[{i}]") for i, row in enumerate(forward)),
    )


def _bdf(value: object, where: str) -> str:
    text = document.text(value, where, limit=12)
    if not _BDF.fullmatch(text):
        raise Malformed(_CODE, where, want="a PCI address such as 0000:41:00.0", got="other text")
    return text


def _forward(value: object, where: str) -> Forward:
    m = document.fields(value, ("listen", "guest_port"), where)
    found = _FORWARD.fullmatch(document.text(m["listen"], f"{where}.listen", limit=24))
    if found is None or int(found[2]) > 65535 or any(int(part) > 255 for part in found[1].split(".")):
        raise Malformed(_CODE, f"{where}.listen", want="an IPv4 address and port", got="other text")
    guest = document.integer(m["guest_port"], f"{where}.guest_port", low=1, high=65535)
    return Forward(address=found[1], port=int(found[2]), guest_port=guest)
