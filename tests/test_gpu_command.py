# SPDX-License-Identifier: Apache-2.0
"""`sericin gpu`: what auditors see, with which exit codes."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from attestation.gpu.appraise import GpuPolicy
from attestation.gpu.evidence import MAX_CRL_BYTES
from client.commands.gpu import command
from enclave.simulator.gpu_crl import sign_crl
from tests.forged import policy_document
from tests.gpu_cases import DAY, NONCE, NOW, GpuCase, authority, machine, ocsp_responses, rims
from tests.vectors_root import vectors

AT = NOW.strftime("%Y-%m-%dT%H:%M:%SZ")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(command, [str(a) for a in arguments], catch_exceptions=False)


def document(result: Result) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(result.stdout)
    return found


@pytest.fixture
def files(tmp_path: Path) -> Path:
    device = GpuCase().evidence()[0]
    (tmp_path / "report").write_text(device.report.hex())
    (tmp_path / "chain").write_bytes(device.chain)
    for number, rim in enumerate(rims("GH100")):
        (tmp_path / f"rim{number}").write_bytes(rim)
    for number, answer in enumerate(ocsp_responses("spt", 1)):
        (tmp_path / f"ocsp{number}").write_bytes(base64.b64encode(answer))
    roots = [i.certificate.public_bytes(Encoding.PEM).decode() for i in (authority().device_root, authority().rim_root)]
    made = policy_document()["roots"] | {"gpu_device_root": roots[0], "gpu_rim_root": roots[1]}
    gpu = GpuPolicy.strict_template() | {"count": 1}
    (tmp_path / "policy").write_text(json.dumps(policy_document(roots=made, gpu=gpu)))
    return tmp_path


def verify(files: Path, *more: object) -> Result:
    named: list[object] = ["--report", files / "report", "--chain", files / "chain", "--at", AT]
    for kind in ("rim", "ocsp", "crl"):
        for path in sorted(files.glob(f"{kind}[0-9]*")):
            named += [f"--{kind}", path]
    return run("verify", *named, *more)


def lists_in_place_of_answers(files: Path, *, revoked: Sequence[int] = ()) -> None:
    """Put the lists of all issuers there, in each form that they come in, and take the OCSP responses away."""
    for path in files.glob("ocsp*"):
        path.unlink()
    for number, role in enumerate(("GH100-ica", "GH100-identity", "device-root", "rim-l3", "rim-ca", "rim-root")):
        der = sign_crl(authority().issuers[role], window=(NOW - DAY, NOW + DAY), revoked=revoked)
        forms = (der, x509.load_der_x509_crl(der).public_bytes(Encoding.PEM), base64.encodebytes(der))
        (files / f"crl{number}").write_bytes(forms[number % 3])
    gpu = GpuPolicy.strict_template() | {"count": 1, "revocation": "either"}
    policy = json.loads((files / "policy").read_text()) | {"gpu": gpu}
    (files / "policy").write_text(json.dumps(policy))


def test_show_decodes_and_verifies_nothing(files: Path) -> None:
    found = document(run("show", files / "report", "--json"))
    assert (found["authentic"], found["report"]["nonce"]) == (False, NONCE.hex())
    assert "NOT VERIFIED" in run("show", files / "report").stdout


def test_a_simulated_device_is_untrusted_without_a_policy(files: Path) -> None:
    result = verify(files, "--json")
    assert (result.exit_code, document(result)["code"]) == (4, "UntrustedRoot")


def test_under_its_policy_it_is_authentic_but_says_nothing_of_the_mode(files: Path) -> None:
    """Files hold no word of NVML: a policy that asks for confidential mode refuses them, and says so."""
    result = verify(files, "--policy", files / "policy", "--nonce", NONCE.hex(), "--json")
    found = document(result)
    assert (result.exit_code, found["authentic"], found["code"]) == (5, True, "GpuModeRejected")
    assert [f["rule"].split(".")[-1] for f in found["findings"] if not f["holds"]] == ["cc_state"]
    assert found["confidential"] is False
    (device,), used = found["devices"], {rim["component"]: rim["id"] for rim in found["rims"]}
    assert used == {"driver": device["driver_rim_id"], "vbios": device["firmware_rim_id"]}
    assert (device["feature"], device["compared"], device["mismatches"]) == ("spt", 33, [])
    assert "AUTHENTIC, BUT NOT ACCEPTED" in verify(files, "--policy", files / "policy").stdout


def strictly(files: Path) -> list[object]:
    return ["--policy", files / "policy", "--nonce", NONCE.hex()]


class TestRevocation:
    """Nothing is fetched: revocation is what the files that an auditor has say of it."""

    def test_without_answers_every_certificate_is_named(self, files: Path) -> None:
        for path in files.glob("ocsp*"):
            path.unlink()
        found = document(verify(files, *strictly(files), "--json"))
        assert (found["ok"], found["authentic"]) == (False, True)
        failed = [f["code"] for f in found["findings"] if not f["holds"]]
        assert "GpuRevocationRejected" in failed
        assert len(found["revocation_unknown"]) == 6
        shown = verify(files, *strictly(files)).stdout
        assert f"no OCSP response and no CRL was given for {', '.join(found['revocation_unknown'])}" in shown

    @pytest.mark.parametrize("lists", [False, True])
    def test_answers_or_lists_leave_nothing_open(self, files: Path, *, lists: bool) -> None:
        if lists:
            lists_in_place_of_answers(files)
        found = document(verify(files, *strictly(files), "--json"))
        assert found["revocation_unknown"] == []
        assert [f["holds"] for f in found["findings"] if f["rule"].endswith(".revocation")] == [True]
        (device,) = found["devices"]
        assert {(row["ocsp"], row["crl"]) for row in device["revocation"]} == {(not lists, lists)}
        assert "no OCSP response" not in verify(files, *strictly(files)).stdout

    def test_a_list_that_names_the_device_is_untrusted(self, files: Path) -> None:
        lists_in_place_of_answers(files, revoked=[machine("spt", 1)[0].chain[1].serial_number])
        result = verify(files, *strictly(files), "--json")
        assert (result.exit_code, document(result)["code"]) == (4, "CertificateRevoked")

    @pytest.mark.parametrize(("data", "code"), [(b"no list", 3), (b"\x30" * (2 * MAX_CRL_BYTES + 1), 2)])
    def test_what_is_no_list_is_refused(self, files: Path, data: bytes, code: int) -> None:
        lists_in_place_of_answers(files)
        (files / "crl3").write_bytes(data)
        assert verify(files, *strictly(files)).exit_code == code


def test_another_nonce_is_untrusted(files: Path) -> None:
    result = verify(files, "--policy", files / "policy", "--nonce", "00" * 32, "--json")
    assert (result.exit_code, document(result)["code"]) == (4, "GpuNonceMismatch")
    assert verify(files, "--nonce", "00").exit_code == 2


def test_a_bent_report_is_malformed(files: Path) -> None:
    (files / "report").write_bytes(b"\x12" + bytes(100))
    assert verify(files).exit_code == 3


@pytest.mark.parametrize("arguments", [(), ("--report", "x"), ("list", "--report", "x", "--chain", "y")])
def test_what_to_verify_must_be_said(arguments: tuple[str, ...]) -> None:
    assert run("verify", *arguments).exit_code == 2


@pytest.mark.parametrize("text", ["{}", "[]", "[1]", '[{"certificate":"!"}]', "{", '[{"certificate":"","evidence":7}]'])
def test_a_list_of_another_form_is_a_usage_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "list.json").write_text(text)
    assert run("verify", tmp_path / "list.json").exit_code in {2, 3}


def test_real_evidence_of_eight_gpus_and_four_switches(tmp_path: Path) -> None:
    result = run("verify", vectors("gpu") / "ppcie_570", "--at", "2025-08-01T00:00:00Z", "--json")
    found = document(result)
    assert (result.exit_code, found["authentic"], found["appraised"], found["mode"]) == (0, True, False, "ppcie")
    assert [d["kind"] for d in found["devices"]].count("switch") == 4
    assert len(found["devices"]) == 12
    one = json.loads((vectors("gpu") / "ppcie_570" / "gpu_evidence.json").read_text())
    (tmp_path / "seven.json").write_text(json.dumps(one[1:]))
    result = run("verify", tmp_path / "seven.json", "--at", "2025-08-01T00:00:00Z", "--json")
    assert document(result)["code"] == "GpuTopologyInvalid"
