# SPDX-License-Identifier: Apache-2.0
"""One dossier with everything in it, anchored on a simulated chain, and what its auditor brings. Needs no tonpy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from attestation import cbor
from attestation.batch import BatchStatement
from attestation.boot import BootMap
from attestation.dossier import Dossier
from attestation.ledger import BATCH, StatementRecord
from attestation.policy import Policy
from attestation.ton.blockid import BlockId
from attestation.ton.boc import write_boc
from attestation.ton.registry import Enclave
from attestation.ton.trustpath import TrustPath
from client.anchored import TonTrust
from client.audit import Audit, audit
from client.dossier import dossier_of
from client.ledger_file import read_records
from client.ton.chain import with_chain
from client.ton.proving import locate, prove_anchoring, with_anchoring
from tests.served import served
from tests.ton_in_box import CODE, REGISTRY, InBox, in_box, registry_data

GONE: Any = object()  # what an edit gives for a field that is to be removed
LIMIT = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Kept:
    """The file, the way to its block, and the auditor's own trust."""

    data: bytes
    path: TrustPath
    init_block: BlockId
    back: TrustPath  # one link, from a later block
    later: BlockId
    policy: Policy
    now: datetime
    boot: BootMap

    def audit(self, data: bytes | None = None, *, path: TrustPath | None = None, init: BlockId | None = None) -> Audit:
        """Audit the file, or another, and require every link and the anchor."""
        trust = TonTrust(init_block=init or self.init_block, path=path or self.path)
        found = audit(data or self.data, self.policy, at=None, now=self.now, trust=trust)
        found.require(allow_unconfidential=True)
        found.anchoring.require()
        return found


def keep_one(folder: Path) -> Kept:
    """Ask an enclave three times, close two batches, anchor the second, prove the first run's receipt."""
    (folder / "enclave").mkdir()
    with served(folder / "enclave", gpu={"mode": "simulated", "count": 1}) as enclave:
        runs = []
        for name in ("first", "second", "third"):
            run = enclave.run(f"the {name} question", account=b"\x05" * 32)
            list(run.items())
            runs.append(run)
            if name != "first":
                enclave.call(enclave.floor.book.close_batch)
        dossier = dossier_of(runs[0], policy=enclave.policy_bytes())
        policy, now, boot = enclave.policy(), enclave.now(), enclave.booted.boot
    ledger = folder / "enclave" / "ledger"
    statements = [
        BatchStatement.from_boc(StatementRecord.decode(body).boc)
        for kind, body in read_records(ledger)
        if kind == BATCH
    ]
    head = Enclave(
        boot=boot.digest, serial=0, valid_until=int(now.timestamp()) + 9999, seqno=2, head=statements[-1].hash,
        anchored_at=int(now.timestamp()), extension=None,
    )  # fmt: skip
    with in_box(folder, None, now=int(now.timestamp())) as ton:
        _anchor(ton, {boot.receipt_key: head, bytes(32): head, b"\xff" * 32: head})
        located = locate(dossier, ledger)
        proof = with_chain(ton.network, lambda chain: prove_anchoring(chain, ton.network, located, now=now, path=True))
        block = proof.anchoring.reading.block
        for _ in range(3):
            ton.do(ton.box.block)
        later = BlockId.decode(ton.box.chain.head.encode(), what="later")
        back = with_chain(replace(ton.network, init_block=later), lambda chain: chain.trust_path(block))
        init = ton.network.init_block
    assert proof.path is not None
    assert back is not None
    data = with_anchoring(dossier, proof.anchoring)
    return Kept(data=data, path=proof.path, init_block=init, back=back, later=later, policy=policy, now=now, boot=boot)


def _anchor(ton: InBox, enclaves: dict[bytes, Enclave]) -> None:
    data = write_boc(registry_data(enclaves=enclaves, revoked_keys={b"\x33" * 32: 5}))

    def work() -> None:
        ton.box.put(REGISTRY, code=CODE, data=data, balance=10**9)
        for number in range(1, 9):
            ton.box.fund(bytes((number * 16,)) * 32, 10**9)
        for _ in range(8):  # over a key block
            ton.box.block()

    ton.do(work)


# ---- change one field and encode everything around it anew


# Keys and indexes; ">" steps into bytes that are CBOR themselves, ">>" into the header in front of a sealed request.
Path_ = tuple[Any, ...]


def unpack(data: bytes) -> cbor.Value:
    """Decode one item."""
    return cbor.decode(data, limit=LIMIT, what="edit", code="MalformedDossier")


def edit(value: Any, path: Path_, change: Callable[[Any], Any]) -> Any:
    """Give `value` with the field at `path` changed, or removed when `change` gives GONE."""
    if not path:
        return change(value)
    if path[0] == ">":
        return cbor.encode(edit(unpack(value), path[1:], change))
    if path[0] == ">>":
        header, rest = _cut(value)
        new = cbor.encode(edit(unpack(header), path[1:], change))
        return len(new).to_bytes(4, "big") + new + rest
    copy = dict(value) if isinstance(value, dict) else list(value)
    new = edit(value[path[0]], path[1:], change)
    if new is GONE:
        del copy[path[0]]
    else:
        copy[path[0]] = new
    return copy


def _cut(sealed: bytes) -> tuple[bytes, bytes]:
    """Cut a sealed request into its header and what follows."""
    end = 4 + int.from_bytes(sealed[:4], "big")
    return sealed[4:end], sealed[end:]


def bent(data: bytes, path: Path_, change: Callable[[Any], Any]) -> bytes:
    """Give the file with one field changed, its framing valid."""
    return cbor.encode(edit(unpack(data), path, change))


def fields(value: Any, path: Path_ = (), *, sealed: Path_ | None = (4,)) -> Iterator[tuple[Path_, Any]]:
    """Give every field of a decoded dossier with its path, inside nested CBOR and the `sealed` request too."""
    if path:
        yield path, value
    if isinstance(value, dict):
        for key in value:
            yield from fields(value[key], (*path, key), sealed=sealed)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from fields(item, (*path, index), sealed=sealed)
    elif path == sealed and isinstance(value, bytes):
        header = unpack(_cut(value)[0])
        yield (*path, ">>"), header
        for below, item in fields(header, sealed=None):
            yield (*path, ">>", *below), item
    elif isinstance(value, bytes) and (inner := _nested(value)) is not None:
        yield (*path, ">"), inner
        for below, item in fields(inner, sealed=None):
            yield (*path, ">", *below), item


def _nested(data: bytes) -> Any:
    from attestation.errors import Malformed

    try:
        found = unpack(data)
    except Malformed:
        return None
    return found if isinstance(found, dict | list) else None


def changes(value: Any) -> Iterator[tuple[str, Any]]:
    """Give ways to change a field that keep its type: one bit, shorter, longer, none, another, twice."""
    if isinstance(value, bool):
        yield "other", not value
    elif isinstance(value, int):
        yield "more", value + 1
    elif isinstance(value, bytes):
        if value:
            yield "first bit", bytes((value[0] ^ 1,)) + value[1:]
            yield "last bit", value[:-1] + bytes((value[-1] ^ 1,))
            yield "shorter", value[:-1]
        yield "longer", value + b"\x00"
        yield "longer by a line", value + b"\n"
    elif isinstance(value, str):
        yield "longer", value + "x"
    elif isinstance(value, dict):
        yield "one field more", value | ({"x": 0} if value and isinstance(next(iter(value)), str) else {64: b""})
    elif isinstance(value, list) and value:
        yield "fewer", value[:-1]
        yield "twice", value + value[-1:]
        if value != value[::-1]:
            yield "turned", value[::-1]


def anchoring_of(data: bytes) -> bytes:
    """Give the anchoring proof of a file."""
    found = Dossier.decode(data).anchoring
    assert found is not None
    return found
