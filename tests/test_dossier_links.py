# SPDX-License-Identifier: Apache-2.0
"""Every field of every part of a dossier, changed or removed with the framing made valid again: which link breaks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields as dataclass_fields
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from attestation.batch import BatchStatement
from attestation.dossier import MAX_DOSSIER, MAX_TIME, Dossier
from attestation.errors import AttestationError, Malformed, PolicyInvalid, Refused, Untrusted
from attestation.policy import RegistryRule
from attestation.receipt import Receipt, SignedReceipt, Status
from attestation.ton.anchoring import Anchoring
from attestation.ton.links import BackLink, ForwardLink
from attestation.ton.trustpath import TrustPath
from client.anchored import TonTrust, check_anchoring
from client.audit import audit
from client.ton.network import PINNED
from enclave.simulator.ton_chain import TonChain
from tests.anchored_dossier import GONE, Kept, Path_, bent, changes, fields, keep_one, unpack


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Kept:
    return keep_one(tmp_path_factory.mktemp("kept"))


def broken(kept: Kept, data: bytes, **options: Any) -> tuple[str, str]:
    """Give code and place of what an audit of `data` is refused for."""
    with pytest.raises(AttestationError) as e:
        kept.audit(data, **options)
    return e.value.code, e.value.where


def test_the_dossier_holds_from_the_answer_to_the_chain(kept: Kept) -> None:
    found = kept.audit()
    assert found.anchoring.status == "anchored"
    assert found.answer.text() == "the first question"
    rules = [link.rule for link in found.anchoring.links]
    assert rules == ["anchoring.batch", "anchoring.registry", "anchoring.chain", "anchoring.block"]
    assert len(kept.data) < 256 * 1024  # with one GPU, without the trust path


def always(new: Any) -> Callable[[Any], Any]:
    """Give the change to `new`, whatever was there."""
    return lambda _: new


# ---- everything, by sweep

# A salt may be left out: its owner withholds what it opens, and the link says so by its name. All else is refused.
WITHHELD = {(8, 1): "commitment.request", (8, 2): "commitment.response", (8, 3): "commitment.tokens"}


def test_no_field_changes_unseen(kept: Kept) -> None:
    unseen, count = set(), 0
    for path, value in fields(unpack(kept.data)):
        removed = [] if path[-1] in {">", ">>"} else [("removed", GONE)]  # the bytes around it are removed
        for name, new in [*changes(value), *removed]:
            count += 1
            try:
                found = kept.audit(bent(kept.data, path, always(new)))
            except AttestationError:
                continue
            undisclosed = [link.rule for link in found.links if link.waived == "salt left out"]
            if name != "removed" or undisclosed != [WITHHELD.get(path)]:
                unseen.add((path, name))
    assert count > 600
    assert not unseen


@pytest.mark.parametrize(("path", "rule"), WITHHELD.items())
def test_a_salt_left_out_is_said_to_be(kept: Kept, path: Path_, rule: str) -> None:
    links = {link.rule: link for link in kept.audit(bent(kept.data, path, always(GONE))).links}
    assert (links[rule].want, links[rule].waived) == ("not disclosed", "salt left out")
    assert sum(link.waived is not None for link in links.values()) == 1


@pytest.mark.parametrize("more", [b"\x00", b"\xff", b"\xa0"])
def test_unused_bytes_are_malformed(kept: Kept, more: bytes) -> None:
    assert broken(kept, kept.data + more)[0] == "MalformedDossier"
    assert broken(kept, bent(kept.data, (2, ">"), lambda e: e | {64: more})) == ("ReceiptMismatch", "dossier.evidence")
    for path in ((2,), (6,), (9,), (11,)):
        code, _ = broken(kept, bent(kept.data, path, lambda part: part + more))
        assert code in {"MalformedEvidence", "MalformedRequest", "MalformedReceipt", "MalformedProof"}
    assert broken(kept, bent(kept.data, (4,), lambda part: part + more)) == ("ReceiptMismatch", "receipt.ciphertext")
    extra = bent(kept.data, (), lambda whole: whole | {13: more})
    assert broken(kept, extra) == ("MalformedDossier", "dossier[13]")
    extra = bent(kept.data, (), lambda whole: whole | {12: more})
    assert broken(kept, extra) == ("MalformedDossier", "dossier.collateral")
    extra = bent(kept.data, (11, ">"), lambda proof: proof | {64: more})
    assert broken(kept, extra) == ("MalformedProof", "anchoring")


# ---- by name: the field, the change, the link


def flip(value: bytes) -> bytes:
    return bytes((value[0] ^ 1,)) + value[1:]


def more(value: int) -> int:
    return value + 1


ROWS: list[tuple[Path_, Callable[[Any], Any], str, str]] = [
    ((2, ">", 3), flip, "ReportDataMismatch", "quote.report_data"),
    ((2, ">", 4), flip, "BootDigestMismatch", "boot"),
    ((2, ">", 5), flip, "EpochDigestMismatch", "epoch"),
    ((2, ">", 6), flip, "RuntimeLogMismatch", "runtime_log"),
    ((2, ">", 7), flip, "ConfigDigestMismatch", "config"),
    ((2, ">", 8), flip, "OperatorDigestMismatch", "operator"),
    ((2, ">", 10), flip, "ManifestMismatch", "evidence.manifest"),
    ((2, ">", 9), lambda collateral: collateral + b"\n", "ReceiptMismatch", "dossier.evidence"),
    ((2, ">", 12), lambda _: GONE, "GpuEvidenceMissing", "evidence.gpu"),
    ((2, ">", 12, 4, 1, 0), lambda rim: rim + b"\n", "ReceiptMismatch", "dossier.evidence"),
    ((2, ">", 12, 4, 2), lambda answers: answers[::-1], "ReceiptMismatch", "dossier.evidence"),
    ((3,), flip, "NonceMismatch", "claims.nonce"),
    ((4,), lambda sent: sent[:-1] + flip(sent[-1:]), "ReceiptMismatch", "receipt.ciphertext"),
    ((4,), lambda sent: sent[:-1], "ReceiptMismatch", "receipt.ciphertext"),
    ((4,), lambda sent: sent[:50], "MalformedHeader", "dossier.sealed"),
    ((4, ">>", 3), flip, "EpochDigestMismatch", "header.kid"),
    ((4, ">>", 4), flip, "EpochDigestMismatch", "header.keyset_digest"),
    ((4, ">>", 5), flip, "ReceiptMismatch", "receipt.request_id"),
    ((4, ">>", 6), more, "ReceiptMismatch", "receipt.ciphertext"),
    ((4, ">>", 6), lambda at: at + 121, "ReceiptMismatch", "header.time"),
    ((4, ">>", 6), lambda at: at - 5000, "OcspNotYetValid", "chain[1]"),
    ((4, ">>", 6), lambda at: at + 5000, "EpochExpired", "epoch.not_after"),
    ((4, ">>", 6), lambda _: MAX_TIME + 1, "MalformedHeader", "header.time"),
    ((4, ">>", 7), lambda padding: 1 - padding, "ReceiptMismatch", "receipt.ciphertext"),
    ((4, ">>", 8), lambda stream: not stream, "ReceiptMismatch", "header.stream"),
    ((4, ">>", 9), lambda name: name + "x", "ReceiptMismatch", "header.model"),
    ((5,), flip, "ReceiptMismatch", "receipt.transcript"),
    ((6, ">", 2), flip, "ReceiptMismatch", "receipt.nonce"),
    ((6, ">", 3), flip, "CommitmentMismatch", "commitment.request"),
    ((6, ">", 4), more, "ReceiptMismatch", "body.first_epoch"),
    ((6, ">", 5), flip, "ReceiptMismatch", "dossier.policy"),
    ((6, ">", 6), lambda text: text.replace(b"first", b"First"), "CommitmentMismatch", "commitment.request"),
    ((6, ">", 8), lambda _: GONE, "ReceiptMismatch", "receipt.account"),
    ((6, ">", 12), flip, "ReceiptMismatch", "dossier.evidence"),
    ((6, ">", 12), lambda _: GONE, "ReceiptMismatch", "dossier.evidence"),
    ((7,), lambda text: text.replace(b"first", b"First"), "CommitmentMismatch", "commitment.response"),
    ((8, 1), flip, "CommitmentMismatch", "commitment.request"),
    ((8, 2), flip, "CommitmentMismatch", "commitment.response"),
    ((8, 3), flip, "CommitmentMismatch", "commitment.tokens"),
    ((9, ">", 2), flip, "ReceiptSignatureInvalid", "receipt.signature"),
    ((10,), flip, "ReceiptMismatch", "dossier.policy"),
    ((11,), lambda _: GONE, "NotAnchored", "anchoring"),
    ((11, ">", 2), lambda _: 1, "MalformedProof", "anchoring.batch"),
    ((11, ">", 2), lambda _: 9, "BatchProofInvalid", "anchoring.batch"),
    ((11, ">", 5), flip, "BatchSignatureInvalid", "anchoring.batch"),
    ((11, ">", 6), lambda _: [], "NotAnchored", "anchoring.chain"),
    ((11, ">", 6), lambda later: later * 2, "NotAnchored", "anchoring.chain"),
    ((11, ">", 7), lambda block: block[:79] + flip(block[79:]), "TrustPathInvalid", "anchoring.block"),
    ((11, ">", 7), lambda block: block[:16] + flip(block[16:]), "BlockProofInvalid", "anchoring.registry"),
    ((11, ">", 7), lambda block: block[:12] + flip(block[12:]), "BlockProofInvalid", "anchoring.registry"),
    ((11, ">", 8, 1), flip, "AccountProofInvalid", "anchoring.registry"),
    ((11, ">", 9), lambda _: b"", "MalformedProof", "anchoring.registry"),
    ((11, ">", 11), lambda _: b"", "AccountProofInvalid", "anchoring.registry"),
]


@pytest.mark.parametrize(("path", "change", "code", "where"), ROWS)
def test_a_changed_field_breaks_its_link(
    kept: Kept, path: Path_, change: Callable[[Any], Any], code: str, where: str
) -> None:
    found = broken(kept, bent(kept.data, path, change))
    assert found[0] == code
    assert where in found[1]


def other(value: Any) -> Any:
    """Give another value of the same kind."""
    if isinstance(value, Status):
        return Status.ABORTED
    return flip(value) if isinstance(value, bytes) else value + 1


@pytest.mark.parametrize("name", [f.name for f in dataclass_fields(Receipt) if not f.name.startswith("_")][:-1])
def test_each_field_of_the_receipt_is_signed(kept: Kept, name: str) -> None:
    signed = SignedReceipt.decode(Dossier.decode(kept.data).receipt)
    receipt = replace(signed.receipt, **{name: other(getattr(signed.receipt, name))})
    item = SignedReceipt(receipt=receipt, signature=signed.signature).encode()
    result = audit(
        bent(kept.data, (9,), lambda _: item),
        kept.policy,
        at=None,
        now=kept.now,
        trust=TonTrust(init_block=kept.init_block, path=kept.path),
    )
    rules = {link.rule: link.code for link in (*result.links, *result.anchoring.links) if not link.holds}
    assert rules["receipt.signature"] == "ReceiptSignatureInvalid"
    assert rules["anchoring.batch"] == "BatchProofInvalid"


@pytest.mark.parametrize("name", ["boot", "seqno", "previous", "root", "count", "time"])
def test_each_field_of_the_statement_is_signed(kept: Kept, name: str) -> None:
    statement = BatchStatement.from_boc(Anchoring.decode(Dossier.decode(kept.data).anchoring or b"").statement)
    new: dict[str, Any] = {name: other(getattr(statement, name))}
    changed = replace(statement, **new)
    found = broken(kept, bent(kept.data, (11, ">", 4), always(changed.to_boc())))
    assert found == ("BatchSignatureInvalid", "anchoring.batch")


@pytest.mark.parametrize("index", [0, 1, 2])
def test_each_field_of_a_later_statement_is_chained(kept: Kept, index: int) -> None:
    assert broken(kept, bent(kept.data, (11, ">", 6, 0, index), other)) == ("NotAnchored", "anchoring.chain")


# ---- the trust path


def forward(kept: Kept, at: int = 0) -> ForwardLink:
    link = kept.path.links[at]
    assert isinstance(link, ForwardLink)
    return link


def another(value: Any) -> Any:
    """Change a part of a link."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, bytes):
        return value[:-1] + bytes((value[-1] ^ 1,))
    return replace(value, root_hash=flip(value.root_hash))


@pytest.mark.parametrize("name", ["source", "target", "to_key_block", "dest_proof", "config_proof"])
def test_each_field_of_a_link_counts(kept: Kept, name: str) -> None:
    link = forward(kept)
    new = another(getattr(link, name))
    path = TrustPath(links=(replace(link, **{name: new}), *kept.path.links[1:]))
    code, where = broken(kept, kept.data, path=path)
    assert where == "anchoring.block"
    assert code in {"TrustPathInvalid", "BlockProofInvalid", "MalformedProof", "MalformedBlock"}


@pytest.mark.parametrize("name", ["validator_set_hash", "catchain_seqno", "signatures", "simplex"])
def test_each_field_of_its_signatures_counts(kept: Kept, name: str) -> None:
    link = forward(kept)
    value = getattr(link.signatures, name)
    assert link.signatures.simplex is not None
    news: list[Any] = [value + 1] if isinstance(value, int) else []
    if name == "signatures":
        news = [value[:4], value + value[:1], tuple((signer, flip(signed)) for signer, signed in value)]
    if name == "simplex":
        news = [None, replace(value, slot=value.slot + 1), replace(value, session_id=flip(value.session_id))]
        news += [replace(value, candidate=value.candidate[:-1] + b"x")]
    for new in news:
        bad = replace(link, signatures=replace(link.signatures, **{name: new}))
        code, where = broken(kept, kept.data, path=TrustPath(links=(bad, *kept.path.links[1:])))
        assert (code, where) == ("TrustPathInvalid", "anchoring.block")


def test_links_left_out_or_in_another_order(kept: Kept) -> None:
    assert len(kept.path.links) == 2
    for links in (kept.path.links[:1], kept.path.links[1:], kept.path.links[::-1], kept.path.links * 2):
        assert broken(kept, kept.data, path=TrustPath(links=links))[1] == "anchoring.block"


def test_a_trust_path_file_is_read_strictly(kept: Kept) -> None:
    data = kept.path.encode()
    assert TrustPath.decode(data) == kept.path
    for bad in (data + b"\x00", data[:-1], b"", bent(data, (1,), lambda _: "sericin-trust-path/2")):
        with pytest.raises(Malformed, match="MalformedTrustPath"):
            TrustPath.decode(bad)
    for path, value in fields(unpack(data), sealed=None):
        for _, new in [*changes(value), ("removed", GONE)]:
            try:
                found = TrustPath.decode(bent(data, path, always(new)))
            except AttestationError:
                continue
            assert broken(kept, kept.data, path=found)[1] == "anchoring.block"


def test_one_link_back_from_a_later_block_does_as_well(kept: Kept) -> None:
    assert kept.audit(path=kept.back, init=kept.later).anchoring.status == "anchored"
    (link,) = kept.back.links
    assert isinstance(link, BackLink)
    for name in ("source", "target", "to_key_block", "dest_proof", "proof", "state_proof"):
        bad = TrustPath(links=(replace(link, **{name: another(getattr(link, name))}),))
        code, where = broken(kept, kept.data, path=bad, init=kept.later)
        assert where == "anchoring.block"
        assert code in {"TrustPathInvalid", "BlockProofInvalid", "MalformedProof", "MalformedBlock", "MalformedCell"}


def test_a_link_back_does_not_start_anywhere_else(kept: Kept) -> None:
    assert broken(kept, kept.data, path=kept.back) == ("TrustPathInvalid", "anchoring.block")


# ---- trust comes from the auditor


def test_without_the_auditor_s_block_nothing_is_anchored(kept: Kept) -> None:
    for trust, words in (
        (TonTrust(), "give --trust-path"),
        (TonTrust(path=kept.path), "give --init-block"),
        (TonTrust(init_block=kept.init_block), "give --trust-path"),
    ):
        found = audit(kept.data, kept.policy, at=None, now=kept.now, trust=trust)
        found.require(allow_unconfidential=True)  # every other link holds
        assert (found.anchoring.status, words in found.anchoring.reason) == ("not anchored", True)
        with pytest.raises(Untrusted, match="NotAnchored"):
            found.anchoring.require()


def test_another_block_leads_nowhere(kept: Kept) -> None:
    evil = TonChain(seed=b"evil", now=1_800_000_000)
    block = replace(kept.init_block, root_hash=evil.init_block.root_hash, file_hash=evil.init_block.file_hash)
    assert broken(kept, kept.data, init=block) == ("TrustPathInvalid", "anchoring.block")


def test_the_block_itself_needs_no_path(kept: Kept) -> None:
    block = Anchoring.decode(Dossier.decode(kept.data).anchoring or b"").reading.block
    found = audit(kept.data, kept.policy, at=None, now=kept.now, trust=TonTrust(init_block=block))
    assert found.anchoring.status == "anchored"


def test_a_real_network_s_block_does_not_go_with_a_simulated_machine(kept: Kept) -> None:
    with pytest.raises(PolicyInvalid, match=r"anchoring\.network"):
        kept.audit(init=PINNED["mainnet"])


def test_a_real_machine_is_not_anchored_on_a_simulated_chain(kept: Kept) -> None:
    dossier = Dossier.decode(kept.data)
    real = replace(kept.policy, roots=replace(kept.policy.roots, kind="intel+nvidia"))
    with pytest.raises(PolicyInvalid, match="a simulated TON"):
        check_anchoring(
            dossier.anchoring,
            receipt=SignedReceipt.decode(dossier.receipt).receipt,
            boot=kept.boot,
            policy=real,
            asked_at=0,
            now=kept.now,
            trust=TonTrust(init_block=kept.init_block, path=kept.path),
        )


def test_no_anchor_becomes_overdue_by_the_boot_s_own_promise(kept: Kept) -> None:
    bare = bent(kept.data, (11,), lambda _: GONE)
    due = kept.boot.anchor_within
    for seconds, status, code in (
        (0, "not anchored", "NotAnchored"),
        (due - 5, "not anchored", "NotAnchored"),
        (due + 5, "overdue", "ReceiptOverdue"),
    ):
        now = kept.now + timedelta(seconds=seconds)
        found = audit(bare, kept.policy, at=None, now=now, trust=TonTrust())
        found.require(allow_unconfidential=True)
        assert found.anchoring.status == status
        with pytest.raises((Refused, Untrusted), match=code):
            found.anchoring.require()


def test_a_policy_s_registry_must_be_the_dossier_s(kept: Kept) -> None:
    policy = replace(kept.policy, registry=RegistryRule(address="0:" + "77" * 32, max_staleness=60))
    found = audit(kept.data, policy, at=None, now=kept.now, trust=TonTrust(init_block=kept.init_block, path=kept.path))
    assert [link.rule for link in found.anchoring.links if not link.holds] == ["anchoring.address"]


def test_a_dossier_never_grows_beyond_its_cap(kept: Kept) -> None:
    dossier = Dossier.decode(kept.data)
    with pytest.raises(ValueError, match="at most"):
        replace(dossier, response=bytes(MAX_DOSSIER)).encode()
    assert broken(kept, kept.data + bytes(MAX_DOSSIER))[0] == "MalformedDossier"
