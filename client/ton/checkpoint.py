# SPDX-License-Identifier: Apache-2.0
"""Remember the newest key block that was verified from an init block, so that the next run need not go that way again.

It is the user's own finding, kept in the user's own state directory. A file that cannot be read counts for nothing: the
way is gone again, from the init block on.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from attestation.ton.blockid import BlockId

from ..errors import UsageFault
from ..output import read_file, write_file
from .network import block_json, parse_block

MAX_FILE: Final = 1024


class Checkpoint:
    """The file of one init block; `folder` None remembers nothing."""

    def __init__(self, folder: Path | None, init_block: BlockId) -> None:
        self._init = init_block
        self._path = None if folder is None else folder / f"{init_block.root_hash.hex()}.json"

    def load(self) -> BlockId:
        """Give the newest key block that was verified; the init block when none was."""
        if self._path is None or not self._path.is_file():
            return self._init
        try:
            block = parse_block(json.loads(read_file(self._path, limit=MAX_FILE)), str(self._path))
        except (UsageFault, ValueError):
            return self._init
        return block if block.seqno > self._init.seqno else self._init

    def save(self, block: BlockId) -> None:
        """Keep a later key block than the one that is kept. What cannot be written is gone the way for again."""
        if self._path is None or block.seqno <= self.load().seqno:
            return
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_file(self._path, json.dumps(block_json(block)).encode())
        except (OSError, UsageFault):
            return
