# SPDX-License-Identifier: Apache-2.0
"""What was verified before: never past its window, never for other bytes, never more than fits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from hashlib import sha256

import pytest

from attestation.errors import AttestationError, Untrusted
from attestation.tdx.anchor import SIMULATED_NAMES, TdxTrustAnchor
from attestation.tdx.collateral import Collateral
from attestation.tdx.memory import Memory
from attestation.tdx.quote import Quote
from attestation.tdx.verify import VerifiedQuote, verify_quote
from attestation.window import Window
from tests.tdx_cases import NOW, PLATFORM, Case, authority, other_world
from tests.tdx_rows import ROWS
from tests.tdx_tcb_rows import TCB_ROWS


def verified(case: Case, memory: Memory, *, root: bytes | None = None) -> VerifiedQuote:
    anchor = TdxTrustAnchor(root_sha256=root or authority().root_sha256, names=SIMULATED_NAMES)
    return verify_quote(case.signed, Collateral.from_json(case.text), anchor=anchor, now=case.now, memory=memory)


def test_the_second_time_says_the_same() -> None:
    case, memory = Case.new(1).build(), Memory()
    first = verified(case, memory)
    known = len(memory)
    again = verified(case, memory)
    assert len(memory) == known > 0
    assert (again.tcb, again.window, again.quote_digest) == (first.tcb, first.window, first.quote_digest)


def test_the_next_quote_of_a_known_platform_leaves_one_signature_to_verify() -> None:
    case, memory = Case.new(3).build(), Memory()
    first = Quote.parse(case.signed).auth
    verified(case, memory)
    known = len(memory)
    case.quote.report.report_data = bytes(64)
    case.signed = case.quote.sign()
    again = Quote.parse(case.signed).auth
    assert again.qe_report_signature == first.qe_report_signature, "a quoting enclave has its key certified once"
    assert again.signature != first.signature
    verified(case, memory)
    assert len(memory) == known
    case.quote.qe.isv_svn += 1
    case.signed = case.quote.sign()
    assert Quote.parse(case.signed).auth.qe_report_signature != first.qe_report_signature
    verified(case, memory)
    assert len(memory) == known + 2, "its report, and the TCB of its SVNs"


def seam(case: Case) -> None:
    """Give the quote the base module, which is judged by the platform's levels alone."""
    case.quote.report.tee_tcb_svn = case.quote.report.tee_tcb_svn_2 = bytes([5, 0]) + bytes(14)


SVNS: dict[str, Callable[[Case], None]] = {
    "at launch": lambda case: setattr(case.quote.report, "tee_tcb_svn", bytes(16)),
    "now": lambda case: setattr(case.quote.report, "tee_tcb_svn_2", b"\x0f" + case.quote.report.tee_tcb_svn[1:]),
    "the base module": seam,
    "a component": lambda case: case.pck(replace(PLATFORM, components=(1, *PLATFORM.components[1:]))),
    "the PCE": lambda case: case.pck(replace(PLATFORM, pce_svn=5)),
    "the quoting enclave": lambda case: setattr(case.quote.qe, "isv_svn", 3),
    "the signer of the module": lambda case: setattr(case.quote.report, "mr_signer_seam", b"\1" * 48),
    "the attributes of the module": lambda case: setattr(case.quote.report, "seam_attributes", b"\1" * 8),
}


@pytest.mark.parametrize("change", SVNS.values(), ids=SVNS)
def test_the_tcb_of_other_svns_is_evaluated_anew(change: Callable[[Case], None]) -> None:
    memory = Memory()
    before = verified(Case.new(1, version=5).build(), memory).tcb
    case = Case.new(1, version=5)
    change(case)
    case.build()
    found: list[object] = []
    for known in (memory, Memory()):
        try:
            found.append(verified(case, known).tcb)
        except AttestationError as error:
            found.append((error.code, error.where))
    assert found[0] == found[1] != before


def test_the_tcb_under_other_collateral_is_evaluated_anew() -> None:
    memory = Memory()
    before = verified(Case.new(1).build(), memory).tcb
    case = Case.new(1)
    for level in case.levels:
        level["tcbStatus"] = "OutOfDate"
    assert verified(case.build(), memory).tcb.status is not before.status


@pytest.mark.parametrize("row", [r for r in ROWS + TCB_ROWS if r.code], ids=lambda r: r.name)
def test_a_memory_of_good_evidence_excuses_nothing(row: object) -> None:
    """Every attack is refused by the same code after the same machine was verified."""
    from tests.tdx_rows import Row

    assert isinstance(row, Row)
    memory = Memory()
    verified(Case.new(7, version=row.version).build(), memory)
    case = Case.new(7, version=row.version)
    row.change(case)
    case.build()
    with pytest.raises(AttestationError) as e:
        verified(case, memory)
    assert e.value.code == row.code


@pytest.mark.parametrize("days", [-3, 6.6, 8, 31, 400])
def test_nothing_outlives_its_window(days: float) -> None:
    case, memory = Case.new(2).build(), Memory()
    verified(case, memory)
    case.now = NOW + timedelta(days=days)
    with pytest.raises(Untrusted) as remembered:
        verified(case, memory)
    with pytest.raises(Untrusted) as anew:
        verified(case, Memory())
    assert remembered.value.code == anew.value.code


def test_another_root_has_its_own_memory() -> None:
    case, memory = Case.new(3).build(), Memory()
    verified(case, memory)
    with pytest.raises(Untrusted) as e:
        verified(case, memory, root=sha256(other_world().root.der).digest())
    assert e.value.code == "UntrustedRoot"


def test_a_revocation_counts_for_a_chain_that_is_known() -> None:
    case, memory = Case.new(4).build(), Memory()
    verified(case, memory)
    case.collateral.pck_crl.revoked.append(case.ca.pck.certificate.serial_number)
    case.build()
    with pytest.raises(Untrusted) as e:
        verified(case, memory)
    assert e.value.code == "CertificateRevoked"


class Held:
    """Something with a window."""

    def __init__(self, days: int = 1) -> None:
        self.window = Window(NOW, NOW + timedelta(days=days))


def test_it_is_bounded_and_forgets_what_was_used_longest_ago() -> None:
    memory, made = Memory(capacity=2), []

    def make(name: str) -> Held:
        made.append(name)
        return Held()

    for name in ("a", "b", "a", "c", "a", "b"):
        memory.recall("kind", (name.encode(),), now=NOW, make=lambda name=name: make(name))  # type: ignore[misc]
    assert made == ["a", "b", "c", "b"]
    assert len(memory) == 2


def test_keys_do_not_run_into_one_another() -> None:
    memory = Memory()
    first = memory.recall("k", (b"ab", b"c"), now=NOW, make=Held)
    assert memory.recall("k", (b"a", b"bc"), now=NOW, make=Held) is not first
    assert memory.recall("ka", (b"b", b"c"), now=NOW, make=Held) is not first
    assert memory.recall("k", (b"ab", b"c"), now=NOW, make=Held) is first


def test_what_failed_is_not_kept() -> None:
    memory = Memory()

    def fail() -> Held:
        raise Untrusted("QuoteSignatureInvalid", "quote")

    for _ in range(2):
        with pytest.raises(Untrusted):
            memory.recall("k", (b"",), now=NOW, make=fail)
    assert len(memory) == 0


def test_a_memory_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        Memory(capacity=0)
