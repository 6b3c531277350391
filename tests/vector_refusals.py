# SPDX-License-Identifier: Apache-2.0
"""The refusing half of the vectors: one mutation each, with the family and code of the error it must give."""

from __future__ import annotations

from typing import Any

from tests.independent_client import DATA, DUMMY, ERROR, FINAL, RECEIPT, REQUEST, RESPONSE
from tests.second_cbor import encode
from tests.vector_maker import NOW, Talk, World, fixed, plaintext

Row = tuple[str, bytes, str]
CBOR_GOOD = {
    "smallest": "00",
    "23 in one byte": "17",
    "24 in two bytes": "1818",
    "2^64 - 1": "1bffffffffffffffff",
    "bytes, text, booleans, null": "8542010262c3a9f4f5f6",
    "map of integers in order": "a3010018180119010002",
    "map of texts, shorter first": "a2617a0062616100",
    "eight deep": "8181818181818180",
}
CBOR_BAD = {
    "nothing": "",
    "trailing byte": "0000",
    "cut short integer": "19 01",
    "cut short string": "43 0102",
    "cut short array": "82 01",
    "integer not the shortest": "1817",
    "integer in nine bytes": "1b0000000000000001",
    "length not the shortest": "580101",
    "array length not the shortest": "980100",
    "negative integer": "20",
    "float": "fb3ff0000000000000",
    "half float": "f93c00",
    "undefined": "f7",
    "simple value": "f8ff",
    "simple value below 20": "e0",
    "break alone": "ff",
    "indefinite bytes": "5f4101ff",
    "indefinite text": "7f6161ff",
    "indefinite array": "9f00ff",
    "indefinite map": "bf0000ff",
    "duplicate key": "a200010002",
    "keys out of order": "a202000100",
    "text keys out of order": "a2626161006 17a00".replace(" ", ""),
    "keys of two types": "a2000061 6100".replace(" ", ""),
    "byte string as key": "a1410100",
    "boolean as key": "a1f500",
    "null as key": "a1f600",
    "array as key": "a1800 0".replace(" ", ""),
    "not UTF-8": "62c328",
    "surrogate in UTF-8": "63eda080",
    "tag of a date": "c11a514b67b0",
    "bignum": "c249010000000000000000",
    "small bignum": "c24101",
    "regular expression": "d8236161",
    "shared reference to itself": "d81c81d81d00",
    "set": "d9010281 00".replace(" ", ""),
    "self-described CBOR": "d9d9f700",
    "reserved additional information": "1c",
    "array of 2^63 items": "9b8000000000000000",
    "string of 2^32 bytes": "5b0000000100000000",
    "nine deep": "818181818181818180",
    "three hundred deep": "81" * 300 + "80",
}


def refusals(w: World, talk: Talk) -> dict[str, Any]:
    """Give every refusing section."""
    malformed, untrusted = "Malformed", "Untrusted"
    return {
        "cbor": {
            "accepted": [{"name": n, "input": bytes.fromhex(v)} for n, v in CBOR_GOOD.items()],
            "refused": rows(malformed, [(n, bytes.fromhex(v), "MalformedCbor") for n, v in CBOR_BAD.items()]),
        },
        "refused": {
            "header": rows(malformed, headers(talk)),
            "request": request_rows(talk),
            "body": rows(malformed, bodies(talk)),
            "response": response_rows(talk),
            "boot": rows(malformed, boots(w)),
            "epoch": rows(malformed, epochs(w)),
            "log": rows(malformed, logs(w)),
            "claims": rows(malformed, claim_rows(w)),
            "window": rows(untrusted, windows(w)),
        },
    }


def rows(family: str, cases: list[Row]) -> list[dict[str, Any]]:
    """Give rows of one family."""
    return [{"name": n, "input": v, "family": family, "code": code} for n, v, code in cases]


def bent(good: dict[Any, Any], code: str, changes: dict[str, dict[Any, Any]]) -> list[Row]:
    """Give one row per change; a value of None drops the key."""
    out = []
    for name, change in changes.items():
        value = {k: v for k, v in (good | change).items() if v is not None}
        out.append((name, encode(value), code))
    return out


def headers(talk: Talk) -> list[Row]:
    """Bend the header."""
    good = talk.header_map
    changes: dict[str, dict[Any, Any]] = {
        "version 2": {1: 2},
        "another KEM": {2: [0x20, 1, 2]},
        "another AEAD": {2: [0x647A, 1, 3]},
        "suite of four": {2: [0x647A, 1, 2, 0]},
        "kid of 7 bytes": {3: b"1234567"},
        "keyset of 31 bytes": {4: bytes(31)},
        "request id of 15 bytes": {5: bytes(15)},
        "request id as text": {5: "0123456789abcdef"},
        "time as text": {6: "now"},
        "time as a boolean": {6: True},
        "padding 3": {7: 3},
        "padding as a boolean": {7: True},
        "stream as a number": {8: 1},
        "model as bytes": {9: b"model"},
        "model missing": {9: None},
        "version missing": {1: None},
        "unknown key 10": {10: 0},
        "unknown key 63": {63: 0},
        "unknown key 0": {0: 0},
        "over 1024 bytes": {64: bytes(1024)},
    }
    out = bent(good, "MalformedHeader", changes)
    return [*out, ("text keys", encode({"1": 1}), "MalformedHeader"), ("an array", encode([1]), "MalformedHeader")]


def request_rows(talk: Talk) -> list[dict[str, Any]]:
    """Bend the request's frames: `input` stands in place of the frames, after the true header and sealed seed."""
    data, final = talk.request_frames()
    size = len(data) - 20
    seal = talk.x.seal
    first = plaintext(DATA, talk.body, size)
    end = plaintext(FINAL, b"", size)
    cut, bad = "StreamTruncated", "FrameAuthenticationFailed"
    false: list[Row] = [
        ("bad tag", data[:-1] + bytes([data[-1] ^ 1]) + final, bad),
        ("bad tag on the final frame", data + final[:-1] + bytes([final[-1] ^ 1]), bad),
        ("bit of the ciphertext flipped", data[:9] + bytes([data[9] ^ 1]) + data[10:] + final, bad),
        ("swapped", final + data, bad),
        ("duplicated", data + data + final, bad),
        ("response's direction", seal(first, RESPONSE, 0, talk.nonce) + final, bad),
        ("sequence from 1", seal(first, REQUEST, 1) + seal(end, REQUEST, 2), bad),
        ("no final frame", data, cut),
        ("cut inside the final frame", data + final[:-1], cut),
        ("cut inside a length", data + final[:2], cut),
        ("nothing", b"", cut),
        ("garbage after the final frame", data + final + b"\0", "StreamOverrun"),
        ("true frame after the final frame", data + final + seal(end, REQUEST, 2), "StreamOverrun"),
    ]
    pair = [seal(p, REQUEST, i) for i, p in enumerate([b"\0\0\1x".ljust(size, b"\0"), end + b"\0"])]
    shapes: dict[str, bytes] = {
        "frames of two sizes": b"".join(pair),
        "final alone": seal(end, REQUEST, 0),
        "dummy frame": data + seal(plaintext(DUMMY, b"", size), REQUEST, 1) + seal(end, REQUEST, 2),
        "error frame": data + seal(plaintext(ERROR, b"x", size), REQUEST, 1) + seal(end, REQUEST, 2),
        "receipt frame": data + seal(plaintext(RECEIPT, b"x", size), REQUEST, 1) + seal(end, REQUEST, 2),
        "type 5": data + seal(plaintext(5, b"", size), REQUEST, 1) + seal(end, REQUEST, 2),
        "zeros not zero": seal(first[:-1] + b"\1", REQUEST, 0) + final,
        "final with a payload": data + seal(plaintext(FINAL, b"x", size), REQUEST, 1),
        "final with zeros not zero": data + seal(end[:-1] + b"\1", REQUEST, 1),
        "payload longer than the frame": seal(b"\0\xff\xff" + first[3:], REQUEST, 0) + final,
        "plaintext over 16384": seal(plaintext(DATA, talk.body, 16385), REQUEST, 0),
        "plaintext of 2 bytes": seal(b"\0\0", REQUEST, 0),
        "length of 2^32 - 1": b"\xff\xff\xff\xff" + data[4:] + final,
        "length of 0": bytes(4) + data + final,
    }
    return rows("Untrusted", false) + rows("Malformed", [(n, v, "MalformedFrame") for n, v in shapes.items()])


def bodies(talk: Talk) -> list[Row]:
    """Bend the request's body."""
    changes: dict[str, dict[Any, Any]] = {
        "endpoint missing": {1: None},
        "endpoint unknown": {1: "/v1/other"},
        "client nonce of 31 bytes": {2: bytes(31)},
        "run id of 33 bytes": {3: bytes(33)},
        "first epoch as text": {4: "3"},
        "policy digest missing": {5: None},
        "OpenAI body as text": {6: "{}"},
        "tenant secret of 16 bytes": {7: bytes(16)},
        "account of 20 bytes": {8: bytes(20)},
        "maximum as bytes": {10: b"\1"},
        "voucher over 1 KiB": {11: bytes(1025)},
        "unknown key 12": {12: 0},
        "unknown key 63": {63: 0},
    }
    return bent(talk.body_map, "MalformedRequest", changes)


def response_rows(talk: Talk) -> list[dict[str, Any]]:
    """Bend a whole response body, of padding `cell`; the unbent one is the row `good`."""
    item, error = encode({1: 0, 2: NOW, 3: b"", 4: {}, 5: 0}), encode({1: "engine_failed"})
    start, nonce = (DATA, item), talk.nonce

    def made(*parts: tuple[int, bytes]) -> bytes:
        return nonce + b"".join(talk.response(list(parts)))

    one, two, three = talk.response([start, (ERROR, error), (FINAL, b"")])
    good = nonce + one + two + three
    bad, cut = "FrameAuthenticationFailed", "StreamTruncated"
    false: list[Row] = [
        ("bad tag", good[:-1] + bytes([good[-1] ^ 1]), bad),
        ("bad tag in the middle", nonce + one + two[:-1] + bytes([two[-1] ^ 1]) + three, bad),
        ("another resp_nonce", bytes([nonce[0] ^ 1]) + good[1:], bad),
        ("swapped", nonce + two + one + three, bad),
        ("duplicated", nonce + one + one + two + three, bad),
        ("dropped", nonce + one + three, bad),
        ("request's keys", nonce + talk.x.seal(plaintext(*start, 128), REQUEST, 0) + two + three, bad),
        ("no final frame", nonce + one + two, cut),
        ("cut inside a frame", good[:-40], cut),
        ("cut inside resp_nonce", nonce[:31], cut),
        ("nothing", b"", cut),
        ("garbage after the final frame", good + b"\0", "StreamOverrun"),
        ("true frame after the final frame", good + talk.response_frame(3, DUMMY, b""), "StreamOverrun"),
    ]
    rest = talk.response_frame(1, ERROR, error) + talk.response_frame(2, FINAL, b"")

    def first(text: bytes) -> bytes:
        return nonce + talk.x.seal(text, RESPONSE, 0, nonce) + rest

    text, end, proof = plaintext(DATA, item, 128), (FINAL, b""), (RECEIPT, b"\xa0")
    shapes: dict[str, bytes] = {
        "zeros not zero": first(text[:-1] + b"\1"),
        "type 5": first(b"\5" + text[1:]),
        "payload longer than the frame": first(b"\0\0\x7e" + text[3:]),
        "dummy with a payload": first(b"\1\0\1" + text[3:].ljust(125, b"\0")[:125]),
        "final with a payload": made(start, (ERROR, error), (FINAL, b"x")),
        "frame larger than the cell": first(text + b"\0"),
        "frame smaller than the cell": first(text[:-1]),
        "data after error": made(start, (ERROR, error), start, end),
        "data after receipt": made(start, proof, start, end),
        "error after receipt": made(start, proof, (ERROR, error), end),
        "dummy after receipt": made(start, proof, (DUMMY, b""), end),
        "length of 2^32 - 1": nonce + b"\xff\xff\xff\xff" + good[36:],
        "length of 0": nonce + bytes(4) + good[32:],
        "two error items": made(start, (ERROR, error), (ERROR, error), end),
        "error item with unknown key 4": made(start, (ERROR, encode({1: "busy", 4: 0})), end),
        "error item cut short": made(start, (ERROR, error[:-1]), end),
        "data item with unknown key 12": made((DATA, encode({1: 0, 2: NOW, 3: b"", 4: {}, 5: 0, 12: 0})), *[end]),
        "data item of unknown kind": made((DATA, encode({1: 5})), end),
        "data item without kind": made((DATA, encode({2: NOW})), end),
        "data item not deterministic": made((DATA, bytes.fromhex("a20218000101")), end),
        "data cut inside an item": made((DATA, item[:-1]), end),
    }
    out = [{"name": "good", "input": good, "family": None, "code": None}]
    return out + rows("Untrusted", false) + rows("Malformed", [(n, v, "MalformedFrame") for n, v in shapes.items()])


def boots(w: World) -> list[Row]:
    """Bend the boot map."""
    m: Any = w.boot_map
    receipt, identity, net = m[4]
    record: Any = w.record
    changes: dict[str, dict[Any, Any]] = {
        "another profile": {1: "sericin/2"},
        "another machine": {2: "sev"},
        "instance id of 15 bytes": {3: bytes(15)},
        "key missing": {4: [receipt, identity]},
        "key twice": {4: [receipt, receipt, identity, net]},
        "keys in another order": {4: [identity, receipt, net]},
        "one key in two roles": {4: [receipt, identity, net | {3: receipt[3]}]},
        "key of 31 bytes": {4: [receipt | {3: bytes(31)}, identity, net]},
        "another algorithm": {4: [receipt | {2: "ed448"}, identity, net]},
        "key with unknown key 4": {4: [receipt | {4: 0}, identity, net]},
        "image id of 48 bytes": {5: bytes(48)},
        "config digest of 32 bytes": {6: bytes(32)},
        "operator digest missing": {7: None},
        "no model": {8: []},
        "seventeen models": {8: [w.record] * 17},
        "model name of 65 bytes": {8: [w.record | {1: "m" * 65}]},
        "engine build of 257 bytes": {8: [w.record | {5: "e" * 257}]},
        "model with unknown key 9": {8: [w.record | {9: 0}]},
        "settings with a number for a boolean": {8: [w.record | {6: record[6] | {3: 0}}]},
        "limits missing": {9: None},
        "limits with unknown key 4": {9: m[9] | {4: 0}},
        "anchor within as text": {10: "86400"},
        "unknown key 12": {12: 0},
        "unknown key 63": {63: 0},
    }
    return bent(w.boot_map, "MalformedBoot", changes)


def epochs(w: World) -> list[Row]:
    """Bend the epoch map."""
    m: Any = w.epoch_map
    key = m[3][0]
    changes: dict[str, dict[Any, Any]] = {
        "boot digest of 31 bytes": {1: bytes(31)},
        "number 0": {2: 0},
        "no seal key": {3: []},
        "five seal keys": {3: [key] * 5},
        "kid of another key": {3: [key | {1: bytes(8)}]},
        "public key of 1184 bytes": {3: [{1: key[1], 2: bytes(1184)}]},
        "not_after missing": {5: None},
        "ends before it begins": {5: NOW - 601},
        "beacon without seqno": {6: {1: fixed("beacon")}},
        "unknown key 7": {7: 0},
    }
    return bent(w.epoch_map, "MalformedEpoch", changes)


def logs(w: World) -> list[Row]:
    """Bend the runtime log."""
    events = w.events
    changes: dict[str, list[Any]] = {
        "empty": [],
        "not closed": events[:-1],
        "event after ready": [*events, ["late", b""]],
        "two in another order": [events[1], events[0], *events[2:]],
        "event missing": events[:2] + events[3:],
        "event twice": [events[0], *events],
        "unknown name": [["image-ID", events[0][1]], *events[1:]],
        "payload over 1024 bytes": [["image-id", bytes(1025)], *events[1:]],
        "payload as text": [["image-id", "x"], *events[1:]],
        "event of three": [[*events[0], 0], *events[1:]],
        "image id of 31 bytes": [["image-id", bytes(31)], *events[1:]],
        "sixty-five events": [["image-id", bytes(32)]] * 65,
    }
    out = [(n, encode(v), "MalformedRuntimeLog") for n, v in changes.items()]
    return [*out, ("a map", encode({1: b""}), "MalformedRuntimeLog")]


def claim_rows(w: World) -> list[Row]:
    """Bend the claims."""
    changes: dict[str, dict[Any, Any]] = {
        "unknown sericin claim": {"sericin-more": b""},
        "boot missing": {"sericin-boot": None},
        "keyset of 31 bytes": {"sericin-keyset": bytes(31)},
        "gpu digest of 31 bytes": {"sericin-gpu": bytes(31)},
        "log as text": {"sericin-log": "x" * 32},
        "nonce of 16 bytes": {"nonce": bytes(16)},
        "key hash not CBOR": {"pubkey-hash": bytes(36)},
        "key hash of another algorithm": {"pubkey-hash": encode([8, bytes(48)])},
        "another profile": {"sericin-profile": b"sericin/2"},
    }
    out = bent(w.claims_map, "MalformedClaims", changes)
    return [*out, ("integer keys", encode({1: b""}), "MalformedClaims")]


def windows(w: World) -> list[Row]:
    """Give epochs that a client with the vectors' clock must refuse (the clock is the exchange header's time)."""
    changes: dict[str, tuple[str, int, int]] = {
        "longer than 90 minutes": ("EpochTooLong", NOW, NOW + 5401),
        "begins in 5 minutes and a second": ("EpochNotYetValid", NOW + 301, NOW + 301 + 4200),
        "over": ("EpochExpired", NOW - 4201, NOW - 1),
    }
    return [(n, encode(w.epoch_map | {4: a, 5: b}), code) for n, (code, a, b) in changes.items()]
