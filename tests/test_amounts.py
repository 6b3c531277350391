# SPDX-License-Identifier: Apache-2.0
"""Amounts of money are whole nanograms: nowhere a floating point number."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
SOURCES = [path for room in ("attestation", "enclave", "client") for path in sorted((ROOT / room).rglob("*.py"))]
WORDS = re.compile(r"nano|price|fee(?!d)|amount|balance|coins|gram(?!mar)|cost|charge|payout", re.IGNORECASE)


def floating(source: str) -> list[str]:
    """Give every place where something named like an amount is or becomes a floating point number."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.arg | ast.AnnAssign) and node.annotation is not None:
            name = node.arg if isinstance(node, ast.arg) else ast.unparse(node.target)
            if WORDS.search(name) and "float" in ast.unparse(node.annotation):
                found.append(ast.unparse(node))
        divides = isinstance(node, ast.BinOp | ast.AugAssign) and isinstance(node.op, ast.Div)
        converts = isinstance(node, ast.Call) and ast.unparse(node.func) in {
            "float",
            "round",
            "math.ceil",
            "math.floor",
        }
        if (divides or converts) and WORDS.search(ast.unparse(node)):
            found.append(ast.unparse(node))
    return found


def test_no_amount_is_a_floating_point_number() -> None:
    assert {str(path): places for path in SOURCES if (places := floating(path.read_text()))} == {}


def test_the_proof_checker_has_no_floating_point_numbers_at_all() -> None:
    paths = [*(ROOT / "attestation" / "ton").glob("*.py"), *(ROOT / "attestation").glob("batch*.py")]
    assert len(paths) > 18
    for path in [*paths, ROOT / "client" / "registry_messages.py"]:
        for node in ast.walk(ast.parse(path.read_text())):
            assert not (isinstance(node, ast.Constant) and isinstance(node.value, float)), path
            assert not (isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div)), path
            assert not (isinstance(node, ast.Name) and node.id == "float"), path


def test_the_search_finds_what_it_is_for() -> None:
    for bad in (
        "def f(price: float): ...",
        "fee = total_fee / 2",
        "x = float(amount)",
        "balance: float = 0",
        "y = round(cost)",
    ):
        assert floating(bad)
    for good in ("seconds = a / b", "fee = total_fee // 2", "timeout: float = 1.5", "feed = a / b"):
        assert not floating(good)
