# SPDX-License-Identifier: Apache-2.0
"""Test support: somebody between client and enclave, who sees every byte and may bend the answers."""

from __future__ import annotations

import http.client
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.served import Served

Bend = Callable[[str, bytes], tuple[int, bytes]]


class Relay:
    """An HTTP relay in front of an enclave that may bend answers. It keeps every path and body it saw.

    With `tls` it speaks TLS, under a key of its own.
    """

    def __init__(self, enclave: Served | str, bend: Bend, tls: ssl.SSLContext | None) -> None:
        self.paths: list[str] = []
        self.bodies: list[bytes] = []
        target = enclave if isinstance(enclave, str) else enclave.service.targets["http"]
        address = target.removeprefix("http://")
        relay = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
                relay.paths.append(self.path)
                relay.bodies.append(body)
                upstream = http.client.HTTPConnection(address, timeout=10)
                upstream.request("POST", self.path, body, {"Connection": "close"})
                with upstream.getresponse() as response:
                    status, data = bend(self.path, response.read())
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self.target = f"http{'s' if tls else ''}://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def relayed(enclave: Served | str, bend: Bend, *, tls: ssl.SSLContext | None = None) -> Iterator[Relay]:
    relay = Relay(enclave, bend, tls)
    try:
        yield relay
    finally:
        relay.close()


def faithful(_: str, data: bytes) -> tuple[int, bytes]:
    return 200, data
