# SPDX-License-Identifier: Apache-2.0
"""Test support: a seal key pair and one exchange on it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.hpke import MLKEM768X25519PrivateKey

from attestation.boot import key_id
from attestation.channel.header import Header, Padding
from attestation.channel.request import RequestOpener, SealedRequest, seal_request
from attestation.channel.schedule import Schedule, open_seed


@dataclass(frozen=True, slots=True)
class SealPair:
    """A seal key as an enclave holds it."""

    private: MLKEM768X25519PrivateKey
    public: bytes


def make_pair(seed: int = 1) -> SealPair:
    kem = MLKEM768PrivateKey.from_seed_bytes(bytes([seed]) * 64)
    dh = X25519PrivateKey.from_private_bytes(bytes([seed]) * 32)
    public = kem.public_key().public_bytes_raw() + dh.public_key().public_bytes_raw()
    return SealPair(MLKEM768X25519PrivateKey(kem, dh), public)


@cache
def pair() -> SealPair:
    return make_pair()


def header(*, padding: Padding = Padding.CELL, model: str = "m", stream: bool = True) -> Header:
    return Header(
        kid=key_id(pair().public),
        keyset_digest=bytes(32),
        request_id=bytes(16),
        time=1_800_000_000,
        padding=padding,
        stream=stream,
        model=model,
    )


def sealed(body: bytes = b"\xa0", *, padding: Padding = Padding.CELL, seed: bytes = bytes(range(32))) -> SealedRequest:
    return seal_request(header(padding=padding), body, public_key=pair().public, seed=seed)


def open_all(wire: bytes, *, max_bytes: int = 10**7, step: int | None = None) -> tuple[RequestOpener, Schedule | None]:
    """Open a request as a server does, in pieces of `step` bytes."""
    opener, schedule = RequestOpener(max_bytes=max_bytes), None
    size = step or max(len(wire), 1)
    for at in range(0, len(wire), size):
        opener.feed(wire[at : at + size])
        if opener.header is not None and schedule is None:
            seed = open_seed(opener.sealed_seed, pair().private, header_hash=opener.header_hash)
            schedule = opener.unlock(seed)
    return opener, schedule
