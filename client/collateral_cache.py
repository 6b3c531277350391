# SPDX-License-Identifier: Apache-2.0
"""Keep fetched collateral on disk until the earliest of its parts asks to be renewed. No trust is decided here.

Two kinds of small files: one of content, named by its SHA-256, and one for each question asked, which names a content.
Whatever is wrong with either (cut, exchanged, over) is the same as not being there; what is used is verified like any
other collateral.
"""

from __future__ import annotations

import re
import secrets
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Final

from cryptography import x509

from attestation.errors import AttestationError
from attestation.tdx.collateral import MAX_COLLATERAL, Collateral
from attestation.tdx.qeidentity import QeIdentity
from attestation.tdx.tcbinfo import TcbInfo

MAX_FILES: Final = 64  # of each kind; the oldest go first
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")


def renewal(collateral: Collateral) -> datetime:
    """Give the earliest nextUpdate of the four parts, unverified. Raises AttestationError or ValueError."""
    ends = [TcbInfo.parse(collateral.tcb_info).next_update, QeIdentity.parse(collateral.qe_identity).next_update]
    for der in (collateral.root_ca_crl, collateral.pck_crl):
        end = x509.load_der_x509_crl(der).next_update_utc
        if end is None:
            raise ValueError("a CRL without an end")
        ends.append(end)
    return min(ends)


class CollateralCache:
    """Collateral by question, in one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def find(self, question: str, *, now: datetime) -> Collateral | None:
        """Give what was kept for `question`, if it is whole and not over at `now`."""
        try:
            name = self._question(question).read_text("ascii")
            if not _DIGEST.fullmatch(name):
                return None
            path = self._content(name)
            if path.stat().st_size > MAX_COLLATERAL:
                return None
            data = path.read_bytes()
            if sha256(data).hexdigest() != name:
                return None
            collateral = Collateral.from_json(data)
            return collateral if now < renewal(collateral) else None
        except (OSError, ValueError, AttestationError):
            return None

    def keep(self, question: str, collateral: Collateral) -> None:
        """Keep `collateral` as the answer to `question`. In a folder that cannot be written nothing is kept."""
        data = collateral.to_json()
        name = sha256(data).hexdigest()
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            _write(self._content(name), data)
            _write(self._question(question), name.encode())
            for pattern in ("*.json", "*.of"):
                files = sorted(self._folder.glob(pattern), key=lambda path: path.stat().st_mtime)
                for path in files[:-MAX_FILES]:
                    path.unlink(missing_ok=True)
        except OSError:
            return

    def _content(self, name: str) -> Path:
        return self._folder / f"{name}.json"

    def _question(self, question: str) -> Path:
        return self._folder / f"{sha256(question.encode()).hexdigest()}.of"


def _write(path: Path, data: bytes) -> None:
    """Write a file whole or not at all."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    draft.write_bytes(data)
    draft.replace(path)
