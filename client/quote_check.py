# SPDX-License-Identifier: Apache-2.0
"""One verification of one quote file, and the document that says how it went."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256, sha384
from pathlib import Path
from typing import Final

from attestation.appraise import appraise_image
from attestation.binding import report_data
from attestation.errors import AttestationError, Refused, Untrusted, error_for
from attestation.findings import Finding
from attestation.policy import Policy
from attestation.roots import used_roots
from attestation.tdx.appraise import appraise_quote
from attestation.tdx.collateral import MAX_COLLATERAL, Collateral
from attestation.tdx.eventlog import LogEvent, RegisterReplay, compare, parse_event_log
from attestation.tdx.eventlog_fault import contradicting, locate
from attestation.tdx.measure_compare import Comparison, compare_report
from attestation.tdx.memory import Memory
from attestation.tdx.quote import MAX_QUOTE, Quote
from attestation.tdx.verify import VerifiedQuote, verify_quote
from attestation.trust.intel import INTEL_ANCHOR

from .errors import UsageFault
from .measuring import Measured
from .output import parse_hex, read_file
from .quote_report import platform_json, quote_json, tcb_json

MAX_QUOTE_FILE: Final = 2 * MAX_QUOTE + 1024
_HEX: Final = re.compile(rb"[0-9a-fA-F\s]+")


def read_quote(path: Path) -> bytes:
    """Read a quote file, raw or hex, told apart by content."""
    data = read_file(path, limit=MAX_QUOTE_FILE)
    text = data.strip().removeprefix(b"0x")
    if text and _HEX.fullmatch(text):
        try:
            return bytes.fromhex(text.decode("ascii"))
        except ValueError:
            return data
    return data


def read_collateral(path: Path) -> Collateral:
    """Read a collateral file, the JSON that dcap-qvl writes."""
    return Collateral.from_json(read_file(path, limit=MAX_COLLATERAL))


@dataclass(kw_only=True)
class QuoteCheck:
    """How one verification went. `error` is the first thing that is wrong."""

    quote: Quote | None = None
    verified: VerifiedQuote | None = None
    policy: Policy | None = None
    findings: list[Finding] = field(default_factory=list)
    registers: tuple[RegisterReplay, ...] = ()
    image: Measured | None = None
    measurements: tuple[Comparison, ...] = ()
    error: AttestationError | None = None

    @property
    def confidential(self) -> bool:
        """Whether the root used is compiled into this release."""
        roots = used_roots(tdx=self.verified.root_sha256) if self.verified else ()
        return bool(roots) and all(root.compiled_in for root in roots)

    @property
    def exit_code(self) -> int:
        """The documented exit code."""
        return self.error.exit_code if self.error is not None else 0

    def to_json(self) -> dict[str, object]:
        """Give the documented JSON object."""
        v = self.verified
        return {
            "authentic": v is not None,
            "appraised": self.policy is not None and v is not None,
            "confidential": self.confidential,
            "ok": self.error is None,
            "code": self.error.code if self.error is not None else None,
            "exit": self.exit_code,
            "error": self.error.to_json() if self.error is not None else None,
            "quote": quote_json(self.quote) if self.quote else None,
            "tcb": tcb_json(v.tcb) if v else None,
            "platform": platform_json(v.platform, v.pck_ca) if v else None,
            "window": v.window.to_json() if v else None,
            "root_sha256": v.root_sha256.hex() if v else None,
            "findings": [finding.to_json() for finding in self.findings],
            "image": self.image.image.image_id.hex() if self.image else None,
            "measurements": [comparison.to_json() for comparison in self.measurements],
            "event_log": [
                {
                    "register": f"rtmr{r.index}",
                    "equal": r.equal,
                    "events": r.events,
                    "quoted": r.quoted.hex(),
                    "replayed": r.replayed.hex(),
                    "explanation": r.explanation(),
                }
                for r in self.registers
            ],
        }


def check_quote(
    data: bytes | Quote,
    collateral: Collateral,
    *,
    now: datetime,
    policy: Policy | None = None,
    allow_unconfidential: bool = False,
    report: bytes | None = None,
    event_log: bytes | None = None,
    image: Measured | None = None,
    memory: Memory | None = None,
) -> QuoteCheck:
    """Verify one quote, and appraise it where a policy is given. Nothing is raised: what is wrong is in `error`.

    `report` is the expected REPORTDATA (64 bytes); `image` is what its registers must be.
    """
    check = QuoteCheck(policy=policy, image=image)
    try:
        check.quote = data if isinstance(data, Quote) else Quote.parse(data)
        anchor = policy.roots.tdx if policy is not None else INTEL_ANCHOR
        check.verified = verify_quote(check.quote, collateral, anchor=anchor, now=now, memory=memory)
        if report is not None and check.quote.report.report_data != report:
            got = check.quote.report.report_data.hex()
            raise Untrusted("ReportDataMismatch", "report_data", want=report.hex(), got=got)
        log = parse_event_log(event_log) if event_log is not None else None
        if log is not None:
            _replay(check, check.quote, log)
        if image is not None:
            _compare_image(check, check.quote, image, log)
        if policy is not None:
            _appraise(check, check.verified, policy, now=now, allow_unconfidential=allow_unconfidential)
    except AttestationError as e:
        check.error = e.with_traceback(None)  # which leads back here: a cycle for each quote of a folder
    return check


def _replay(check: QuoteCheck, quote: Quote, log: tuple[LogEvent, ...]) -> None:
    """Require a log that replays to the quote's registers, and payloads that were measured. Raises Untrusted."""
    check.registers = compare(log, quote.report.rtmr)
    for register in check.registers:
        # Without events of its own, RTMR3 is kept in another log: the firmware writes none of it.
        if not register.equal and (register.index < 3 or register.events):
            mine = [event for event in log if event.register == register.index]
            at = locate(mine, register.quoted)
            where = f"rtmr{register.index}" + (f", event {at}: {mine[at].name}" if at is not None else "")
            want, got = register.quoted.hex(), register.replayed.hex()
            raise Untrusted("EventLogReplayMismatch", where, want=want, got=got)
    for at in contradicting(log)[:1]:
        got = sha384(log[at].payload).hexdigest()
        where = f"event_log[{at}]: {log[at].name}"
        raise Untrusted("EventPayloadMismatch", where, want=f"a payload of {log[at].digest.hex()}", got=got)


def _compare_image(check: QuoteCheck, quote: Quote, image: Measured, log: tuple[LogEvent, ...] | None) -> None:
    """Require the quote's registers to be the image's. RTMR0 alone may be without a computed value, which is said."""
    check.measurements = compare_report(image.prediction, quote.report, image.image.files, image.shape, log=log)
    for found in check.measurements:
        code, event = "MeasurementMismatch", found.difference
        if event is not None:
            want, got = (value.hex() if value is not None else "no event" for value in (event.expected, event.got))
            raise Refused(code, f"{found.register}, event {event.number}: {event.event}", want=want, got=got)
        if found.expected is None and found.register != "rtmr0":
            raise Refused(code, found.register, want=f"not computed: {found.why}", got=found.quoted.hex())
        if found.expected is not None and not found.equal:
            raise Refused(code, found.register, want=found.expected.hex(), got=found.quoted.hex())


def _appraise(
    check: QuoteCheck, verified: VerifiedQuote, policy: Policy, *, now: datetime, allow_unconfidential: bool
) -> None:
    check.findings = [
        *appraise_image(verified.quote.report, None, policy.images, now=now),
        *appraise_quote(verified, policy.tdx, now=now),
    ]
    for finding in check.findings:
        if not finding.holds:
            raise error_for(finding.code, finding.rule, want=finding.want, got=finding.got)
    if not check.confidential and not allow_unconfidential:
        raise Refused("Unconfidential", "roots", want="roots of this release", got="a simulated root")


def expected_report_data(claims: Path | None, text: str | None) -> bytes | None:
    """Give the REPORTDATA that --claims or --report-data asks for: 64 bytes, or 32 followed by zeros."""
    if claims is not None and text is not None:
        raise UsageFault("--claims and --report-data say the same thing twice")
    if claims is not None:
        return report_data(read_file(claims, limit=8192))
    value = parse_hex(text, "--report-data takes 64 bytes in hex, or 32 that zeros follow", sizes=(32, 64))
    return None if value is None else value.ljust(64, b"\0")


def digest_of(data: bytes) -> str:
    """Name a file by its content."""
    return sha256(data).hexdigest()
