# SPDX-License-Identifier: Apache-2.0
"""The way from a trusted masterchain block to another one: a file of links, every one verified (docs/ton.md)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from .. import cbor
from ..errors import Malformed, Untrusted
from .blockid import BlockId
from .links import BackLink, Link, read_link

FORMAT: Final = "sericin-trust-path/1"
MAX_PATH: Final = 64 * 1024 * 1024
MAX_LINKS: Final = 4096
_CODE: Final = "MalformedTrustPath"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustPath:
    """Forward links in order, or one backward link. At least one."""

    links: tuple[Link, ...]

    @classmethod
    def decode(cls, data: bytes) -> TrustPath:
        """Read a file of at most 64 MiB and 4096 links. Raises MalformedTrustPath."""
        m = cbor.decode_map(data, limit=MAX_PATH, what="trust_path", code=_CODE, required=(1, 2))
        if m.keys() != {1, 2}:
            raise Malformed(_CODE, "trust_path", want="known keys only", got="others")
        if m[1] != FORMAT:
            raise Malformed(_CODE, "trust_path.format", want=FORMAT, got="another format")
        listed = cbor.as_list(m[2], "trust_path.links", code=_CODE, limit=MAX_LINKS, least=1)
        path = cls(links=tuple(read_link(cbor.as_bytes(link, "trust_path.link", code=_CODE)) for link in listed))
        if len(path.links) > 1 and any(isinstance(link, BackLink) for link in path.links):
            raise Malformed(_CODE, "trust_path.links", want="forward links, or one link back", got="a mixture")
        return path

    def encode(self) -> bytes:
        """Give the file."""
        return cbor.encode({1: FORMAT, 2: [link.encode() for link in self.links]})

    def verify(self, *, trusted: BlockId, target: BlockId) -> None:
        """Verify every link from `trusted` to `target`.

        Raises TrustPathInvalid, BlockProofInvalid, MalformedProof or MalformedBlock.
        """
        at = trusted
        for index, link in enumerate(self.links):
            if link.source != at:
                raise Untrusted("TrustPathInvalid", f"trust_path[{index}].from", want=str(at), got=str(link.source))
            link.verify()
            at = link.target
        if at != target:
            raise Untrusted("TrustPathInvalid", "trust_path.end", want=str(target), got=str(at))
