# SPDX-License-Identifier: Apache-2.0
"""The command line says what the shape says, no more; and a real QEMU takes it."""

from __future__ import annotations

import base64
import json
import re
import shlex
import subprocess
from hashlib import sha384
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from attestation import qemu
from enclave.commands.launch import command
from enclave.image.devices import HEALTH_PORT
from tests.image_forms import CMDLINE, SHAPE, bent, shape
from tests.launch_cases import EMULATED, GPU_SHAPE, Launchable, config_for, launchable, real_qemu


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep everything of a launch below the test's folder."""
    for name, folder in (("SERICIN_RUN", "run"), ("SERICIN_CACHE", "cache"), ("XDG_DATA_HOME", "data")):
        monkeypatch.setenv(name, str(tmp_path / folder))
    return tmp_path


def argv(case: Launchable, document: dict[str, Any], *more: str) -> list[str]:
    words = [*case.words(document, "--dry-run", "--json"), *more]
    result = CliRunner().invoke(command, ["run", *words])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)["argv"]
    assert isinstance(found, list)
    return found


def values(words: list[str], option: str) -> list[str]:
    return [words[i + 1] for i, word in enumerate(words) if word == option]


def objects(words: list[str], option: str) -> list[dict[str, Any]]:
    return [json.loads(value) for value in values(words, option) if value.startswith("{")]


FIRST_HALF = "pc-q35-10.1,memory-backend=mem0,hpet=off,pic=off,smm=off"


class TestTrustDomain:
    @pytest.fixture
    def words(self, here: Path) -> list[str]:
        return argv(launchable(here), SHAPE)

    def test_the_guest_object(self, words: list[str], here: Path) -> None:
        (guest,) = [o for o in objects(words, "-object") if o["qom-type"] == "tdx-guest"]
        digest = sha384((here / "config.json").read_bytes()).digest()
        assert base64.b64decode(guest.pop("mrconfigid")) == digest
        assert guest == {
            "qom-type": "tdx-guest",
            "id": "tdx",
            "sept-ve-disable": True,
            "quote-generation-socket": {"type": "unix", "path": "/var/run/tdx-qgs/qgs.socket"},
        }, "no other attribute: a debug bit would stand here"

    def test_the_machine(self, words: list[str]) -> None:
        assert values(words, "-machine") == [
            f"{FIRST_HALF},kernel-irqchip=split,confidential-guest-support=tdx",
        ]
        assert values(words, "-cpu") == ["host,host-phys-bits=off,phys-bits=46"]
        assert values(words, "-accel") == ["kvm"]
        assert values(words, "-smp") == ["cpus=4,sockets=1,cores=4,threads=1,maxcpus=4"]
        assert values(words, "-m") == ["size=2048M"]
        memory = {"qom-type": "memory-backend-memfd", "id": "mem0", "size": 2 << 30, "share": True}
        assert memory in objects(words, "-object")

    def test_nothing_comes_by_default(self, words: list[str]) -> None:
        assert {"-nodefaults", "-no-user-config", "-no-reboot"} <= set(words)
        for option in ("-display", "-vga", "-serial", "-parallel", "-monitor"):
            assert values(words, option) == ["none"]
        assert not {"-drive", "-pflash", "-hda", "-cdrom", "-virtfs", "-net", "-nic", "-usb", "-tpmdev"} & set(words)

    def test_the_image(self, words: list[str], here: Path) -> None:
        image = here / "image"
        assert values(words, "-bios") == [str(image / "OVMF.fd")]
        assert values(words, "-kernel") == [str(image / "vmlinuz")]
        assert values(words, "-initrd") == [str(image / "initrd")]
        assert values(words, "-append") == [CMDLINE]

    def test_devices_have_their_slots_and_disks_are_read_only(self, words: list[str]) -> None:
        rows = [d for d in objects(words, "-device") if "addr" in d]
        assert [(d["driver"], d["addr"]) for d in rows] == [
            ("virtio-serial-pci", "0x1"),
            *(("virtio-blk-pci", f"{slot:#x}") for slot in range(2, 9)),
            ("virtio-net-pci", "0x9"),
            ("vhost-vsock-pci", "0xa"),
        ]
        assert {d["bus"] for d in rows} == {"pcie.0"}
        assert {d["disable-legacy"] for d in rows} == {"on"}
        disks = objects(words, "-blockdev")
        assert {disk["node-name"] for disk in disks if not disk["read-only"]} == {"disk-ledger"}
        assert all(disk["read-only"] == disk["file"]["read-only"] for disk in disks)
        serials = [d["serial"] for d in rows if "serial" in d]
        assert serials == ["rootfs", "verity", "manifest", "config", "operator", "model", "ledger"]
        assert [d["drive"] for d in rows if "drive" in d] == [f"disk-{serial}" for serial in serials]

    def test_the_network_lets_nothing_out(self, words: list[str]) -> None:
        assert values(words, "-netdev") == ["user,id=net0,restrict=on,ipv6=off,hostfwd=tcp:127.0.0.1:8443-:8443"]
        (card,) = [d for d in objects(words, "-device") if d["driver"] == "virtio-net-pci"]
        assert card["romfile"] == ""
        (vsock,) = [d for d in objects(words, "-device") if d["driver"] == "vhost-vsock-pci"]
        assert vsock["guest-cid"] == 7

    def test_console_and_health_are_one_device(self, words: list[str]) -> None:
        ports = [d for d in objects(words, "-device") if d.get("bus") == "console.0"]
        assert [(d["driver"], d["nr"]) for d in ports] == [("virtconsole", 0), ("virtserialport", 1)]
        assert ports[1]["name"] == HEALTH_PORT

    def test_a_dry_run_makes_nothing(self, words: list[str], here: Path) -> None:
        assert words
        assert sorted(path.name for path in here.iterdir()) == [
            "config.json", "cpu-4.json", "image", "operator.json", "small.gguf", "state.img",
        ]  # fmt: skip

    def test_a_person_can_paste_it(self, here: Path) -> None:
        case = launchable(here / "a folder, with a comma")
        result = CliRunner().invoke(command, ["run", *case.words(SHAPE, "--dry-run")])
        assert shlex.split(result.stdout.strip()) == argv(case, SHAPE)


def test_gpus_sit_alone_behind_root_ports(here: Path) -> None:
    words = argv(launchable(here, gpus=1), GPU_SHAPE)
    port, card = [d for d in objects(words, "-device") if d["driver"] in {"pcie-root-port", "vfio-pci"}]
    assert port == {
        "driver": "pcie-root-port", "id": "port0", "bus": "pcie.0", "addr": "0xb", "chassis": 1, "hotplug": False,
    }  # fmt: skip
    assert card == {
        "driver": "vfio-pci", "host": "0000:41:00.0", "bus": "port0", "addr": "0x0", "iommufd": "iommufd0", "rombar": 0,
    }  # fmt: skip
    assert {"qom-type": "iommufd", "id": "iommufd0"} in objects(words, "-object")
    assert values(words, "-fw_cfg") == ["name=opt/ovmf/X-PciMmio64Mb,string=262144"]
    assert values(words, "-global") == [f"q35-pcihost.pci-hole64-size={256 << 30}"]
    (guest,) = [o for o in objects(words, "-object") if o["qom-type"] == "tdx-guest"]
    assert guest["quote-generation-socket"] == {"type": "vsock", "cid": "2", "port": "4050"}


@pytest.mark.parametrize(
    ("bits", "mmio64", "gib"), [(46, None, 8192), (52, None, 8192), (41, None, 256), (52, 1025, 2)]
)
def test_with_a_gpu_the_tables_name_the_whole_window(bits: int, mmio64: int | None, gib: int) -> None:
    document = GPU_SHAPE | {"phys_bits": bits, "mmio64_mib": mmio64}
    assert qemu.window(shape(document))[-2:] == ["-global", f"q35-pcihost.pci-hole64-size={gib << 30}"]
    assert qemu.window(shape(SHAPE | {"phys_bits": bits})) == []


def test_several_gpus_and_models_are_numbered() -> None:
    devices = [
        *SHAPE["devices"],
        {"slot": 12, "type": "gpu", "model": "H100", "bar_mib": 131072},
        {"slot": 13, "type": "gpu", "model": "H100", "bar_mib": 131072},
        {"slot": 14, "type": "disk", "holds": "model"},
    ]
    document = bent(bent(SHAPE, "devices", devices), "host/gpus", ["0000:41:00.0", "0000:42:00.0"])
    placed = qemu.devices(shape(document))
    assert [p.id for p in placed if p.device.type == "gpu"] == ["port0", "port1"]
    assert [p.options["chassis"] for p in placed if p.device.type == "gpu"] == [1, 2]
    assert [p.id for p in placed if p.device.disk == "model"] == ["model", "model1"]
    assert len({p.id for p in placed}) == len(placed)


def test_an_emulated_machine_has_a_tpm_and_no_trust_domain(here: Path) -> None:
    case = launchable(here, machine="simulated")
    words = argv(case, EMULATED, "--emulate")
    assert values(words, "-machine") == ["pc-q35-7.2,memory-backend=mem0,hpet=off,pic=on,smm=off"]
    assert values(words, "-accel") == ["tcg,thread=single"]
    assert values(words, "-cpu") == ["max,phys-bits=40"]
    digest = sha384(case.config.read_bytes()).hexdigest()
    assert values(words, "-fw_cfg") == [f"name=opt/sericin/mrconfigid,string={digest}"]
    assert values(words, "-tpmdev") == ["emulator,id=tpm0,chardev=tpm"]
    assert "tdx-guest" not in " ".join(words)


@pytest.mark.parametrize(("release", "threads"), [("8.0", "single"), ("8.1", "multi"), ("10.1", "multi")])
def test_emulated_processors_run_apart_only_where_qemu_locks_what_they_patch(
    here: Path, release: str, threads: str
) -> None:
    words = argv(launchable(here, machine="simulated"), bent(EMULATED, "qemu", release), "--emulate")
    assert values(words, "-accel") == [f"tcg,thread={threads}"]


HOSTILE = ['a "quoted" name', "a,readonly=off,id=x", "-device", "$(touch x)", "übergrößen", 'x"},{"y']


@pytest.mark.parametrize("name", HOSTILE)
def test_a_file_name_is_a_file_name(here: Path, name: str) -> None:
    case = launchable(here / name)
    words = argv(case, SHAPE)
    files = {disk["node-name"]: disk["file"]["filename"] for disk in objects(words, "-blockdev")}
    assert files["disk-rootfs"] == str(case.image / "rootfs.img")
    assert values(words, "-bios") == [str(case.image / "OVMF.fd")]
    plain = argv(launchable(here / "plain"), SHAPE)
    assert [word for word in words if word.startswith("-")] == [word for word in plain if word.startswith("-")]


@pytest.mark.parametrize("name", ["run,id=x", "a b"])
def test_a_socket_path_is_a_path(here: Path, name: str) -> None:
    words = argv(launchable(here), SHAPE, "--run-dir", str(here / name))
    (monitor,) = [value for value in values(words, "-chardev") if "id=monitor" in value]
    path = re.fullmatch(r"socket,id=monitor,path=((?:[^,]|,,)*),server=on,wait=off", monitor)
    assert path is not None
    assert path[1].replace(",,", ",") == str(here / name / "cpu-4" / "monitor")


def test_the_config_alone_moves_the_config_register(here: Path) -> None:
    case = launchable(here)
    before = argv(case, SHAPE)
    case.config.write_bytes(config_for(case.model, machine="tdx", retention=7200))
    after = argv(case, SHAPE)
    changed = [(a, b) for a, b in zip(before, after, strict=True) if a != b]
    assert len(changed) == 1
    assert "mrconfigid" in changed[0][0]


@pytest.fixture(scope="module")
def new_qemu() -> str:
    return real_qemu()  # before a test moves the cache


def said_by(words: list[str], *, replaced: dict[str, str]) -> str:
    words = [replaced.get(word, word) for word in words]
    done = subprocess.run(words, check=False, capture_output=True, text=True, timeout=30, stdin=subprocess.DEVNULL)
    assert done.returncode == 1
    lines = [line for line in done.stderr.splitlines() if "warning:" not in line]
    return "\n".join(lines)


@pytest.fixture
def real(here: Path, new_qemu: str) -> list[str]:
    """A command line whose files are all there."""
    return real_line(launchable(here), SHAPE, new_qemu)


def real_line(case: Launchable, document: dict[str, Any], program: str) -> list[str]:
    """Give the words of a launch, and put every file there that they name."""
    words = argv(case, document, "--qemu", program)
    for disk in objects(words, "-blockdev"):
        place = Path(disk["file"]["filename"])
        place.parent.mkdir(parents=True, exist_ok=True)
        if not place.exists():
            place.write_bytes(bytes(4096))
    # The port of the shape may be taken on this machine.
    return [re.sub(r"hostfwd=tcp:127.0.0.1:\d+", "hostfwd=tcp:127.0.0.1:0", word) for word in words]


NO_KVM = r"-accel kvm: (?:vm-type TDX not supported by KVM|.*(?:Could not access KVM|failed to initialize kvm))"


def test_a_real_qemu_takes_it_up_to_the_missing_kvm(real: list[str]) -> None:
    assert re.search(NO_KVM, said_by(real, replaced={}))


def test_a_real_qemu_takes_a_launch_with_a_gpu_up_to_the_missing_kvm(here: Path, new_qemu: str) -> None:
    words = real_line(launchable(here, gpus=1), GPU_SHAPE, new_qemu)
    iommufd = next(i for i, word in enumerate(words) if '"qom-type":"iommufd"' in word)
    del words[iommufd - 1 : iommufd + 1]  # it opens /dev/iommu before anything else
    assert re.search(NO_KVM, said_by(words, replaced={}))


def test_a_real_qemu_knows_what_is_said_of_a_gpu(here: Path, new_qemu: str) -> None:
    """The card itself is made after KVM, so its options are looked up in the program's own list."""
    (card,) = [d for d in objects(argv(launchable(here, gpus=1), GPU_SHAPE), "-device") if d["driver"] == "vfio-pci"]
    said = subprocess.run([new_qemu, "-device", "vfio-pci,help"], check=True, capture_output=True, text=True).stdout
    known = set(re.findall(r"^  ([a-z0-9-]+)=", said, re.MULTILINE))
    assert known >= {"host", "iommufd", "rombar", "addr"}
    assert set(card) - {"driver", "bus"} <= known


def test_a_real_qemu_takes_the_guest_object_up_to_the_missing_kvm(real: list[str]) -> None:
    accelerator = {"kvm": "tcg", "host,host-phys-bits=off,phys-bits=46": "max"}
    assert said_by(real, replaced=accelerator).endswith(
        "cannot set up private guest memory for tdx-guest: KVM required"
    )


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ('"sept-ve-disable"', '"sept-ve-bogus"', "sept-ve-bogus"),
        ('{"type":"unix"', '{"type":"pipe"', "pipe"),
        ("hpet=off", "hpet=perhaps", "hpet"),
    ],
)
def test_the_same_qemu_refuses_what_is_wrong(real: list[str], old: str, new: str, complaint: str) -> None:
    bad = [word.replace(old, new) for word in real]
    assert bad != real
    accelerator = {"kvm": "tcg", "host,host-phys-bits=off,phys-bits=46": "max"}
    assert complaint in said_by(bad, replaced=accelerator)


def test_a_real_qemu_makes_every_device(real: list[str]) -> None:
    """Without the trust domain, and with what this machine lacks left out, the machine comes up and is told to end."""
    words = [word.replace(",kernel-irqchip=split,confidential-guest-support=tdx", "") for word in real]
    words = ["tcg" if word == "kvm" else "max" if word.startswith("host,host") else word for word in words]
    guest = next(i for i, word in enumerate(words) if '"tdx-guest"' in word)
    del words[guest - 1 : guest + 1]
    vsock = next(i for i, word in enumerate(words) if '"vhost-vsock-pci"' in word)
    del words[vsock - 1 : vsock + 1]
    folder = Path(re.search(r"path=([^,]*)/monitor", " ".join(words))[1])  # type: ignore[index]
    folder.mkdir(parents=True, exist_ok=True)
    ask = b'{"execute":"qmp_capabilities"}{"execute":"query-pci"}{"execute":"quit"}\n'
    words[words.index("-chardev", words.index("-netdev")) + 1] = "stdio,id=monitor"
    words[next(i for i, word in enumerate(words) if word.startswith("stdio,id=stdout"))] = "null,id=stdout"
    done = subprocess.run([*words, "-S"], check=False, capture_output=True, input=ask, timeout=30)
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    (bus,) = next(a["return"] for a in answers if isinstance(a.get("return"), list))
    slots = {device["slot"]: device["id"]["device"] for device in bus["devices"] if device["slot"] not in {0, 31}}
    serial, block, net = 0x1043, 0x1042, 0x1041  # modern virtio: 0x1040 and the device's number
    assert slots == {1: serial, **dict.fromkeys(range(2, 9), block), 9: net}
