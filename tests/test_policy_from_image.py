# SPDX-License-Identifier: Apache-2.0
"""`sericin policy init --image`: a whole policy from an image that holds together, none from another."""

from __future__ import annotations

import json
from dataclasses import replace
from hashlib import sha256, sha384
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from attestation.image import AcpiDigests, ImageManifest
from attestation.policy import Policy
from client.commands import policy as policy_module
from client.commands.policy import command as policy_command
from tests.image_folder import write_manifest
from tests.measured_image import ACPI, documents, image_with_shapes, measured


@pytest.fixture
def image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return image_with_shapes(tmp_path, monkeypatch)


def init(*arguments: object) -> Result:
    return CliRunner().invoke(policy_command, ["init", *(str(a) for a in arguments)], catch_exceptions=False)


def test_an_image_and_a_config_make_a_whole_policy(image: Path) -> None:
    config, _, _ = documents(image)
    result = init("--image", image, "--shape", image.parent / "tdx.json", "--config", config)
    policy = Policy.parse(result.stdout.encode())
    manifest = ImageManifest.parse((image / "manifest.json").read_bytes())
    (rule,) = policy.images
    record = manifest.measurements[0]
    assert (rule.image_id, rule.mr_td) == (manifest.image_id, record.mr_td)
    assert (rule.rtmr1, rule.rtmr2) == (record.rtmr1, record.rtmr2)
    assert "waived" in json.loads(result.stdout)["image"][0]["rtmr0"]
    assert json.loads(result.stdout)["runtime"]["config"] == [sha384(config.read_bytes()).hexdigest()]
    assert json.loads(result.stdout)["models"][0]["weights"] == sha256(b"weights").hexdigest()
    assert result.stderr == ""


def test_with_acpi_digests_a_policy_pins_rtmr0(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = AcpiDigests(loader=b"\1" * 48, rsdp=b"\2" * 48, tables=b"\3" * 48)
    monkeypatch.setattr(policy_module, "acpi_digests", lambda _shape, **_: made)
    (image.parent / "acpi.json").write_text(json.dumps(ACPI))
    want = measured(image, "--acpi", image.parent / "acpi.json")["registers"]["rtmr0"]
    words = ["--image", image, "--shape", image.parent / "tdx.json", "--qemu", "q"]
    assert json.loads(init(*words).stdout)["image"][0]["rtmr0"] == [want]
    assert init("--image", image, "--qemu", "q").exit_code == 2


def test_without_shapes_the_records_are_taken_and_said_to_be(image: Path) -> None:
    result = init("--image", image)
    entries = json.loads(result.stdout)["image"]
    assert len(entries) == 2  # a TD and an emulated machine end with different RTMR1
    assert "--shape FILE computes them" in result.stderr
    assert "policy.runtime.config[0]" in result.stderr


def test_shapes_that_share_their_registers_are_one_entry(image: Path) -> None:
    m = ImageManifest.parse((image / "manifest.json").read_bytes())
    first = m.measurements[0]
    pinned = replace(first, rtmr0=b"\1" * 48)
    write_manifest(image, replace(m, measurements=(pinned, replace(pinned, shape_sha256=b"\2" * 32, rtmr0=b"\3" * 48))))
    (entry,) = json.loads(init("--image", image).stdout)["image"]
    assert entry["rtmr0"] == ["01" * 48, "03" * 48]


@pytest.mark.parametrize(
    "case", ["a tampered file", "a lying record", "another key", "a shape alone", "another machine"]
)
def test_no_policy_is_made_from_what_does_not_hold(case: str, image: Path) -> None:
    config, _, _ = documents(image, machine="simulated", gpu={"mode": "none", "count": 0})
    arguments: list[object] = ["--image", image]
    if case == "a tampered file":
        (image / "initrd").write_bytes(b"evil")
    elif case == "a lying record":
        m = ImageManifest.parse((image / "manifest.json").read_bytes())
        write_manifest(image, replace(m, measurements=(replace(m.measurements[0], rtmr1=b"\7" * 48),)))
        arguments += ["--shape", image.parent / "tdx.json"]
    elif case == "emulated":
        arguments += ["--shape", image.parent / "emulated.json"]
    elif case == "another key":
        arguments += ["--key", "00" * 32]
    elif case == "a shape alone":
        arguments = ["--shape", image.parent / "tdx.json"]
    else:
        arguments += ["--config", config]
    result = init(*arguments, "-o", image.parent / "policy.json")
    assert result.exit_code in {2, 4}
    assert not (image.parent / "policy.json").exists()
