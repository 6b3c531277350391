# SPDX-License-Identifier: Apache-2.0
"""What has to be sent so that a registry's heads catch up with a ledger, and what it will cost."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from attestation.errors import Refused
from attestation.ton.cells import Cell
from attestation.ton.registry import Address, Enclave, RegistryState

from .. import registry_messages as messages
from ..ledger_file import KeyChain, Signed
from .network import PUBLIC_IDS, Network
from .wallet import Outgoing

ATTACHED: Final = 50_000_000  # nanograms with every message; what is not used comes back
MAX_ITEMS: Final = 4096  # messages of one run
# What registry and wallet use, in gas and nanograms (docs/ton.md, Costs): an estimate; what is attached is the limit.
GAS: Final = {"register": 7_500, "anchor": 7_000, "wallet": 2_500}
GAS_PER_DIGIT: Final = 2_000  # more for ten times as many keys in the registry
GAS_PRICE: Final = 400
_LUMP, _BIT, _CELL = 400_000, 400, 40_000  # forwarding in the basechain: per message, bit and cell


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One message for one receipt key, and the seqno that the registry has for it afterwards."""

    key: bytes
    seqno: int
    receipts: int
    message: Outgoing
    keys: int  # in the registry: the deeper its dictionary, the more it costs

    @property
    def estimate(self) -> int:
        """What it will cost, in nanograms: the fee, carrying it in and on, running it, sending the rest back."""
        gas = GAS[self.message.what] + GAS["wallet"] + GAS_PER_DIGIT * (len(str(self.keys)) - 1)
        return self.message.value - ATTACHED + 2 * forward_fee(self.message.body) + gas * GAS_PRICE + _LUMP


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Messages in the order in which they must run, and the keys that cannot go on, each with its reason."""

    items: tuple[Item, ...]
    blocked: dict[bytes, str]

    @property
    def estimate(self) -> int:
        """What everything will cost, in nanograms."""
        return sum(item.estimate for item in self.items)

    @property
    def attached(self) -> int:
        """What is sent along, in nanograms: the most that can be spent beside the wallet's own fees."""
        return sum(item.message.value for item in self.items)


def forward_fee(body: Cell) -> int:
    """Compute what carrying `body` costs in the basechain, in nanograms."""
    cells: dict[bytes, int] = {}
    stack = [body]
    while stack:
        cell = stack.pop()
        if cell.hash not in cells:
            cells[cell.hash] = cell.bits
            stack.extend(cell.refs)
    return _LUMP + _BIT * sum(cells.values()) + _CELL * len(cells)


def require_machines(network: Network, chains: Iterable[KeyChain], *, global_id: int | None) -> None:
    """Require that only boots of real machines go to a public network. Raises Refused(MachineNotAllowed).

    `global_id` is the proved one; before anything was read it is None and the network file alone is asked.
    """
    if not network.pinned and global_id not in PUBLIC_IDS:
        return
    for chain in chains:
        if chain.statements and chain.machine != "tdx":
            got = chain.machine or "a boot of which no receipt says the machine"
            want = "tdx: this network is public"
            raise Refused("MachineNotAllowed", f"ledger.{chain.key.hex()[:16]}", want=want, got=got)


def make_plan(chains: Mapping[bytes, KeyChain], state: RegistryState, registry: Address, *, now: int) -> Plan:
    """Compare every key's chain with its head in the registry; `now` is unix seconds of the chain."""
    items: list[Item] = []
    blocked: dict[bytes, str] = {}
    for key, chain in chains.items():
        if not chain.statements:
            continue
        reason, found = _for_key(chain, state, registry, now=now)
        items += found
        if reason:
            blocked[key] = reason
    return Plan(items=tuple(items[:MAX_ITEMS]), blocked=blocked)


def _for_key(chain: KeyChain, state: RegistryState, registry: Address, *, now: int) -> tuple[str, list[Item]]:
    enclave = state.enclaves.get(chain.key)
    items: list[Item] = []
    if chain.key in state.revoked_keys:
        return "the key is revoked", items
    if enclave is None:
        if chain.registration is None:
            return "the registry does not know the key, and the ledger has no registration of it", items
        registration, signature = chain.registration
        if registration.valid_until < now:
            return "the key's registration has expired", items
        body = messages.register(registration, signature)
        value = state.fee + ATTACHED
        outgoing = Outgoing(to=registry, value=value, body=body, what="register")
        items.append(Item(key=chain.key, seqno=0, receipts=0, message=outgoing, keys=len(state.enclaves)))
        seqno, head = 0, registration.hash
    elif enclave.valid_until < now:
        return _expired(chain, enclave), items
    else:
        seqno, head = enclave.seqno, enclave.head
    while signed := chain.statements.get(seqno + 1):
        if signed.statement.previous != head:
            return f"statement {seqno + 1} does not follow the registry's head", items
        items.append(_anchor(chain.key, signed, registry, keys=len(state.enclaves)))
        seqno, head = seqno + 1, signed.statement.hash
    return (f"statement {seqno + 1} is missing in the ledger" if seqno < chain.last else ""), items


def _expired(chain: KeyChain, enclave: Enclave) -> str:
    left = chain.last - enclave.seqno
    return f"the key's registration has expired with {left} statements to go" if left > 0 else ""


def _anchor(key: bytes, signed: Signed, registry: Address, *, keys: int) -> Item:
    body = messages.anchor(key, signed.statement, signed.signature)
    outgoing = Outgoing(to=registry, value=ATTACHED, body=body, what="anchor")
    count = signed.statement.count
    return Item(key=key, seqno=signed.statement.seqno, receipts=count, message=outgoing, keys=keys)
