# SPDX-License-Identifier: Apache-2.0
"""Make a strict starting policy: from a simulated machine's public file, or an empty frame to fill in."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from attestation.errors import AttestationError
from attestation.gpu.appraise import GpuPolicy
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


def _gpu(count: int) -> dict[str, object]:
    if not count:
        return {"waived": "a machine without GPUs"}
    return GpuPolicy.strict_template() | {"count": count}


def frame(*, now: datetime) -> dict[str, object]:
    """Make a strict policy under the release's roots, with the measurements left to fill in."""
    fill = "FILL IN: lower-case hex from 'sericin measure image' or 'sericin policy init --image'"
    return {
        "schema": SCHEMA,
        "name": "FILL IN",
        "roots": {"kind": "intel+nvidia"},
        "tdx": TdxPolicy.strict_template(),
        "image": [
            {
                "name": "FILL IN",
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
        "models": [{"name": "FILL IN", "weights": fill, "template": fill, "determinism": {"waived": "any class"}}],
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
