# SPDX-License-Identifier: Apache-2.0
"""What a person reads fits a terminal of 80 columns, and a pipe has whole values."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from rich.console import Console

from attestation.findings import Finding
from client import output
from client.__main__ import cli
from client.commands.registry import _table
from client.errors import UsageFault
from client.output import parse_hex, show_fields, show_findings
from enclave.launch.records import Process, Records
from tests.forged import policy_document
from tests.launch_cases import launch_record

FIELDS: dict[str, object] = {
    "mr_td": "ab" * 48,
    "uncovered": [],
    "fresh": True,
    "driver": None,
    "revocation": [{"certificate": "gpu chain[1]", "ocsp": False, "crl": True}, {"certificate": "rim", "ocsp": True}],
}
NAMES = (
    "rejected_advisories max_tcb_age_seconds mr_seam min_tee_tcb_svn min_module_isvsvn fmspc ppid platform_instance_id"
)
FINDINGS = [
    *(Finding(rule=f"tdx.{name}", want="", got="", holds=True, code="", waived="no need") for name in NAMES.split()),
    Finding(rule=f"gpu.gpu[{'ab' * 20}].vbios", want="", got="", holds=True, code="", waived="any"),
    Finding(rule="registry", want="", got="", holds=True, code="", waived="none chosen"),
    Finding(rule="tdx.xfam", want="e7", got="e7", holds=True, code="PolicyXfam"),
]


@pytest.fixture(params=[80, output.PIPE_WIDTH], ids=["terminal", "pipe"])
def width(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    columns: int = request.param
    monkeypatch.setattr(output, "console", lambda: Console(width=columns, highlight=False, markup=False))
    return columns


def shown(capsys: pytest.CaptureFixture[str], width: int) -> list[str]:
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert max(map(len, lines)) <= width
    return lines


def test_fields_are_two_columns(width: int, capsys: pytest.CaptureFixture[str]) -> None:
    show_fields(FIELDS)
    lines = shown(capsys, width)
    digits = [line.removeprefix("mr_td").strip() for line in lines[: 2 if width == 80 else 1]]
    assert "".join(digits) == "ab" * 48
    assert len(digits[0]) == (64 if width == 80 else 96), "folded after whole eight bytes"
    assert {"uncovered   none", "fresh       yes", "driver      none"} <= set(lines)
    assert lines[-2:] == [
        "revocation  certificate gpu chain[1], ocsp no, crl yes",
        "            certificate rim, ocsp yes",
    ]


def test_what_is_waived_has_a_row_for_each_section(width: int, capsys: pytest.CaptureFixture[str]) -> None:
    show_findings(FINDINGS, title="under a policy", every=False)
    lines = shown(capsys, width)
    assert lines[:3] == ["under a policy", "1 of 1 clauses hold", "10 waived (--all says why):"]
    assert lines[3].startswith("tdx       rejected_advisories, max_tcb_age_seconds, mr_seam")
    assert lines[-2:] == ["gpu       gpu[abababab...].vbios", "registry  the whole section"]
    assert not any(name in "".join(lines[:3]) for name in NAMES.split())


def test_all_says_why_and_says_it_once(width: int, capsys: pytest.CaptureFixture[str]) -> None:
    show_findings(FINDINGS, title="under a policy", every=True)
    lines = shown(capsys, width)
    assert lines[-1] == "1 of 1 clauses hold, 10 waived"
    assert sum("waived: none chosen" in line for line in lines) == 1
    assert sum("registry" in line for line in lines) == 1


def test_a_time_in_a_registry_is_not_folded(width: int, capsys: pytest.CaptureFixture[str]) -> None:
    table = _table("enclaves", "receipt key", "boot", "batches", "head", "anchored", "valid until")
    table.add_row("ab" * 8, "cd" * 8, "1", "ef" * 8, "2026-11-25T18:03:46Z", "REVOKED\n2027-11-25T18:01:21Z")
    output.console().print(table)
    lines = shown(capsys, width)
    assert any("2026-11-25T18:03:46Z  REVOKED" in line for line in lines)
    assert any(line.endswith("2027-11-25T18:01:21Z") for line in lines)


@pytest.mark.parametrize("text", ["", "zz", "00" * 31, "00" * 33, "0" * 63])
def test_an_option_that_is_not_its_bytes_in_hex(text: str) -> None:
    with pytest.raises(UsageFault, match="--nonce takes"):
        parse_hex(text, "--nonce takes 32 bytes in hex")
    assert parse_hex(None, "") is None
    assert parse_hex("0A" * 32, "") == b"\x0a" * 32
    assert parse_hex("0a", "", sizes=(1, 2)) == b"\x0a"


class TestPipe:
    """Tables fill their lines with blanks up to the width of a terminal. No script wants to read them."""

    @pytest.mark.parametrize("name", ["policy check", "doctor", "launch ps", "model list"])
    def test_no_line_of_a_command_ends_in_blanks(self, tmp_path: Path, name: str) -> None:
        (tmp_path / "policy.json").write_text(json.dumps(policy_document()))
        Records(tmp_path / "run").claim(launch_record(Process.this()))
        more = {
            "policy check": [str(tmp_path / "policy.json")],
            "doctor": ["--qemu", "/nowhere/qemu"],
            "launch ps": ["--run-dir", str(tmp_path / "run")],
        }
        said = CliRunner().invoke(cli, [*name.split(), *more.get(name, [])], catch_exceptions=False).output
        assert len(said.splitlines()) > 1
        assert padded(said) == []

    def test_findings_and_fields_neither(self, capsys: pytest.CaptureFixture[str]) -> None:
        show_findings(FINDINGS, title="under a policy", every=False)
        show_findings(FINDINGS, title="under a policy", every=True)
        show_fields(FIELDS)
        said = capsys.readouterr().out
        assert "waived: none chosen" in said
        assert padded(said) == []


def padded(text: str) -> list[str]:
    return [line for line in text.splitlines() if line != line.rstrip()]
