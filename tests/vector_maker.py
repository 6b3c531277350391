# SPDX-License-Identifier: Apache-2.0
"""Make tests/vectors/protocol.json with the independent client: ``python -m tests.vector_maker FILE``.

Everything derives from fixed names but the HPKE encapsulation, which the library draws: so the vectors fix the opening
side, and are committed, never made by a test run. Nothing of the three rooms is imported here.
"""

from __future__ import annotations

import json
import sys
from hashlib import sha256, sha384, shake_256
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mlkem, x25519
from cryptography.hazmat.primitives.hpke import MLKEM768X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests import independent_client as ic
from tests.independent_client import DATA, DUMMY, ERROR, FINAL, RECEIPT, REQUEST, RESPONSE, Cell, Exchange
from tests.second_cbor import encode

NOW = 1790000000
MODEL = "smollm2-135m-instruct-q4_1"


def fixed(name: str, n: int = 32) -> bytes:
    """Give n bytes that depend on the name alone."""
    return shake_256(b"sericin/1 vectors " + name.encode()).digest(n)


def shown(value: Any) -> Any:
    """Give a value as JSON: bytes in hex, integer keys as text."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {str(k): shown(v) for k, v in value.items()}
    return [shown(v) for v in value] if isinstance(value, list | tuple) else value


def plaintext(kind: int, payload: bytes, size: int) -> bytes:
    """Lay out one frame's plaintext."""
    return (bytes([kind]) + len(payload).to_bytes(2, "big") + payload).ljust(size, b"\0")


def pack(spec: str, fields: dict[str, int]) -> str:
    """Give the bits of one TL-B constructor."""
    return "".join(f"{int(fields[n]):0{w}b}" for n, w in (f.split(":") for f in spec.split()))


def receipt_cell(fields: dict[str, int], extension: Cell | None = None) -> Cell:
    """Build a receipt's tree."""
    more = Cell(pack(ic.MORE, fields))
    refs = (Cell(pack(ic.EXCHANGE, fields), (more,)), Cell(pack(ic.IDENTITY, fields)), Cell(pack(ic.USAGE, fields)))
    root = {"tag": 0x53524331} | fields | {"maybe": extension is not None}
    return Cell(pack(ic.ROOT, root), refs if extension is None else (*refs, extension))


def boc(root: Cell) -> bytes:
    """Write a bag of one root: no index, CRC-32C, references forwards."""
    cells: list[Cell] = []

    def walk(cell: Cell) -> None:
        cells.append(cell)
        for ref in cell.refs:
            walk(ref)

    walk(root)
    body, at = b"", {id(c): i for i, c in enumerate(cells)}
    for cell in cells:
        n = len(cell.bits)
        bits = cell.bits + ("1" + "0" * (-n - 1 & 7) if n & 7 else "")
        body += bytes([len(cell.refs), n // 8 + (n + 7) // 8]) + bytes(
            int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)
        )
        body += bytes(at[id(r)] for r in cell.refs)
    out = bytes.fromhex("b5ee9c72") + bytes([0x41, 2, len(cells), 1, 0]) + len(body).to_bytes(2, "big") + b"\0" + body
    return out + crc32c(out).to_bytes(4, "little")


def crc32c(data: bytes) -> int:
    """Give CRC-32C."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


class World:
    """Fixed keys and maps of one simulated boot."""

    def __init__(self) -> None:
        self.mlkem_seed, self.x25519 = fixed("seal mlkem seed", 64), fixed("seal x25519")
        pq = mlkem.MLKEM768PrivateKey.from_seed_bytes(self.mlkem_seed)
        ecdh = x25519.X25519PrivateKey.from_private_bytes(self.x25519)
        self.seal = MLKEM768X25519PrivateKey(pq, ecdh)
        self.seal_public = pq.public_key().public_bytes_raw() + ecdh.public_key().public_bytes_raw()
        self.kid = sha256(self.seal_public).digest()[:8]
        self.seeds = {role: fixed(f"{role} key") for role in ("receipt", "identity", "net")}
        self.signers = {r: ed25519.Ed25519PrivateKey.from_private_bytes(s) for r, s in self.seeds.items()}
        self.public = {r: k.public_key().public_bytes_raw() for r, k in self.signers.items()}
        tls = ec.derive_private_key(int.from_bytes(fixed("tls key"), "big"), ec.SECP256R1())
        self.spki = tls.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        self.config, self.operator = b'{"made":"for the vectors"}\n', b""
        self.record = {
            1: MODEL,
            2: fixed("weights"),
            3: fixed("tokenizer"),
            4: fixed("template"),
            5: "vectors 1",
            6: {1: 2048, 2: 4, 3: False, 4: 0, 5: "f16", 6: "f16", 7: 512, 8: 2},
            7: "greedy-cpu",
            8: fixed("self-test"),
        }
        self.boot_map = {
            1: "sericin/1",
            2: "simulated",
            3: fixed("instance id", 16),
            4: [{1: role, 2: "ed25519", 3: self.public[role]} for role in ("receipt", "identity", "net")],
            5: fixed("image id"),
            6: sha384(self.config).digest(),
            7: sha384(self.operator).digest(),
            8: [self.record],
            9: {1: 1 << 20, 2: 1024, 3: 16},
            10: 86400,
            11: 3600,
        }
        self.boot = encode(self.boot_map)
        self.boot_digest = sha256(self.boot).digest()
        self.epoch_map = {
            1: self.boot_digest,
            2: 3,
            3: [{1: self.kid, 2: self.seal_public}],
            4: NOW - 600,
            5: NOW + 3600,
            6: {1: fixed("beacon"), 2: 41234567},
        }
        self.epoch = encode(self.epoch_map)
        self.keyset = sha256(self.epoch).digest()
        models = sha256(encode([self.record[2]])).digest()
        named = {"image-id": self.boot_map[5], "config": self.boot_map[6], "operator": self.boot_map[7]}
        self.events = [[n, v] for n, v in (named | {"model": models, "gpu": b"", "ready": self.boot_digest}).items()]
        self.log = encode(self.events)
        self.claims_map = {
            "pubkey-hash": encode([1, sha256(self.spki).digest()]),
            "sericin-profile": b"sericin/1",
            "sericin-boot": self.boot_digest,
            "sericin-keyset": self.keyset,
            "sericin-gpu": b"",
            "sericin-log": sha256(self.log).digest(),
        }

    def signed(self, role: str, message: bytes) -> bytes:
        """Sign with one of the boot's keys."""
        return self.signers[role].sign(message)


class Talk:
    """One exchange with every intermediate value."""

    def __init__(self, world: World, name: str, padding: int, stream: bool) -> None:
        self.world, self.name, self.padding = world, name, padding
        self.header_map: dict[int, Any] = {1: 1, 2: [0x647A, 1, 2], 3: world.kid, 4: world.keyset}
        self.header_map |= {5: fixed(f"{name} request id", 16), 6: NOW, 7: padding, 8: stream, 9: MODEL}
        self.header = encode(self.header_map)
        self.x: Exchange = ic.seal_seed(world.seal_public, self.header, fixed(f"{name} seed"))
        self.nonce = fixed(f"{name} resp_nonce")
        openai = {"model": MODEL, "messages": [{"role": "user", "content": "What seals a cocoon?"}], "stream": stream}
        self.body_map = {
            1: "/v1/chat/completions",
            2: fixed(f"{name} client nonce"),
            3: fixed(f"{name} run id"),
            4: 3,
            5: fixed("policy digest"),
            6: json.dumps(openai).encode(),
            7: fixed("tenant"),
            10: 5_000_000,
        }
        self.body = encode(self.body_map)
        self.request = self.x.request(self.body)

    def request_frames(self) -> list[bytes]:
        """Give the request's frames one by one."""
        _, k, s = ic.request_shape(len(self.body))
        at, size = 4 + len(self.header) + 1168, 4 + s + 16
        return [self.request[at + i * size : at + (i + 1) * size] for i in range(k + 1)]

    def response_frame(self, seq: int, kind: int, payload: bytes, size: int | None = None) -> bytes:
        """Seal one response frame, in the one size of this padding or as long as it needs."""
        size = size or (128 if self.padding else 3 + len(payload))
        return self.x.seal(plaintext(kind, payload, size), RESPONSE, seq, self.nonce)

    def chunks(self, kind: int, payload: bytes) -> list[tuple[int, bytes]]:
        """Cut a payload for the frame size of this padding."""
        room = 125 if self.padding else 16381
        return [(kind, payload[i : i + room]) for i in range(0, len(payload), room)]

    def response(self, parts: list[tuple[int, bytes]]) -> list[bytes]:
        """Seal a list of (type, payload)."""
        return [self.response_frame(i, kind, payload) for i, (kind, payload) in enumerate(parts)]

    def keys(self) -> dict[str, bytes]:
        """Derive every key."""
        names = ["request key", "control key", "salt request", "salt response", "salt tokens", "receipt capability"]
        out = {n: self.x.key(n) for n in names} | {n: self.x.key(n, 12) for n in ("request iv", "control iv")}
        out["response key"] = self.x.key("response key", 32, self.nonce)
        return out | {"response iv": self.x.key("response iv", 12, self.nonce)}


def write(path: str) -> None:
    """Write the file."""
    from tests.vector_refusals import refusals
    from tests.vector_sections import sections

    world = World()
    talk, terse = Talk(world, "cell", 1, True), Talk(world, "off", 0, False)
    out = {
        "format": "sericin/1 vectors 1",
        "note": "bytes are hex; made by tests/vector_maker.py, see docs/protocol.md",
    }
    out |= sections(world, talk, terse) | refusals(world, talk)
    Path(path).write_text(json.dumps(shown(out), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write(sys.argv[1])

__all__ = ["DATA", "DUMMY", "ERROR", "FINAL", "RECEIPT", "REQUEST", "Talk", "World", "boc", "fixed", "receipt_cell"]
