# SPDX-License-Identifier: Apache-2.0
"""`sericin measure`: what is computed, what is said not to be, and images that lie."""

from __future__ import annotations

import json
import os
import runpy
from dataclasses import replace
from hashlib import sha256, sha384
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from attestation import cbor, runtime_log, strict_json
from attestation.image import ImageManifest
from attestation.image_signature import ImageSignature
from attestation.verity import Tree
from enclave.models.verity import VerityRoot
from tests.firmware_forms import Build
from tests.image_folder import ROOTFS, SALT, hash_tree, with_record, write_manifest
from tests.image_forms import SHAPE, bent
from tests.measured_image import ACPI, documents, image_with_shapes, measured, run

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC = KEY.public_key().public_bytes_raw()


@pytest.fixture
def image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return image_with_shapes(tmp_path, monkeypatch)


def test_firmware_is_measured_in_both_orders(tmp_path: Path) -> None:
    (tmp_path / "fd").write_bytes(Build().data())
    found = json.loads(run("firmware", tmp_path / "fd", "--json").stdout)
    assert found["mr_td"]["single_pass"] != found["mr_td"]["two_pass"]
    assert found["layout"] is None
    assert [section["type"] for section in found["sections"]] == ["BFV", "CFV", "TEMP_MEM", "TD_HOB"]
    shown = run("firmware", tmp_path / "fd").stdout
    assert found["mr_td"]["single_pass"] in shown
    assert "not known" in shown


def test_a_firmware_that_no_td_starts_from_is_malformed(tmp_path: Path) -> None:
    (tmp_path / "code").write_bytes(Build(size=0x6000).data())
    result = run("firmware", tmp_path / "code", "--json")
    assert (result.exit_code, json.loads(result.stdout)["code"]) == (3, "MalformedFirmware")


def test_registers_are_those_that_the_build_recorded(image: Path) -> None:
    manifest = ImageManifest.parse((image / "manifest.json").read_bytes())
    for name, record in zip(("tdx", "emulated"), manifest.measurements, strict=True):
        found = measured(image, name=name)
        registers = found["registers"]
        assert (found["ok"], found["recorded"]) == (True, True)
        assert registers["mr_td"] == record.mr_td.hex()
        assert registers["rtmr1"] == record.rtmr1.hex()
        assert registers["rtmr2"] == record.rtmr2.hex()
        assert found["image"]["id"] == sha256((image / "manifest.json").read_bytes()).hexdigest()


def test_what_was_not_given_reads_not_computed(image: Path) -> None:
    found = measured(image)
    assert [name for name, value in found["registers"].items() if value is None] == ["mr_config_id", "rtmr0", "rtmr3"]
    assert set(found["not_computed"]) == {"rtmr0", "rtmr3", "mr_config_id"}
    names = [event["name"] for event in found["events"] if event["digest"] is None]
    assert names == ["ACPI loader", "ACPI rsdp", "ACPI tables", "config", "operator", "model", "gpu", "ready"]
    shown = run("image", image, "--shape", image.parent / "tdx.json", "--explain").stdout
    assert shown.count("not computed") == 3 + 8
    assert "RTMR3         not computed" in shown
    assert "replayed" in shown
    brief = run("image", image, "--shape", image.parent / "tdx.json").stdout
    assert "MRCONFIGID    not computed" in brief
    assert "TD HOB" not in brief


def test_with_acpi_digests_rtmr0_is_computed(image: Path) -> None:
    (image.parent / "acpi.json").write_text(json.dumps(ACPI))
    found = measured(image, "--acpi", image.parent / "acpi.json")
    value = bytes(48)
    for event in found["events"]:
        if event["register"] == "rtmr0":
            value = sha384(value + bytes.fromhex(event["digest"])).digest()
    assert found["registers"]["rtmr0"] == value.hex()


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        "[]",
        "x",
        json.dumps(bent(ACPI, "acpi/rsdp", "0")),
        json.dumps(bent(ACPI, "acpi/more", "1")),
        json.dumps(bent(ACPI, "shape_sha256", "0")),
        json.dumps(bent(ACPI, "shape_sha256", ...)),
    ],
)
def test_bent_acpi_digests_are_malformed(text: str, image: Path) -> None:
    (image.parent / "acpi.json").write_text(text)
    assert measured(image, "--acpi", image.parent / "acpi.json")["exit"] == 3


def test_acpi_digests_of_another_shape_are_not_used(image: Path) -> None:
    (image.parent / "acpi.json").write_text(json.dumps(bent(ACPI, "shape_sha256", "00" * 32)))
    found = measured(image, "--acpi", image.parent / "acpi.json")
    assert (found["exit"], "another shape" in found["error"]["got"]) == (2, True)
    assert measured(image, "--acpi", image.parent / "acpi.json", "--qemu", "none")["exit"] == 2


def test_the_documents_give_mrconfigid_and_the_events_of_rtmr3(image: Path) -> None:
    config, operator, model = documents(image)
    found = measured(image, "--config", config, "--operator", operator, "--model", model)
    assert found["registers"]["mr_config_id"] == sha384(config.read_bytes()).hexdigest()
    assert found["registers"]["rtmr3"] is None
    payloads = {
        "image-id": bytes.fromhex(found["image"]["id"]),
        "config": sha384(config.read_bytes()).digest(),
        "operator": sha384(b"{}").digest(),
        "model": sha256(cbor.encode([sha256(b"weights").digest()])).digest(),
        "gpu": b"",
    }
    events = {event["name"]: event["digest"] for event in found["events"] if event["register"] == "rtmr3"}
    assert tuple(events) == runtime_log.BOOT_EVENTS
    for name, payload in payloads.items():
        assert events[name] == runtime_log.Event(name=name, payload=payload).digest.hex()
    assert events["ready"] is None


def test_a_gpu_event_is_never_predicted(image: Path) -> None:
    config, _, _ = documents(image, gpu={"mode": "nvml", "count": 1})
    found = measured(image, "--config", config)
    (gpu,) = [event for event in found["events"] if event["name"] == "gpu"]
    assert gpu["digest"] is None
    assert "replayed" in gpu["cause"]


def test_a_model_must_be_the_configs(image: Path) -> None:
    config, _, model = documents(image, model=b"other weights")
    found = measured(image, "--config", config, "--model", model)
    assert (found["exit"], found["error"]["where"]) == (4, "config.models")
    assert measured(image, "--model", model)["exit"] == 2
    assert measured(image, "--config", model)["exit"] == 3
    assert measured(image, "--config", config, "--model", image.parent / "none")["exit"] == 2


@pytest.mark.parametrize("name", ["OVMF.fd", "cmdline", "initrd", "rootfs.img", "rootfs.verity", "vmlinuz"])
@pytest.mark.parametrize("bend", ["flipped", "longer", "shorter", "gone"])
def test_a_file_that_is_not_the_manifests_is_named(name: str, bend: str, image: Path) -> None:
    data = bytearray((image / name).read_bytes())
    if bend == "flipped":
        data[-1] ^= 1
    (image / name).write_bytes(
        bytes(data) + b"x" if bend == "longer" else bytes(data[:-1] if bend == "shorter" else data)
    )
    if bend == "gone":
        (image / name).unlink()
    found = measured(image)
    assert (found["exit"], found["code"]) == ((2, "Usage") if bend == "gone" else (4, "ManifestMismatch"))
    assert name in found["error"]["got" if bend == "gone" else "where"]


def test_a_pipe_is_no_file(image: Path) -> None:
    (image / "rootfs.img").unlink()
    os.mkfifo(image / "rootfs.img")
    assert measured(image)["exit"] == 2


@pytest.mark.parametrize(
    ("field", "where"),
    [
        ("size", "initrd (size)"),
        ("root", "rootfs root hash"),
        ("tree", "rootfs.verity"),
        ("salt", "rootfs root hash"),
        ("single", "firmware.mr_td.single_pass"),
        ("two", "firmware.mr_td.two_pass"),
        ("kernel", "kernel.authenticode_sha384"),
        ("initrd", "initrd.sha384"),
        ("rtmr1", "manifest.measurements.cpu-4.rtmr1"),
        ("rtmr2", "manifest.measurements.cpu-4.rtmr2"),
        ("mr_td", "manifest.measurements.cpu-4.mr_td"),
    ],
)
def test_a_manifest_that_lies_about_its_files_is_untrusted(field: str, where: str, image: Path) -> None:
    """The lie hangs together: every digest of a file is right, and what it is said to measure to is not."""
    m, wrong = ImageManifest.parse((image / "manifest.json").read_bytes()), b"\7" * 48
    record = m.measurements[0]
    other = bytearray(ROOTFS)
    other[5000] ^= 1
    records: dict[str, Any] = {name: {name: wrong} for name in ("rtmr1", "rtmr2", "mr_td")}
    sizes = tuple(replace(f, size=f.size + 1) if f.path == "initrd" else f for f in m.files)
    lies = {
        "size": replace(m, files=sizes),
        "root": with_record(m, "rootfs.img", bytes(other)),
        "tree": with_record(m, "rootfs.verity", b"t" * 8192),
        "salt": replace(m, rootfs=replace(m.rootfs, salt=bytes(32))),
        "single": replace(m, firmware=replace(m.firmware, mr_td_single_pass=wrong)),
        "two": replace(m, firmware=replace(m.firmware, mr_td_two_pass=wrong)),
        "kernel": replace(m, kernel_authenticode=wrong),
        "initrd": replace(m, initrd_sha384=wrong),
    } | {name: replace(m, measurements=(replace(record, **change),)) for name, change in records.items()}
    write_manifest(image, lies[field])
    if field == "root":
        (image / "rootfs.img").write_bytes(bytes(other))
    if field == "tree":
        (image / "rootfs.verity").write_bytes(b"t" * 8192)
    found = measured(image)
    assert (found["exit"], found["code"], found["error"]["where"]) == (4, "ManifestMismatch", where)


def test_a_record_of_rtmr0_is_held_to_what_is_computed(image: Path) -> None:
    m = ImageManifest.parse((image / "manifest.json").read_bytes())
    (image.parent / "acpi.json").write_text(json.dumps(ACPI))
    write_manifest(image, replace(m, measurements=(replace(m.measurements[0], rtmr0=b"\7" * 48),)))
    assert measured(image)["registers"]["rtmr0"] is None
    found = measured(image, "--acpi", image.parent / "acpi.json")
    assert found["error"]["where"] == "manifest.measurements.cpu-4.rtmr0"


def test_a_shape_that_the_manifest_does_not_record_is_computed_all_the_same(image: Path) -> None:
    (image.parent / "other.json").write_text(json.dumps(bent(bent(SHAPE, "memory_mib", 8192), "name", "other")))
    found = measured(image, name="other")
    assert (found["recorded"], found["ok"]) == (False, True)
    assert found["registers"]["rtmr1"] is not None


def test_an_unknown_firmware_is_not_guessed(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    found = measured(image)
    assert found["registers"]["mr_td"] is not None
    assert [found["registers"][f"rtmr{r}"] for r in range(4)] == [None] * 4
    assert "not known" in found["not_computed"]["rtmr1"]


def test_a_signature_is_shown_and_a_key_demands_one(image: Path) -> None:
    manifest = (image / "manifest.json").read_bytes()
    assert measured(image, "--key", PUBLIC.hex())["code"] == "ManifestSignatureInvalid"
    (image / "manifest.sig").write_bytes(ImageSignature.sign(manifest, KEY).encode())
    assert measured(image)["image"]["signer"] == PUBLIC.hex()
    assert measured(image, "--key", PUBLIC.hex())["ok"] is True
    assert measured(image, "--key", "00" * 32)["exit"] == 4
    assert measured(image, "--key", "00")["exit"] == 2
    assert measured(image, "--key", "zz")["exit"] == 2
    (image / "manifest.sig").write_bytes(ImageSignature.sign(manifest + b" ", KEY).encode())
    assert measured(image)["code"] == "ManifestSignatureInvalid"
    (image / "manifest.sig").write_bytes(b"{}")
    assert measured(image)["exit"] == 3


def sign(image: Path, key: Path) -> int:
    main: Any = runpy.run_path(str(Path(__file__).parent.parent / "scripts" / "sign-image"))["main"]
    return int(main([str(image), str(key)]))


def test_an_image_is_signed_by_script(image: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key = image.parent / "key.pem"
    key.write_bytes(KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    (image / "manifest.sig").write_bytes(b"of an earlier build")
    assert sign(image, key) == 0
    assert capsys.readouterr().out.strip() == PUBLIC.hex()
    assert measured(image, "--key", PUBLIC.hex())["ok"] is True


def test_an_image_that_is_not_to_be_handed_on_is_not_signed(image: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key = image.parent / "key.pem"
    key.write_bytes(KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    manifest = json.loads((image / "manifest.json").read_bytes())
    blob = {"name": "zz-firmware", "version": "1", "sha256": "00" * 32, "licence": "LicenseRef-NVIDIA-Driver"}
    manifest["components"].append(blob)
    (image / "manifest.json").write_bytes(strict_json.canonical(manifest))
    assert sign(image, key) == 2
    assert "not to be published: it holds zz-firmware" in capsys.readouterr().err
    assert not (image / "manifest.sig").exists()


def test_nothing_is_signed_that_does_not_hold(image: Path) -> None:
    key, other = image.parent / "key.pem", image.parent / "other.pem"
    key.write_bytes(KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    curve = ec.generate_private_key(ec.SECP256R1())
    other.write_bytes(curve.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    assert sign(image, other) == 2
    assert sign(image, image / "initrd") == 2
    assert sign(image, image.parent / "none") == 2
    (image / "initrd").write_bytes(b"evil")
    assert sign(image, key) == 4
    assert not (image / "manifest.sig").exists()


def test_the_tree_is_what_the_builder_and_a_second_implementation_compute() -> None:
    for size in (1, 127, 128, 129, 130):
        data = ROOTFS[: size * 4096]
        tree, builder = Tree(SALT), VerityRoot()
        tree.add(data[: (size // 2) * 4096])
        tree.add(data[(size // 2) * 4096 :])
        builder.update(data)
        assert tree.finish() == builder.tree() == hash_tree(data)
        assert tree.blocks == size
    with pytest.raises(ValueError, match="whole"):
        Tree(SALT).add(b"x")
    with pytest.raises(ValueError, match="no blocks"):
        Tree(SALT).finish()
