# SPDX-License-Identifier: Apache-2.0
"""The accepting half of the vectors: every value of docs/protocol.md once, with what lies in between."""

from __future__ import annotations

import hmac
from datetime import UTC, datetime
from hashlib import sha256, sha384
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from tests import independent_client as ic
from tests.independent_client import DATA, DUMMY, ERROR, FINAL, RECEIPT, Cell, L
from tests.second_cbor import encode
from tests.vector_maker import NOW, Talk, World, boc, fixed, receipt_cell

Json = dict[str, Any]
TTL = {0: "off", 1: "cell", 2: "grid"}


def ids(*values: int) -> bytes:
    """Lay out token ids."""
    return b"".join(v.to_bytes(4, "little") for v in values)


def sections(w: World, talk: Talk, terse: Talk) -> Json:
    """Give every accepting section."""
    return {
        "padme": [
            dict(zip(("n", "total", "frames", "plaintext"), (n, *ic.request_shape(n)), strict=True)) for n in SIZES
        ],
        "keys": keys(w),
        "boot": maps(w),
        "log": runtime_log(w),
        "claims": claims(w),
        "gpu": gpu(w),
        "live": live(w),
        "exchange": exchange(w, talk, conversation(talk), 0),
        "exchange_off": exchange(w, terse, conversation(terse), 1),
        "exchange_error": refusal(Talk(w, "error", 1, True)),
        "receipt_extended": extended(w),
    }


SIZES = [1, 255, 256, 257, 272, 273, 511, 512, 513, 1000, 16000, 16381, 16382, 16384, 32761, 32762, 65536, 65537]
SIZES += [131072, 131073, 524288, 524289, 1000000, 1048576]


def keys(w: World) -> Json:
    """Give the fixed keys."""
    signing = {r: {"seed": w.seeds[r], "public": w.public[r]} for r in w.seeds}
    seal = {"mlkem_seed": w.mlkem_seed, "x25519_private": w.x25519, "public": w.seal_public, "kid": w.kid}
    return {"seal": seal, **signing, "tls_spki": w.spki}


def maps(w: World) -> Json:
    """Give boot map, model record and epoch map."""
    carried = w.boot_map | {64: "carried"}
    record = {"fields": w.record, "digest": sha256(L + b"model-record" + encode(w.record)).digest()}
    return {
        "fields": w.boot_map,
        "cbor": w.boot,
        "digest": w.boot_digest,
        "model_record": record,
        "with_key_64": {"cbor": encode(carried), "digest": sha256(encode(carried)).digest()},
        "epoch": {"fields": w.epoch_map, "cbor": w.epoch, "digest": w.keyset},
        "config_file": w.config,
        "operator_file": w.operator,
    }


def runtime_log(w: World) -> Json:
    """Give the runtime log with RTMR3 after each event."""
    value, steps = bytes(48), []
    for event in w.events:
        digest = sha384(L + b"rtmr3-event" + encode(event)).digest()
        value = sha384(value + digest).digest()
        steps.append({"name": event[0], "payload": event[1], "digest": digest, "rtmr3": value})
    return {"events": steps, "cbor": w.log, "sha256": sha256(w.log).digest(), "rtmr3": value}


def claims(w: World) -> Json:
    """Give claims without a nonce, with one, and with a foreign claim; and the certificate's extension."""
    out: Json = {"spki": w.spki}
    nonce = fixed("attest nonce")
    forms = {"plain": {}, "with_nonce": {"nonce": nonce}, "with_foreign": {"x-other": b"ignored but hashed"}}
    for name, more in forms.items():
        data = encode(w.claims_map | more)
        out[name] = {"fields": w.claims_map | more, "cbor": data, "report_data": sha256(data).digest() + bytes(32)}
    quote = fixed("stands for a quote", 64)
    out["extension"] = {"quote": quote, "value": bytes.fromhex("d9ea60") + encode([quote, out["plain"]["cbor"]])}
    return out


def chain_of(serial: int) -> bytes:
    """Give a self-signed certificate of that serial as PEM."""
    key = ed25519.Ed25519PrivateKey.from_private_bytes(fixed("gpu certificate"))
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"vector device {serial:x}")])
    made = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    made = made.serial_number(serial).not_valid_before(datetime(2026, 1, 1, tzinfo=UTC))
    return made.not_valid_after(datetime(2036, 1, 1, tzinfo=UTC)).sign(key, None).public_bytes(Encoding.PEM)


def gpu(w: World) -> Json:
    """Give GPU nonces and the digest of a set of three, given out of order."""
    nonce = fixed("attest nonce")
    bodies: list[tuple[int, Any]] = [(0, w.boot_map[3]), (1, w.keyset), (2, w.keyset + nonce)]
    nonces = [{"kind": k, "body": b, "nonce": sha256(L + b"gpu-nonce" + bytes([k]) + b).digest()} for k, b in bodies]
    serials = [0x0200, 0x7F, 0x0100000000000000000000000000000001]  # numeric order, not order of bytes or of hex
    cc = {"cc_enabled": 1, "dev_tools": 0, "ready": 1}
    devices: list[tuple[int, list[Any]]] = [(s, [fixed(f"signed bytes {s}", 96), chain_of(s), cc]) for s in serials]
    preimage = L + b"gpu-set" + encode([d for _, d in sorted(devices)])
    given = [{"serial": f"{s:x}", "signed": d[0], "chain": d[1], "cc": d[2]} for s, d in devices]
    return {"nonces": nonces, "set": {"devices": given, "preimage": preimage, "digest": sha256(preimage).digest()}}


def live(w: World) -> Json:
    """Give liveness statements with and without a TLS exporter."""
    out: Json = {}
    for name, exporter in (("with_tls", fixed("exporter")), ("without_tls", None)):
        statement = encode(["sericin/1 live", exporter, fixed("live nonce"), w.keyset, NOW])
        signature = w.signed("identity", statement)
        out[name] = {"exporter": exporter, "nonce": fixed("live nonce"), "time": NOW, "statement": statement}
        out[name] |= {"signature": signature, "answer": encode({1: statement, 2: signature})}
    return out


PROMPT, COMPLETION = (1, 9690, 198, 2683, 70000), (788, 12, 4054, 2)
ITEMS: list[dict[int, Any]] = [
    {1: 0, 2: NOW + 1, 3: ids(*PROMPT), 4: {"max_tokens": 16, "seed": 7, "temperature": "0.7"}, 5: 2},
    {1: 1, 6: 0, 7: "Seri", 8: ids(*COMPLETION[:2])},
    {1: 1, 6: 0, 7: "cin, a gum that holds two threads of silk together until hot water parts them" * 2},
    {1: 1, 6: 0, 7: ".", 8: ids(*COMPLETION[2:]), 9: b'{"role":"assistant"}'},
    {1: 2, 6: 0, 10: "stop"},
    {1: 3, 11: [len(PROMPT), 2, len(COMPLETION), 0]},
]


def conversation(talk: Talk) -> list[tuple[int, bytes]]:
    """Give the data frames of the one answer, with dummies where the padding has them."""
    out: list[tuple[int, bytes]] = [(DUMMY, b"")] if talk.padding else []
    for i, item in enumerate(ITEMS):
        out += talk.chunks(DATA, encode(item))
        out += [(DUMMY, b"")] if talk.padding and i == 3 else []
    return out


def exchange(w: World, talk: Talk, parts: list[tuple[int, bytes]], serial: int) -> Json:
    """Give one whole exchange: request, response, commitments and receipt."""
    before = talk.response(parts)
    data = b"".join(p for kind, p in parts if kind == DATA)
    tokens = ids(*PROMPT, *COMPLETION)
    secret = {"request": talk.body, "response": data, "tokens": tokens}
    values = {n: hmac.digest(talk.x.key(f"salt {n}"), v, "sha256") for n, v in secret.items()}
    values["ciphertext"] = sha256(talk.request).digest()
    values["transcript"] = sha256(talk.nonce + b"".join(before)).digest()
    params = {"cbor": encode(ITEMS[0][4]), "digest": sha256(L + b"params" + encode(ITEMS[0][4])).digest()}
    bits = values | {"nonce": talk.body_map[2], "request_id": talk.header_map[5], "params": params["digest"]}
    bits |= {"boot": w.boot_digest, "image": w.boot_map[5], "account": bytes(32)}
    bits |= {"model": sha256(L + b"model-record" + encode(w.record)).digest(), "previous": bytes(32)}
    if serial:
        bits["previous"] = fixed("previous receipt")
    numbers = {"version": 1, "epoch": 3, "serial": serial, "issued_at": NOW + 2, "status": 0, "machine": 0, "finish": 1}
    numbers |= {"prompt": 5, "cached": 2, "completion": 4, "reasoning": 0, "price": 900}
    receipt = receipt_section(w, numbers, bits)
    parts = parts + talk.chunks(RECEIPT, receipt["item"]) + [(FINAL, b"")]
    frames = talk.response(parts)
    return opening(talk) | {
        "resp_nonce": talk.nonce,
        "keys": talk.keys(),
        "response_items": [{"fields": i, "cbor": encode(i)} for i in ITEMS],
        "response_data": data,
        "response_frames": [{"type": k, "payload": p, "wire": f} for (k, p), f in zip(parts, frames, strict=True)],
        "response_body": talk.nonce + b"".join(frames),
        "token_bytes": tokens,
        "commitments": values,
        "params": params,
        "receipt": receipt,
    }


def opening(talk: Talk) -> Json:
    """Give the request side of an exchange."""
    return {
        "padding": TTL[talk.padding],
        "header": {"fields": talk.header_map, "cbor": talk.header, "h": sha256(talk.header).digest()},
        "hpke_info": L + b"request" + sha256(talk.header).digest(),
        "seed": talk.x.seed,
        "sealed_seed": talk.x.sealed_seed,
        "replay_key": sha256(talk.x.sealed_seed).digest(),
        "ctx": talk.x.ctx,
        "body": {"fields": talk.body_map, "cbor": talk.body},
        "request_frames": talk.request_frames(),
        "request_body": talk.request,
    }


def receipt_section(w: World, numbers: dict[str, int], bits: dict[str, bytes], extension: Cell | None = None) -> Json:
    """Give a receipt: fields, each cell's hash, the bag, the signature, the item."""
    root = receipt_cell(numbers | {k: int.from_bytes(v, "big") for k, v in bits.items()}, extension)
    proof = root.rep()[1]
    hashes = dict(zip(("exchange", "identity", "usage", "extension"), (r.rep()[1] for r in root.refs), strict=False))
    signature = w.signed("receipt", proof)
    return {
        "fields": numbers | bits,
        "cell_hashes": hashes | {"more": root.refs[0].refs[0].rep()[1]},
        "hash": proof,
        "boc": boc(root),
        "signature": signature,
        "item": encode({1: boc(root), 2: signature}),
    }


def extended(w: World) -> Json:
    """Give an aborted receipt with an extension of an unknown tag: carried and hashed."""
    zero = dict.fromkeys("ciphertext request response tokens transcript nonce boot image model".split(), bytes(32))
    zero |= {"params": bytes(32), "account": fixed("account"), "previous": fixed("previous receipt")}
    most = {"version": 1, "epoch": 2**32 - 1, "serial": 2**64 - 1, "issued_at": 2**64 - 1, "status": 1, "machine": 1}
    most |= {"prompt": 2**32 - 1, "cached": 0, "completion": 0, "reasoning": 0, "finish": 4, "price": 2**64 - 1}
    inner = Cell(f"{0xFEEDFACE:032b}101", (Cell("1" * 8),))
    return receipt_section(w, most, zero | {"request_id": bytes(16)}, inner)


def refusal(talk: Talk) -> Json:
    """Give an exchange that the enclave declines inside the seal: dummy, error, final."""
    error = encode({1: "busy", 2: 7})
    parts = [(DUMMY, b""), *talk.chunks(ERROR, error), (FINAL, b"")]
    frames = talk.response(parts)
    shown = [{"type": k, "payload": p, "wire": f} for (k, p), f in zip(parts, frames, strict=True)]
    body = talk.nonce + b"".join(frames)
    return opening(talk) | {"resp_nonce": talk.nonce, "error": error, "response_frames": shown, "response_body": body}
