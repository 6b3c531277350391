# SPDX-License-Identifier: Apache-2.0
"""What lite servers of the TON mainnet answered, recorded. A test without the shared vectors is skipped."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from typing import Any

from attestation.errors import Untrusted
from attestation.ton.blockid import MASTERCHAIN, WHOLE, BlockId
from attestation.ton.links import PartialProof
from attestation.ton.reading import Reading, verify_reading
from attestation.ton.trustpath import TrustPath
from tests.vectors_root import vectors

LINKS = ("one-link-ordinary", "one-link-simplex", "chain")
READINGS = ("read-basechain", "read-masterchain", "read-absent")


def manifest() -> dict[str, str]:
    """Give file -> first 16 hex digits of its SHA-256, by the manifest."""
    text = (vectors("ton") / "MANIFEST.md").read_text()
    return dict(re.findall(r"^\| (ton-net/\S+) \|.*\| ([0-9a-f]{16})$", text, re.MULTILINE))


def text(name: str) -> str:
    """Give a recorded file, which must be the manifest's."""
    data = (vectors("ton") / name).read_bytes()
    assert sha256(data).hexdigest().startswith(manifest()[name])
    return data.decode()


def octets(name: str) -> bytes:
    """Give the bytes that a file of hex digits and comments holds."""
    return bytes.fromhex("".join(line for line in text(f"ton-net/{name}.hex").splitlines() if line[:1] != "#"))


def comments(name: str) -> dict[str, str]:
    """Give the `key=value` comments of a file."""
    return dict(re.findall(r"^# (\w+)=(\S+)$", text(f"ton-net/{name}.hex"), re.MULTILINE))


def partial_proof(name: str) -> PartialProof:
    """Give one recorded answer to getBlockProof."""
    return PartialProof.decode(octets(name))


def reading(name: str) -> Reading:
    """Give one recorded answer to getAccountState. The recording leaves the block's file hash out: here it is zero."""
    lines = [line for line in text(f"ton-net/{name}.txt").splitlines() if line[:1] != "#"]
    given = dict(line.split("=", 1) for line in lines)
    block = BlockId(
        workchain=MASTERCHAIN,
        shard=WHOLE,
        seqno=int(given["block_seqno"]),
        root_hash=bytes.fromhex(given["block_root_hash"]),
        file_hash=bytes(32),
    )
    return Reading(
        block=block,
        workchain=int(given["workchain"]),
        address=bytes.fromhex(given["account_id"]),
        shard_proof=bytes.fromhex(given["shard_proof"]),
        proof=bytes.fromhex(given["proof"]),
        state=bytes.fromhex(given["state"]),
    )


Check = Callable[[bytes], None]


def flippable() -> list[tuple[str, bytes, Check]]:
    """Give every part of a recorded proof with its name and a check that takes it, bent or not, for the truth."""
    found: list[tuple[str, bytes, Check]] = []
    for name in LINKS:
        answer = partial_proof(name)
        for index, link in enumerate(answer.links):
            if name != "chain" or index:  # the chain begins with the ordinary link
                alone = replace(answer, source=link.source, target=link.target, links=(link,))
                found.append((f"{name}[{index}]", alone.encode(), _link_check(alone)))
    for name in READINGS:
        whole = reading(name)
        parts = {part: getattr(whole, part) for part in ("shard_proof", "proof", "state")}
        found += [(f"{name}.{part}", data, _reading_check(whole, part)) for part, data in parts.items() if data]
    return found


def _link_check(good: PartialProof) -> Check:
    def check(data: bytes) -> None:
        answer = PartialProof.decode(data)
        if (answer.source, answer.target) != (good.source, good.target):
            raise Untrusted("TrustPathInvalid", "answer", want="from and to as asked", got="others")
        TrustPath(links=answer.links).verify(trusted=good.source, target=good.target)

    return check


def _reading_check(good: Reading, part: str) -> Check:
    def check(data: bytes) -> None:
        bent: dict[str, Any] = {part: data}
        verify_reading(replace(good, **bent))

    return check
