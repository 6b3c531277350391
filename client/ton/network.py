# SPDX-License-Identifier: Apache-2.0
"""The network file `sericin-network/1`: where a TON is, from which block trust starts, and which registry is meant.

It is the user's own statement of trust. None is ever taken out of a dossier, a registry or a server (docs/ton.md).
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pytoniq_core.boc.address import Address as AnyAddress
from pytoniq_core.boc.address import AddressError

from attestation.errors import AttestationError
from attestation.strict_json import loads
from attestation.ton.blockid import MASTERCHAIN, WHOLE, BlockId
from attestation.ton.registry import Address

from ..errors import UsageFault
from ..output import read_file

SCHEMA: Final = "sericin-network/1"
MAX_NETWORK: Final = 64 * 1024
MAX_SERVERS: Final = 64
_HOST: Final = re.compile(r"[A-Za-z0-9.:-]{1,253}")
_BLOCK_FIELDS: Final = ("workchain", "shard", "seqno", "root_hash", "file_hash")

PINNED: Final = {
    "mainnet": BlockId(
        workchain=MASTERCHAIN,
        shard=WHOLE,
        seqno=34835953,
        root_hash=bytes.fromhex("5695b27cd38b9bc46ab7a09967d7591aa2513b7372ae51c760dd64d682db27a8"),
        file_hash=bytes.fromhex("f28d76297e7806d24cf111110f527ded07b565693ad4b208c97c9d9419e2c4af"),
    ),
    "testnet": BlockId(
        workchain=MASTERCHAIN,
        shard=WHOLE,
        seqno=5176527,
        root_hash=bytes.fromhex("4a83cba8c7bd0f3dba6093ce1833870294d27b98b491716d466461ff33cc1ae2"),
        file_hash=bytes.fromhex("c516b1814c204d76056f5e989d1f90f9556c7332e5ea3998c2fce143f9dcae1e"),
    ),
}
"""Init blocks compiled into this release: those of the networks' published global configurations."""

PUBLIC_IDS: Final = {-239: "mainnet", -3: "testnet"}
"""`global_id` of the public networks, whichever of their blocks trust starts from."""

SIMULATED_ID: Final = -52_170
"""`global_id` of every simulated TON (enclave/simulator/ton_chain.py)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LiteServerAddress:
    """Where a lite server listens, and the Ed25519 key it proves (32 bytes). It is not trusted for anything else."""

    host: str
    port: int
    key: bytes

    def __str__(self) -> str:
        """Give host and port."""
        return f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """One TON as its user sees it. `ledger` is where the enclave's host has its ledger: a path, or an address."""

    name: str
    init_block: BlockId
    lite_servers: tuple[LiteServerAddress, ...]
    registry: Address
    ledger: str | None

    @property
    def pinned(self) -> bool:
        """Whether trust starts at a block that is compiled into this release."""
        return self.init_block in PINNED.values()

    @classmethod
    def read(cls, path: Path) -> Network:
        """Read a network file. Raises UsageFault that says which field is wrong and what belongs there."""
        d = _object(path, read_file(path, limit=MAX_NETWORK))
        keys = {"schema", "name", "init_block", "lite_servers", "registry"}
        if d.get("schema") != SCHEMA:
            raise UsageFault(f'{path}: schema: want "{SCHEMA}"')
        if d.keys() - {"ledger"} != keys:
            found = ", ".join(sorted(d.keys() ^ keys))
            raise UsageFault(f"{path}: want exactly {', '.join(sorted(keys))} and perhaps ledger; look at: {found}")
        servers = d["lite_servers"]
        if not isinstance(servers, list) or not 1 <= len(servers) <= MAX_SERVERS:
            raise UsageFault(f"{path}: lite_servers: want a list of 1 to {MAX_SERVERS}")
        return cls(
            name=_text(d["name"], f"{path}: name"),
            init_block=parse_block(d["init_block"], f"{path}: init_block"),
            lite_servers=tuple(_server(s, f"{path}: lite_servers[{i}]") for i, s in enumerate(servers)),
            registry=parse_address(d["registry"], f"{path}: registry"),
            ledger=_ledger(d["ledger"], path) if "ledger" in d else None,
        )


def read_init_block(path: Path) -> BlockId:
    """Read a file with a block: its five fields, or a network file's or a global configuration's. Raises UsageFault."""
    found: object = _object(path, read_file(path, limit=16 * MAX_NETWORK))
    if isinstance(found, dict) and isinstance(found.get("validator"), dict):
        found = found["validator"]
    if isinstance(found, dict) and "init_block" in found:
        found = found["init_block"]
    return parse_block(found, f"{path}: init_block")


def parse_block(value: object, where: str) -> BlockId:
    """Read a masterchain block: `"mainnet"`, `"testnet"`, or its fields, hashes in hex or base64. Raises UsageFault."""
    if isinstance(value, str) and value in PINNED:
        return PINNED[value]
    if not isinstance(value, dict) or value.keys() != set(_BLOCK_FIELDS):
        names = " or ".join(f'"{name}"' for name in PINNED)
        raise UsageFault(f"{where}: want {names}, or an object of {', '.join(_BLOCK_FIELDS)}")
    shard, seqno = value["shard"], value["seqno"]
    if value["workchain"] != MASTERCHAIN or shard not in (f"{WHOLE:016x}", WHOLE, WHOLE - (1 << 64)):
        raise UsageFault(f'{where}: want a block of the masterchain: workchain -1, shard "{WHOLE:016x}"')
    if type(seqno) is not int or not 0 <= seqno < 1 << 32:
        raise UsageFault(f"{where}.seqno: want a whole number below 2^32")
    return BlockId(
        workchain=MASTERCHAIN,
        shard=WHOLE,
        seqno=seqno,
        root_hash=_bytes32(value["root_hash"], f"{where}.root_hash"),
        file_hash=_bytes32(value["file_hash"], f"{where}.file_hash"),
    )


def block_json(block: BlockId) -> dict[str, object]:
    """Give a block as the object that `parse_block` reads."""
    return {
        "workchain": block.workchain,
        "shard": f"{block.shard:016x}",
        "seqno": block.seqno,
        "root_hash": block.root_hash.hex(),
        "file_hash": block.file_hash.hex(),
    }


def parse_address(value: object, where: str) -> Address:
    """Read an account: raw (`0:hex`) or in the form with a checksum. Raises UsageFault."""
    wrong = UsageFault(f"{where}: want an account as 0:64 hex digits, or its 48 characters of base64")
    if not isinstance(value, str):
        raise wrong
    raw = re.fullmatch(r"(0|-1):([0-9a-fA-F]{64})", value)
    if raw:
        return Address(workchain=int(raw[1]), account=bytes.fromhex(raw[2]))
    if not re.fullmatch(r"[A-Za-z0-9_+/-]{48}", value):
        raise wrong
    try:
        found = AnyAddress(value.replace("+", "-").replace("/", "_"))
    except AddressError:
        raise UsageFault(f"{where}: the address's checksum is wrong; copy it again") from None
    if found.wc not in {0, MASTERCHAIN}:
        raise wrong
    return Address(workchain=found.wc, account=bytes(found.hash_part))


def _object(path: Path, data: bytes) -> dict[str, object]:
    try:
        found = loads(data, limit=16 * MAX_NETWORK, what=str(path))
    except AttestationError as e:
        raise UsageFault(f"{path}: want JSON: {e}") from None
    if not isinstance(found, dict):
        raise UsageFault(f"{path}: want a JSON object")
    return found


def _text(value: object, where: str) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= 256:
        raise UsageFault(f"{where}: want text of 1 to 256 characters")
    return value


def _ledger(value: object, path: Path) -> str:
    """Read where the ledger is; a path is relative to the network file."""
    text = _text(value, f"{path}: ledger")
    return text if "://" in text else str(path.parent / text)


def _bytes32(value: object, where: str) -> bytes:
    text = value if isinstance(value, str) else ""
    try:
        data = bytes.fromhex(text) if len(text) == 64 else base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error):
        data = b""
    if len(data) != 32:
        raise UsageFault(f"{where}: want 32 bytes in hex or base64")
    return data


def _server(value: object, where: str) -> LiteServerAddress:
    if not isinstance(value, dict) or value.keys() != {"host", "port", "key"}:
        raise UsageFault(f"{where}: want an object of host, port and key")
    host, port = value["host"], value["port"]
    if not isinstance(host, str) or not _HOST.fullmatch(host) or type(port) is not int or not 0 < port < 65536:
        raise UsageFault(f"{where}: want a host name or address, and a port")
    return LiteServerAddress(host=host, port=port, key=_bytes32(value["key"], f"{where}.key"))
