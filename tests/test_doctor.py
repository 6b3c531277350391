# SPDX-License-Identifier: Apache-2.0
"""Every check of the host: it holds on a good host, and fails alone when its own thing is missing."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from enclave.doctor.check import Status, Wanted, examine
from enclave.doctor.checks import CHECKS
from enclave.doctor.host import MAX_FILE, Host, Unseen, plain
from enclave.doctor.processor import OTHER_HOST
from enclave.image.devices import Outlet
from tests.recorded_host import GPU, KERNEL, RecordedHost, look, use_modes, use_qemu, wrong


def test_names_are_stable_and_each_once() -> None:
    names = [check.name for check in CHECKS]
    assert len(set(names)) == len(names) == 38
    assert all(check.want and check.mend for check in CHECKS)


def test_a_good_host_has_nothing_to_mend(host: RecordedHost) -> None:
    found = look(host)
    assert {name: f.found for name, f in found.items() if not f.holds} == {}
    needless = {name for name, f in found.items() if f.status is Status.NOT_NEEDED}
    assert needless == {"qemu.firmware", "gpu.switches", "gpu.vbios", "cpu.width", "memory.hugepages"}
    assert not any(f.mend for f in found.values())


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


Bend = Callable[[RecordedHost], None]
BENDS: dict[str, Bend] = {
    "kernel.host": lambda h: h.write("dev/tdx_guest", ""),
    "cpu.tdx": lambda h: h.write("proc/cpuinfo", "vendor_id\t: GenuineIntel\nflags\t: fpu vmx tdx_host_platformx\n"),
    "bios.tme": lambda h: h.registers({0x982: 1}),
    "bios.seam": lambda h: h.registers({0x1401: 0xFFFF_F7FF}),
    "bios.keys": lambda h: h.registers({0x87: 63}),
    "bios.sgx": lambda h: h.registers({0xA0: 0x0B}),
    "cpu.production": lambda h: h.registers({0xCE: 1 << 27}),
    "kernel.release": lambda h: h.write("proc/sys/kernel/osrelease", "6.15.12-amd64\n"),
    "kernel.kvm": lambda h: h.remove("dev/kvm"),
    "kernel.tdx": lambda h: h.write("sys/module/kvm_intel/parameters/tdx", "N\n"),
    "kernel.keyids": lambda h: h.log(*[line for line in KERNEL if "KeyID" not in line]),
    "kernel.hibernation": lambda h: h.write("proc/cmdline", "root=/dev/sda1 nohibernated\n"),
    "qemu.version": lambda h: use_qemu(h, version="10.0.13"),
    "qemu.tdx": lambda h: use_qemu(h, objects="sev-guest"),
    "qemu.vsock": lambda h: use_qemu(h, device="Device not found"),
    "memory.free": lambda h: h.write("proc/meminfo", "MemFree: 250000000 kB\nMemAvailable:   4194303 kB\n"),
    "memory.nodes": lambda h: h.write("sys/devices/system/node/online", "0\n"),
    "vsock.host": lambda h: h.remove("dev/vhost-vsock"),
    "vsock.alone": lambda h: h.write("sys/module/vmw_vsock_vmci_transport/refcnt", "0\n"),
    "quotes.sgx": lambda h: h.remove("dev/sgx_provision"),
    "quotes.service": lambda h: h.write("proc/812/comm", "qgsx\n"),
    "quotes.door": lambda h: h.write("etc/qgs.conf", "port = 4051\n"),
    "quotes.cache": lambda h: h.remove("etc/sgx_default_qcnl.conf"),
    "quotes.registered": lambda h: h.program("journalctl", "echo '[QPL] No certificate data for this platform.'"),
    "gpu.vendor": lambda h: setattr(h, "outlets", (Outlet(address="", name="127.0.0.1", port=closed_port()),)),
    "gpu.iommu": lambda h: h.device(GPU, "0x030200", driver="vfio-pci", group=False),
    "gpu.vfio": lambda h: h.device(GPU, "0x030200", driver="nvidia"),
    "gpu.iommufd": lambda h: h.remove("dev/iommu"),
    "gpu.locked": lambda h: h.write("proc/self/limits", "Max locked memory         8388608 8388608 bytes\n"),
    "gpu.confidential": lambda h: use_modes(h, cc="devtools"),
    "gpu.ppcie": lambda h: use_modes(h, ppcie="on"),
    "gpu.vbios": lambda h: h.write(f"proc/driver/nvidia/gpus/{GPU}/information", "Video BIOS: 96.00.30.00.01\n"),
}


@pytest.mark.parametrize("name", BENDS)
def test_a_check_fails_alone(host: RecordedHost, name: str) -> None:
    BENDS[name](host)
    finding = look(host)[name]
    assert wrong(host) == {name: "fails"}
    assert finding.mend
    assert finding.want


def test_the_rest_of_the_checks_fail_alone_where_a_shape_asks(host: RecordedHost, tmp_path: Path) -> None:
    assert wrong(host, Wanted(gpus=("0000:42:00.0",))).keys() >= {"gpu.present"}
    firmware = tmp_path / "OVMF.fd"
    firmware.write_bytes(b"another firmware")
    assert wrong(host, Wanted(firmware=(str(firmware), bytes(32)))) == {"qemu.firmware": "fails"}
    assert wrong(host, Wanted(firmware=(str(tmp_path / "none"), bytes(32)))) == {"qemu.firmware": "unseen"}
    assert wrong(host, Wanted(memory=1 << 50)) == {"memory.free": "fails"}
    assert wrong(host, Wanted(phys_bits=52)) == {}
    assert wrong(host, Wanted(phys_bits=46)) == {"cpu.width": "fails"}
    assert "phys_bits to 52" in look(host, Wanted(phys_bits=46))["cpu.width"].mend
    host.remove("dev/cpu/0/cpuid")
    assert wrong(host, Wanted(phys_bits=52)) == {"cpu.width": "unseen"}
    elsewhere = {"cpu.width", "gpu.present", "qemu.firmware", "gpu.switches", "kernel.module", "memory.hugepages"}
    assert {*BENDS, *elsewhere} == {check.name for check in CHECKS}


class TestRoot:
    """What only root may see does not hold for anybody else, and says how to see it."""

    def test_without_the_msr_device(self, host: RecordedHost) -> None:
        host.remove("dev/cpu")
        names = {"bios.tme", "bios.seam", "bios.keys", "bios.sgx", "cpu.production"}
        assert wrong(host) == dict.fromkeys(names, "unseen")
        assert "modprobe msr" in look(host)["bios.tme"].mend

    def test_a_short_register_is_no_zero(self, host: RecordedHost) -> None:
        host.write("dev/cpu/0/msr", "")
        assert look(host)["bios.sgx"].status is Status.UNSEEN

    def test_without_the_log(self, host: RecordedHost) -> None:
        host.remove("dev/kmsg")
        assert wrong(host) == {"kernel.keyids": "unseen"}
        assert "root" in look(host)["kernel.keyids"].mend


def test_another_makers_processor_is_said_plainly(host: RecordedHost) -> None:
    host.write("proc/cpuinfo", "vendor_id\t: AuthenticAMD\nmodel name\t: EPYC\nflags\t: fpu\n")
    names = {"cpu.tdx", "bios.tme", "bios.seam", "bios.keys", "bios.sgx", "cpu.production"}
    assert wrong(host) == dict.fromkeys(names, "fails")
    assert {look(host)[name].mend for name in names} == {OTHER_HOST}


class TestHostileHost:
    """A host's files and programs are read within bounds, and shown without control characters."""

    def test_long_and_strange_words(self, host: RecordedHost) -> None:
        host.write("proc/sys/kernel/osrelease", "\x1b[31m" + "9" * 100_000)
        host.program("qemu-system-x86_64", "yes QEMU | head -c 3000000")
        found = look(host)
        assert all(len(f.found) <= 400 and f.found.isprintable() for f in found.values())
        assert found["kernel.release"].status is Status.FAILS

    def test_a_file_is_read_to_its_bound(self, host: RecordedHost) -> None:
        host.write("proc/cmdline", "x " * MAX_FILE)
        assert len(Host(host.root).text("/proc/cmdline") or "") <= MAX_FILE

    def test_what_cannot_be_listed_is_unseen(self, host: RecordedHost) -> None:
        host.write("proc2", "a file")
        assert Host(host.root).names("/proc2") == []
        with pytest.raises(Unseen):
            Host(host.root).output("no-such-program")

    def test_an_empty_machine(self, tmp_path: Path) -> None:
        found = {finding.name: finding for finding in examine(CHECKS, Host(tmp_path), Wanted())}
        held = {name for name, finding in found.items() if finding.holds}
        assert held == {
            "kernel.host",
            "kernel.hibernation",
            "memory.nodes",
            "memory.hugepages",
            "vsock.alone",
            "qemu.firmware",
            "cpu.width",
            *(name for name in found if name.startswith("gpu.")),
        }

    def test_plain(self) -> None:
        assert plain("a\x1b\n b ") == "a?? b"
        assert len(plain("x" * 500)) == 200
