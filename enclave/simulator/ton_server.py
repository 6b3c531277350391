# SPDX-License-Identifier: Apache-2.0
"""A lite server on loopback: ADNL over TCP around a function that answers queries.

Handshake, packets and encryption as lite clients of TON speak them: X25519 between the two Ed25519 keys, AES-256-CTR in
each direction with keys that the client drew, packets of length || nonce || payload || SHA-256.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Callable
from hashlib import sha256, sha512
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR

from .ton_answers import untl_bytes
from .ton_validators import tl_bytes

MAX_PACKET: Final = 1 << 20
IDLE_SECONDS: Final = 120.0
_PRIME: Final = (1 << 255) - 19
_KEY: Final = bytes.fromhex("c6b41348")
_PING: Final = bytes.fromhex("9a2b084d")
_PONG: Final = bytes.fromhex("03fb69dc")
_QUERY: Final = bytes.fromhex("7af98bb4")
_ANSWER: Final = bytes.fromhex("1684ac0f")

Answer = Callable[[bytes], bytes | None]


class TonServer:
    """Listens on 127.0.0.1. `answer` gives None to keep the asker waiting for ever."""

    def __init__(self, answer: Answer, *, key: Ed25519PrivateKey) -> None:
        self._answer = answer
        self._key = key
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()

    @property
    def public(self) -> bytes:
        """The server's public key, 32 bytes."""
        return self._key.public_key().public_bytes_raw()

    async def start(self, port: int = 0) -> int:
        """Listen and give the port."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", port)
        chosen: int = self._server.sockets[0].getsockname()[1]
        return chosen

    async def stop(self) -> None:
        """Close everything."""
        if self._server is not None:
            self._server.close()
            for writer in list(self._open):
                writer.close()
            await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        try:
            await self._talk(reader, writer)
        except (OSError, asyncio.IncompleteReadError, TimeoutError, ValueError):
            return
        finally:
            self._open.discard(writer)
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        hello = await asyncio.wait_for(reader.readexactly(256), IDLE_SECONDS)
        sending, receiving = self._agree(hello)
        writer.write(_packet(sending, b""))
        while True:
            head = await asyncio.wait_for(reader.readexactly(4), IDLE_SECONDS)
            size = int.from_bytes(receiving.update(head), "little")
            if not 64 <= size <= MAX_PACKET:
                raise ValueError(size)
            packet = receiving.update(await asyncio.wait_for(reader.readexactly(size), IDLE_SECONDS))
            if sha256(packet[:-32]).digest() != packet[-32:]:
                raise ValueError("checksum")
            for reply in self._replies(packet[32:-32]):
                writer.write(_packet(sending, reply))
            await writer.drain()

    def _replies(self, payload: bytes) -> list[bytes]:
        if payload[:4] == _PING:
            return [_PONG + payload[4:12]]
        if payload[:4] != _QUERY:
            raise ValueError("unknown packet")
        answer = self._answer(untl_bytes(payload[36:]))
        return [] if answer is None else [_ANSWER + payload[4:36] + tl_bytes(answer)]

    def _agree(self, hello: bytes) -> tuple[CipherContext, CipherContext]:
        """Open the client's hello and give the ciphers to send and to receive with."""
        if hello[:32] != sha256(_KEY + self.public).digest():
            raise ValueError("another server's key")
        secret = X25519PrivateKey.from_private_bytes(sha512(self._key.private_bytes_raw()).digest()[:32])
        y = int.from_bytes(hello[32:64], "little") & ((1 << 255) - 1)
        u = (1 + y) * pow(1 - y, -1, _PRIME) % _PRIME
        shared = secret.exchange(X25519PublicKey.from_public_bytes(u.to_bytes(32, "little")))
        check = hello[64:96]
        drawn = _cipher(shared[:16] + check[16:], check[:4] + shared[20:]).update(hello[96:])
        if sha256(drawn).digest() != check:
            raise ValueError("checksum")
        return _cipher(drawn[:32], drawn[64:80]), _cipher(drawn[32:64], drawn[80:96])


def _cipher(key: bytes, iv: bytes) -> CipherContext:
    return Cipher(AES256(key), CTR(iv)).encryptor()


def _packet(cipher: CipherContext, payload: bytes) -> bytes:
    body = secrets.token_bytes(32) + payload
    return cipher.update((len(body) + 32).to_bytes(4, "little") + body + sha256(body).digest())
