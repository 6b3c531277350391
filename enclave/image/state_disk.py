# SPDX-License-Identifier: Apache-2.0
"""A simulated machine's authorities on a disk: from the host's state directory into an emulated guest.

One JSON document `sericin-state/1`, file name to text. The guest reads it and writes nothing back.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from attestation import document, strict_json
from attestation.errors import Malformed

SCHEMA: Final = "sericin-state/1"
MAX_STATE: Final = 256 * 1024
MAX_FILES: Final = 16
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9.-]{0,63}")
_KINDS: Final = frozenset({".json", ".pem"})
_CODE: Final = "MalformedConfig"


def pack_state(folder: Path, *, leave: frozenset[str]) -> bytes:
    """Give the document with every .json and .pem of a state directory but those of `leave`. Raises OSError."""
    paths = [path for path in sorted(folder.iterdir()) if path.suffix in _KINDS and path.name not in leave]
    return strict_json.canonical({"schema": SCHEMA, "files": {path.name: path.read_text() for path in paths}})


def read_state(data: bytes) -> dict[str, bytes]:
    """Give file names and contents. Raises Malformed."""
    m = document.fields(strict_json.loads(data, limit=MAX_STATE, what="state"), ("schema", "files"), "state")
    document.choice(m["schema"], "state.schema", (SCHEMA,))
    files = m["files"]
    if not isinstance(files, dict) or not 1 <= len(files) <= MAX_FILES:
        raise Malformed(_CODE, "state.files", want=f"an object of 1 to {MAX_FILES} files", got=type(files).__name__)
    found = {}
    for name, text in files.items():
        if not _NAME.fullmatch(name) or not isinstance(text, str):
            raise Malformed(_CODE, "state.files", want="plain file names and text", got="another")
        found[name] = text.encode()
    return found
