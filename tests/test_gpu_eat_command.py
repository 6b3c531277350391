# SPDX-License-Identifier: Apache-2.0
"""`sericin gpu verify --eat`: a token adds to what was verified here, and replaces none of it."""
# ruff: noqa: E501 - one row, one line

from __future__ import annotations

import json
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from enclave.simulator.gpu_report import sign_raw
from tests.forged import policy_document
from tests.gpu_cases import NONCE, authority, machine
from tests.test_gpu_command import AT as TIME
from tests.test_gpu_command import document, files, run, verify
from tests.test_gpu_eat import AT, Token, jwk, stranger, ueid
from tests.vectors_root import vectors

__all__ = ["files"]  # a fixture


@pytest.fixture
def waived(files: Path) -> Path:
    """Let the policy ask nothing of GPUs, so that files alone are accepted under it."""
    roots = [i.certificate.public_bytes(Encoding.PEM).decode() for i in (authority().device_root, authority().rim_root)]
    made = policy_document()["roots"] | {"gpu_device_root": roots[0], "gpu_rim_root": roots[1]}
    (files / "policy").write_text(json.dumps(policy_document(roots=made)))
    return files


def with_token(folder: Path, token: Token | bytes, *more: object, keys: Any = None) -> tuple[int, dict[str, Any]]:
    """Verify the folder's evidence beside a token. Gives the exit code and the answer."""
    (folder / "token").write_bytes(token if isinstance(token, bytes) else token.encode())
    (folder / "keys").write_text(json.dumps({"keys": [jwk()]} if keys is None else keys))
    named = ("--policy", folder / "policy", "--eat", folder / "token", "--eat-keys", folder / "keys", "--json")
    result = verify(folder, *named, *more)
    return result.exit_code, document(result)


def test_a_token_that_agrees_adds_its_claims(waived: Path) -> None:
    code, found = with_token(waived, Token(), "--nonce", NONCE.hex())
    assert (code, found["ok"], found["authentic"], found["appraised"], found["confidential"]) == (
        0,
        True,
        True,
        False,
        False,
    )
    assert [f["rule"] for f in found["findings"]] == ["gpu.eat.devices", "gpu.eat.GPU-0"]
    assert (found["eat"]["overall"], found["eat"]["agrees"]) == (True, True)
    assert found["eat"]["devices"][0]["ueid"] == ueid() == found["devices"][0]["ueid"]


def test_without_a_token_there_is_no_word_of_one(waived: Path) -> None:
    found = document(verify(waived, "--policy", waived / "policy", "--json"))
    assert (found["ok"], found["eat"], found["findings"]) == (True, None, [])


def test_a_person_sees_what_the_token_adds(waived: Path) -> None:
    with_token(waived, Token())
    named = ("--policy", waived / "policy", "--eat", waived / "token", "--eat-keys", waived / "keys")
    shown = verify(waived, *named, "--all").stdout
    assert "what the token of the remote service adds" in shown
    assert "gpu.eat.GPU-0" in shown
    assert "NOT APPRAISED" in shown


REFUSED: list[tuple[str, Token, str]] = [
    ("about another device", Token(device={"ueid": "1"}), "EatMismatch"),
    ("that speaks ill of the device", Token(overall={"x-nvidia-overall-att-result": False}, device={"measres": "fail"}), "EatMismatch"),
    ("that finds debugging on", Token(device={"dbgstat": "enabled"}), "EatMismatch"),
    ("over another nonce", Token(overall={"eat_nonce": "00" * 32}), "EatMismatch"),
    ("that is over", Token(overall={"exp": AT}), "EatMismatch"),
    ("by a key that is not in the file", Token(header={"alg": "ES384", "kid": "other"}), "EatSignatureInvalid"),
    ("by a stranger under a known id", Token(sign=lambda signed: sign_raw(stranger(), signed)), "EatSignatureInvalid"),
    ("that brings its own key", Token(header={"alg": "ES384", "kid": "other", "jwk": jwk()}), "EatSignatureInvalid"),
    ("of another form", Token(after=lambda _: "[]"), "MalformedEat"),
]  # fmt: skip


@pytest.mark.parametrize(("token", "code"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_what_would_be_accepted_is_refused_with_a_token(waived: Path, token: Token, code: str) -> None:
    exit_code, found = with_token(waived, token)
    assert (exit_code, found["ok"], found["code"]) == (3 if code == "MalformedEat" else 4, False, code)
    assert found["authentic"] is True, "what the devices signed is as true as before"


def test_a_disagreement_names_the_device(waived: Path) -> None:
    _, found = with_token(waived, Token(device={"ueid": "1"}))
    assert found["eat"]["agrees"] is False
    assert [(f["rule"], f["got"]) for f in found["findings"] if not f["holds"]] == [("gpu.eat.devices", "['1']")]


def test_a_good_token_saves_nothing(files: Path) -> None:
    """Evidence that is untrusted, malformed or refused stays so, whatever the service said of it."""
    code, found = with_token(files, Token(), "--nonce", NONCE.hex())
    assert (code, found["code"], found["eat"]["agrees"]) == (5, "GpuModeRejected", True)
    report = (files / "report").read_text()
    (files / "report").write_text(report[:-2] + ("00" if report[-2:] != "00" else "01"))
    code, found = with_token(files, Token())
    assert (code, found["code"], found["authentic"], found["eat"]) == (4, "GpuReportSignatureInvalid", False, None)
    (files / "report").write_text(report[:-2])
    code, found = with_token(files, Token())
    assert (code, found["authentic"], found["eat"]) == (3, False, None)


def test_a_good_token_is_no_root(files: Path) -> None:
    (files / "token").write_bytes(Token().encode())
    (files / "keys").write_text(json.dumps({"keys": [jwk()]}))
    result = verify(files, "--eat", files / "token", "--eat-keys", files / "keys", "--json")
    assert (result.exit_code, document(result)["code"], document(result)["confidential"]) == (4, "UntrustedRoot", False)


@pytest.mark.parametrize("option", ["--eat", "--eat-keys"])
def test_a_token_and_its_keys_go_together(files: Path, option: str) -> None:
    assert verify(files, option, files / "policy").exit_code == 2


@pytest.mark.parametrize("keys", [{}, {"keys": []}, {"keys": [jwk(crv="P-256")]}])
def test_keys_of_another_form_are_malformed(waived: Path, keys: Any) -> None:
    code, found = with_token(waived, Token(), keys=keys)
    assert (code, found["code"], found["ok"]) == (3, "MalformedEat", False)


def test_files_that_are_not_there_or_too_long_are_a_usage_error(waived: Path) -> None:
    (waived / "long").write_bytes(bytes(300_000))
    for token in ("absent", "long"):
        named = ("--eat", waived / token, "--eat-keys", waived / token, "--policy", waived / "policy")
        assert verify(waived, *named).exit_code == 2


def test_devices_of_several_nonces_have_no_token(waived: Path) -> None:
    reports = [device.report(bytes([i]) * 32) for i, device in enumerate(machine("mpt", 2))]
    chains = [device.pem for device in machine("mpt", 2)]
    listed = [
        {"evidence": b64encode(report).decode(), "certificate": b64encode(chain).decode()}
        for report, chain in zip(reports, chains, strict=True)
    ]
    (waived / "list.json").write_text(json.dumps(listed))
    (waived / "token").write_bytes(Token().encode())
    (waived / "keys").write_text(json.dumps({"keys": [jwk()]}))
    named = ("verify", waived / "list.json", "--at", TIME, "--policy", waived / "policy")
    assert run(*named).exit_code == 0
    result = run(*named, "--eat", waived / "token", "--eat-keys", waived / "keys")
    assert (result.exit_code, "one nonce" in result.stderr) == (2, True)


def test_the_services_own_sample_beside_its_own_evidence_is_not_believed_without_its_key(tmp_path: Path) -> None:
    folder = vectors("gpu")
    (tmp_path / "keys").write_text(json.dumps({"keys": [jwk()]}))
    named = ("--report", folder / "hopper_550" / "report.hex", "--chain", folder / "hopper_550" / "chain.pem")
    token = ("--eat", folder / "nras" / "hopper_detached_eat_v3.json", "--eat-keys", tmp_path / "keys")
    result = run("verify", *named, *token, "--at", "2025-06-11T00:45:00Z", "--json")
    found = document(result)
    assert (result.exit_code, found["authentic"], found["code"]) == (4, True, "EatSignatureInvalid")
