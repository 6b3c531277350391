# SPDX-License-Identifier: Apache-2.0
"""Who may sign the masterchain: the validators of a configuration, and whether enough of them signed a block."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from ..errors import Untrusted
from .blockid import WHOLE
from .boc import crc32c
from .cells import Cell
from .hashmap import lookup
from .slices import Slice

MAX_MAIN: Final = 1024  # masterchain validators; 100 in 2026
_CODE: Final = "MalformedBlock"
_KEY: Final = bytes.fromhex("c6b41348")  # TL pub.ed25519
_SET: Final = 0x901660ED  # TL test0.validatorSet


@dataclass(frozen=True, slots=True, kw_only=True)
class Validator:
    """One validator of the masterchain."""

    key: bytes  # Ed25519, 32 bytes
    weight: int
    adnl: bytes  # 32 bytes, zero when it names none

    @property
    def node_id(self) -> bytes:
        """The short id by which signatures name it, 32 bytes."""
        return hashlib.sha256(_KEY + self.key).digest()


def parameter(config: Cell, number: int) -> Slice:
    """Give configuration parameter `number`. Raises MalformedBlock when absent or not shown."""
    what = f"config[{number}]"
    found = lookup(config, number, 32, what=what, code=_CODE)
    if found is None:
        raise Untrusted("BlockProofInvalid", what, want="the parameter", got="none")
    cell = found.child("value")
    found.end()
    return cell


def masterchain_validators(config: Cell, catchain_seqno: int) -> list[Validator]:
    """List the validators that sign masterchain blocks of `catchain_seqno` under `config`, in their order.

    Raises MalformedBlock.
    """
    catchain = parameter(config, 28)
    shuffled = False
    if catchain.uint(8, "tag") == 0xC2:
        catchain.uint(7, "flags")
        shuffled = catchain.flag("shuffle_mc_validators")
    at = parameter(config, 34)
    at.tag(8, 0x12)
    at.uint(64, "utime")
    total, main = at.uint(16, "total"), at.uint(16, "main")
    if not 1 <= main <= min(total, MAX_MAIN):
        raise at.malformed("main", want=f"1 to {min(total, MAX_MAIN)}", got=main)
    at.uint(64, "total_weight")
    at.tag(1, 1, "list")
    descriptions = at.ref("list")
    order = _shuffle(main, catchain_seqno) if shuffled else range(main)
    found = [_validator(descriptions, index) for index in order]
    if len({validator.key for validator in found}) != main:
        raise at.malformed("list", want="every key once", got="a key twice")
    return found


def _validator(descriptions: Cell, index: int) -> Validator:
    what = f"validator[{index}]"
    at = lookup(descriptions, index, 16, what=what, code=_CODE)
    if at is None:
        raise Untrusted("BlockProofInvalid", what, want="a validator", got="none")
    tag = at.uint(8, "tag")
    if tag not in {0x53, 0x73}:
        raise at.malformed("tag", want="0x53 or 0x73", got=hex(tag))
    at.tag(32, 0x8E81278A, "public_key")
    key, weight = at.octets(32, "public_key"), at.uint(64, "weight")
    adnl = at.octets(32, "adnl_addr") if tag == 0x73 else bytes(32)
    at.end()
    return Validator(key=key, weight=weight, adnl=adnl)


def _shuffle(count: int, catchain_seqno: int) -> list[int]:
    """Give the masterchain's order for one catchain: SHA-512 of a counter, the shard and the catchain's number."""
    numbers: list[int] = []
    order: list[int] = []
    for index in range(count):
        if not numbers:
            block = (index // 8).to_bytes(32, "big") + WHOLE.to_bytes(8, "big") + b"\xff" * 4
            digest = hashlib.sha512(block + catchain_seqno.to_bytes(4, "big")).digest()
            numbers = [int.from_bytes(digest[at : at + 8], "big") for at in range(0, 64, 8)]
        place = numbers.pop(0) * (index + 1) >> 64
        order.append(index)
        order[index], order[place] = order[place], index
    return order


def validator_set_hash(validators: Sequence[Validator], catchain_seqno: int) -> int:
    """Compute the short hash of a validator set as block headers carry it (CRC-32C of TL `test0.validatorSet`)."""
    parts = [number.to_bytes(4, "little") for number in (_SET, catchain_seqno, len(validators))]
    for validator in validators:
        parts += [validator.key, validator.weight.to_bytes(8, "little"), validator.adnl]
    return crc32c(b"".join(parts))


def require_signatures(
    validators: Sequence[Validator], signatures: Iterable[tuple[bytes, bytes]], message: bytes, *, where: str
) -> int:
    """Require Ed25519 signatures over `message` by more than two thirds of the weight, every signer once.

    `signatures` are (node id, signature). Gives the number of signers. Raises TrustPathInvalid.
    """
    known = {validator.node_id: validator for validator in validators}
    total = sum(validator.weight for validator in validators)
    signed = count = 0
    for node_id, signature in signatures:
        validator = known.pop(node_id, None)
        if validator is None:
            raise Untrusted("TrustPathInvalid", f"{where}.signer", want="a validator, once", got=node_id.hex())
        if not _signed(validator.key, signature, message):
            raise Untrusted("TrustPathInvalid", f"{where}.signature", want="valid", got=node_id.hex())
        signed += validator.weight
        count += 1
    if 3 * signed <= 2 * total:
        raise Untrusted("TrustPathInvalid", f"{where}.weight", want=f"more than 2/3 of {total}", got=signed)
    return count


def _signed(key: bytes, signature: bytes, message: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True
