# SPDX-License-Identifier: Apache-2.0
"""Tokens of the vendor's remote service: which are believed, and that they replace no check of the evidence."""
# ruff: noqa: E501 - one row, one line

from __future__ import annotations

import json
from base64 import urlsafe_b64encode
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import cache
from hashlib import sha256
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hmac import HMAC
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from attestation.errors import AttestationError
from attestation.gpu.eat import ISSUER, VerifiedEat, appraise_eat, parse_keys, verify_eat
from enclave.simulator.gpu_report import sign_raw
from tests.gpu_cases import DAY, NONCE, NOW, GpuCase
from tests.vectors_root import vectors

KID = "nv-eat-kid-test"


@cache
def key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP384R1())


@cache
def stranger() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP384R1())


def b64(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def es384(signed: bytes) -> bytes:
    return sign_raw(key(), signed)


def ueid() -> str:
    return GpuCase().verified().devices[0].ueid


@dataclass(kw_only=True)
class Token:
    """One overall token and one for a GPU, signed as they stand."""

    header: Any = field(default_factory=lambda: {"alg": "ES384", "kid": KID, "typ": "JWT"})
    overall: dict[str, Any] = field(default_factory=dict)
    device: dict[str, Any] = field(default_factory=dict)
    name: str = "GPU-0"
    submods: Callable[[dict[str, Any]], dict[str, Any]] = lambda found: found
    more: dict[str, str] = field(default_factory=dict)
    sign: Callable[[bytes], bytes] = es384
    after: Callable[[str], str] = lambda text: text

    def jwt(self, claims: dict[str, Any]) -> str:
        signed = b64(json.dumps(self.header).encode()) + "." + b64(json.dumps(claims).encode())
        return signed + "." + b64(self.sign(signed.encode()))

    def encode(self) -> bytes:
        begins = int(NOW.timestamp()) - 60
        common = {"iss": ISSUER, "nbf": begins, "iat": begins, "exp": begins + 3600, "eat_nonce": NONCE.hex()}
        about = {"ueid": ueid(), "hwmodel": "GH100 A01 GSP BROM", "measres": "success", "dbgstat": "disabled"}
        device = self.jwt({k: v for k, v in (common | about | self.device).items() if v is not None})
        digests = self.submods({self.name: ["DIGEST", ["SHA-256", sha256(device.encode()).hexdigest()]]})
        claims = common | {"x-nvidia-overall-att-result": True, "submods": digests} | self.overall
        overall = self.jwt({k: v for k, v in claims.items() if v is not None})
        return self.after(json.dumps([["JWT", overall], {self.name: device} | self.more])).encode()

    def verified(self, **changes: Any) -> VerifiedEat:
        arguments: dict[str, Any] = {"keys": {KID: key().public_key()}, "nonce": NONCE, "now": NOW}
        return verify_eat(self.encode(), **(arguments | changes))


def hmac_by_public_key(signed: bytes) -> bytes:
    mac = HMAC(key().public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo), SHA256())
    mac.update(signed)
    return mac.finalize()


def es256(signed: bytes) -> bytes:
    r, s = decode_dss_signature(key().sign(signed, ec.ECDSA(SHA256())))
    return r.to_bytes(48, "big") + s.to_bytes(48, "big")


def padded(signed: bytes) -> bytes:
    signature = es384(signed)
    return signature[:48] + b"\0" + signature[48:]


def alg(name: str, **more: Any) -> dict[str, Any]:
    return {"alg": name, "kid": KID, **more}


SIGNATURE, MISMATCH, MALFORMED = "EatSignatureInvalid", "EatMismatch", "MalformedEat"
AT = int(NOW.timestamp())
ROWS: list[tuple[str, Token, str]] = [
    ("without an algorithm", Token(header=alg("none"), sign=lambda _: b"\0"), SIGNATURE),
    ("under HMAC by the public key", Token(header=alg("HS256"), sign=hmac_by_public_key), SIGNATURE),
    ("under ES256", Token(header=alg("ES256"), sign=es256), SIGNATURE),
    ("called ES384, signed with SHA-256", Token(sign=es256), SIGNATURE),
    ("of another key id", Token(header={"alg": "ES384", "kid": "other"}), SIGNATURE),
    ("without a key id", Token(header={"alg": "ES384"}), SIGNATURE),
    ("that brings its key", Token(header=alg("ES384", jwk={"kty": "EC"})), SIGNATURE),
    ("that says where its key is", Token(header=alg("ES384", jku="https://evil.test/jwks")), SIGNATURE),
    ("that brings its certificate", Token(header=alg("ES384", x5c=["AAAA"])), SIGNATURE),
    ("with a critical header", Token(header=alg("ES384", crit=["x"])), SIGNATURE),
    ("by a stranger", Token(sign=lambda signed: sign_raw(stranger(), signed)), SIGNATURE),
    ("with a signature of 95 bytes", Token(sign=lambda signed: es384(signed)[:-1]), SIGNATURE),
    ("with a signature of 97 bytes", Token(sign=lambda signed: es384(signed) + b"\0"), SIGNATURE),
    ("with a zero before the same s", Token(sign=padded), SIGNATURE),
    ("with a header that is a list", Token(header=["ES384"]), MALFORMED),
    ("that is over", Token(overall={"exp": AT}), MISMATCH),
    ("of tomorrow", Token(overall={"nbf": AT + 1}), MISMATCH),
    ("whose device's is over", Token(device={"exp": AT}), MISMATCH),
    ("without an end", Token(overall={"exp": None}), MALFORMED),
    ("with a time that is no number", Token(device={"nbf": "1"}), MALFORMED),
    ("with a time past the calendar", Token(overall={"exp": 10**15}), MALFORMED),
    ("with a time of true", Token(overall={"nbf": True}), MALFORMED),
    ("of another issuer", Token(overall={"iss": "https://nras.test"}), MISMATCH),
    ("of a device of another issuer", Token(device={"iss": None}), MISMATCH),
    ("over another nonce", Token(overall={"eat_nonce": "00" * 32}), MISMATCH),
    ("without a nonce", Token(overall={"eat_nonce": None}), MISMATCH),
    ("of a device over another nonce", Token(device={"eat_nonce": "00" * 32}), MISMATCH),
    ("with another digest of the device's", Token(submods=lambda _: {"GPU-0": ["DIGEST", ["SHA-256", "00" * 32]]}), MISMATCH),
    ("with a digest by another name", Token(submods=lambda s: {"GPU-0": ["DIGEST", ["SHA-384", s["GPU-0"][1][1]]]}), MISMATCH),
    ("with one submodule more", Token(submods=lambda s: s | {"GPU-1": s["GPU-0"]}), MISMATCH),
    ("with no submodule", Token(submods=lambda _: {}), MISMATCH),
    ("with submodules of another form", Token(overall={"submods": [1]}), MISMATCH),
    ("with one device more", Token(more={"GPU-1": "a.b.c"}), MISMATCH),
    ("false overall, true of its device", Token(overall={"x-nvidia-overall-att-result": False}), MISMATCH),
    ("true overall, false of its device", Token(device={"measres": "fail"}), MISMATCH),
    ("true by a word", Token(overall={"x-nvidia-overall-att-result": "true"}), MISMATCH),
    ("without a device id", Token(device={"ueid": None}), MALFORMED),
    ("with a device id that is a number", Token(device={"ueid": 7}), MALFORMED),
    ("with a long model", Token(device={"hwmodel": "x" * 257}), MALFORMED),
    ("of a device of another name", Token(name="CPU-0"), MALFORMED),
    ("of a device of a long number", Token(name="GPU-100"), MALFORMED),
    ("of two parts", Token(after=lambda t: t.replace(".", "", 1)), MALFORMED),
    ("in padded base64", Token(after=lambda t: t.replace('["JWT", "', '["JWT", "=')), MALFORMED),
    ("in another frame", Token(after=lambda t: t.replace('"JWT"', '"CWT"', 1)), MALFORMED),
    ("of three parts in its frame", Token(after=lambda t: t[:-1] + ", 1]"), MALFORMED),
    ("as an object", Token(after=lambda _: "{}"), MALFORMED),
    ("with no device", Token(after=lambda t: t[: t.index(", {")] + ", {}]"), MALFORMED),
    ("with a device twice", Token(after=lambda t: t.replace('{"GPU-0"', '{"GPU-0": "x", "GPU-0"')), "JsonDuplicateKey"),
    ("that is no JSON", Token(after=lambda t: t[:-1]), "JsonInvalid"),
    ("that is too long", Token(after=lambda t: t + " " * 300_000), "JsonInvalid"),
]  # fmt: skip


@pytest.mark.parametrize(("token", "code"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
def test_a_token_with_one_thing_wrong(token: Token, code: str) -> None:
    with pytest.raises(AttestationError) as e:
        token.verified()
    assert e.value.code == code


def test_a_token_in_order_is_believed_within_its_window() -> None:
    found = Token(device={"exp": AT + 1800}).verified()
    assert found.overall is True
    assert found.devices[0].ueid == ueid()
    assert found.window.not_after == NOW + timedelta(seconds=1800)
    failed = Token(overall={"x-nvidia-overall-att-result": False}, device={"measres": "fail"}).verified()
    assert (failed.overall, failed.devices[0].success) == (False, False)
    assert Token(header={"alg": "ES384", "kid": KID}).verified().overall


def test_the_strictly_first_and_last_second() -> None:
    assert Token(overall={"nbf": AT, "exp": AT + 1}).verified().overall


def test_a_token_is_appraised_against_the_devices_that_were_verified_here() -> None:
    gpus = GpuCase().verified()
    assert all(f.holds for f in appraise_eat(Token().verified(), gpus))
    other = appraise_eat(Token(device={"ueid": "1"}).verified(), gpus)
    assert [f.rule for f in other if not f.holds] == ["gpu.eat.devices"]
    debug = appraise_eat(Token(device={"dbgstat": "enabled"}).verified(), gpus)
    assert [f.rule for f in debug if not f.holds] == ["gpu.eat.GPU-0"]
    failed = Token(overall={"x-nvidia-overall-att-result": False}, device={"measres": "fail"}).verified()
    assert [f.rule for f in appraise_eat(failed, gpus) if not f.holds] == ["gpu.eat.GPU-0"]


def test_versions_come_from_the_claims_of_the_devices_kind() -> None:
    claims = {
        "x-nvidia-gpu-driver-version": "550.1",
        "x-nvidia-gpu-vbios-version": "96",
        "x-nvidia-switch-bios-version": "x",
    }
    device = Token(device=claims).verified().devices[0]
    assert (device.driver_version, device.vbios_version) == ("550.1", "96")
    switch = Token(device=claims, name="SWITCH-0").verified().devices[0]
    assert (switch.driver_version, switch.vbios_version) == ("", "x")


# ---- keys


def jwk(**changes: Any) -> dict[str, Any]:
    numbers = key().public_key().public_numbers()
    fields = {
        "kty": "EC",
        "crv": "P-384",
        "kid": KID,
        "x": b64(numbers.x.to_bytes(48, "big")),
        "y": b64(numbers.y.to_bytes(48, "big")),
    }
    return {k: v for k, v in (fields | changes).items() if v is not None}


def test_keys_are_read_by_their_id() -> None:
    keys = parse_keys(json.dumps({"keys": [jwk(), jwk(kid="second")]}).encode())
    assert sorted(keys) == [KID, "second"]
    assert Token().verified(keys=keys).overall


@pytest.mark.parametrize(
    "document",
    [
        {}, [], {"keys": []}, {"keys": [7]}, {"keys": [jwk()] * 65}, {"keys": [jwk(), jwk()]}, {"keys": [jwk(kty="RSA")]},
        {"keys": [jwk(crv="P-256")]}, {"keys": [jwk(kid=None)]}, {"keys": [jwk(x=b64(bytes(48)))]}, {"keys": [jwk(y="!")]},
        {"keys": [jwk(x=None)]},
    ],
)  # fmt: skip
def test_keys_of_another_form_are_refused(document: Any) -> None:
    with pytest.raises(AttestationError) as e:
        parse_keys(json.dumps(document).encode())
    assert e.value.code == MALFORMED


def test_the_services_own_sample_is_read_and_not_believed_without_its_key() -> None:
    path = vectors("gpu") / "nras" / "hopper_detached_eat_v3.json"
    for now in (NOW, NOW - 900 * DAY):
        with pytest.raises(AttestationError) as e:
            verify_eat(path.read_bytes(), keys={KID: key().public_key()}, nonce=NONCE, now=now)
        assert e.value.code == SIGNATURE


# ---- to the letter


def refused(work: Callable[[], object]) -> AttestationError:
    with pytest.raises(AttestationError) as e:
        work()
    return e.value


def test_a_token_is_bounded_to_the_letter() -> None:
    assert ISSUER == "https://nras.attestation.nvidia.com"
    assert Token(device={"hwmodel": "x" * 256}).verified().devices[0].hwmodel == "x" * 256
    assert Token(overall={"nbf": 0, "exp": 253402300799}).verified().overall
    assert refused(lambda: Token(overall={"nbf": -1}).verified()).code == "MalformedEat"
    assert refused(lambda: Token(overall={"exp": 253402300800}).verified()).code == "MalformedEat"
    assert Token(
        device={"x-nvidia-gpu-driver-version": "1" * 65, "x-nvidia-gpu-vbios-version": "2" * 65}
    ).verified().devices[0] == replace(Token().verified().devices[0], driver_version="1" * 64, vbios_version="2" * 64)
    assert Token(after=lambda text: text + " " * (262_144 - len(text))).verified().overall
    assert (
        refused(lambda: Token(after=lambda text: text + " " * (262_145 - len(text))).verified()).code == "JsonInvalid"
    )


def test_keys_are_bounded_to_the_letter() -> None:
    assert len(parse_keys(json.dumps({"keys": [jwk()]}).encode())) == 1
    assert len(parse_keys(json.dumps({"keys": [jwk(kid=str(i)) for i in range(64)]}).encode())) == 64
    many = json.dumps({"keys": [jwk(kid=str(i)) for i in range(65)]}).encode()
    e = refused(lambda: parse_keys(many))
    assert (e.code, e.where) == ("MalformedEat", "jwks.keys")


def test_findings_of_a_token_to_the_letter() -> None:
    gpus = GpuCase().verified()
    want = "success, debugging disabled"

    def rows(token: Token) -> list[tuple[str, bool, str, str, str]]:
        return [(f.rule, f.holds, f.code, f.want, f.got) for f in appraise_eat(token.verified(), gpus)]

    same = ("gpu.eat.devices", True, "EatMismatch", f"['{ueid()}']", f"['{ueid()}']")
    name = "gpu.eat.GPU-0"
    assert rows(Token()) == [same, (name, True, "EatMismatch", want, "success True, debugging disabled")]
    debug = Token(device={"dbgstat": "enabled"})
    assert rows(debug) == [same, (name, False, "EatMismatch", want, "success True, debugging not disabled")]
    assert rows(Token(device={"ueid": "1"}))[0] == ("gpu.eat.devices", False, "EatMismatch", f"['{ueid()}']", "['1']")


def test_a_token_of_sixteen_devices_and_of_one_too_many() -> None:
    shape = [["JWT", "a.b.c"], {f"GPU-{i}": "a.b.c" for i in range(17)}]
    e = refused(lambda: verify_eat(json.dumps(shape).encode(), keys={}, nonce=NONCE, now=NOW))
    assert (e.code, e.where) == ("MalformedEat", "eat")
    shape[1] = {f"GPU-{i}": "a.b.c" for i in range(16)}
    assert refused(lambda: verify_eat(json.dumps(shape).encode(), keys={}, nonce=NONCE, now=NOW)).where == "eat.overall"
    assert int(NOW.timestamp()) == AT
