# SPDX-License-Identifier: Apache-2.0
"""Is a receipt anchored? Every link from its hash to a block that the auditor trusts, offline, each by its name.

1. `anchoring.batch`      the receipt is in a batch, and the receipt key signed the batch's statement for this boot
2. `anchoring.registry`   an account that runs the registry's code, proved at a block, knows the key, not revoked
3. `anchoring.chain`      the statements lead to the head that the registry has for the key
4. `anchoring.address`    it is the registry that the auditor's policy names, where it names one
5. `anchoring.block`      links lead from the auditor's init block to that block

The registry's address and the block come out of the dossier: they are shown, and believed only as far as 4 and 5 go.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, TypeVar

from attestation.batch import BatchStatement
from attestation.boot import BootMap
from attestation.errors import AttestationError, PolicyInvalid, Refused, Untrusted
from attestation.findings import Finding, Waived, clause
from attestation.policy import Policy
from attestation.receipt import Receipt
from attestation.ton.anchoring import Anchoring
from attestation.ton.blockid import BlockId
from attestation.ton.reading import Proved
from attestation.ton.registry import Enclave
from attestation.ton.trustpath import TrustPath
from attestation.window import rfc3339

from .ton.network import PINNED, PUBLIC_IDS, SIMULATED_ID, block_json, parse_address
from .ton.registry_view import registry_code

ANCHORED: Final = "anchored"
NOT_ANCHORED: Final = "not anchored"
OVERDUE: Final = "overdue"

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class TonTrust:
    """What the auditor brings: a block of their own (None: the release's), and the way from there to any other."""

    init_block: BlockId | None = None
    path: TrustPath | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AnchoringResult:
    """What an audit says about the anchoring. Times are unix seconds; those of a block are its validators'."""

    status: str
    reason: str
    links: tuple[Finding, ...]
    due: int
    registry: str | None = None
    block: BlockId | None = None
    block_time: int | None = None
    batch: int | None = None
    anchored_at: int | None = None  # when the registry's head last moved: at or after the receipt's batch
    late: bool | None = None  # anchored after it was due; None: later batches hide when

    def describe(self, *, now: datetime) -> str:
        """Say it in one line."""
        if self.block is None or self.block_time is None:
            return f"{self.status}: {self.reason}"
        age = int(now.timestamp()) - self.block_time
        where = f"batch {self.batch} in registry {self.registry}, block {self.block.seqno} of {_text(self.block_time)}"
        late = "; later than the boot promised" if self.late else ""
        return f"{self.status}: {where}, {_age(age)} ago{late}" + (f"; {self.reason}" if self.reason else "")

    def require(self) -> None:
        """Raise Refused(ReceiptOverdue), or Untrusted(NotAnchored), unless the receipt is anchored."""
        if self.status == OVERDUE:
            raise Refused("ReceiptOverdue", "anchoring", want=f"anchored by {_text(self.due)}", got=self.reason)
        if self.status != ANCHORED:
            raise Untrusted("NotAnchored", "anchoring", want="a proof to a trusted block", got=self.reason)

    def to_json(self) -> dict[str, object]:
        """Give the documented JSON object."""
        return {
            "status": self.status,
            "reason": self.reason,
            "due": self.due,
            "registry": self.registry,
            "block": None if self.block is None else {**block_json(self.block), "time": self.block_time},
            "batch": self.batch,
            "anchored_at": self.anchored_at,
            "late": self.late,
        }


def check_anchoring(
    data: bytes | None,
    *,
    receipt: Receipt,
    boot: BootMap,
    policy: Policy,
    asked_at: int,
    now: datetime,
    trust: TonTrust,
) -> AnchoringResult:
    """Check a dossier's anchoring proof. `asked_at` is when the client sealed its request, unix seconds.

    Raises Malformed for bytes that are no such proof, and PolicyInvalid for a mixture of real and simulated roots.
    """
    due = asked_at + boot.anchor_within
    late = now.timestamp() > due
    absent = OVERDUE if late else NOT_ANCHORED
    if data is None:
        when = "was due" if late else "is due"
        return AnchoringResult(status=absent, reason=f"no proof in the dossier; {when} {_text(due)}", links=(), due=due)
    anchoring = Anchoring.decode(data)
    links: list[Finding] = []
    run = _Runner(links)
    statement, found = _down_to_the_block(anchoring, run, receipt=receipt, boot=boot)
    if found is not None:
        _same_kind(policy, found[1], trust)
    if not isinstance(policy.registry, Waived):
        want = parse_address(policy.registry.address, "policy.registry.address")
        holds = anchoring.registry == want
        links.append(
            clause("anchoring.address", "RegistryRejected", holds=holds, want=str(want), got=str(anchoring.registry))
        )
    reason = _block(anchoring.reading.block, trust, run)
    whole = not reason and all(link.holds for link in links)
    return AnchoringResult(
        status=ANCHORED if whole else absent,
        reason=reason,
        links=tuple(links),
        due=due,
        registry=str(anchoring.registry),
        block=anchoring.reading.block,
        block_time=None if found is None else found[1].gen_utime,
        batch=None if statement is None else statement.seqno,
        anchored_at=None if found is None else found[0].anchored_at,
        late=None if found is None else _late(found[0].anchored_at, due, hidden=bool(anchoring.later)),
    )


def _down_to_the_block(
    anchoring: Anchoring, run: _Runner, *, receipt: Receipt, boot: BootMap
) -> tuple[BatchStatement | None, tuple[Enclave, Proved] | None]:
    """Run checks 1 to 3; give what they prove, None where they do not."""
    key, digest = boot.receipt_key, boot.digest
    statement = run.check(
        "anchoring.batch",
        lambda: anchoring.check_statement(receipt_hash=receipt.hash, receipt_key=key, boot=digest),
        want="the receipt in a batch that its key signed",
    )
    found: tuple[Enclave, Proved] | None = run.check(
        "anchoring.registry",
        lambda: anchoring.check_registry(receipt_key=key, boot=digest, code_hash=registry_code().hash),
        want="the key in a proved registry",
    )
    if found is not None:
        enclave = found[0]
        run.check(
            "anchoring.chain", lambda: anchoring.check_chain(enclave), want="statements up to the registry's head"
        )
    return statement, found


def _late(anchored_at: int, due: int, *, hidden: bool) -> bool | None:
    """Say whether a batch was anchored after `due`; later ones, when there are any, have moved the time on."""
    if anchored_at <= due:
        return False
    return None if hidden else True


class _Runner:
    """Runs a check and keeps what came of it as a finding."""

    def __init__(self, links: list[Finding]) -> None:
        self._links = links

    def check(self, rule: str, check: Callable[[], T], *, want: str) -> T | None:
        """Run `check`; None when it does not hold. What is malformed keeps its own code and exit."""
        try:
            value = check()
        except AttestationError as e:
            got = f"{e.where}: want {e.want}, got {e.got}"
            self._links.append(clause(rule, e.code, holds=False, want=want, got=got))
            return None
        self._links.append(clause(rule, "", holds=True, want=want, got="holds"))
        return value


def _block(block: BlockId, trust: TonTrust, run: _Runner) -> str:
    """Check the way to `block`; give what the auditor is still missing, or nothing."""
    path = trust.path
    trusted = trust.init_block
    if trusted is None and path is not None and path.links[0].source in PINNED.values():
        trusted = path.links[0].source
    if path is None and trusted is None:
        return "the proof ends at a block that nothing vouches for: give --trust-path, and --init-block of your own"
    if trusted is None:
        return "the trust path does not begin at a block of this release: give --init-block"
    if path is None:
        if trusted == block:
            run.check("anchoring.block", lambda: None, want="the init block itself")
            return ""
        return "no way leads from your init block to the block of the proof: give --trust-path"
    run.check("anchoring.block", lambda: path.verify(trusted=trusted, target=block), want="links from the init block")
    return ""


def _same_kind(policy: Policy, proved: Proved, trust: TonTrust) -> None:
    """Refuse a mixture: a simulated machine anchored on a public network, a real one on a simulated TON."""
    public = proved.global_id in PUBLIC_IDS or trust.init_block in PINNED.values()
    if policy.roots.simulated and public:
        raise PolicyInvalid("anchoring.network", want="a simulated TON for simulated roots", got="a public network")
    if not policy.roots.simulated and proved.global_id == SIMULATED_ID:
        raise PolicyInvalid("anchoring.network", want="a real TON for real roots", got="a simulated TON")


def _text(seconds: int) -> str:
    return rfc3339(datetime.fromtimestamp(seconds, UTC)) if seconds < 1 << 36 else str(seconds)


def _age(seconds: int) -> str:
    """Show a span in the largest unit of which there are two."""
    for size, unit in ((86_400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"
