# SPDX-License-Identifier: Apache-2.0
"""`sericin receipt show|verify|prove`: read a receipt, check its signature, and fetch the proof that it is anchored."""

from __future__ import annotations

from pathlib import Path

import click

from attestation.appraise import appraise
from attestation.dossier import MAX_DOSSIER, Dossier
from attestation.errors import Malformed
from attestation.exchange import FINISH_CODES
from attestation.receipt import MACHINE_CODES, SignedReceipt
from attestation.verdict import Verdict
from attestation.verify import verify_evidence

from ..clock import wall_clock
from ..errors import UsageFault
from ..ledger_source import opened_ledger
from ..output import (
    confidentiality_line,
    console,
    parse_hex,
    parse_time,
    print_json,
    read_file,
    reports_errors,
    show_findings,
    write_file,
)
from ..settings import choose_policy, state_dir
from ..ton.chain import with_chain
from ..ton.network import Network, read_init_block
from ..ton.proving import locate, prove_anchoring, with_anchoring

HEX_COLUMNS = 64  # of a hash: with its name it fits a terminal of 80


def read_receipt(data: bytes) -> tuple[SignedReceipt, Dossier | None]:
    """Recognise a receipt item or a dossier by content. Raises Malformed."""
    try:
        return SignedReceipt.decode(data), None
    except Malformed as not_a_receipt:
        try:
            dossier = Dossier.decode(data)
        except Malformed:
            raise not_a_receipt from None
        return SignedReceipt.decode(dossier.receipt), dossier


@click.group(name="receipt")
def command() -> None:
    """Show, verify and prove receipts."""


@command.command(short_help="Decode every field; verify nothing.")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@reports_errors
def show(file: Path, *, as_json: bool) -> None:
    """Decode every field of the receipt in FILE (a receipt item or a dossier). Nothing is verified."""
    signed, _ = read_receipt(read_file(file, limit=MAX_DOSSIER))
    fields = receipt_fields(signed)
    if as_json:
        print_json({"ok": True, "code": None, "exit": 0, "verified": False, "receipt": fields})
        return
    out = console()
    for name, value in fields.items():
        text = str(value)
        width = 12 if len(text) >= HEX_COLUMNS // 2 else 20
        rows = [text[at : at + HEX_COLUMNS] for at in range(0, len(text), HEX_COLUMNS)]
        out.print(f"{name:<{width}}" + f"\n{'':<{width}}".join(rows))
    out.print("NOT VERIFIED", style="bold yellow")


@command.command(short_help="Check who signed it, under a policy.")
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--evidence", "evidence_path", type=click.Path(path_type=Path), help="Evidence; a dossier brings its own."
)
@click.option("--nonce", help="The client nonce of that evidence, hex; none for the nonce-less evidence.")
@click.option(
    "--policy", "policy_path", type=click.Path(path_type=Path), help="Policy that says whose evidence counts."
)
@click.option("--at", "at_text", help="Judge at this time (RFC 3339 or unix seconds).")
@click.option("--all", "every", is_flag=True, help="Print every clause with its values, not only those that fail.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@reports_errors
def verify(
    file: Path,
    evidence_path: Path | None,
    nonce: str | None,
    policy_path: Path | None,
    at_text: str | None,
    *,
    every: bool,
    as_json: bool,
) -> None:
    """Check that the receipt in FILE was signed by an enclave that the policy accepts."""
    signed, dossier = read_receipt(read_file(file, limit=MAX_DOSSIER))
    chosen = choose_policy(policy_path)
    at = parse_time(at_text)
    if evidence_path is not None:
        data, used_nonce = read_file(evidence_path), parse_hex(nonce, "--nonce takes 32 bytes in hex")
        now = at or wall_clock()
    elif dossier is not None:
        data, used_nonce = dossier.evidence, dossier.nonce
        now = at or dossier.sealed_at()
    else:
        raise UsageFault("--evidence FILE is needed: a receipt alone does not say whose key signed it")
    verified = verify_evidence(data, nonce=used_nonce, roots=chosen.policy.roots, time=chosen.policy.time, now=now)
    verdict = appraise(verified, chosen.policy, now=now)
    verdict.require(allow_unconfidential=chosen.allow_unconfidential)
    signed.verify(verified.boot.receipt_key)
    _report(signed, verdict, every=every, as_json=as_json)


def _report(signed: SignedReceipt, verdict: Verdict, *, every: bool, as_json: bool) -> None:
    fields = receipt_fields(signed)
    if as_json:
        print_json(
            {"ok": True, "code": None, "exit": 0, "verified": True, "receipt": fields, "verdict": verdict.to_json()}
        )
        return
    out = console()
    show_findings(verdict.findings, title=f"evidence under policy {verdict.policy_name}", every=every)
    out.print(f"receipt {fields['hash']}: signature holds", style="bold green")
    out.print(confidentiality_line(confidential=verdict.confidential))


@command.command(short_help="Put into a dossier what shows that it is anchored.")
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--network",
    "network_path",
    required=True,
    type=click.Path(path_type=Path),
    help="Network file (sericin-network/1).",
)
@click.option("--ledger", metavar="FILE|URL", help="The host's ledger; else the network file names it.")
@click.option(
    "--block",
    "block_file",
    type=click.Path(path_type=Path),
    help="Prove at this earlier masterchain block instead of the newest.",
)
@click.option(
    "--trust-path", "path_file", type=click.Path(path_type=Path), help="Write the links from the init block here."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@reports_errors
def prove(
    file: Path,
    network_path: Path,
    ledger: str | None,
    block_file: Path | None,
    path_file: Path | None,
    *,
    as_json: bool,
) -> None:
    """Put into the dossier FILE what shows that its receipt is anchored: inclusion, later batches, raw proofs of TON.

    Nothing that the ledger or a lite server says is believed. 'sericin audit' checks the result with no network.
    """
    network = Network.read(network_path)
    block = None if block_file is None else read_init_block(block_file)
    dossier = Dossier.decode(read_file(file, limit=MAX_DOSSIER))
    with opened_ledger(ledger, network) as opened:
        located = locate(dossier, opened)
    with console(stderr=True).status(f"reading the registry on {network.name}") as status:
        proof = with_chain(
            network,
            lambda chain: prove_anchoring(
                chain, network, located, now=wall_clock(), path=path_file is not None, block=block
            ),
            remember=state_dir() / "ton",
            step=status.update,
        )
    write_file(file, with_anchoring(dossier, proof.anchoring))
    if path_file is not None and proof.path is not None:
        write_file(path_file, proof.path.encode())
    fields = proof.describe()
    if as_json:
        print_json({"ok": True, "code": None, "exit": 0, **fields})
        return
    out = console()
    out.print(
        f"{file}: batch {fields['batch']}, position {fields['position']}, {fields['later']} later batches",
        style="bold green",
    )
    seqno = proof.anchoring.reading.block.seqno
    out.print(f"registry {fields['registry']} at block {seqno}; {fields['bytes']} bytes of proof")
    if path_file is not None and proof.path is None:
        out.print("the network's init block itself is that block: no trust path is needed")
    elif path_file is not None:
        out.print(f"{path_file}: trust path of {fields['links']} from block {network.init_block.seqno}")


def receipt_fields(signed: SignedReceipt) -> dict[str, object]:
    """Give every field for printing: hashes in hex, codes by name."""
    receipt = signed.receipt
    machine = {code: name for name, code in MACHINE_CODES.items()}[receipt.machine]
    finish = {code: name for name, code in FINISH_CODES.items()}.get(receipt.finish, str(receipt.finish))
    hashes = "previous ciphertext request response tokens transcript nonce request_id boot image model params account"
    numbers = (
        "epoch",
        "serial",
        "issued_at",
        "prompt_tokens",
        "cached_tokens",
        "completion_tokens",
        "reasoning_tokens",
    )
    return {
        "hash": receipt.hash.hex(),
        **{name: getattr(receipt, name) for name in numbers},
        "price_nanogram": receipt.price,
        "status": receipt.status.name.lower(),
        "finish": finish or "none",
        "machine": machine,
        **{name: getattr(receipt, name).hex() for name in hashes.split()},
        "signature": signed.signature.hex(),
    }
