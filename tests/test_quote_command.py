# SPDX-License-Identifier: Apache-2.0
"""`sericin quote` and `collateral`: what auditors see, with which exit codes, and a server that lies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from attestation.policy import Policy
from attestation.tdx.collateral import Collateral
from client.commands.quote import command
from client.quote_check import check_quote
from enclave.simulator.tdx_quote import QuotePlan, ReportPlan
from tests.forged import policy_document, registers
from tests.tdx_cases import NOW, Case, authority

AT = NOW.strftime("%Y-%m-%dT%H:%M:%SZ")


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A quote whose registers the policy knows, its collateral, and the policy."""
    r = registers()
    report = ReportPlan(mr_td=r["mr_td"], rtmr=(r["rtmr0"], r["rtmr1"], r["rtmr2"], bytes(48)), report_data=b"\5" * 64)
    case = Case.new(1)
    case.quote = QuotePlan.of(authority(), report)
    case.build()
    (tmp_path / "quote").write_bytes(case.signed)
    (tmp_path / "quote.hex").write_text(case.signed.hex() + "\n")
    (tmp_path / "collateral.json").write_bytes(case.text)
    root = authority().root_pem
    roots = {"kind": "simulated", "tdx_root": root, "gpu_device_root": root, "gpu_rim_root": root}
    (tmp_path / "policy.json").write_text(json.dumps(policy_document(roots=roots)))
    return tmp_path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(command, [str(a) for a in arguments], catch_exceptions=False)


def document(result: Result) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def verify(files: Path, *more: object, name: str = "quote") -> Result:
    return run("verify", files / name, "--collateral", files / "collateral.json", "--at", AT, *more)


def test_show_decodes_raw_and_hex_alike(files: Path) -> None:
    raw, text = run("show", files / "quote", "--json"), run("show", files / "quote.hex", "--json")
    assert document(raw) == document(text)
    assert document(raw)["quote"]["report_data"] == "05" * 64
    assert document(raw)["authentic"] is False
    assert "NOT VERIFIED" in run("show", files / "quote").stdout


def test_a_quote_is_accepted_under_the_policy_that_knows_it(files: Path) -> None:
    result = verify(files, "--policy", files / "policy.json", "--json")
    found = document(result)
    assert result.exit_code == 0
    assert (found["authentic"], found["appraised"], found["ok"], found["code"]) == (True, True, True, None)
    assert found["confidential"] is False
    assert found["tcb"]["status"] == "UpToDate"
    assert len(found["quote"]["rtmr"]) == 4
    assert all(finding["holds"] for finding in found["findings"])
    assert "NOT CONFIDENTIAL" in verify(files, "--policy", files / "policy.json").stdout


def test_a_simulated_root_is_accepted_only_where_the_caller_says_so(files: Path) -> None:
    quote, collateral = (files / "quote").read_bytes(), Collateral.from_json((files / "collateral.json").read_bytes())
    policy = Policy.parse((files / "policy.json").read_bytes())
    refused = check_quote(quote, collateral, now=NOW, policy=policy)
    assert refused.error is not None
    assert (refused.error.code, refused.exit_code) == ("Unconfidential", 5)
    assert check_quote(quote, collateral, now=NOW, policy=policy, allow_unconfidential=True).error is None


def test_without_a_policy_the_root_is_intels(files: Path) -> None:
    result = verify(files, "--json")
    assert (result.exit_code, document(result)["code"], document(result)["authentic"]) == (4, "UntrustedRoot", False)


def test_report_data_must_be_what_was_asked_for(files: Path) -> None:
    policy = ("--policy", files / "policy.json")
    assert verify(files, *policy, "--report-data", "05" * 64).exit_code == 0
    for wrong in ("05" * 63 + "06", "05" * 32):
        result = verify(files, *policy, "--report-data", wrong, "--json")
        assert (result.exit_code, document(result)["code"]) == (4, "ReportDataMismatch")
    assert verify(files, *policy, "--report-data", "05").exit_code == 2
    (files / "claims").write_bytes(b"claims")
    assert verify(files, *policy, "--report-data", "05" * 64, "--claims", files / "claims").exit_code == 2
    (files / "claims").write_bytes(b"other claims")
    result = verify(files, *policy, "--claims", files / "claims", "--json")
    assert document(result)["code"] == "ReportDataMismatch"


def test_an_event_log_that_comes_to_other_registers_is_untrusted(files: Path) -> None:
    (files / "log.json").write_text(json.dumps([{"imr": 0, "event_type": 4, "digest": "00" * 48}]))
    result = verify(files, "--policy", files / "policy.json", "--event-log", files / "log.json", "--json")
    found = document(result)
    assert (result.exit_code, found["code"]) == (4, "EventLogReplayMismatch")
    assert found["event_log"][0]["equal"] is False


def test_a_policy_refuses_another_image(files: Path) -> None:
    changed = json.loads((files / "policy.json").read_text())
    changed["image"][0]["mr_td"] = "00" * 48
    (files / "other.json").write_text(json.dumps(changed))
    result = verify(files, "--policy", files / "other.json", "--json")
    found = document(result)
    assert (result.exit_code, found["code"], found["authentic"], found["ok"]) == (5, "ImageUnknown", True, False)
    assert "AUTHENTIC, BUT NOT ACCEPTED" in verify(files, "--policy", files / "other.json").stdout


def test_ear_says_what_was_decided(files: Path) -> None:
    found = document(verify(files, "--policy", files / "policy.json", "--ear"))
    tdx = found["submods"]["tdx"]
    assert tdx["ear.status"] == "affirming"
    assert tdx["ear.trustworthiness-vector"]["hardware"] == 2
    assert tdx["ear.appraisal-policy-id"].startswith("test#sha256:")


def test_a_folder_is_verified_quote_by_quote(files: Path) -> None:
    quotes, good = files / "quotes", (files / "quote").read_bytes()
    quotes.mkdir()
    for number in range(5):
        (quotes / f"{number}").write_bytes(good)
    (quotes / "bent").write_bytes(good[:600] + bytes([good[600] ^ 1]) + good[601:])
    (quotes / "junk").write_bytes(b"no quote")
    arguments = ("verify", quotes, "--collateral", files, "--policy", files / "policy.json", "--at", AT, "--json")
    (files / "policy.json").rename(files / "p.jsn")
    result = run(*[files / "p.jsn" if a == files / "policy.json" else a for a in arguments])
    found = document(result)
    assert found["counts"] == {"ok": 5, "QuoteSignatureInvalid": 1, "UnsupportedVersion": 1}
    assert [row["file"] for row in found["quotes"]] == ["0", "1", "2", "3", "4", "bent", "junk"]
    assert [row["code"] for row in found["quotes"]] == [None] * 5 + ["QuoteSignatureInvalid", "UnsupportedVersion"]
    shown = run(*[files / "p.jsn" if a == files / "policy.json" else a for a in arguments[:-1]])
    assert "bent: QuoteSignatureInvalid\njunk: UnsupportedVersion\n7 quotes: 5 ok, " in shown.output
    assert shown.exit_code == 4
    assert result.exit_code == 4
    assert found["ok"] is False


@pytest.mark.parametrize("name", ["missing", "."])
def test_what_cannot_be_read_is_a_usage_error(files: Path, name: str) -> None:
    assert run("show", files / name).exit_code == 2
