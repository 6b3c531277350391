# SPDX-License-Identifier: Apache-2.0
"""A certificate cache of a host, on loopback: it answers one address, and grows, moves or breaks on others."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class _Cache(BaseHTTPRequestHandler):
    """A certificate cache: it answers one address, and grows, moves or breaks on others."""

    def do_GET(self) -> None:
        status, body = {
            "/sgx/certification/v4/rootcacrl": (200, b"3082"),
            "/broken/rootcacrl": (503, b"no"),
            "/silent/rootcacrl": (200, b""),
            "/huge/rootcacrl": (200, b"30" * 65536),
            "/moved/rootcacrl": (302, b"there"),
        }.get(self.path, (404, b"no such page"))
        self.send_response(status)
        self.send_header("Location", "/sgx/certification/v4/rootcacrl")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        pass


@contextmanager
def certificate_cache() -> Iterator[str]:
    """Serve it, and give its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Cache)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()
