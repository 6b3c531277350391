# SPDX-License-Identifier: Apache-2.0
"""The kernel, QEMU, the quote service and GPUs as hosts have them: each state, and what doctor says of it."""

from __future__ import annotations

import socket
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

from enclave.doctor.check import Status, Wanted, examine
from enclave.doctor.checks import CHECKS
from enclave.doctor.host import Host
from enclave.image.devices import OUTLETS
from tests.launch_cases import real_qemu
from tests.recorded_host import GPU, KERNEL, SOCKET, SWITCH, RecordedHost, look, use_modes, use_qemu, wrong


class TestModule:
    def test_no_seam_module(self, host: RecordedHost) -> None:
        host.remove("sys/devices/faux/tdx_host")
        host.log(*KERNEL[:3], "virt/tdx: module initialization failed (-5)")
        assert wrong(host) == {"kernel.module": "fails"}
        assert "firmware (BIOS)" in look(host)["kernel.module"].mend

    def test_the_kernel_says_what_to_do(self, host: RecordedHost) -> None:
        host.remove("sys/devices/faux/tdx_host")
        host.log(*KERNEL[:3], "virt/tdx: initialization failed: Hibernation support is enabled")
        assert "nohibernate" in look(host)["kernel.module"].mend

    def test_what_the_kernel_knows_of_the_module_is_shown(self, host: RecordedHost) -> None:
        host.write("sys/devices/faux/tdx_host/num_remaining_updates", "3\n")
        assert look(host)["kernel.module"].found == "TDX module 1.5.24, loader 1.5.02, updates left: 3"

    def test_a_silent_kernel_fails(self, host: RecordedHost) -> None:
        host.remove("sys/devices/faux/tdx_host")
        host.log(*KERNEL[:3])
        assert wrong(host) == {"kernel.module": "fails"}

    def test_older_kernels_say_it_in_the_log(self, host: RecordedHost) -> None:
        host.remove("sys/devices/faux/tdx_host")
        host.log(*KERNEL[:3], "virt/tdx: TDX module: attributes 0x0, major_version 1, minor_version 5", KERNEL[-1])
        assert "minor_version 5" in look(host)["kernel.module"].found

    def test_a_log_that_lost_its_beginning_proves_nothing(self, host: RecordedHost) -> None:
        host.remove("sys/devices/faux/tdx_host")
        host.log("eth0: link up")
        host.program("journalctl", "case $* in *--dmesg*) ;; *) echo 'a word of the quote service' ;; esac")
        assert wrong(host) == {}, "KVM keeps tdx=Y only where the module came up"
        host.write("sys/module/kvm_intel/parameters/tdx", "N\n")
        assert wrong(host) == {"kernel.tdx": "fails", "kernel.keyids": "unseen", "kernel.module": "unseen"}

    def test_the_journal_keeps_what_the_ring_lost(self, host: RecordedHost) -> None:
        host.remove("sys/devices/faux/tdx_host")
        host.log("eth0: link up")
        host.program("journalctl", "\n".join(f"echo '{line}'" for line in KERNEL))
        assert look(host)["kernel.module"].found == "virt/tdx: module initialized"


def test_a_real_qemu_answers_as_the_recorded_one() -> None:
    """Skipped without one; the words that are looked for are a real program's."""
    program = real_qemu()
    found = {f.name: f.status.value for f in examine(CHECKS, Host(), Wanted(qemu=program)) if f.name[:4] == "qemu"}
    assert found == {"qemu.version": "ok", "qemu.tdx": "ok", "qemu.vsock": "ok", "qemu.firmware": "not needed"}


class TestQemu:
    @pytest.mark.parametrize("version", ["10.1.0", "10.2.1", "11.1.3", "12.0.0"])
    def test_what_is_supported(self, host: RecordedHost, version: str) -> None:
        use_qemu(host, version=version)
        assert wrong(host) == {}
        assert ("newer than" in look(host)["qemu.version"].found) == (version == "12.0.0")

    @pytest.mark.parametrize("version", ["9.2.1", "10.0.13", "8.2.2", "x"])
    def test_what_is_not(self, host: RecordedHost, version: str) -> None:
        use_qemu(host, version=version)
        assert wrong(host) == {"qemu.version": "fails"}

    def test_none(self, host: RecordedHost) -> None:
        host.remove("usr/bin/qemu-system-x86_64")
        assert wrong(host) == dict.fromkeys(("qemu.version", "qemu.tdx", "qemu.vsock"), "unseen")
        assert "10.1" in look(host)["qemu.version"].mend

    def test_one_that_breaks(self, host: RecordedHost) -> None:
        host.program("qemu-system-x86_64", "echo 'error while loading shared libraries: libx' >&2; exit 127")
        assert "libx" in look(host)["qemu.version"].found


class TestQuotes:
    def test_a_unix_socket_serves_instead(self, host: RecordedHost) -> None:
        host.write("etc/qgs.conf", "number_threads = 4\n")
        assert wrong(host) == {"quotes.door": "fails"}
        with tempfile.TemporaryDirectory(dir="/tmp") as short:  # a socket's path is short
            bent = RecordedHost(Path(short), cache=_address(host))
            bent.write("etc/qgs.conf", "number_threads = 4\n")
            place = bent.root / SOCKET.lstrip("/")
            place.parent.mkdir(parents=True)
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(str(place))
                assert "refused" in look(bent)["quotes.door"].found
                listener.listen(8)
                assert wrong(bent) == {}
                assert wrong(bent, Wanted(quote_socket=SOCKET)) == {}
            assert look(bent, Wanted(quote_socket="/run/other"))["quotes.door"].status is Status.FAILS

    def test_a_port_that_nobody_listens_on(self, host: RecordedHost) -> None:
        host.program("ss", "echo 'v_str LISTEN 0 0 *:40500 *:*'")
        assert wrong(host) == {"quotes.door": "fails"}
        host.remove("usr/bin/ss")
        assert wrong(host) == {"quotes.door": "unseen"}

    @pytest.mark.parametrize("page", ["broken", "silent", "huge", "moved", "none"])
    def test_a_cache_that_gives_nothing(self, host: RecordedHost, certificates: str, page: str) -> None:
        host.cache(f"{certificates}/{page}")
        assert wrong(host) == {"quotes.cache": "fails"}

    @pytest.mark.parametrize("url", ["ftp://127.0.0.1/x", "http://", "http://127.0.0.1:1/x", "http://[", "x"])
    def test_an_address_that_is_none(self, host: RecordedHost, url: str) -> None:
        host.cache(url)
        assert wrong(host) == {"quotes.cache": "fails"}

    def test_settings_without_an_address(self, host: RecordedHost) -> None:
        host.write("etc/sgx_default_qcnl.conf", '{\n//  "pccs_url": "http://127.0.0.1/x"\n}\n')
        assert "names no" in look(host)["quotes.cache"].found

    def test_a_service_that_has_said_nothing_has_not_said_that_all_is_well(self, host: RecordedHost) -> None:
        host.program("journalctl", "true")
        assert wrong(host) == {"quotes.registered": "unseen"}

    @pytest.mark.parametrize("code", ["0xe011", "0xE019", "0xb033"])
    def test_each_known_error_has_its_cure(self, host: RecordedHost, code: str) -> None:
        host.program("journalctl", f"echo 'tee_att_init_quote return {code}'")
        finding = look(host)["quotes.registered"]
        assert finding.status is Status.FAILS
        assert code in finding.found


def _address(host: RecordedHost) -> str:
    return (host.root / "etc/sgx_default_qcnl.conf").read_text().split('"')[3]


class TestGpus:
    def test_a_host_without_any(self, host: RecordedHost) -> None:
        host.remove(f"sys/bus/pci/devices/{GPU}")
        for name in ("dev/iommu", "usr/bin/nvidia_gpu_tools.py"):
            host.remove(name)
        host.device("0000:01:00.0", "0x030000", driver="ast", vendor="0x1a03")
        assert wrong(host) == {}
        assert look(host)["gpu.present"].status is Status.NOT_NEEDED

    def test_confidential_computing_off(self, host: RecordedHost) -> None:
        use_modes(host, cc="off")
        assert wrong(host) == {"gpu.confidential": "fails"}
        assert "--set-cc-mode=on" in look(host)["gpu.confidential"].mend

    def test_a_gpu_that_the_tool_does_not_name_is_not_on(self, host: RecordedHost) -> None:
        use_modes(host, gpu="0000:42:00.0")
        assert wrong(host) == {"gpu.confidential": "fails", "gpu.ppcie": "fails"}

    def test_without_the_tool_nothing_is_known(self, host: RecordedHost) -> None:
        host.remove("usr/bin/nvidia_gpu_tools.py")
        assert wrong(host) == {"gpu.confidential": "unseen", "gpu.ppcie": "unseen"}

    @pytest.mark.parametrize("version", ["96.00.5E.00.01", "96.00.74.00.1c", "97.00.ab.00.05", "96.01.00.00.00"])
    def test_a_vbios_that_attests(self, host: RecordedHost, version: str) -> None:
        host.write(f"proc/driver/nvidia/gpus/{GPU}/information", f"GPU UUID: \t GPU-1\nVideo BIOS: \t {version}\n")
        assert wrong(host) == {}
        assert look(host)["gpu.vbios"].found == f"{GPU} {version.lower()}"
        assert look(host)["gpu.vbios"].status is Status.OK

    @pytest.mark.parametrize("version", ["96.00.5E.00.00", "96.00.30.00.01", "92.00.ff.ff.ff"])
    def test_a_vbios_that_is_too_old(self, host: RecordedHost, version: str) -> None:
        host.write(f"proc/driver/nvidia/gpus/{GPU}/information", f"Video BIOS: {version}  \n")
        assert wrong(host) == {"gpu.vbios": "fails"}
        assert "server's maker" in look(host)["gpu.vbios"].mend

    @pytest.mark.parametrize(
        "said", ["Video BIOS: ??.??.??.??.??\n", "Video BIOS: 96.00\n", "", "Model: Video BIOS: 96"]
    )
    def test_a_vbios_that_is_not_to_be_seen_is_not_said_to_be_good(self, host: RecordedHost, said: str) -> None:
        host.write(f"proc/driver/nvidia/gpus/{GPU}/information", said)
        finding = look(host)["gpu.vbios"]
        assert finding.status is Status.NOT_NEEDED
        assert "sericin gpu show" in finding.found
        assert "96.00.5e.00.01 or newer" in finding.found

    def test_services_that_cannot_be_reached_are_named(self, host: RecordedHost) -> None:
        """As the launcher will ask for them; nothing here reaches past this machine."""
        assert Wanted().outlets == OUTLETS
        there = host.outlets[0]
        assert look(host)["gpu.vendor"].found == f"127.0.0.1:{there.port} answer"
        host.outlets = (there, replace(there, name="name.invalid"))
        assert wrong(host) == {"gpu.vendor": "fails"}
        assert look(host)["gpu.vendor"].found.startswith(f"name.invalid:{there.port}: ")
        assert look(host, Wanted(gpus=()))["gpu.vendor"].status is Status.NOT_NEEDED

    def test_one_gpu_of_two_is_with_the_driver(self, host: RecordedHost) -> None:
        host.device("0000:42:00.0", "0x030200", driver="vfio-pci")
        host.write(f"proc/driver/nvidia/gpus/{GPU}/information", "Video BIOS: 96.00.74.00.1c\n")
        assert look(host)["gpu.vbios"].found == f"{GPU} 96.00.74.00.1c; seen in the guest alone: 0000:42:00.0"

    def test_a_whole_set_needs_its_switches_and_protected_pcie(self, host: RecordedHost) -> None:
        gpus = tuple(f"0000:4{i}:00.0" for i in range(1, 9))
        for gpu in gpus:
            host.device(gpu, "0x030200", driver="vfio-pci")
        host.program(
            "nvidia_gpu_tools.py", "\n".join(f"echo 'INFO GPU {gpu} H100 0x2330 PPCIe mode is on'" for gpu in gpus)
        )
        assert wrong(host, Wanted(gpus=gpus)) == {"gpu.switches": "fails"}
        host.device(SWITCH, "0x068000", driver=None)
        assert wrong(host, Wanted(gpus=gpus)) == {"gpu.switches": "fails"}
        host.device(SWITCH, "0x068000", driver="vfio-pci")
        assert wrong(host, Wanted(gpus=gpus)) == {}
        assert look(host, Wanted(gpus=gpus[:1]))["gpu.ppcie"].status is Status.FAILS, "one GPU of a set is not enough"


class TestMemory:
    """Huge pages are optional: none is asked for, and those that are reserved may not be what an enclave lacks."""

    def test_reserved_ones_beside_enough_memory(self, host: RecordedHost) -> None:
        host.write("proc/meminfo", "MemAvailable:   4194304 kB\nHugetlb:        8388608 kB\n")
        assert wrong(host) == {}
        assert look(host)["memory.hugepages"].found == "8.0 GiB reserved, which no enclave uses"

    def test_reserved_ones_that_an_enclave_lacks(self, host: RecordedHost) -> None:
        host.write("proc/meminfo", "MemAvailable:   4194303 kB\nHugetlb:        8388608 kB\n")
        assert wrong(host) == {"memory.free": "fails", "memory.hugepages": "fails"}
        assert "vm.nr_hugepages=0" in look(host)["memory.hugepages"].mend

    @pytest.mark.parametrize("line", ["Hugetlb: 0 kB\n", "", "Hugetlb: x kB\n", "HugePages_Total: 8\n"])
    def test_none(self, host: RecordedHost, line: str) -> None:
        host.write("proc/meminfo", f"{line}MemAvailable:   4194303 kB\n")
        assert wrong(host) == {"memory.free": "fails"}
        assert look(host)["memory.hugepages"].status is Status.NOT_NEEDED
