# SPDX-License-Identifier: Apache-2.0
"""`sericin gpu show|verify`: read NVIDIA GPU evidence, and verify it with reference values, offline."""

from __future__ import annotations

from pathlib import Path

import click

from attestation.errors import AttestationError, Refused, error_for
from attestation.findings import Finding, Waived
from attestation.gpu.appraise import appraise_gpus
from attestation.gpu.evidence import MAX_CHAIN_BYTES, MAX_RIM_BYTES, NONCE_CLIENT, GpuDeviceEvidence, GpuEndorsementSet
from attestation.gpu.verify import VerifiedGpuSet, verify_set
from attestation.roots import used_roots
from attestation.trust.nvidia import NVIDIA_ANCHOR

from ..clock import wall_clock
from ..errors import UsageFault
from ..gpu_report import (
    device_json,
    kind_of,
    read_crl,
    read_list,
    read_ocsp,
    read_report,
    report_json,
    rims_json,
    unanswered,
)
from ..gpu_token import JudgedToken, judge_token
from ..output import (
    confidentiality_line,
    console,
    parse_hex,
    parse_time,
    print_json,
    read_file,
    reports_errors,
    show_fields,
    show_findings,
)
from ..settings import ChosenPolicy, choose_policy

FILE = click.Path(path_type=Path)


@click.group(name="gpu")
def command() -> None:
    """Show and verify NVIDIA GPU evidence."""


@command.command()
@click.argument("file", type=FILE)
@click.option("--switch", is_flag=True, help="The report is a switch's.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@reports_errors
def show(file: Path, *, switch: bool, as_json: bool) -> None:
    """Decode the report in FILE (raw, hex or base64). Nothing is verified."""
    fields = report_json(read_report(file), "switch" if switch else "gpu")
    if as_json:
        print_json({"ok": True, "code": None, "exit": 0, "authentic": False, "appraised": False, "report": fields})
        return
    show_fields(fields)
    console().print("NOT VERIFIED", style="bold yellow")


@command.command(short_help="Verify one report, or a machine's whole evidence.")
@click.argument("evidence", type=FILE, required=False)
@click.option("--report", "report_path", type=FILE, help="One device's report.")
@click.option("--chain", "chain_path", type=FILE, help="Its certificate chain, PEM.")
@click.option("--rim", "rim_paths", type=FILE, multiple=True, help="Reference values (XML); several times.")
@click.option("--ocsp", "ocsp_paths", type=FILE, multiple=True, help="OCSP responses; several times.")
@click.option("--crl", "crl_paths", type=FILE, multiple=True, help="Certificate revocation lists; several times.")
@click.option("--nonce", "nonce_text", help="The nonce that every device must have signed, hex.")
@click.option("--at", "at_text", help="Verify at this time (RFC 3339 or unix seconds) instead of now.")
@click.option("--eat", "eat_path", type=FILE, help="A token of NVIDIA's remote service that must agree with it all.")
@click.option("--eat-keys", "keys_path", type=FILE, help="That service's keys (JWK set); never fetched.")
@click.option("--policy", "policy_path", type=FILE, help="Appraise under this policy's section gpu.")
@click.option("--all", "every", is_flag=True, help="Print every clause with its values, not only those that fail.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@reports_errors
def verify(
    evidence: Path | None,
    report_path: Path | None,
    chain_path: Path | None,
    rim_paths: tuple[Path, ...],
    ocsp_paths: tuple[Path, ...],
    crl_paths: tuple[Path, ...],
    nonce_text: str | None,
    at_text: str | None,
    eat_path: Path | None,
    keys_path: Path | None,
    policy_path: Path | None,
    *,
    every: bool,
    as_json: bool,
) -> None:
    """Verify one report with its chain, or every device of EVIDENCE (a JSON list), under NVIDIA's keys or the policy's.

    Without --policy the answer is authenticity alone. Nothing is fetched: certificates that neither --ocsp nor --crl
    speaks of are named. What NVML says of the machine is not part of these files, so a policy that asks for
    confidential mode refuses them. A token replaces no check: it is read only after all of them, and must agree. Exit
    codes: 0 it holds, 3 malformed, 4 untrusted, 5 refused.
    """
    devices = _devices(evidence, report_path, chain_path)
    if (eat_path is None) != (keys_path is None):
        raise UsageFault("--eat and --eat-keys go together: a token says nothing without its service's keys")
    chosen = choose_policy(policy_path) if policy_path is not None else None
    result = _Result(chosen)
    try:
        result.verified = verify_set(
            devices,
            GpuEndorsementSet(
                rims=tuple(read_file(path, limit=MAX_RIM_BYTES) for path in rim_paths),
                ocsp=tuple(read_ocsp(path) for path in ocsp_paths),
                crls=tuple(read_crl(path) for path in crl_paths),
            ),
            nonce=parse_hex(nonce_text, "--nonce takes 32 bytes in hex"),
            anchor=chosen.policy.roots.gpu if chosen else NVIDIA_ANCHOR,
            now=(now := parse_time(at_text) or wall_clock()),
        )
        if chosen is not None and not isinstance(chosen.policy.gpu, Waived):
            result.findings = appraise_gpus(
                result.verified, chosen.policy.gpu, nonce_kind=NONCE_CLIENT if nonce_text else None, now=now
            )
        if eat_path is not None and keys_path is not None:
            result.token = judge_token(eat_path, keys_path, result.verified, now=now)
        result.require()
    except AttestationError as e:
        result.error = e
    if as_json:
        print_json(result.to_json())
    else:
        _show(result, every=every)
    raise SystemExit(result.error.exit_code if result.error else 0)


class _Result:
    """How one verification went."""

    def __init__(self, chosen: ChosenPolicy | None) -> None:
        self.chosen = chosen
        self.verified: VerifiedGpuSet | None = None
        self.findings: list[Finding] = []  # under the policy
        self.token: JudgedToken | None = None
        self.error: AttestationError | None = None

    @property
    def confidential(self) -> bool:
        """Whether every root used is compiled into this release."""
        roots = used_roots(tdx=b"", gpu=self.verified.roots_used)[1:] if self.verified else ()
        return bool(roots) and all(root.compiled_in for root in roots)

    @property
    def all_findings(self) -> list[Finding]:
        """What the policy says, then what a token adds."""
        return [*self.findings, *(self.token.findings if self.token else ())]

    def require(self) -> None:
        """Raise what the policy, or a token that disagrees, says against it."""
        for finding in self.all_findings:
            if not finding.holds:
                raise error_for(finding.code, finding.rule, want=finding.want, got=finding.got)
        if self.chosen is not None and not self.confidential and not self.chosen.allow_unconfidential:
            raise Refused("Unconfidential", "roots", want="roots of this release", got="a simulated root")

    def to_json(self) -> dict[str, object]:
        """Give the documented JSON object."""
        v, error = self.verified, self.error
        return {
            "authentic": v is not None,
            "appraised": bool(self.findings),
            "confidential": self.confidential,
            "ok": error is None,
            "code": error.code if error else None,
            "exit": error.exit_code if error else 0,
            "error": error.to_json() if error else None,
            "mode": str(v.mode) if v else None,
            "set_digest": v.digest.hex() if v else None,
            "devices": [device_json(device) for device in v.devices] if v else [],
            "rims": rims_json(v.devices) if v else [],
            "revocation_unknown": unanswered(v.devices) if v else None,
            "window": v.window.to_json() if v else None,
            "findings": [finding.to_json() for finding in self.all_findings],
            "eat": self.token.to_json() if self.token else None,
        }


def _devices(evidence: Path | None, report: Path | None, chain: Path | None) -> list[GpuDeviceEvidence]:
    if evidence is not None and report is None and chain is None:
        paths = sorted(evidence.glob("*.json")) if evidence.is_dir() else [evidence]
        return [device for path in paths for device in read_list(path)]
    if evidence is not None or report is None or chain is None:
        raise UsageFault("give --report with --chain, or one file or folder of evidence")
    data, pem = read_report(report), read_file(chain, limit=MAX_CHAIN_BYTES)
    return [GpuDeviceEvidence(kind=kind_of(data), report=data, chain=pem, cc_state={})]


def _show(result: _Result, *, every: bool) -> None:
    out = console()
    for device in result.verified.devices if result.verified else ():
        show_fields(device_json(device))
        out.print()
    for rim in rims_json(result.verified.devices) if result.verified else []:
        out.print(f"reference values {rim['component']} {rim['product']} {rim['version']}")
    if unknown := unanswered(result.verified.devices if result.verified else ()):
        out.print(f"no OCSP response and no CRL was given for {', '.join(unknown)}", style="yellow")
    if result.findings:
        show_findings(result.findings, title="under the policy", every=every)
    if result.token:
        show_findings(result.token.findings, title="what the token of the remote service adds", every=every)
    if result.error is not None:
        out.print(str(result.error), style="bold red")
        out.print("AUTHENTIC, BUT NOT ACCEPTED" if result.verified else "NOT AUTHENTIC", style="bold red")
        return
    out.print("AUTHENTIC", style="bold green")
    if not result.findings:
        out.print("NOT APPRAISED", style="bold yellow")
    else:
        out.print("ACCEPTED by the policy", style="bold green")
        out.print(confidentiality_line(confidential=result.confidential))
