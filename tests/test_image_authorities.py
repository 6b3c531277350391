# SPDX-License-Identifier: Apache-2.0
"""Authorities of an emulated machine: whose registers a client is told, and what does not belong together."""

from __future__ import annotations

import copy
import json
from datetime import UTC, datetime
from hashlib import sha256, sha384
from pathlib import Path
from typing import Any

import pytest

from attestation.errors import Malformed
from attestation.image import ImageManifest
from attestation.policy import Policy
from attestation.shape import Shape
from client.policy_making import from_simulator
from enclave.image.authorities import AuthoritiesUnusable, make_authorities
from enclave.image.state_disk import read_state
from enclave.models import digests
from enclave.models.gguf import GgufFacts
from enclave.simulator.tdx_ca import SimulatedCa
from tests.forged import config_document
from tests.image_forms import MANIFEST, SHAPE, canonical

NOW = datetime(2026, 11, 1, tzinfo=UTC)
MODEL = b"GGUF and more"
EMULATED: dict[str, Any] = {
    **SHAPE,
    "name": "emulated",
    "machine": "emulated",
    "machine_type": "pc-q35-7.2",
    "devices": [row for row in SHAPE["devices"] if row["type"] != "vsock"],
    "host": {**SHAPE["host"], "quote_socket": None, "vsock_cid": None},
}


def shape(**changed: Any) -> Shape:
    return Shape.parse(json.dumps(EMULATED | changed).encode())


def manifest() -> ImageManifest:
    document = copy.deepcopy(MANIFEST)
    row = copy.deepcopy(document["measurements"][0])
    row |= {"shape": {"name": "emulated", "sha256": shape().digest.hex()}, "rtmr0": None, "acpi": None}
    row["rtmr1"] = sha384(b"emulated").hexdigest()
    document["measurements"].append(row)
    return ImageManifest.parse(canonical(document))


def config(**changed: Any) -> bytes:
    pin = {"name": "small", "sha256": sha256(MODEL).hexdigest(), "disk": {"root": "00" * 32, "blocks": 3}}
    return config_document(models=[pin], **changed)


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    fields: dict[str, Any] = dict.fromkeys(GgufFacts.__dataclass_fields__, 1)
    fields |= {"template": b"t" * 32, "tokenizer": b"t" * 32}
    facts = GgufFacts(**fields)
    monkeypatch.setattr(digests, "read_facts", lambda _: facts)
    path = tmp_path / "model.gguf"
    path.write_bytes(MODEL)
    return path


def made(state: Path, models: tuple[Path, ...], **changed: Any) -> bytes:
    given: dict[str, Any] = {"manifest": manifest(), "shape": shape(), "config": config()} | changed
    return make_authorities(state, **given, models=models, now=NOW, progress=lambda _: None)


def test_a_client_is_told_the_manifests_registers_and_the_hosts_roots(tmp_path: Path, model: Path) -> None:
    state = tmp_path / "state"
    files = read_state(made(state, (model,)))
    assert "public.json" not in files
    assert all((state / name).read_bytes() == text for name, text in files.items())
    policy = Policy.parse(json.dumps(from_simulator(state, now=NOW)).encode())
    assert policy.images[0].image_id == manifest().image_id
    assert policy.images[0].rtmr1 == sha384(b"emulated").digest()
    root = json.loads((state / "public.json").read_text())["roots"]["tdx_root"]
    assert root == SimulatedCa.load_or_create(state, now=NOW).root_pem
    assert read_state(made(state, (model,))) == files


@pytest.mark.parametrize("changed", [{"memory_mib": 4096}, {"name": "other"}, {"vcpus": 8}])
def test_a_shape_that_the_manifest_does_not_measure_is_refused(
    tmp_path: Path, model: Path, changed: dict[str, Any]
) -> None:
    with pytest.raises(AuthoritiesUnusable, match="no measurement of shape"):
        made(tmp_path / "state", (model,), shape=shape(**changed))
    assert not (tmp_path / "state").exists()


def test_a_real_machine_has_no_authorities_of_its_own(tmp_path: Path, model: Path) -> None:
    real = Shape.parse(json.dumps(SHAPE).encode())
    with pytest.raises(AuthoritiesUnusable, match="only an emulated shape"):
        made(tmp_path / "state", (model,), shape=real)
    with pytest.raises(AuthoritiesUnusable, match="only an emulated shape"):
        made(tmp_path / "state", (model,), config=config(machine="tdx", gpu={"mode": "none", "count": 0}))
    with pytest.raises(Malformed):
        made(tmp_path / "state", (model,), config=b"{}")


def test_every_model_of_the_config_is_needed(tmp_path: Path, model: Path) -> None:
    with pytest.raises(AuthoritiesUnusable, match="the model small"):
        made(tmp_path / "state", ())
    assert not (tmp_path / "state").exists()
    model.write_bytes(b"GGUF of another")
    with pytest.raises(AuthoritiesUnusable, match="the model small"):
        made(tmp_path / "state", (model,))
