# SPDX-License-Identifier: Apache-2.0
"""The wallet that pays for anchoring: v4r2 or v5r1, its messages built and signed by pytoniq.

A wallet takes each sequence number once. That, and nothing on this machine, keeps a message from running twice.
"""

from __future__ import annotations

import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pytoniq.contract.contract import Contract
from pytoniq.contract.wallets.wallet import WALLET_V4_R2_CODE, WalletV4R2
from pytoniq.contract.wallets.wallet_v5 import WALLET_V5_R1_CODE, WalletV5R1
from pytoniq_core.boc.address import Address as AnyAddress
from pytoniq_core.boc.cell import Cell as AnyCell
from pytoniq_core.crypto.keys import mnemonic_is_valid, mnemonic_to_private_key
from pytoniq_core.tlb.account import StateInit

from attestation.errors import AttestationError
from attestation.strict_json import loads
from attestation.ton.accounts import Account
from attestation.ton.boc import write_boc
from attestation.ton.cells import Cell
from attestation.ton.registry import Address
from attestation.ton.slices import Slice

from ..errors import UsageFault
from ..output import read_file

SCHEMA: Final = "sericin-wallet/1"
MAX_WALLET: Final = 4096
PER_TRANSFER: Final = {"v4r2": 4, "v5r1": 16}  # messages in one: what v4 can carry, and what v5 need not exceed
SEND_MODE: Final = 3  # pay forward fees apart, ignore errors: v5 demands it of what comes from outside


@dataclass(frozen=True, slots=True, kw_only=True)
class Outgoing:
    """One message for a contract. `value` is in nanograms."""

    to: Address
    value: int
    body: Cell
    what: str


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Wallet:
    """A key and the kind of contract it belongs to. Has no repr: it holds the key."""

    version: str
    secret: bytes  # 64: seed and public key, as pytoniq wants it

    @property
    def capacity(self) -> int:
        """How many messages one transfer may carry."""
        return PER_TRANSFER[self.version]

    @property
    def _code(self) -> AnyCell:
        return WALLET_V4_R2_CODE if self.version == "v4r2" else WALLET_V5_R1_CODE

    def _data(self, global_id: int) -> AnyCell:
        public = self.secret[32:]
        if self.version == "v4r2":
            return WalletV4R2.create_data_cell(public)
        return WalletV5R1.create_data_cell(public, network_global_id=global_id)

    def address(self, global_id: int) -> Address:
        """Give the wallet's account in the basechain of the network with `global_id`."""
        state = StateInit(code=self._code, data=self._data(global_id))
        return Address(workchain=0, account=bytes(state.serialize().hash))

    def seqno(self, account: Account | None) -> int:
        """Read the next sequence number off a proved account; 0 before its first message. Raises UsageFault."""
        if account is None or account.code is None or account.data is None:
            return 0
        if account.code.hash != bytes(self._code.hash):
            raise UsageFault(f"the account of this wallet is no {self.version} wallet any more")
        data = Slice(account.data, what="wallet", code="MalformedAccount")
        if self.version == "v5r1":
            data.flag("signature allowed")
        return data.uint(32, "seqno")

    def transfer(
        self, messages: Sequence[Outgoing], *, seqno: int, valid_until: int, global_id: int, deployed: bool
    ) -> bytes:
        """Give the external message, signed, that sends `messages`, as a bag of cells.

        It runs at most once, and not after `valid_until` (unix seconds of the chain) unless `seqno` is 0.
        """
        data = self._data(global_id)
        wallet: Any = WalletV4R2 if self.version == "v4r2" else WalletV5R1
        packed = [
            wallet.create_wallet_internal_message(
                destination=AnyAddress((message.to.workchain, message.to.account)),
                send_mode=SEND_MODE,
                value=message.value,
                body=AnyCell.one_from_boc(write_boc(message.body)),
                bounce=True,
            )
            for message in messages
        ]
        first = () if self.version == "v4r2" else (wallet,)  # v5's is a method in name only: it uses the class alone
        body = wallet.raw_create_transfer_msg(
            *first,
            private_key=self.secret,
            seqno=seqno,
            wallet_id=_wallet_id(self.version, data),
            messages=packed,
            valid_until=valid_until,
        )
        account = self.address(global_id)
        external = Contract.create_external_msg(
            dest=AnyAddress((account.workchain, account.account)),
            state_init=None if deployed else StateInit(code=self._code, data=data),
            body=body,
        )
        return bytes(external.serialize().to_boc())


def _wallet_id(version: str, data: AnyCell) -> int:
    at = data.begin_parse()
    at.skip_bits(32 if version == "v4r2" else 33)
    return int(at.load_uint(32))


def read_wallet(path: Path) -> Wallet:
    """Read a wallet file (docs/ton.md, Wallet file). Raises UsageFault, also for a file that others can read."""
    data = read_file(path, limit=MAX_WALLET)
    if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise UsageFault(f"{path}: others on this machine can read the key in it; run chmod 600 on it")
    try:
        d = loads(data, limit=MAX_WALLET, what="wallet")
    except AttestationError:
        raise UsageFault(f"{path}: want JSON") from None  # says nothing of what is in it
    if not isinstance(d, dict) or d.get("schema") != SCHEMA or d.get("version") not in tuple(PER_TRANSFER):
        raise UsageFault(f'{path}: want schema "{SCHEMA}" and version {" or ".join(PER_TRANSFER)}')
    if d.keys() == {"schema", "version", "seed"}:
        seed = _seed(d["seed"], path)
    elif d.keys() == {"schema", "version", "mnemonic"}:
        seed = _mnemonic(d["mnemonic"], path)
    else:
        raise UsageFault(f"{path}: want schema, version, and either seed or mnemonic")
    public = Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()
    return Wallet(version=d["version"], secret=seed + public)


def _seed(value: object, path: Path) -> bytes:
    try:
        seed = bytes.fromhex(value) if isinstance(value, str) else b""
    except ValueError:
        seed = b""
    if len(seed) != 32:
        raise UsageFault(f"{path}: seed: want 32 bytes in hex")
    return seed


def _mnemonic(value: object, path: Path) -> bytes:
    words = value.split() if isinstance(value, str) else value
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words) or not mnemonic_is_valid(words):
        raise UsageFault(f"{path}: mnemonic: want the 24 words of a TON wallet")
    return bytes(mnemonic_to_private_key(words)[1][:32])
