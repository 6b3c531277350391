# SPDX-License-Identifier: Apache-2.0
"""Where tests find real evidence: the folder that SERICIN_VECTORS names, or shared/vectors beside the checkout."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest


def vectors(kind: str) -> Path:
    """Give the folder of `kind` (tdx, gpu, ton), or skip."""
    named = os.environ.get("SERICIN_VECTORS")
    root = Path(named) if named else Path(__file__).parent.parent.parent / "shared" / "vectors"
    folder = root / kind
    if not any((folder / name).is_file() for name in ("manifest.json", "MANIFEST.md")):
        pytest.skip("no shared vectors: set SERICIN_VECTORS to the folder that holds them")
    return folder


def entries(kind: str) -> list[dict[str, Any]]:
    """Give the entries of a manifest, or skip."""
    document = json.loads((vectors(kind) / "manifest.json").read_text())
    found: list[dict[str, Any]] = document["entries"] if isinstance(document, dict) else document
    return found
