# SPDX-License-Identifier: Apache-2.0
"""An image with its shapes and documents, and what `sericin measure` says of it."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from client.commands.measure import command
from tests.image_folder import boot_files, know_firmware, write_image
from tests.image_forms import SHAPE, bent, shape
from tests.test_config_documents import CONFIG

EMULATED = bent(bent(bent(SHAPE, "machine", "emulated"), "host/quote_socket", None), "name", "emulated")
ACPI = {
    "ok": True,
    "code": None,
    "exit": 0,
    "shape": "cpu-4",
    "shape_sha256": shape().digest.hex(),
    "qemu": "10.1",
    "acpi": {"loader": "01" * 48, "rsdp": "02" * 48, "tables": "03" * 48},
}


def image_with_shapes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write an image directory with records for two shapes, shape files beside it."""
    know_firmware(monkeypatch, boot_files().firmware)
    write_image(folder / "image", [shape(), shape(EMULATED)])
    (folder / "tdx.json").write_text(json.dumps(SHAPE))
    (folder / "emulated.json").write_text(json.dumps(EMULATED))
    return folder / "image"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(command, [str(a) for a in arguments], catch_exceptions=False)


def measured(image: Path, *more: object, name: str = "tdx") -> dict[str, Any]:
    result = run("image", image, "--shape", image.parent / f"{name}.json", "--json", *more)
    found: dict[str, Any] = json.loads(result.stdout)
    assert found["exit"] == result.exit_code
    return found


def documents(image: Path, model: bytes = b"weights", **changes: Any) -> tuple[Path, Path, Path]:
    pin = {"name": "small", "sha256": sha256(b"weights").hexdigest()}
    config = {**CONFIG, "machine": "tdx", "models": [pin], **changes}
    paths = [image.parent / name for name in ("config", "operator", "model")]
    for path, data in zip(paths, (json.dumps(config).encode(), b"{}", model), strict=True):
        path.write_bytes(data)
    return paths[0], paths[1], paths[2]
