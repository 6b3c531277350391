# SPDX-License-Identifier: Apache-2.0
"""TLS 1.3 inside the enclave, through pyOpenSSL: the standard library has no exporter and takes no keys from memory.

A protocol that sits between a socket's transport and the HTTP protocol. No session is ever resumed: each connection
proves the epoch's key.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from cryptography import x509
from OpenSSL import SSL

from .epochs import Epoch

CONNECTION: Final = "sericin_tls"
HANDSHAKE_SECONDS: Final = 15.0
MAX_HANDSHAKE: Final = 64 * 1024  # bytes that a peer may send before the handshake is done
_RECORD: Final = 16 * 1024


def server_context(epoch: Epoch) -> SSL.Context:
    """Make the context of one epoch: its certificate and key, TLS 1.3 alone, no tickets.

    OpenSSL offers and prefers X25519MLKEM768 by itself.
    """
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.set_min_proto_version(SSL.TLS1_3_VERSION)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_options(SSL.OP_NO_TICKET | SSL.OP_NO_COMPRESSION | SSL.OP_NO_RENEGOTIATION)
    context.use_certificate(x509.load_der_x509_certificate(epoch.certificate))
    context.use_privatekey(epoch.tls_key)
    return context


class TlsTransport(asyncio.Transport):
    """What the HTTP protocol writes to: plain bytes in, records out."""

    def __init__(self, door: TlsProtocol, raw: asyncio.Transport) -> None:
        super().__init__()
        self._door = door
        self._raw = raw

    def get_extra_info(self, name: str, default: object = None) -> object:
        """Give the TLS connection under its name, else what the socket knows."""
        return self._door if name == CONNECTION else self._raw.get_extra_info(name, default)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Encrypt and send."""
        self._door.send(bytes(data))

    def is_closing(self) -> bool:
        """Whether the connection is going away."""
        return self._raw.is_closing()

    def close(self) -> None:
        """Say goodbye and close once everything has left."""
        self._door.say_goodbye()
        self._raw.close()

    def abort(self) -> None:
        """Close at once."""
        self._raw.abort()

    def pause_reading(self) -> None:
        """Read no further for now."""
        if self._raw.is_reading():
            self._raw.pause_reading()

    def resume_reading(self) -> None:
        """Read on."""
        if not self._raw.is_closing() and not self._raw.is_reading():
            self._raw.resume_reading()

    def is_reading(self) -> bool:
        """Whether the socket is being read."""
        return self._raw.is_reading()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Set when writers must wait."""
        self._raw.set_write_buffer_limits(high, low)

    def get_write_buffer_size(self) -> int:
        """Give how many bytes wait for the socket."""
        return self._raw.get_write_buffer_size()

    def can_write_eof(self) -> bool:
        """Give False: TLS has no half-closed connections here."""
        return False

    def get_protocol(self) -> asyncio.BaseProtocol:
        """Give the HTTP protocol."""
        return self._door.inner or self._door


class TlsProtocol(asyncio.Protocol):
    """One connection: handshake, then records to and from the HTTP protocol that `make_inner` gives."""

    def __init__(
        self,
        epoch: Epoch,
        context: SSL.Context,
        make_inner: Callable[[], asyncio.Protocol],
        *,
        failed: Callable[[], None],
    ) -> None:
        self.epoch = epoch
        self.inner: asyncio.Protocol | None = None
        self._make_inner = make_inner
        self._failed = failed
        self._tls = SSL.Connection(context, None)
        self._tls.set_accept_state()
        self._raw: asyncio.Transport | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._received = 0
        self._over = False

    def exporter(self, label: bytes, context: bytes, size: int) -> bytes:
        """Give TLS exporter bytes (RFC 8446 section 7.5)."""
        return self._tls.export_keying_material(label, size, context)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the handshake and its deadline."""
        if not isinstance(transport, asyncio.Transport):
            raise TypeError("a stream transport")
        self._raw = transport
        self._deadline = asyncio.get_running_loop().call_later(HANDSHAKE_SECONDS, self._fail)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the HTTP protocol."""
        self._over = True
        if self._deadline is not None:
            self._deadline.cancel()
            self._failed()
        if self.inner is not None:
            self.inner.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take records."""
        if self._over:
            return
        try:
            view = memoryview(data)
            while view:
                view = view[self._tls.bio_write(bytes(view)) :]
            if self._deadline is not None:
                self._received += len(data)
                if not self._handshake():
                    return
            self._deliver()
        except SSL.Error:
            self._fail()

    def _handshake(self) -> bool:
        """Go on with the handshake; True once it is done."""
        try:
            self._tls.do_handshake()
        except SSL.WantReadError:
            self._flush()
            if self._received > MAX_HANDSHAKE:
                self._fail()
            return False
        self._flush()
        if self._deadline is None or self._raw is None:
            return False
        self._deadline.cancel()
        self._deadline = None
        self.inner = self._make_inner()
        self.inner.connection_made(TlsTransport(self, self._raw))
        return True

    def _deliver(self) -> None:
        while self.inner is not None and not self._over:
            try:
                plain = self._tls.recv(_RECORD)
            except SSL.WantReadError:
                break
            except SSL.ZeroReturnError:
                if self._raw is not None:
                    self._raw.close()
                break
            self.inner.data_received(plain)
        self._flush()

    def eof_received(self) -> bool:
        """Close: a peer that stops sending has gone."""
        return False

    def pause_writing(self) -> None:
        """Let the HTTP protocol wait."""
        if self.inner is not None:
            self.inner.pause_writing()

    def resume_writing(self) -> None:
        """Let the HTTP protocol go on."""
        if self.inner is not None:
            self.inner.resume_writing()

    def send(self, data: bytes) -> None:
        """Encrypt and send."""
        if self._over or self._raw is None or self._raw.is_closing():
            return
        for at in range(0, len(data), _RECORD):
            self._tls.send(data[at : at + _RECORD])
        self._flush()

    def say_goodbye(self) -> None:
        """Send close_notify, once."""
        if self._over or self._raw is None or self._raw.is_closing() or self.inner is None:
            return
        try:
            self._tls.shutdown()
        except SSL.Error:
            return  # the peer has broken the connection already
        self._flush()

    def _flush(self) -> None:
        while self._raw is not None and not self._raw.is_closing():
            try:
                records = self._tls.bio_read(4 * _RECORD)
            except SSL.WantReadError:
                return
            self._raw.write(records)

    def _fail(self) -> None:
        self._over = True
        if self._raw is not None:
            self._flush()
            self._raw.abort()
