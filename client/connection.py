# SPDX-License-Identifier: Apache-2.0
"""One HTTP/1.1 connection over TCP, TLS or a unix socket, blocking and bounded. It knows bytes, not meanings.

TLS certificates are not judged here: the key is, later, against verified claims. Until then the peer is nobody.
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Protocol, Self

import h11
from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import SSL

from .errors import Unreachable
from .target import Target

CONNECT_TIMEOUT: Final = 10.0  # seconds
READ_SIZE: Final = 64 * 1024
MAX_HEADERS: Final = 16 * 1024
TLS_GROUP: Final = "X25519MLKEM768"


class _Stream(Protocol):
    def send(self, data: bytes) -> None: ...

    def receive(self) -> bytes: ...

    def readable(self) -> bool: ...

    def close(self) -> None: ...


class _Plain:
    """A TCP or unix socket."""

    def __init__(self, sock: socket.socket, timeout: float) -> None:
        sock.settimeout(timeout)
        self._sock = sock

    def send(self, data: bytes) -> None:
        self._sock.sendall(data)

    def receive(self) -> bytes:
        return self._sock.recv(READ_SIZE)

    def readable(self) -> bool:
        return _ready(self._sock, select.POLLIN, 0)

    def close(self) -> None:
        _hang_up(self._sock)


class _Tls:
    """TLS 1.3 through pyOpenSSL, for its exporter and its key exchange groups."""

    def __init__(self, sock: socket.socket, host: str, timeout: float) -> None:
        context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        context.set_min_proto_version(SSL.TLS1_3_VERSION)
        context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
        context.set_options(SSL.OP_NO_TICKET)
        context.set_verify(SSL.VERIFY_NONE)
        sock.setblocking(False)
        self._sock = sock
        self._timeout = timeout
        self.connection = SSL.Connection(context, sock)
        if host and not _is_address(host):
            self.connection.set_tlsext_host_name(host.encode("idna"))
        self.connection.set_connect_state()
        self._until_done(self.connection.do_handshake)

    def _until_done(self, step: object, *args: object) -> object:
        deadline = time.monotonic() + self._timeout
        while True:
            try:
                return step(*args)  # type: ignore[operator]  # a bound method of the connection
            except SSL.WantReadError:
                waiting = select.POLLIN
            except SSL.WantWriteError:
                waiting = select.POLLOUT
            left = deadline - time.monotonic()
            if left <= 0 or not _ready(self._sock, waiting, left):
                raise TimeoutError

    def send(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            sent = self._until_done(self.connection.send, bytes(view[:READ_SIZE]))
            view = view[int(str(sent)) :]

    def receive(self) -> bytes:
        try:
            data = self._until_done(self.connection.recv, READ_SIZE)
        except SSL.ZeroReturnError:
            return b""
        return data if isinstance(data, bytes) else b""

    def readable(self) -> bool:
        return _ready(self._sock, select.POLLIN, 0)

    def close(self) -> None:
        _hang_up(self._sock)


def _ready(sock: socket.socket, events: int, seconds: float) -> bool:
    """Wait for a socket. Raises OSError when another thread has closed it."""
    if sock.fileno() < 0:
        raise ConnectionAbortedError("closed here")
    poll = select.poll()  # select() knows no descriptor above 1023
    poll.register(sock, events)
    return bool(poll.poll(seconds * 1000))


def _hang_up(sock: socket.socket) -> None:
    """Close, and wake a thread that waits for data: closing a descriptor alone does not."""
    with suppress(OSError):  # the peer was quicker, or it was closed before
        sock.shutdown(socket.SHUT_RDWR)
    sock.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """Status, headers and the body as it arrives. Nothing of it is authenticated."""

    status: int
    headers: dict[str, str]
    body: Iterator[bytes]

    def read(self, limit: int) -> bytes:
        """Read the whole body, at most `limit` bytes. Raises Unreachable."""
        data = bytearray()
        for chunk in self.body:
            data += chunk
            if len(data) > limit:
                raise Unreachable(f"the server's answer is longer than {limit} bytes")
        return bytes(data)


class Connection:
    """A connection that sends one request at a time. Use as a context manager."""

    def __init__(self, target: Target, *, timeout: float) -> None:
        self.target = target
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEADERS)
        try:
            self._stream: _Stream = _open(target, timeout)
        except (OSError, SSL.Error) as e:
            raise Unreachable(f"{target}: cannot connect ({type(e).__name__})") from None

    def __enter__(self) -> Self:
        """Give itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    def close(self) -> None:
        """Close the connection; the server sees the client go away."""
        self._stream.close()

    @property
    def reusable(self) -> bool:
        """Whether another request may follow: the last answer was read to its end and nobody wants to close."""
        return self._http.our_state in (h11.DONE, h11.IDLE) and self._http.their_state in (h11.DONE, h11.IDLE)

    @property
    def still_open(self) -> bool:
        """Whether an idle connection can be used again: the server has neither closed it nor said anything more."""
        try:
            return self.reusable and not self._stream.readable()
        except OSError:
            return False

    def peer_certificate(self) -> bytes | None:
        """Give the peer's certificate as DER, or None without TLS."""
        if not isinstance(self._stream, _Tls):
            return None
        certificate = self._stream.connection.get_peer_certificate(as_cryptography=True)
        return certificate.public_bytes(Encoding.DER) if certificate is not None else None

    def key_exchange_group(self) -> str | None:
        """Give the name of the negotiated key exchange group, or None without TLS."""
        return self._stream.connection.get_group_name() if isinstance(self._stream, _Tls) else None

    def exporter(self, label: bytes, context: bytes, size: int) -> bytes | None:
        """Give TLS exporter bytes (RFC 8446 section 7.5), or None without TLS."""
        if not isinstance(self._stream, _Tls):
            return None
        return self._stream.connection.export_keying_material(label, size, context)

    def request(self, method: str, path: str, *, body: bytes = b"", headers: dict[str, str] | None = None) -> Reply:
        """Send one request and read the answer's head. Raises Unreachable."""
        head = [("Host", self.target.authority), ("Accept", "*/*")]
        if body:
            head += [("Content-Type", "application/octet-stream"), ("Content-Length", str(len(body)))]
        try:
            if self._http.our_state is h11.MUST_CLOSE or self._http.their_state is h11.MUST_CLOSE:
                raise Unreachable(f"{self.target}: the server closed the connection")
            if self._http.our_state is h11.DONE:
                self._http.start_next_cycle()
            head += list((headers or {}).items())
            request = h11.Request(method=method, target=path, headers=head)
            wire = (self._http.send(request) or b"") + (self._http.send(h11.Data(data=body)) or b"" if body else b"")
            self._stream.send(wire + (self._http.send(h11.EndOfMessage()) or b""))
            event = self._next_event()
            while isinstance(event, h11.InformationalResponse):
                event = self._next_event()
        except (OSError, SSL.Error, h11.ProtocolError) as e:
            raise Unreachable(f"{self.target}: no answer ({type(e).__name__})") from None
        if not isinstance(event, h11.Response):
            raise Unreachable(f"{self.target}: closed without an answer")
        fields = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in event.headers}
        return Reply(status=event.status_code, headers=fields, body=self._body())

    def _body(self) -> Iterator[bytes]:
        while True:
            try:
                event = self._next_event()
            except (OSError, SSL.Error, h11.ProtocolError) as e:
                raise Unreachable(f"{self.target}: the answer was cut ({type(e).__name__})") from None
            if isinstance(event, h11.Data):
                yield bytes(event.data)
            else:
                return

    def _next_event(self) -> object:
        while True:
            event = self._http.next_event()
            if event is not h11.NEED_DATA:
                return event
            self._http.receive_data(self._stream.receive())


def _is_address(host: str) -> bool:
    return ":" in host or host.replace(".", "").isdigit()


def _open(target: Target, timeout: float) -> _Stream:
    if target.scheme == "unix":
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(CONNECT_TIMEOUT)
        try:
            sock.connect(target.path)
        except OSError:
            sock.close()
            raise
        return _Plain(sock, timeout)
    sock = socket.create_connection((target.host, target.port), timeout=CONNECT_TIMEOUT)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        return _Tls(sock, target.host, timeout) if target.tls else _Plain(sock, timeout)
    except (OSError, SSL.Error):
        sock.close()
        raise
