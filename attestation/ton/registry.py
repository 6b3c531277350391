# SPDX-License-Identifier: Apache-2.0
"""What a registry contract's proved data says: lists, receipt keys and the heads of their chains (docs/ton.md).

A registration proves possession of a key and asserts nothing about attestation; images and models are the owner's list.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ..errors import Untrusted
from .accounts import Account
from .boc import read_boc
from .cells import Cell
from .hashmap import items, lookup, path_to
from .pruning import merkle_proof
from .slices import Slice

MAX_ENTRIES: Final = 65_536  # of each dictionary
MAX_CODE: Final = 8 * 1024
VERSION: Final = 1
_CODE: Final = "MalformedAccount"


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """An image or model on the owner's list; unix seconds of the chain."""

    since: int
    not_after: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Enclave:
    """A receipt key and where its chain of batches stands."""

    boot: bytes
    serial: int
    valid_until: int
    seqno: int
    head: bytes  # hash of the newest statement; of the boot registration when seqno is 0
    anchored_at: int  # unix seconds of the chain; 0: never
    extension: Cell | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """An account: workchain and 32 bytes. `none` in a contract is None in Python."""

    workchain: int
    account: bytes

    def __str__(self) -> str:
        """Give the raw form."""
        return f"{self.workchain}:{self.account.hex()}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryState:
    """Everything that a registry holds. Digests and keys are 32 bytes; revocations give unix seconds of the chain."""

    owner: Address | None
    offered: Address | None
    fee: int  # nanograms
    enclaves: dict[bytes, Enclave]
    images: dict[bytes, Listing]
    models: dict[bytes, Listing]
    revoked_images: dict[bytes, int]
    revoked_keys: dict[bytes, int]


def contract_code(boc: bytes) -> Cell:
    """Read the contract's code from the bag that this release carries. Raises MalformedCell."""
    (cell,) = read_boc(boc, what="registry code", limit=MAX_CODE, max_cells=512)
    return cell


def registry_data(account: Account | None, *, code_hash: bytes) -> Cell:
    """Give the data of an account that runs exactly the registry's code. Raises RegistryProofInvalid."""
    if account is None or account.code is None or account.data is None:
        raise Untrusted("RegistryProofInvalid", "registry", want="an active account", got="none")
    got = account.code.hashes[0]
    if got != code_hash:
        raise Untrusted("RegistryProofInvalid", "registry.code", want=code_hash.hex(), got=got.hex())
    return account.data


@dataclass(frozen=True, slots=True)
class _Storage:
    owner: Address | None
    fee: int
    enclaves: Cell | None
    lists: Cell


def _storage(data: Cell) -> _Storage:
    at = Slice(data, what="registry", code=_CODE)
    at.tag(8, VERSION, "version")
    owner, fee = _address(at, "owner"), at.coins("fee")
    enclaves, lists = at.maybe_ref("enclaves"), at.ref("lists")
    at.end()
    return _Storage(owner, fee, enclaves, lists)


def _address(at: Slice, field: str) -> Address | None:
    if at.uint(2, field) == 0:
        return None
    at.tag(1, 0, field)  # addr_std without anycast
    return Address(workchain=at.signed(8, field), account=at.octets(32, field))


def _enclave(at: Slice) -> Enclave:
    enclave = Enclave(
        boot=at.octets(32, "boot"),
        serial=at.uint(32, "serial"),
        valid_until=at.uint(64, "valid_until"),
        seqno=at.uint(64, "seqno"),
        head=at.octets(32, "head"),
        anchored_at=at.uint(64, "anchored_at"),
        extension=at.maybe_ref("extension"),
    )
    at.end()
    return enclave


def _listing(at: Slice) -> Listing:
    listing = Listing(since=at.uint(64, "since"), not_after=at.uint(64, "not_after"))
    at.end()
    return listing


def _time(at: Slice) -> int:
    time = at.uint(64, "since")
    at.end()
    return time


def _entries(root: Cell | None, what: str) -> list[tuple[bytes, Slice]]:
    if root is None:
        return []
    found = items(root, 256, most=MAX_ENTRIES, what=what, code=_CODE)
    return [(key.to_bytes(32, "big"), at) for key, at in found]


def read_registry(data: Cell) -> RegistryState:
    """Read a registry's whole data. Raises MalformedAccount, also when any of it is pruned."""
    storage = _storage(data)
    lists = Slice(storage.lists, what="registry.lists", code=_CODE)
    images, models, revoked_images, revoked_keys = (
        lists.maybe_ref(field) for field in ("images", "models", "revoked_images", "revoked_keys")
    )
    offered = _address(lists, "offered")
    lists.end()
    return RegistryState(
        owner=storage.owner,
        offered=offered,
        fee=storage.fee,
        enclaves={key: _enclave(at) for key, at in _entries(storage.enclaves, "enclave")},
        images={key: _listing(at) for key, at in _entries(images, "image")},
        models={key: _listing(at) for key, at in _entries(models, "model")},
        revoked_images={key: _time(at) for key, at in _entries(revoked_images, "revoked_image")},
        revoked_keys={key: _time(at) for key, at in _entries(revoked_keys, "revoked_key")},
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyStatus:
    """What a registry says about one receipt key; None where it says nothing."""

    enclave: Enclave | None
    revoked_at: int | None


def find_key(data: Cell, key: bytes) -> KeyStatus:
    """Find one receipt key (32 bytes) in data of which a proof shows only the way there. Raises MalformedAccount."""
    storage = _storage(data)
    revoked = _revoked_keys(storage.lists)
    number = int.from_bytes(key, "big")
    found = None if storage.enclaves is None else lookup(storage.enclaves, number, 256, what="enclave", code=_CODE)
    at = None if revoked is None else lookup(revoked, number, 256, what="revoked_key", code=_CODE)
    return KeyStatus(enclave=None if found is None else _enclave(found), revoked_at=None if at is None else _time(at))


def _revoked_keys(lists: Cell) -> Cell | None:
    at = Slice(lists, what="registry.lists", code=_CODE)
    for field in ("images", "models", "revoked_images"):
        at.maybe_ref(field)
    return at.maybe_ref("revoked_keys")


def prove_key(account: Cell, data: Cell, key: bytes) -> Cell:
    """Make the Merkle proof over an account's cell that shows what `find_key` needs of `key`, and nothing else.

    Raises MalformedAccount.
    """
    storage = _storage(data)
    number = int.from_bytes(key, "big")
    shown = [data, storage.lists]
    for root in (storage.enclaves, _revoked_keys(storage.lists)):
        if root is not None:
            shown += path_to(root, number, 256, what="registry", code=_CODE)
    return merkle_proof(account, shown)
