# SPDX-License-Identifier: Apache-2.0
"""Answers: which models are known by name, what are they exactly, and where do they lie on this machine?"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path

from .refusal import ModelRefused


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogueEntry:
    """One known model. The digest is what is trusted; the place it comes from is not."""

    name: str
    description: str
    licence: str
    size: int  # bytes
    sha256: bytes  # 32
    verity_root: bytes  # 32
    template: bytes  # 32, of the chat template's text
    tokenizer: bytes  # 32
    context: int  # tokens the model was trained for
    package: str  # distribution on the Python package index that carries the file
    version: str
    member: str  # path of the file inside the wheel


@cache
def catalogue() -> dict[str, CatalogueEntry]:
    """Give the catalogue that this release carries, by name."""
    text = (resources.files("enclave") / "data" / "models.json").read_text(encoding="utf-8")
    entries = {}
    for item in json.loads(text)["models"]:
        for key in ("sha256", "verity_root", "template", "tokenizer"):
            item[key] = bytes.fromhex(item[key])
        entry = CatalogueEntry(**item)
        entries[entry.name] = entry
    return entries


def find(name: str) -> CatalogueEntry:
    """Give the entry called `name`. Raises ModelRefused(model_unknown)."""
    try:
        return catalogue()[name]
    except KeyError:
        known = ", ".join(sorted(catalogue()))
        raise ModelRefused("model_unknown", f"no model is called {name}; known: {known}") from None


def model_folder() -> Path:
    """Give the folder of fetched models: $SERICIN_CACHE/models, or ~/.cache/sericin/models."""
    base = os.environ.get("SERICIN_CACHE")
    return (Path(base) if base else Path.home() / ".cache" / "sericin") / "models"


def local_path(entry: CatalogueEntry) -> Path:
    """Give the place where `pull` puts the file. A file there is complete: it was renamed after its check."""
    return model_folder() / f"{entry.name}.gguf"
