# SPDX-License-Identifier: Apache-2.0
"""A TDX host as its files and programs would show it: built anew for each test, good unless the test bends it.

Shapes are those of a Xeon with one H100: sysfs names, kernel messages and the words of each program.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

from enclave.doctor.check import Finding, Wanted, examine
from enclave.doctor.checks import CHECKS
from enclave.doctor.host import Host
from enclave.image.devices import Outlet

GPU = "0000:41:00.0"
SWITCH = "0000:c1:00.0"
SOCKET = "/var/run/tdx-qgs/qgs.socket"
KERNEL = (
    "Linux version 6.17.8 (builder@dist) #1 SMP",
    "Command line: root=/dev/sda1 ro nohibernate kvm_intel.tdx=1",
    "virt/tdx: BIOS enabled: private KeyID range [64, 128)",
    "virt/tdx: Disable ACPI S3. Turn off TDX in the BIOS to use ACPI S3.",
    "virt/tdx: 1050644 KB allocated for PAMT",
    "virt/tdx: module initialized",
)
FILES = {
    "proc/cpuinfo": "processor\t: 0\nvendor_id\t: GenuineIntel\nmodel name\t: INTEL(R) XEON(R) PLATINUM 8562Y+\n"
    "flags\t\t: fpu vmx tme sgx tdx_host_platform\n",
    "proc/sys/kernel/osrelease": "6.17.8-amd64\n",
    "proc/cmdline": "root=/dev/sda1 ro nohibernate kvm_intel.tdx=1\n",
    "proc/meminfo": "MemTotal:       264000000 kB\nMemFree:        200000000 kB\nMemAvailable:   250000000 kB\n",
    "proc/self/limits": "Limit                     Soft Limit           Hard Limit           Units\n"
    "Max locked memory         unlimited            unlimited            bytes\n",
    "proc/1/comm": "systemd\n",
    "proc/812/comm": "qgs\n",
    "dev/kvm": "",
    "dev/vhost-vsock": "",
    "dev/iommu": "",
    "dev/sgx_enclave": "",
    "dev/sgx_provision": "",
    "dev/kmsg": "".join(f"6,{i},{1000 * i},-;{line}\n SUBSYSTEM=x\n" for i, line in enumerate(KERNEL)),
    "sys/power/state": "freeze mem disk\n",
    "sys/module/kvm_intel/parameters/tdx": "Y\n",
    "sys/devices/faux/tdx_host/version": "1.5.24\n",
    "sys/devices/faux/tdx_host/seamldr_version": "1.5.02\n",
    "sys/devices/system/node/possible": "0-1\n",
    "sys/devices/system/node/online": "0-1\n",
    "etc/qgs.conf": "port = 4050\nnumber_threads = 4\n",
}
PROGRAMS = {
    "qemu-system-x86_64": """case "$*" in
--version) echo "QEMU emulator version 10.1.2 (Debian 1:10.1.2+ds-1)" ;;
"-object help") printf 'List of user creatable objects:\\n  iommufd\\n  memory-backend-memfd\\n  tdx-guest\\n' ;;
"-device vhost-vsock-pci,help") printf 'vhost-vsock-pci options:\\n  guest-cid=<uint64>     -  (default: 0)\\n' ;;
esac""",
    "ss": "echo 'v_str LISTEN 0 0 *:4050 *:*'",
    "journalctl": "echo 'Added signal handler'; echo 'About to create QgsServer with num_thread = 4'",
    "nvidia_gpu_tools.py": f"""case "$*" in
*--query-cc-mode) echo '2026-11-01,10:00:00 INFO     GPU {GPU} H100-PCIE 0x2331 BAR0 0xd4042000000 CC mode is on' ;;
*) echo '2026-11-01,10:00:00 INFO     GPU {GPU} H100-PCIE 0x2331 BAR0 0xd4042000000 PPCIe mode is off' ;;
esac""",
}
REGISTERS = {0x982: 0x1_0003, 0x1401: 0x0FFF_FFFE_0000_0C00, 0x87: 64 << 32 | 63, 0xA0: 0, 0xCE: 0x80_0000_0000}


class RecordedHost:
    """A folder that a `Host` takes for the root of a machine."""

    def __init__(self, root: Path, *, cache: str) -> None:
        self.root = root
        for name, text in FILES.items():
            self.write(name, text)
        for name, script in PROGRAMS.items():
            self.program(name, script)
        self.registers(REGISTERS)
        self.width(52)
        self.cache(cache)
        self.device(GPU, "0x030200", driver="vfio-pci")
        place = urlsplit(cache)  # something on loopback that answers
        self.outlets: tuple[Outlet, ...] = (Outlet(address="", name=place.hostname or "", port=place.port or 0),)

    def write(self, name: str, text: str) -> None:
        place = self.root / name.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)

    def remove(self, name: str) -> None:
        place = self.root / name.lstrip("/")
        if place.is_dir() and not place.is_symlink():
            shutil.rmtree(place)
        else:
            place.unlink()

    def program(self, name: str, script: str) -> None:
        self.write(f"usr/bin/{name}", f"#!/bin/sh\n{script}\n")
        (self.root / "usr/bin" / name).chmod(0o755)

    def registers(self, values: Mapping[int, int]) -> None:
        """Lay registers into a sparse file: the msr device is read at the register's number, too."""
        place = self.root / "dev/cpu/0/msr"
        place.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(place, os.O_RDWR | os.O_CREAT, 0o600)
        for register, value in values.items():
            os.pwrite(fd, value.to_bytes(8, "little"), register)
        os.close(fd)

    def width(self, bits: int) -> None:
        """Lay CPUID's leaf 0x80000008 into a sparse file."""
        with (self.root / "dev/cpu/0/cpuid").open("wb") as file:
            file.seek(0x80000008)
            file.write(bytes([bits, 57]) + bytes(14))

    def log(self, *lines: str) -> None:
        self.write("dev/kmsg", "".join(f"6,{i},{1000 * i},-;{line}\n" for i, line in enumerate(lines)))

    def cache(self, url: str) -> None:
        self.write("etc/sgx_default_qcnl.conf", f'{{\n  // where certificates come from\n  "pccs_url": "{url}"\n}}\n')

    def device(
        self, address: str, kind: str, *, driver: str | None, vendor: str = "0x10de", group: bool = True
    ) -> None:
        folder = f"sys/bus/pci/devices/{address}"
        self.write(f"{folder}/vendor", f"{vendor}\n")
        self.write(f"{folder}/class", f"{kind}\n")
        for name, target in (
            ("driver", f"../../drivers/{driver}" if driver else None),
            ("iommu_group", "../../groups/7" if group else None),
        ):
            place = self.root / folder / name
            place.unlink(missing_ok=True)
            if target:
                place.symlink_to(target)


def look(host: RecordedHost, wanted: Wanted | None = None) -> dict[str, Finding]:
    asked = replace(wanted or Wanted(), outlets=host.outlets)
    return {finding.name: finding for finding in examine(CHECKS, Host(host.root), asked)}


def wrong(host: RecordedHost, wanted: Wanted | None = None) -> dict[str, str]:
    return {name: finding.status.value for name, finding in look(host, wanted).items() if not finding.holds}


def use_qemu(host: RecordedHost, *, version: str = "10.1.2", objects: str = "tdx-guest", device: str = "") -> None:
    device = device or "  guest-cid=<uint64>"
    host.program(
        "qemu-system-x86_64",
        f"""case "$*" in
--version) echo 'QEMU emulator version {version} (Debian)' ;;
"-object help") echo '  {objects}' ;;
"-device vhost-vsock-pci,help") echo '{device}' ;;
esac""",
    )


def use_modes(host: RecordedHost, *, cc: str = "on", ppcie: str = "off", gpu: str = GPU) -> None:
    host.program(
        "nvidia_gpu_tools.py",
        f"""case "$*" in
*--query-cc-mode) echo 'INFO GPU {gpu} H100-PCIE 0x2331 BAR0 0xd4 CC mode is {cc}' ;;
*) echo 'INFO GPU {gpu} H100-PCIE 0x2331 BAR0 0xd4 PPCIe mode is {ppcie}' ;;
esac""",
    )
