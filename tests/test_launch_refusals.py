# SPDX-License-Identifier: Apache-2.0
"""Nothing starts whose files are not the ones that its manifest, config and shape name: each by one thing wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from attestation.config import EnclaveConfig
from enclave.commands.launch import command
from enclave.image.model_disk import write_model_disk
from enclave.launch.model_disks import model_disks
from enclave.launch.refusal import LaunchRefused
from tests.image_forms import SHAPE, bent, canonical
from tests.launch_cases import EMULATED, GPU_SHAPE, Launchable, config_for, launchable, operator_document

MARK = "started-anyway"


@pytest.fixture
def qemu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A QEMU that leaves a mark when it is started for more than its version."""
    for name, folder in (("SERICIN_RUN", "run"), ("SERICIN_CACHE", "cache"), ("XDG_DATA_HOME", "data")):
        monkeypatch.setenv(name, str(tmp_path / folder))
    program = tmp_path / "qemu"
    program.write_text(
        f'#!/bin/sh\n[ "$1" = --version ] && echo "QEMU emulator version 10.1.2" && exit 0\ntouch {tmp_path}/{MARK}\n'
    )
    program.chmod(0o755)
    return program


@pytest.fixture
def case(tmp_path: Path) -> Launchable:
    return launchable(tmp_path / "case")


def refused(qemu: Path, words: list[str], *, code: int, says: str, dry: bool = True) -> None:
    """Require the refusal, and that neither a machine nor a trace of it was made."""
    for more in (["--dry-run"], []) if dry else ([],):
        result = CliRunner().invoke(command, ["run", *words, "--qemu", str(qemu), *more])
        assert result.exit_code == code, result.output
        assert says in result.output
        assert not (qemu.parent / MARK).exists()
        assert not list((qemu.parent / "run").glob("[!.]*"))
    document = json.loads(CliRunner().invoke(command, ["run", *words, "--qemu", str(qemu), "--json"]).stdout)
    assert (document["ok"], document["exit"]) == (False, code)


def test_what_is_right_starts(qemu: Path, case: Launchable) -> None:
    result = CliRunner().invoke(command, ["run", *case.words(SHAPE), "--qemu", str(qemu)])
    assert (qemu.parent / MARK).exists()
    assert result.exit_code == 6, "this machine ended by itself"
    assert "ended by itself" in result.output


FILES = ["OVMF.fd", "vmlinuz", "initrd", "cmdline", "rootfs.img", "rootfs.verity"]


@pytest.mark.parametrize("name", FILES)
def test_one_flipped_bit_in_a_file_of_the_image(qemu: Path, case: Launchable, name: str) -> None:
    data = bytearray((case.image / name).read_bytes())
    data[len(data) // 2] ^= 1
    (case.image / name).write_bytes(data)
    refused(qemu, case.words(SHAPE), code=4, says=f"{name}: SHA-256")


@pytest.mark.parametrize("name", FILES)
def test_a_longer_file_and_a_missing_one(qemu: Path, case: Launchable, name: str) -> None:
    with (case.image / name).open("ab") as file:
        file.write(b"\0")
    refused(qemu, case.words(SHAPE), code=4, says="bytes, the manifest says")
    (case.image / name).unlink()
    refused(qemu, case.words(SHAPE), code=2, says="No such file")


def test_no_manifest_or_a_bent_one(qemu: Path, case: Launchable) -> None:
    manifest = case.image / "manifest.json"
    data = manifest.read_bytes()
    manifest.write_bytes(data + b"\n")
    refused(qemu, case.words(SHAPE), code=3, says="manifest")
    manifest.write_bytes(canonical({**json.loads(data), "more": 1}))
    refused(qemu, case.words(SHAPE), code=3, says="unknown")
    manifest.unlink()
    refused(qemu, case.words(SHAPE), code=2, says="manifest.json: No such file")


def _bend_config(case: Launchable, **changes: Any) -> None:
    case.config.write_text(json.dumps({**json.loads(case.config.read_bytes()), **changes}))


def _bend_models(case: Launchable, *, disk: Any) -> None:
    document = json.loads(case.config.read_bytes())
    case.config.write_text(json.dumps(bent(document, "models/0/disk", disk)))


def _two_models(case: Launchable) -> None:
    model = json.loads(case.config.read_bytes())["models"][0]
    _bend_config(case, models=[model, {"name": "other", "sha256": "11" * 32}])


Bend = Callable[[Launchable], object]
DOCUMENTS: dict[str, tuple[Bend, int, str]] = {
    "config that is no JSON": (lambda c: c.config.write_bytes(b"{"), 3, "JsonInvalid: config"),
    "config with an unknown key": (lambda c: _bend_config(c, more=1), 3, "MalformedConfig"),
    "config too long": (lambda c: c.config.write_bytes(b" " * 70000), 3, "config"),
    "config of a simulated machine": (
        lambda c: c.config.write_bytes(config_for(c.model, machine="simulated")),
        4,
        "config.machine is simulated",
    ),
    "config that asks for GPUs": (
        lambda c: c.config.write_bytes(config_for(c.model, machine="tdx", gpus=1)),
        4,
        "asks for 1 real GPUs, but the shape has 0",
    ),
    "no config": (lambda c: c.config.unlink(), 2, "config.json: No such file"),
    "operator that is no JSON": (lambda c: c.operator.write_bytes(b"[]"), 3, "operator"),
    "operator with a duplicate key": (
        lambda c: c.operator.write_bytes(b'{"state":"/x",' + operator_document()[1:]),
        3,
        "JsonDuplicateKey",
    ),
    "no operator": (lambda c: c.operator.unlink(), 2, "operator.json: No such file"),
    "no model": (lambda c: c.model.unlink(), 2, "small.gguf: No such file"),
    "another model": (lambda c: c.model.write_bytes(b"GGUF another"), 4, "is none of the config's models (small)"),
    "a model that is none": (lambda c: c.model.write_bytes(b"weights"), 4, "neither a GGUF model nor a disk"),
    "an empty model": (lambda c: c.model.write_bytes(b""), 4, "neither a GGUF model nor a disk"),
    "a config without a disk": (lambda c: _bend_models(c, disk=...), 4, "names no disk for the model small"),
    "another root": (lambda c: _bend_models(c, disk={"root": "00" * 32, "blocks": 7}), 4, "its disk has root"),
    "two models in the config": (_two_models, 4, "names the model other"),
}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_document_or_model_that_is_wrong(qemu: Path, case: Launchable, name: str) -> None:
    bend, code, says = DOCUMENTS[name]
    bend(case)
    refused(qemu, case.words(SHAPE), code=code, says=says)


class TestShape:
    def test_a_malformed_one(self, qemu: Path, case: Launchable) -> None:
        refused(qemu, case.words(bent(SHAPE, "vcpus", 0)), code=3, says="shape.vcpus")
        refused(qemu, case.words(bent(SHAPE, "machine_type", "q35")), code=3, says="pc-q35-MAJOR.MINOR")

    def test_none(self, qemu: Path, case: Launchable) -> None:
        words = case.words(SHAPE)
        refused(qemu, [str(case.folder / "none.json"), *words[1:]], code=2, says="none.json: No such file")

    def test_emulation_is_asked_for_or_not_had(self, qemu: Path, tmp_path: Path) -> None:
        case = launchable(tmp_path / "other", machine="simulated")
        refused(qemu, case.words(EMULATED), code=2, says="say --emulate")
        refused(qemu, case.words(SHAPE, "--emulate"), code=2, says="--emulate needs an emulated one")

    def test_an_emulated_shape_takes_no_tdx_config(self, qemu: Path, case: Launchable) -> None:
        refused(qemu, case.words(EMULATED, "--emulate"), code=4, says="config.machine is tdx")

    def test_gpus_of_the_shape_that_the_config_does_not_name(self, qemu: Path, case: Launchable) -> None:
        refused(qemu, case.words(GPU_SHAPE), code=4, says="asks for 0 real GPUs, but the shape has 1")

    def test_disks_come_with_their_files(self, qemu: Path, case: Launchable) -> None:
        without = [device for device in SHAPE["devices"] if device.get("holds") != "operator"]
        refused(qemu, case.words(bent(SHAPE, "devices", without)), code=2, says="leave --operator out")
        words = case.words(SHAPE)
        del words[words.index("--operator") : words.index("--operator") + 2]
        refused(qemu, words, code=2, says="--operator FILE is needed")
        words = case.words(SHAPE)
        del words[words.index("--model") : words.index("--model") + 2]
        refused(qemu, words, code=2, says="has 1 model disks, and --model was given 0 times")
        refused(qemu, case.words(SHAPE, "--state", str(case.state)), code=2, says="leave --state out")
        no_ledger = [device for device in SHAPE["devices"] if device.get("holds") != "ledger"]
        words = case.words(bent(SHAPE, "devices", no_ledger), "--ledger", str(case.folder / "l"))
        refused(qemu, words, code=2, says="leave --ledger out")

    def test_a_bent_state(self, qemu: Path, tmp_path: Path) -> None:
        case = launchable(tmp_path / "other", machine="simulated")
        case.state.write_bytes(b"{}".ljust(512, b"\0"))
        refused(qemu, case.words(EMULATED, "--emulate"), code=3, says="state")


class TestProgram:
    @pytest.mark.parametrize("version", ["10.0.13", "10.2.0", "11.1.3", "8.2.2"])
    def test_another_release_would_move_a_register(self, qemu: Path, case: Launchable, version: str) -> None:
        qemu.write_text(qemu.read_text().replace("10.1.2", version))
        refused(qemu, case.words(SHAPE), code=4, says="the shape says 10.1", dry=False)

    def test_none_or_a_broken_one(self, qemu: Path, case: Launchable) -> None:
        qemu.write_text("#!/bin/sh\nexit 1\n")
        refused(qemu, case.words(SHAPE), code=6, says="does not say which QEMU it is", dry=False)
        qemu.chmod(0o644)
        refused(qemu, case.words(SHAPE), code=6, says="name one with --qemu", dry=False)

    def test_the_software_processor_has_one_width(self, qemu: Path, tmp_path: Path) -> None:
        case = launchable(tmp_path / "other", machine="simulated")
        words = case.words(bent(EMULATED, "phys_bits", 46), "--emulate")
        refused(qemu, words, code=4, says="phys_bits 40, not 46", dry=False)

    def test_an_emulated_machine_needs_its_own_release_at_least(self, qemu: Path, tmp_path: Path) -> None:
        case = launchable(tmp_path / "other", machine="simulated")
        document = bent(bent(EMULATED, "qemu", "11.1"), "machine_type", "pc-q35-11.1")
        refused(qemu, case.words(document, "--emulate"), code=4, says="too old for", dry=False)


@pytest.mark.parametrize("name", ["../x", "X", "", ".", "a/b", "a" * 65, "a b"])
def test_what_is_no_name(qemu: Path, case: Launchable, name: str) -> None:
    refused(qemu, case.words(SHAPE, "--name", name), code=2, says="a name is")


def test_a_missing_measurement_is_said(qemu: Path, tmp_path: Path) -> None:
    case = launchable(tmp_path / "other", shapes=[SHAPE])
    said = CliRunner().invoke(command, ["run", *case.words(SHAPE, "--dry-run")])
    assert said.stderr == ""
    wider = CliRunner().invoke(command, ["run", *case.words(bent(SHAPE, "vcpus", 5), "--dry-run")])
    assert "no measurement of shape cpu-4 is in the manifest" in wider.stderr
    assert qemu.exists()


def test_a_port_that_nobody_listens_on_is_said(qemu: Path, tmp_path: Path) -> None:
    case = launchable(tmp_path / "other", shapes=[SHAPE])
    case.operator.write_bytes(operator_document().replace(b":8443", b":9443"))
    said = CliRunner().invoke(command, ["run", *case.words(SHAPE, "--dry-run")])
    assert (said.exit_code, "forwards to port 8443" in said.stderr) == (0, True)
    assert qemu.exists()


class TestModelDisk:
    def disks(self, case: Launchable, *files: Path, write: bool = True) -> tuple[Path, ...]:
        config = EnclaveConfig.parse(case.config.read_bytes())
        return model_disks(config, files, folder=case.folder / "disks", write=write, progress=lambda *_: None)

    def test_a_model_becomes_the_disk_that_the_config_names(self, case: Launchable) -> None:
        (disk,) = self.disks(case, case.model)
        assert disk.parent == case.folder / "disks"
        assert disk.stat().st_mode & 0o777 == 0o600
        assert self.disks(case, disk) == (disk,), "such a disk serves as well"
        before = disk.stat().st_mtime_ns
        assert self.disks(case, case.model) == (disk,)
        assert disk.stat().st_mtime_ns == before, "it is made once"

    def test_a_damaged_disk_in_the_cache_is_made_again(self, case: Launchable) -> None:
        (disk,) = self.disks(case, case.model)
        good = disk.read_bytes()
        disk.write_bytes(good[:5000] + bytes([good[5000] ^ 1]) + good[5001:])
        assert self.disks(case, case.model) == (disk,)
        assert disk.read_bytes() == good

    @pytest.mark.parametrize("place", ["data", "tree", "short", "long"])
    def test_a_bent_disk(self, case: Launchable, place: str) -> None:
        disk, _ = write_model_disk(case.model, case.folder, progress=lambda _: None)
        data = bytearray(disk.read_bytes())
        if place in {"data", "tree"}:
            data[4096 if place == "data" else -1] ^= 1
        disk.write_bytes({"short": data[:-4096], "long": data + bytes(4096)}.get(place, data))
        with pytest.raises(LaunchRefused, match="Merkle root"):
            self.disks(case, disk)

    def test_a_sound_disk_of_another_model(self, case: Launchable) -> None:
        case.model.write_bytes(b"GGUF" + b"another" * 3000)
        disk, _ = write_model_disk(case.model, case.folder, progress=lambda _: None)
        with pytest.raises(LaunchRefused, match="Merkle root"):
            self.disks(case, disk)

    def test_a_dry_run_writes_no_disk(self, case: Launchable) -> None:
        (disk,) = self.disks(case, case.model, write=False)
        assert not disk.exists()
        assert not disk.parent.exists()
        (made,) = self.disks(case, case.model)
        assert made == disk
