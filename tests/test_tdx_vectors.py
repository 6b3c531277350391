# SPDX-License-Identifier: Apache-2.0
"""Real quotes with real collateral: what must come out of each, under Intel's root."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from attestation.errors import AttestationError, Malformed
from attestation.tdx.collateral import Collateral
from attestation.tdx.quote import Quote
from attestation.tdx.tcbinfo import TcbInfo
from attestation.tdx.verify import VerifiedQuote, verify_quote
from attestation.trust.intel import INTEL_ANCHOR
from tests.vectors_root import entries, vectors

REFUSED = {"dcap-qvl/sgx_quote": "UnsupportedVersion", "go-tdx-guest/tdx_prod_quote_SPR_E4.dat": "TrailingData"}


def raw(path: Path) -> bytes:
    data = path.read_bytes()
    text = data.strip().removeprefix(b"0x")
    return bytes.fromhex(text.decode()) if re.fullmatch(rb"[0-9a-fA-F\s]+", text) else data


def quotes() -> list[dict[str, Any]]:
    return [entry for entry in entries("tdx") if "parsed" in entry]


def verified(entry: dict[str, Any], expected: dict[str, Any]) -> VerifiedQuote:
    folder = vectors("tdx")
    return verify_quote(
        raw(folder / entry["file"]),
        Collateral.from_json((folder / expected["collateral"]).read_bytes()),
        anchor=INTEL_ANCHOR,
        now=datetime.fromtimestamp(expected["verify_time"], UTC),
    )


def test_real_quotes_parse_to_what_they_are_and_encode_to_the_same_bytes() -> None:
    seen = 0
    for entry in quotes():
        data, want = raw(vectors("tdx") / entry["file"]), entry["parsed"]
        if entry["file"] in REFUSED:
            with pytest.raises(Malformed) as e:
                Quote.parse(data)
            assert e.value.code == REFUSED[entry["file"]]
            continue
        quote = Quote.parse(data)
        report = quote.report
        assert quote.encode() == data
        assert (quote.version, quote.padding) == (want["version"], want["trailing"])
        assert [value.hex() for value in report.rtmr] == [want[f"rtmr{i}"] for i in range(4)]
        for name, key in (("mr_td", "mrtd"), ("mr_seam", "mrseam"), ("report_data", "reportdata"), ("xfam", "xfam")):
            assert getattr(report, name).hex() == want[key]
        assert report.td_attributes.hex() == want["tdattr"]
        seen += 1
    assert seen >= 5


def test_real_quotes_are_verified_or_refused_as_their_manifest_says() -> None:
    seen = {"accepted": 0, "refused": 0}
    for entry in entries("tdx"):
        for expected in entry.get("expect", []):
            says = str(expected["dcap_qvl_0_7_0"])
            if says.startswith("status") and "ours" not in expected:
                tcb = verified(entry, expected).tcb
                assert says == f"status {tcb.status} advisories {list(tcb.advisories)}"
                seen["accepted"] += 1
            else:
                with pytest.raises(AttestationError) as e:
                    verified(entry, expected)
                if "No matching TCB level" in says:
                    assert e.value.code == "TcbNotSupported"
                elif says.endswith("expired"):
                    assert e.value.code in {"CrlExpired", "CollateralExpired"}
                elif says.endswith("future"):
                    assert e.value.code in {"CrlNotYetValid", "CollateralNotYetValid"}
                seen["refused"] += 1
    assert seen["accepted"] >= 4
    assert seen["refused"] >= 10


def test_intel_lists_its_levels_from_the_highest_down() -> None:
    """The evaluation sorts levels; for every real document that changes nothing."""
    import json

    for entry in entries("tdx"):
        if not entry["file"].endswith(".json") or "collateral" not in entry["file"] or "sgx" in entry["file"]:
            continue
        text = json.loads((vectors("tdx") / entry["file"]).read_text())["tcb_info"]
        listed = [
            (
                tuple(c["svn"] for c in level["tcb"]["sgxtcbcomponents"]),
                tuple(c["svn"] for c in level["tcb"]["tdxtcbcomponents"]),
                level["tcb"]["pcesvn"],
            )
            for level in json.loads(text)["tcbLevels"]
        ]
        assert [(level.sgx, level.tdx, level.pce_svn) for level in TcbInfo.parse(text.encode()).levels] == listed


def test_collateral_survives_a_round_trip() -> None:
    data = (vectors("tdx") / "dcap-qvl/tdx_quote_collateral.json").read_bytes()
    assert Collateral.from_json(Collateral.from_json(data).to_json()) == Collateral.from_json(data)
