# SPDX-License-Identifier: Apache-2.0
"""Carry queries to a lite server and its answers back, as bytes. pytoniq is the transport (ADNL over TCP) and no more.

pytoniq's own synchronising, parsing and proof checking are switched off: `queries` gets an answer exactly as it came.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import secrets
from types import TracebackType
from typing import Any, Final, Self

from pytoniq.liteclient.client import LiteClient, LiteClientError

from attestation.errors import Malformed
from attestation.ton.tl import put_bytes, take_bytes
from attestation.wire import Reader

from ..errors import Unreachable
from .network import LiteServerAddress

MAX_PACKET: Final = 17 * 1024 * 1024  # the largest account state and its proofs
CONNECT_SECONDS: Final = 10
ANSWER_SECONDS: Final = 20.0
_QUERY: Final = bytes.fromhex("7af98bb4")  # adnl.message.query
_ANSWER: Final = 0x0FAC8416  # adnl.message.answer
_PONG: Final = 0xDC69FB03
_NONCE: Final = 32

_silent: Final = logging.getLogger("sericin.ton")
_silent.addHandler(logging.NullHandler())
_silent.propagate = False


class _Carrier(LiteClient):
    """pytoniq's client with everything above the transport taken out."""

    def __init__(self, address: LiteServerAddress) -> None:
        super().__init__(
            address.host,
            address.port,
            base64.b64encode(address.key).decode(),
            timeout=CONNECT_SECONDS,
            trust_level=2,
        )
        self.logger = _silent

    async def update_last_blocks(self) -> None:
        """Ask for nothing when connected."""

    async def block_updater(self) -> None:
        """Follow nothing in the background."""

    async def receive(self, data_len: int) -> bytes:
        """Read a part of a packet, none longer than a lite server has reason to send."""
        if data_len > MAX_PACKET:
            await self.close()
            raise ConnectionAbortedError(f"a packet of {data_len} bytes")
        data: bytes = await super().receive(data_len)
        return data

    def deserialize_adnl_query(self, data: bytes) -> dict[str, Any]:
        """Take an answer out of its packet and leave it as the bytes it is."""
        reader = Reader(data, what="adnl", code="MalformedProof")
        reader.take(_NONCE, "nonce")
        if not reader.left:
            return {}  # the end of the handshake
        tag = reader.u32le("tag")
        if tag == _PONG:
            random_id = reader.u64le("random_id")
            return {"random_id": random_id - (random_id >> 63 << 64)}
        if tag != _ANSWER:
            raise Malformed("MalformedProof", "adnl.tag", want=f"{_ANSWER:08x}", got=f"{tag:08x}")
        query_id = reader.take(32, "query_id")
        return {
            "query_id": query_id.hex(),
            "answer": take_bytes(reader, "answer", limit=MAX_PACKET, code="MalformedProof"),
        }


class LiteServer:
    """One connection to a lite server. Every wait is bounded; whatever goes wrong is Unreachable."""

    def __init__(self, address: LiteServerAddress) -> None:
        self.address = address
        self._carrier = _Carrier(address)

    async def __aenter__(self) -> Self:
        try:
            await asyncio.wait_for(self._carrier.connect(), CONNECT_SECONDS)
        except (OSError, LiteClientError, TimeoutError, ValueError) as e:
            await self._carrier.close()
            raise Unreachable(f"lite server {self.address}: {_reason(e)}") from None
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._carrier.close()

    async def ask(self, query: bytes) -> bytes:
        """Send one query and give the answer. Raises Unreachable."""
        query_id = secrets.token_bytes(32)
        packet = self._carrier.serialize_packet(_QUERY + query_id + put_bytes(query))
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                answer = await (await self._carrier.send_and_encrypt(packet, query_id.hex()))
        except (OSError, LiteClientError, TimeoutError, AttributeError) as e:  # no writer: the connection is gone
            raise Unreachable(f"lite server {self.address}: {_reason(e)}") from None
        if not isinstance(answer, bytes):
            raise Unreachable(f"lite server {self.address}: no answer")
        return answer


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, AttributeError | LiteClientError):
        return "the connection was closed"
    return str(error) or type(error).__name__
