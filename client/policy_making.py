# SPDX-License-Identifier: Apache-2.0
"""Make a strict starting policy: from a simulated machine's public file, an image, a config, or to fill in."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from hashlib import sha384
from pathlib import Path
from typing import Final

from attestation.config import EnclaveConfig
from attestation.errors import AttestationError
from attestation.gpu.appraise import GpuPolicy
from attestation.image import ImageManifest, Measurement
from attestation.policy import SCHEMA
from attestation.strict_json import loads
from attestation.tdx.appraise import TdxPolicy
from attestation.window import rfc3339

from .errors import UsageFault
from .output import read_file

PUBLIC_FILE: Final = "public.json"
PUBLIC_SCHEMA: Final = "sericin-simulated-public/1"
MAX_PUBLIC: Final = 256 * 1024
IMAGE_LIFE: Final = timedelta(days=90)
FILL_IN: Final = "FILL IN"


def from_simulator(state_dir: Path, *, now: datetime) -> dict[str, object]:
    """Make the policy that accepts exactly the simulated machine whose state directory this is. Raises UsageFault."""
    path = state_dir / PUBLIC_FILE
    if not path.is_file():
        raise UsageFault(f"{path}: not there; 'sericin serve' with machine simulated writes it when it is ready")
    try:
        public = loads(read_file(path, limit=MAX_PUBLIC), limit=MAX_PUBLIC, what=PUBLIC_FILE)
    except AttestationError as e:
        raise UsageFault(f"{path}: {e}") from None
    if not isinstance(public, dict) or public.get("schema") != PUBLIC_SCHEMA:
        raise UsageFault(f"{path}: not a {PUBLIC_SCHEMA} document")
    image = dict(public["image"])
    gpus = int(public["gpus"])
    return {
        "schema": SCHEMA,
        "name": "simulated machine - NOT CONFIDENTIAL",
        "roots": {"kind": "simulated", **public["roots"]},
        "tdx": TdxPolicy.strict_template(),
        "image": [{**image, "not_after": rfc3339(now + IMAGE_LIFE)}],
        "runtime": {
            "machine": "simulated",
            "config": [public["config_sha384"]],
            "operator": {"waived": "the provider may change prices and ports"},
            "engine": [public["engine"]],
            "logging": ["codes"],
        },
        "gpu": _gpu(gpus),
        "models": [
            {**model, "determinism": {"waived": "any class; the receipt names it"}} for model in public["models"]
        ],
        "channel": {"mode": "sealed", "strict": False},
        "registry": {"waived": "no registry chosen yet"},
        "time": {"max_skew_seconds": 300, "max_epoch_seconds": 5400},
    }


def with_image(
    document: dict[str, object], manifest: ImageManifest, measurements: Sequence[Measurement], *, now: datetime
) -> dict[str, object]:
    """Give a policy document that accepts exactly this image, launched in one of the measured shapes.

    Measurements that share MRTD, RTMR1 and RTMR2 are one entry, with every RTMR0; that clause is waived where one of
    them has none, for then the host's shape cannot be told.
    """
    groups: dict[tuple[bytes, bytes, bytes], list[Measurement]] = {}
    for m in measurements:
        groups.setdefault((m.mr_td, m.rtmr1, m.rtmr2), []).append(m)
    entries = []
    for (mr_td, rtmr1, rtmr2), shapes in groups.items():
        rtmr0 = sorted({m.rtmr0.hex() for m in shapes if m.rtmr0 is not None})
        known = all(m.rtmr0 is not None for m in shapes)
        entries.append(
            {
                "name": f"{manifest.name} {manifest.version} ({', '.join(m.shape_name for m in shapes)})"[:128],
                "image_id": manifest.image_id.hex(),
                "mr_td": mr_td.hex(),
                "rtmr0": rtmr0 if known else {"waived": "no ACPI digests of the shape: RTMR0 cannot be computed"},
                "rtmr1": rtmr1.hex(),
                "rtmr2": rtmr2.hex(),
                "not_after": rfc3339(now + IMAGE_LIFE),
            }
        )
    changed = {**document, "image": entries}
    if document["name"] == FILL_IN:
        changed["name"] = f"{manifest.name} {manifest.version}"
    if manifest.profile == "cpu":
        changed["gpu"] = {"waived": "an image without GPUs"}
    return changed


def with_config(document: dict[str, object], config: bytes) -> dict[str, object]:
    """Give a policy document that accepts exactly this config. Raises Malformed, UsageFault for the wrong machine."""
    parsed, runtime = EnclaveConfig.parse(config), document["runtime"]
    if not isinstance(runtime, dict) or runtime["machine"] != parsed.machine:
        raise UsageFault(f"the config is for a {parsed.machine} machine, the policy's roots are not")
    pinned = {"config": [sha384(config).hexdigest()], "engine": [parsed.engine.kind], "logging": [parsed.logging]}
    models = [
        {
            "name": model.name,
            "weights": model.sha256.hex(),
            "template": {"waived": "the weights' own; the boot map names it"},
            "determinism": {"waived": "any class; the receipt names it"},
        }
        for model in parsed.models
    ]
    gpu = document["gpu"]
    if parsed.gpu.count and isinstance(gpu, dict) and "count" in gpu:
        gpu = {**gpu, "count": parsed.gpu.count}
    return {**document, "runtime": {**runtime, **pinned}, "models": models, "gpu": gpu}


def unfilled(value: object, where: str = "policy") -> list[str]:
    """List the fields that are still to be filled in."""
    if isinstance(value, dict):
        return [field for key, item in value.items() for field in unfilled(item, f"{where}.{key}")]
    if isinstance(value, list):
        return [field for i, item in enumerate(value) for field in unfilled(item, f"{where}[{i}]")]
    return [where] if isinstance(value, str) and value.startswith(FILL_IN) else []


def _gpu(count: int) -> dict[str, object]:
    if not count:
        return {"waived": "a machine without GPUs"}
    return GpuPolicy.strict_template() | {"count": count}


def frame(*, now: datetime) -> dict[str, object]:
    """Make a strict policy under the release's roots, with the measurements left to fill in."""
    fill = f"{FILL_IN}: lower-case hex from 'sericin measure image' or 'sericin policy init --image'"
    return {
        "schema": SCHEMA,
        "name": FILL_IN,
        "roots": {"kind": "intel+nvidia"},
        "tdx": TdxPolicy.strict_template(),
        "image": [
            {
                "name": FILL_IN,
                "image_id": fill,
                "mr_td": fill,
                "rtmr0": [fill],
                "rtmr1": fill,
                "rtmr2": fill,
                "not_after": rfc3339(now + IMAGE_LIFE),
            }
        ],
        "runtime": {
            "machine": "tdx",
            "config": [fill],
            "operator": {"waived": "the provider may change prices and ports"},
            "engine": ["llama"],
            "logging": ["codes"],
        },
        "gpu": GpuPolicy.strict_template(),
        "models": [{"name": FILL_IN, "weights": fill, "template": fill, "determinism": {"waived": "any class"}}],
        "channel": {"mode": "ra-tls", "strict": True},
        "registry": {"waived": "no registry chosen yet"},
        "time": {"max_skew_seconds": 300, "max_epoch_seconds": 5400},
    }


def printed(document: dict[str, object]) -> str:
    """Give a policy document as it is written to a file."""
    return json.dumps(document, indent=2) + "\n"


def differences(old: object, new: object, where: str = "policy") -> list[tuple[str, str, str]]:
    """List what differs between two decoded documents: (field, old, new)."""
    if isinstance(old, dict) and isinstance(new, dict):
        found = []
        for key in sorted(old.keys() | new.keys()):
            found += differences(old.get(key, "absent"), new.get(key, "absent"), f"{where}.{key}")
        return found
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = enumerate(zip(old, new, strict=True))
        return [d for i, (a, b) in pairs for d in differences(a, b, f"{where}[{i}]")]
    return [] if old == new else [(where, json.dumps(old), json.dumps(new))]
