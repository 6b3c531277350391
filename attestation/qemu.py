# SPDX-License-Identifier: Apache-2.0
"""QEMU options that move a register or an ACPI table, from a shape: one list for who launches and who measures.

A launcher adds back ends (files, sockets) to these devices; a calculator may put stand-ins behind the same ones. What
is not here (quote socket, back ends, serial numbers, accelerator) moves nothing that is measured (docs/provider.md).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from .shape import Device, Shape

MMIO64: Final = "opt/ovmf/X-PciMmio64Mb"
WIDEST: Final = 46  # address bits that firmware uses: older guests cannot address more for devices
_DRIVERS: Final = {
    "disk": "virtio-blk-pci",
    "network": "virtio-net-pci",
    "vsock": "vhost-vsock-pci",
    "console": "virtio-serial-pci",
    "gpu": "pcie-root-port",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """One device in its place. `options` are those of QEMU's -device, but for driver, id and back end."""

    device: Device
    driver: str
    id: str
    options: dict[str, object] = field(hash=False)


def machine(shape: Shape, *, memory: str) -> str:
    """Give the value of -machine; `memory` is the id of the memory back end.

    TDX has no SMM, no PIC and no HPET: QEMU refuses to start a trust domain with the first two. An emulated machine
    keeps its PIC: without one, QEMU's software interrupt controller sooner or later asks it for a vector, and dies.
    """
    version = "pc-q35-{}.{}".format(*shape.machine_type)
    pic = "on" if shape.machine == "emulated" else "off"
    return f"{version},memory-backend={memory},hpet=off,pic={pic},smm=off"


def processors(shape: Shape) -> str:
    """Give the value of -smp: one socket of so many cores, nothing to plug in later."""
    return f"cpus={shape.vcpus},sockets=1,cores={shape.vcpus},threads=1,maxcpus={shape.vcpus}"


def window_size(shape: Shape) -> int:
    """Give the bytes of the firmware's 64-bit PCI window: what the shape asks for, else an eighth of all addresses.

    edk2 OvmfPkg, PlatformInitLib (MemDetect.c). Widths above 46 bits count as 46.
    """
    if shape.mmio64_mib is not None:
        return -(-shape.mmio64_mib << 20 >> 30) << 30  # whole GiB
    return 1 << (min(shape.phys_bits, WIDEST) - 3)


def window(shape: Shape) -> list[str]:
    """Give the options for the 64-bit PCI window: how large the firmware makes it, where the shape says so.

    With a GPU the tables name the whole window. They would else end with the last BAR, which depends on each of the
    card's BARs and on the order in which the firmware places them.
    """
    words = [] if shape.mmio64_mib is None else ["-fw_cfg", f"name={MMIO64},string={shape.mmio64_mib}"]
    if shape.gpus:
        words += ["-global", f"q35-pcihost.pci-hole64-size={window_size(shape)}"]
    return words


def devices(shape: Shape) -> tuple[Placed, ...]:
    """Give the shape's devices in the order of their slots; a GPU's entry is the root port that it sits behind."""
    placed, models, ports = [], 0, 0
    for device in shape.devices:
        options: dict[str, object] = {"bus": "pcie.0", "addr": f"{device.slot:#x}"}
        name = device.disk or device.type
        if name == "model":
            name, models = (f"model{models}" if models else "model"), models + 1
        elif name == "gpu":
            name, ports = f"port{ports}", ports + 1
            options |= {"chassis": ports, "hotplug": False}
        if device.type != "gpu":
            options["disable-legacy"] = "on"
        if device.type == "network":
            options["romfile"] = ""  # option ROMs would be measured, and are of no use
        placed.append(Placed(device=device, driver=_DRIVERS[device.type], id=name, options=options))
    return tuple(placed)
