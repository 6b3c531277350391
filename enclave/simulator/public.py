# SPDX-License-Identifier: Apache-2.0
"""The public face of a simulated machine: what a client needs to make a policy for it. Holds no secret."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from .gpu_authority import DEVICE_ROOT_FILE, RIM_ROOT_FILE
from .machine import IMAGE_NAME, SimulatedMachine
from .tdx_ca import replace_file

PUBLIC_FILE: Final = "public.json"
SCHEMA: Final = "sericin-simulated-public/1"


def write_public(
    state: Path,
    machine: SimulatedMachine,
    *,
    image_id: bytes,
    gpus: int,
    config_sha384: bytes,
    engine: str,
    models: Sequence[tuple[str, bytes, bytes]],
) -> Path:
    """Write `public.json` into the state directory, whole or not at all. `models` are (name, weights, template)."""
    registers = machine.measurements
    image = {"name": IMAGE_NAME, "image_id": image_id.hex(), **registers, "rtmr0": [registers["rtmr0"]]}
    return write_public_of(
        state,
        image,
        root_pem=machine.ca.root_pem,
        gpus=gpus,
        config_sha384=config_sha384,
        engine=engine,
        models=models,
    )


def write_public_of(
    state: Path,
    image: Mapping[str, object],
    *,
    root_pem: str,
    gpus: int,
    config_sha384: bytes,
    engine: str,
    models: Sequence[tuple[str, bytes, bytes]],
) -> Path:
    """Write `public.json` for a machine whose image is known: what a policy says of it, but for its end."""
    document = {
        "schema": SCHEMA,
        "simulated": True,
        "image": dict(image),
        "gpus": gpus,
        "roots": {
            "tdx_root": root_pem,
            "gpu_device_root": (state / DEVICE_ROOT_FILE).read_text(),
            "gpu_rim_root": (state / RIM_ROOT_FILE).read_text(),
        },
        "config_sha384": config_sha384.hex(),
        "engine": engine,
        "models": [
            {"name": name, "weights": weights.hex(), "template": template.hex()} for name, weights, template in models
        ],
    }
    path = state / PUBLIC_FILE
    replace_file(path, (json.dumps(document, indent=2) + "\n").encode(), mode=0o644)
    return path
