# SPDX-License-Identifier: Apache-2.0
"""A second client, written from docs/protocol.md alone: it imports none of the three rooms.

AES-GCM and HKDF are pycryptodome's, X-Wing and Ed25519 cryptography's; TON cells are hashed by hand. It binds
REPORTDATA, RTMR3 and MRCONFIGID of the quote to what it was sent and does NOT verify Intel's or NVIDIA's chains.
``python -m tests.independent_client HOST:PORT MODEL PROMPT`` asks.
"""

from __future__ import annotations

import hmac
import http.client
import io
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from hashlib import sha256, sha384
from typing import Any, NamedTuple

import cbor2
from Crypto.Cipher import AES
from Crypto.Hash import SHA256
from Crypto.Protocol.KDF import HKDF
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, MLKEM768X25519PublicKey, Suite

HPKE = Suite(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
DATA, DUMMY, ERROR, RECEIPT, FINAL = range(5)
REQUEST, RESPONSE = 0, 1
L = b"sericin/1 "
ROOT = "tag:32 version:8 epoch:32 serial:64 issued_at:64 status:8 previous:256 maybe:1"  # name:bits in order
EXCHANGE = "ciphertext:256 request:256 response:256"
MORE = "tokens:256 transcript:256 nonce:256 request_id:128"
IDENTITY = "boot:256 image:256 model:256 machine:8"
USAGE = "prompt:32 cached:32 completion:32 reasoning:32 params:256 finish:8 price:64 account:256"


class Wrong(Exception):
    """What was received is not what docs/protocol.md allows."""


def need(holds: bool, what: str) -> None:
    if not holds:
        raise Wrong(what)


def encode(value: Any) -> bytes:
    return cbor2.dumps(value, canonical=True)  # maps here have keys of one type, so both RFC orders agree


def sequence(data: bytes) -> list[Any]:
    """Decode a CBOR sequence; refuse what does not encode to the same bytes."""
    raw, out = io.BytesIO(data), []
    try:
        decoder = cbor2.CBORDecoder(raw, read_size=1, max_depth=8, allow_indefinite=False, allow_duplicate_keys=False)
        while raw.tell() < len(data):
            out.append(decoder.decode())
        need(all(map(plain, out)) and b"".join(map(encode, out)) == data, "CBOR: not deterministic or not plain")
    except (cbor2.CBORError, ValueError, RecursionError, TypeError) as e:
        raise Wrong("CBOR: not well formed") from e
    return out


def plain(v: Any) -> bool:
    if isinstance(v, dict):
        return len({type(k) for k in v}) < 2 and all(type(k) in (int, str) and plain(k) and plain(v[k]) for k in v)
    if isinstance(v, list):
        return all(map(plain, v))
    return 0 <= v < 1 << 64 if isinstance(v, int) else v is None or isinstance(v, bytes | str)


def decode(data: bytes) -> Any:
    need(len(out := sequence(data)) == 1, "CBOR: not one item")
    return out[0]


def known(value: Any, last: int) -> Any:
    """Refuse a map with a key below 64 that is not one of 1 to `last`."""
    need(isinstance(value, dict) and all(1 <= k <= last or k >= 64 for k in value), "unknown key below 64")
    return value


def request_shape(n: int) -> tuple[int, int, int]:
    """Give (T, k, s) for a payload of n bytes."""
    e = max(n, 256).bit_length() - 1
    z = e - e.bit_length()  # S = floor(log2 E) + 1 = E.bit_length()
    total = -(-max(n, 256) >> z) << z
    k = -(-total // 16381)
    return total, k, 3 + -(-total // k)


class Exchange:
    """The keys of one sealed exchange, from header, sealed_seed and seed."""

    def __init__(self, header: bytes, sealed_seed: bytes, seed: bytes) -> None:
        self.header, self.sealed_seed, self.seed = header, sealed_seed, seed
        self.ctx = sha256(L + b"ctx" + sha256(header).digest() + sealed_seed).digest()

    def key(self, name: str, n: int = 32, nonce: bytes | None = None) -> bytes:
        """Derive one key; `nonce` is resp_nonce for the response's two."""
        salt = self.ctx if nonce is None else sha256(self.ctx + nonce).digest()
        return HKDF(self.seed, n, salt, SHA256, 1, L + name.encode())

    def cipher(self, direction: int, seq: int, nonce: bytes | None) -> Any:
        """Give the AEAD of frame `seq`, its AAD already fed."""
        name = ("request", "response")[direction]
        iv = (int.from_bytes(self.key(f"{name} iv", 12, nonce), "big") ^ seq).to_bytes(12, "big")
        aead = AES.new(self.key(f"{name} key", 32, nonce), AES.MODE_GCM, nonce=iv)
        return aead.update(self.ctx + bytes([direction]) + seq.to_bytes(8, "big"))

    def seal(self, text: bytes, direction: int, seq: int, nonce: bytes | None = None) -> bytes:
        body, tag = self.cipher(direction, seq, nonce).encrypt_and_digest(text)
        return (len(body) + 16).to_bytes(4, "big") + bytes(body + tag)

    def frames(self, read: Callable[[int], bytes], direction: int, nonce: bytes | None = None) -> Iterator[Any]:
        """Open frames from `read` to the final one and the end; yield (type, payload, wire bytes)."""
        kind, seq = DATA, 0
        while kind != FINAL:
            head = read(4)
            size = int.from_bytes(head, "big")
            wire = read(size) if len(head) == 4 and 19 <= size <= 16400 else b""
            need(len(wire) == size and size > 0, "stream cut short, or a frame of an impossible size")
            try:
                text = self.cipher(direction, seq, nonce).decrypt_and_verify(wire[:-16], wire[-16:])
            except ValueError:
                raise Wrong("frame does not authenticate") from None
            kind, n = text[0], int.from_bytes(text[1:3], "big")
            need(kind <= FINAL and n <= len(text) - 3 and not any(text[3 + n :]), "frame's type, length or padding")
            need(n == 0 or kind not in (DUMMY, FINAL), "dummy or final with a payload")
            yield kind, bytes(text[3 : 3 + n]), head + wire
            seq += 1
        need(read(1) == b"", "bytes after the final frame")

    def request(self, payload: bytes) -> bytes:
        """Give the whole body of POST sealed."""
        _, k, s = request_shape(len(payload))
        parts = [payload[i * (s - 3) : (i + 1) * (s - 3)] for i in range(k)]
        texts = [b"\0" + len(p).to_bytes(2, "big") + p for p in parts] + [b"\4"]
        wire = b"".join(self.seal(t.ljust(s, b"\0"), REQUEST, i) for i, t in enumerate(texts))
        return len(self.header).to_bytes(4, "big") + self.header + self.sealed_seed + wire


def seal_seed(public: bytes, header: bytes, seed: bytes) -> Exchange:
    """Seal `seed` to an epoch's public key under `header`."""
    pq, x = MLKEM768PublicKey.from_public_bytes(public[:1184]), X25519PublicKey.from_public_bytes(public[1184:])
    info = L + b"request" + sha256(header).digest()
    return Exchange(header, HPKE.encrypt(seed, MLKEM768X25519PublicKey(pq, x), info), seed)


class Answer:
    """One response, checked frame by frame: data, error, receipt (bytes), items, and the wire before the receipt."""

    def __init__(self, x: Exchange, read: Callable[[int], bytes], padding: int) -> None:
        self.nonce, stage = read(32), DATA
        parts: dict[int, bytes] = dict.fromkeys(range(5), b"")
        self.before = self.nonce
        for kind, payload, wire in x.frames(read, RESPONSE, self.nonce):
            need(padding == 0 or len(wire) == 148, "not a frame of the one size")
            need(stage != RECEIPT if kind == DUMMY else kind >= stage, "frame out of order")
            stage = stage if kind == DUMMY else kind
            parts[kind] += payload
            self.before += wire if stage < RECEIPT else b""
        self.data, self.error, self.receipt = parts[DATA], parts[ERROR], parts[RECEIPT]
        self.items = [known(i, 11) for i in sequence(self.data)]
        self.text = "".join(i.get(7, "") for i in self.items if i[1] == 1)

    def commitments(self, x: Exchange, request: bytes, payload: bytes) -> dict[str, int]:
        """Compute what the receipt's exchange cell must hold."""
        ids = [i[3] for i in self.items if i[1] == 0] + [i[8] for i in self.items if i[1] == 1 and 8 in i]
        out = {"ciphertext": sha256(request).digest(), "transcript": sha256(self.before).digest()}
        for name, text in (("request", payload), ("response", self.data), ("tokens", b"".join(ids))):
            out[name] = hmac.digest(x.key(f"salt {name}"), text, "sha256")
        return {k: int.from_bytes(v, "big") for k, v in out.items()}


class Cell(NamedTuple):
    """An ordinary TON cell: its bits as 0 and 1, and its references."""

    bits: str
    refs: tuple[Cell, ...] = ()

    def rep(self) -> tuple[int, bytes]:
        """Give depth and representation hash: of d1, d2, data with completion tag, depths, hashes."""
        n, below = len(self.bits), [r.rep() for r in self.refs]
        bits = self.bits + ("1" + "0" * (-n - 1 & 7) if n & 7 else "")
        body = bytes([len(below), n // 8 + (n + 7) // 8]) + int("1" + bits, 2).to_bytes(1 + len(bits) // 8, "big")[1:]
        hashed = body + b"".join(d.to_bytes(2, "big") for d, _ in below) + b"".join(h for _, h in below)
        return 1 + max((d for d, _ in below), default=-1), sha256(hashed).digest()


def unpack(spec: str, bits: str) -> dict[str, int]:
    widths, at = {name: int(w) for name, w in (f.split(":") for f in spec.split())}, iter(bits)
    need(len(bits) == sum(widths.values()), "cell of a wrong size")
    return {name: int("".join(next(at) for _ in range(w)), 2) for name, w in widths.items()}


def receipt_fields(cell: Cell) -> dict[str, int]:
    f = unpack(ROOT, cell.bits)
    need(f["tag"] == 0x53524331 and f["version"] == 1 and len(cell.refs) == 3 + f["maybe"], "not a receipt")
    (exchange, identity, usage), more = cell.refs[:3], cell.refs[0].refs
    need(len(more) == 1 and not (identity.refs + usage.refs + more[0].refs), "receipt's references")
    for spec, part in ((EXCHANGE, exchange), (MORE, more[0]), (IDENTITY, identity), (USAGE, usage)):
        f |= unpack(spec, part.bits)
    return f


def read_boc(boc: bytes) -> Cell:
    """Read a bag of one root; a CRC is skipped, for the hash is what is believed."""
    try:
        flags, width, count, roots = boc[4:8]
        need(boc[:4] == b"\xb5\xee\x9c\x72" and flags & 7 == 1 == roots, "not a bag of one root and few cells")
        at, raw, cells = 10 + width + (count * width if flags & 128 else 0), [], dict[int, Cell]()
        for _ in range(count):
            d1, d2, end = boc[at], boc[at + 1], at + 2 + (boc[at + 1] + 1) // 2
            bits = "".join(f"{b:08b}" for b in boc[at + 2 : end])
            at = end + d1
            raw.append((bits.rstrip("0")[:-1] if d2 & 1 else bits, boc[end:at]))
        need(at + (flags >> 4 & 4) == len(boc), "bag of cells: trailing bytes")
        for i, (bits, refs) in reversed(list(enumerate(raw))):  # references point forwards only
            cells[i] = Cell(bits, tuple(cells[r] for r in refs))
        return cells[boc[9 + width]]
    except (IndexError, KeyError, ValueError) as e:
        raise Wrong("bag of cells: cut short or looping") from e


def check_evidence(e: dict[int, Any], nonce: bytes, now: float) -> tuple[dict[int, Any], dict[int, Any]]:
    """Bind evidence together and to `nonce`, in the order of the specification; give (boot map, epoch map)."""
    quote, claims, log = known(e, 12)[2], decode(e[3]), decode(e[6])
    boot, epoch = known(decode(e[4]), 11), known(decode(e[5]), 6)
    rtmr3, td = bytes(48), quote[48:] if quote[0] == 4 else quote[54:]  # Intel's TD report body, quote version 4 or 5
    need(td[520:584] == sha256(e[3]).digest() + bytes(32), "REPORTDATA is not the claims'")
    for event in log:
        rtmr3 = sha384(rtmr3 + sha384(L + b"rtmr3-event" + encode(event)).digest()).digest()
    need(claims.get("nonce") == nonce, "not our nonce")
    boot_digest, events = sha256(e[4]).digest(), dict(log)
    need(claims["sericin-boot"] == boot_digest == epoch[1] == events["ready"], "boot digest")
    need(claims["sericin-keyset"] == sha256(e[5]).digest() and claims["sericin-profile"] == b"sericin/1", "keyset")
    need(
        " ".join(n for n, _ in log) == "image-id config operator model gpu ready" and rtmr3 == td[472:520],
        "RTMR3 is not the log's",
    )
    need(claims["sericin-log"] == sha256(e[6]).digest() and events["image-id"] == boot[5], "log or image id")
    need(sha384(e[7]).digest() == events["config"] == boot[6] == td[184:232], "config, or MRCONFIGID")
    need(sha384(e[8]).digest() == events["operator"] == boot[7], "operator")
    need(events["model"] == sha256(encode([m[2] for m in boot[8]])).digest(), "models")
    need([k[1] for k in boot[4]] == ["receipt", "identity", "net"] and len({k[3] for k in boot[4]}) == 3, "keys")
    need(not claims["sericin-gpu"] and not events["gpu"], "GPU evidence is beyond this client")
    need(epoch[4] <= now + 300 and now <= epoch[5] <= epoch[4] + 5400, "epoch's window")
    return boot, epoch


def check_receipt(answer: Answer, want: dict[str, int], key: bytes) -> dict[str, int]:
    """Check signature and every field that is in `want`; give all fields."""
    item = decode(answer.receipt)
    cell = read_boc(item[1])
    Ed25519PublicKey.from_public_bytes(key).verify(item[2], cell.rep()[1])  # or InvalidSignature
    fields = receipt_fields(cell)
    need(fields | want == fields, f"receipt's {[n for n in want if want[n] != fields[n]]}")
    return fields


def call(address: str, path: str, body: bytes | None = None) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection(address, timeout=60)
    connection.request("POST" if body else "GET", path, body, {"Connection": "close"})
    need((response := connection.getresponse()).status == 200, f"{path}: {response.status}")
    return response


def ask(address: str, model: str, openai: dict[str, Any], padding: int = 1) -> tuple[Answer, dict[str, int]]:
    """Verify the server, ask once, and check the receipt."""
    num, now, nonce, mine = int.from_bytes, int(time.time()), os.urandom(32), os.urandom(32)
    hello = encode({1: ["sericin/1"], 2: nonce, 3: "client"})
    evidence = decode(call(address, "/v1/sericin/attest", hello).read(4 << 20))
    boot, epoch = check_evidence(evidence, nonce, now)
    seal, rid, keyset = epoch[3][0], os.urandom(16), sha256(evidence[5]).digest()
    header = {1: 1, 2: [0x647A, 1, 2], 3: seal[1], 4: keyset, 5: rid, 6: now, 7: padding, 8: openai["stream"], 9: model}
    x = seal_seed(seal[2], encode(header), os.urandom(32))
    text = json.dumps(openai | {"model": model}).encode()
    body = {1: "/v1/chat/completions", 2: mine, 3: os.urandom(32), 4: epoch[2], 5: bytes(32), 6: text}
    request = x.request(encode(body))
    answer = Answer(x, call(address, "/v1/sericin/sealed", request).read, padding)
    need(not answer.error, f"sealed refusal {sequence(answer.error)}")
    start, usage = answer.items[0], next(i[11] for i in answer.items if i[1] == 3)
    want = dict(zip(("prompt", "cached", "completion", "reasoning"), usage, strict=True))
    want |= answer.commitments(x, request, encode(body)) | {"epoch": epoch[2], "status": 0, "machine": boot[2] == "tdx"}
    want |= {"nonce": num(mine, "big"), "request_id": num(rid, "big"), "image": num(boot[5], "big")}
    record = L + b"model-record" + encode(next(m for m in boot[8] if m[1] == model))
    for name, what in (("boot", evidence[4]), ("params", L + b"params" + encode(start[4])), ("model", record)):
        want[name] = num(sha256(what).digest(), "big")
    return answer, check_receipt(answer, want, boot[4][0][3])


if __name__ == "__main__":
    question = {"messages": [{"role": "user", "content": sys.argv[3]}], "stream": True, "max_tokens": 32}
    got, proof = ask(sys.argv[1], sys.argv[2], question)
    print(got.text, proof, sep="\n")
