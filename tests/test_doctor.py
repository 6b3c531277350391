# SPDX-License-Identifier: Apache-2.0
"""Every check of the host: it holds on a good host, and fails alone when its own thing is missing."""

from __future__ import annotations

import json
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from click.testing import CliRunner

from enclave.commands.doctor import command, report, wanted
from enclave.doctor.check import Finding, Status, Wanted, examine
from enclave.doctor.checks import CHECKS
from enclave.doctor.host import MAX_FILE, Host, Unseen, plain
from enclave.doctor.processor import OTHER_HOST
from tests.image_forms import SHAPE, bent, shape
from tests.launch_cases import GPU_SHAPE, launchable, real_qemu
from tests.recorded_host import GPU, KERNEL, SOCKET, SWITCH, RecordedHost


class _Cache(BaseHTTPRequestHandler):
    """A certificate cache: it answers one address, and grows, moves or breaks on others."""

    def do_GET(self) -> None:
        status, body = {
            "/sgx/certification/v4/rootcacrl": (200, b"3082"),
            "/broken/rootcacrl": (503, b"no"),
            "/silent/rootcacrl": (200, b""),
            "/huge/rootcacrl": (200, b"30" * 65536),
            "/moved/rootcacrl": (302, b"there"),
        }.get(self.path, (404, b"no such page"))
        self.send_response(status)
        self.send_header("Location", "/sgx/certification/v4/rootcacrl")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        pass


@pytest.fixture(scope="module")
def cache() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Cache)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def host(tmp_path: Path, cache: str) -> RecordedHost:
    return RecordedHost(tmp_path / "host", cache=f"{cache}/sgx/certification/v4/")


def look(host: RecordedHost, wanted: Wanted | None = None) -> dict[str, Finding]:
    return {finding.name: finding for finding in examine(CHECKS, Host(host.root), wanted or Wanted())}


def wrong(host: RecordedHost, wanted: Wanted | None = None) -> dict[str, str]:
    return {name: finding.status.value for name, finding in look(host, wanted).items() if not finding.holds}


def test_names_are_stable_and_each_once() -> None:
    names = [check.name for check in CHECKS]
    assert len(set(names)) == len(names) == 35
    assert all(check.want and check.mend for check in CHECKS)


def test_a_good_host_has_nothing_to_mend(host: RecordedHost) -> None:
    found = look(host)
    assert {name: f.found for name, f in found.items() if not f.holds} == {}
    needless = {name for name, f in found.items() if f.status is Status.NOT_NEEDED}
    assert needless == {"qemu.firmware", "gpu.switches", "cpu.width"}
    assert not any(f.mend for f in found.values())


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
    "qemu.version": lambda h: _qemu(h, version="10.0.13"),
    "qemu.tdx": lambda h: _qemu(h, objects="sev-guest"),
    "qemu.vsock": lambda h: _qemu(h, device="Device not found"),
    "memory.free": lambda h: h.write("proc/meminfo", "MemFree: 250000000 kB\nMemAvailable:   4194303 kB\n"),
    "memory.nodes": lambda h: h.write("sys/devices/system/node/online", "0\n"),
    "vsock.host": lambda h: h.remove("dev/vhost-vsock"),
    "vsock.alone": lambda h: h.write("sys/module/vmw_vsock_vmci_transport/refcnt", "0\n"),
    "quotes.sgx": lambda h: h.remove("dev/sgx_provision"),
    "quotes.service": lambda h: h.write("proc/812/comm", "qgsx\n"),
    "quotes.door": lambda h: h.write("etc/qgs.conf", "port = 4051\n"),
    "quotes.cache": lambda h: h.remove("etc/sgx_default_qcnl.conf"),
    "quotes.registered": lambda h: h.program("journalctl", "echo '[QPL] No certificate data for this platform.'"),
    "gpu.iommu": lambda h: h.device(GPU, "0x030200", driver="vfio-pci", group=False),
    "gpu.vfio": lambda h: h.device(GPU, "0x030200", driver="nvidia"),
    "gpu.iommufd": lambda h: h.remove("dev/iommu"),
    "gpu.locked": lambda h: h.write("proc/self/limits", "Max locked memory         8388608 8388608 bytes\n"),
    "gpu.confidential": lambda h: _modes(h, cc="devtools"),
    "gpu.ppcie": lambda h: _modes(h, ppcie="on"),
}


def _qemu(host: RecordedHost, *, version: str = "10.1.2", objects: str = "tdx-guest", device: str = "") -> None:
    device = device or "  guest-cid=<uint64>"
    host.program(
        "qemu-system-x86_64",
        f"""case "$*" in
--version) echo 'QEMU emulator version {version} (Debian)' ;;
"-object help") echo '  {objects}' ;;
"-device vhost-vsock-pci,help") echo '{device}' ;;
esac""",
    )


def _modes(host: RecordedHost, *, cc: str = "on", ppcie: str = "off", gpu: str = GPU) -> None:
    host.program(
        "nvidia_gpu_tools.py",
        f"""case "$*" in
*--query-cc-mode) echo 'INFO GPU {gpu} H100-PCIE 0x2331 BAR0 0xd4 CC mode is {cc}' ;;
*) echo 'INFO GPU {gpu} H100-PCIE 0x2331 BAR0 0xd4 PPCIe mode is {ppcie}' ;;
esac""",
    )


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
    covered = {*BENDS, "cpu.width", "gpu.present", "qemu.firmware", "gpu.switches", "kernel.module"}
    assert covered == {check.name for check in CHECKS}


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
        host.program("journalctl", "true")
        assert wrong(host) == {}, "KVM keeps tdx=Y only where the module came up"
        host.write("sys/module/kvm_intel/parameters/tdx", "N\n")
        assert wrong(host) == {"kernel.tdx": "fails", "kernel.keyids": "unseen", "kernel.module": "unseen"}

    def test_the_journal_keeps_what_the_ring_lost(self, host: RecordedHost) -> None:
        host.remove("sys/devices/faux/tdx_host")
        host.log("eth0: link up")
        host.program("journalctl", "\n".join(f"echo '{line}'" for line in KERNEL))
        assert look(host)["kernel.module"].found == "virt/tdx: module initialized"


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


def test_a_real_qemu_answers_as_the_recorded_one() -> None:
    """Skipped without one; the words that are looked for are a real program's."""
    program = real_qemu()
    found = {f.name: f.status.value for f in examine(CHECKS, Host(), Wanted(qemu=program)) if f.name[:4] == "qemu"}
    assert found == {"qemu.version": "ok", "qemu.tdx": "ok", "qemu.vsock": "ok", "qemu.firmware": "not needed"}


class TestQemu:
    @pytest.mark.parametrize("version", ["10.1.0", "10.2.1", "11.1.3", "12.0.0"])
    def test_what_is_supported(self, host: RecordedHost, version: str) -> None:
        _qemu(host, version=version)
        assert wrong(host) == {}
        assert ("newer than" in look(host)["qemu.version"].found) == (version == "12.0.0")

    @pytest.mark.parametrize("version", ["9.2.1", "10.0.13", "8.2.2", "x"])
    def test_what_is_not(self, host: RecordedHost, version: str) -> None:
        _qemu(host, version=version)
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
    def test_a_cache_that_gives_nothing(self, host: RecordedHost, cache: str, page: str) -> None:
        host.cache(f"{cache}/{page}")
        assert wrong(host) == {"quotes.cache": "fails"}

    @pytest.mark.parametrize("url", ["ftp://127.0.0.1/x", "http://", "http://127.0.0.1:1/x", "http://[", "x"])
    def test_an_address_that_is_none(self, host: RecordedHost, url: str) -> None:
        host.cache(url)
        assert wrong(host) == {"quotes.cache": "fails"}

    def test_settings_without_an_address(self, host: RecordedHost) -> None:
        host.write("etc/sgx_default_qcnl.conf", '{\n//  "pccs_url": "http://127.0.0.1/x"\n}\n')
        assert "names no" in look(host)["quotes.cache"].found

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
        _modes(host, cc="off")
        assert wrong(host) == {"gpu.confidential": "fails"}
        assert "--set-cc-mode=on" in look(host)["gpu.confidential"].mend

    def test_a_gpu_that_the_tool_does_not_name_is_not_on(self, host: RecordedHost) -> None:
        _modes(host, gpu="0000:42:00.0")
        assert wrong(host) == {"gpu.confidential": "fails", "gpu.ppcie": "fails"}

    def test_without_the_tool_nothing_is_known(self, host: RecordedHost) -> None:
        host.remove("usr/bin/nvidia_gpu_tools.py")
        assert wrong(host) == {"gpu.confidential": "unseen", "gpu.ppcie": "unseen"}

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
            "vsock.alone",
            "qemu.firmware",
            "cpu.width",
            *(name for name in found if name.startswith("gpu.")),
        }

    def test_plain(self) -> None:
        assert plain("a\x1b\n b ") == "a?? b"
        assert len(plain("x" * 500)) == 200


class TestShape:
    """With a shape, its host part decides what is looked at."""

    def test_what_a_shape_wants(self) -> None:
        asked = wanted(shape(), firmware=None, qemu="q")
        assert asked == Wanted(qemu="q", release=(10, 1), memory=2 << 30, phys_bits=46, gpus=(), quote_socket=SOCKET)
        over_vsock = wanted(shape(bent(GPU_SHAPE, "host/quote_socket", "vsock:2:4051")), firmware=None, qemu="q")
        assert (over_vsock.quote_socket, over_vsock.quote_port, over_vsock.gpus) == (None, 4051, (GPU,))
        assert over_vsock.memory == 96 << 30

    def test_another_release_than_the_shape_says(self, host: RecordedHost) -> None:
        assert wrong(host, Wanted(release=(10, 1))) == {}
        assert wrong(host, Wanted(release=(11, 1))) == {"qemu.version": "fails"}
        assert "install QEMU 11.1" in look(host, Wanted(release=(11, 1)))["qemu.version"].mend

    def test_files_on_the_command_line(self, tmp_path: Path) -> None:
        case = launchable(tmp_path / "case")
        words = ["--json", "--shape", str(case.shape(SHAPE)), "--image", str(case.image)]
        checks = {c["name"]: c for c in json.loads(CliRunner().invoke(command, words).output)["checks"]}
        assert checks["qemu.firmware"]["status"] == "ok"
        assert checks["gpu.present"]["found"] == "the shape has no GPU"
        (case.image / "OVMF.fd").write_bytes(b"another")
        checks = {c["name"]: c for c in json.loads(CliRunner().invoke(command, words).output)["checks"]}
        assert checks["qemu.firmware"]["status"] == "fails"

    def test_files_that_are_none(self, tmp_path: Path) -> None:
        assert CliRunner().invoke(command, ["--shape", str(tmp_path / "none")]).exit_code == 2
        (tmp_path / "shape").write_text("{}")
        assert CliRunner().invoke(command, ["--shape", str(tmp_path / "shape")]).exit_code == 3
        assert CliRunner().invoke(command, ["--image", str(tmp_path)]).exit_code == 2


class TestCommand:
    def test_this_machine(self) -> None:
        result = CliRunner().invoke(command, ["--json"])
        document = json.loads(result.output)
        assert document["exit"] == result.exit_code == (0 if document["ok"] else 1)
        assert [check["name"] for check in document["checks"]] == [check.name for check in CHECKS]
        assert all(set(check) == {"name", "status", "want", "found", "mend"} for check in document["checks"])

    def test_a_person_reads_what_to_do(self) -> None:
        result = CliRunner().invoke(command, ["--qemu", "/nowhere/qemu"])
        assert result.exit_code == 1
        assert "to mend: install QEMU 10.1 or newer" in result.output
        assert "This host cannot launch enclaves." in result.output

    def test_good_and_bad_reports(self, host: RecordedHost) -> None:
        good = report(list(look(host).values()))
        assert (good["ok"], good["exit"]) == (True, 0)
        host.remove("dev/kvm")
        bad = report(list(look(host).values()))
        assert (bad["ok"], bad["exit"]) == (False, 1)
