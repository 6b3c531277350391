# SPDX-License-Identifier: Apache-2.0
"""Keys: born in memory at boot, one for each role, never written (docs/protocol.md, Keys).

Each private key sits behind the one thing it may sign, so that no caller can make a role speak for another.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.hpke import MLKEM768X25519PrivateKey

from attestation.batch import BatchStatement, Registration
from attestation.boot import key_id
from attestation.channel.schedule import open_seed
from attestation.liveness import Liveness, SignedLiveness
from attestation.receipt import Receipt, SignedReceipt


class ReceiptSigner:
    """The receipt key: signs the hash of exactly three kinds of cell."""

    def __init__(self) -> None:
        self._key = Ed25519PrivateKey.generate()
        self.public = self._key.public_key().public_bytes_raw()

    def receipt(self, receipt: Receipt) -> SignedReceipt:
        """Sign a receipt."""
        return SignedReceipt(receipt=receipt, signature=self._key.sign(receipt.hash))

    def statement(self, cell: BatchStatement | Registration) -> bytes:
        """Sign a batch statement or a registration; 64 bytes."""
        if not isinstance(cell, BatchStatement | Registration):
            raise TypeError("the receipt key signs receipts, batch statements and registrations")
        return self._key.sign(cell.hash)


class IdentitySigner:
    """The identity key: signs liveness statements."""

    def __init__(self) -> None:
        self._key = Ed25519PrivateKey.generate()
        self.public = self._key.public_key().public_bytes_raw()

    def liveness(self, statement: Liveness) -> SignedLiveness:
        """Sign a liveness statement."""
        encoded = statement.encode()
        return SignedLiveness(statement=encoded, signature=self._key.sign(encoded))


class NetKey:
    """Reserved for logins at a relay. It signs nothing yet."""

    def __init__(self) -> None:
        self._key = Ed25519PrivateKey.generate()
        self.public = self._key.public_key().public_bytes_raw()


@dataclass(frozen=True, slots=True)
class BootKeys:
    """The keys that live as long as the process."""

    receipt: ReceiptSigner = field(default_factory=ReceiptSigner, repr=False)
    identity: IdentitySigner = field(default_factory=IdentitySigner, repr=False)
    net: NetKey = field(default_factory=NetKey, repr=False)


class SealKey:
    """One epoch's HPKE key (X-Wing). `drop` forgets the private half."""

    def __init__(self) -> None:
        mlkem, x25519 = MLKEM768PrivateKey.generate(), X25519PrivateKey.generate()
        self._private: MLKEM768X25519PrivateKey | None = MLKEM768X25519PrivateKey(mlkem, x25519)
        self.public = mlkem.public_key().public_bytes_raw() + x25519.public_key().public_bytes_raw()
        self.kid = key_id(self.public)

    @property
    def live(self) -> bool:
        """Whether the private half is still there."""
        return self._private is not None

    def open(self, sealed_seed: bytes, *, header_hash: bytes) -> bytes:
        """Open a sealed seed. Raises Untrusted(HpkeOpenFailed); LookupError once dropped."""
        if self._private is None:
            raise LookupError("this epoch's key is gone")
        return open_seed(sealed_seed, self._private, header_hash=header_hash)

    def drop(self) -> None:
        """Forget the private half."""
        self._private = None


def new_tls_key() -> ec.EllipticCurvePrivateKey:
    """Make an epoch's TLS key, P-256."""
    return ec.generate_private_key(ec.SECP256R1())
