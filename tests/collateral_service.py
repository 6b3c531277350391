# SPDX-License-Identifier: Apache-2.0
"""A caching service for collateral on loopback, over real TLS: in order, or whatever a test lets it say."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import httpx2
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.tdx_cases import Case

Contexts = tuple[ssl.SSLContext, ssl.SSLContext]


def contexts(folder: Path) -> Contexts:
    """Give a server's context and a client's that trusts it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, SHA256())
    )
    pem = certificate.public_bytes(Encoding.PEM)
    path = folder / "both.pem"
    path.write_bytes(pem + key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(path)
    return server, ssl.create_default_context(cadata=pem.decode())


class Server:
    """A caching service on loopback that answers each request by `reply`, byte for byte."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self.reply: Callable[[str], Iterator[bytes]] = lambda path: iter([good(path)])
        self.asked: list[str] = []
        self._context = context
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self._listener.getsockname()[1]}"

    def _serve(self) -> None:
        self._listener.settimeout(0.2)
        while not self._ends.is_set():
            try:
                raw, _ = self._listener.accept()
            except TimeoutError:
                continue
            raw.settimeout(5)
            try:
                with self._context.wrap_socket(raw, server_side=True) as connection:
                    path = connection.recv(8192).split(b" ")[1].decode()
                    self.asked.append(path)
                    for portion in self.reply(path):
                        if self._ends.is_set():
                            break
                        connection.sendall(portion)
            except (OSError, IndexError):
                continue  # the client went away, as it should

    def stop(self) -> None:
        self._ends.set()
        self._thread.join(10)
        self._listener.close()


@contextmanager
def serving(context: ssl.SSLContext) -> Iterator[Server]:
    """Serve for a while."""
    made = Server(context)
    try:
        yield made
    finally:
        made.stop()


def answers(document: Mapping[str, Any]) -> Callable[[str], Iterator[bytes]]:
    """Give a `reply` that answers each request from this collateral, as Intel's tools write it."""

    def reply(path: str) -> Iterator[bytes]:
        header, body = answer(path, document)
        yield http(header, body=body)

    return reply


def answer(path: str, document: Mapping[str, Any] | None = None) -> tuple[str, bytes]:
    """Give the header and body of a service in order, from `document` or else a simulated platform's collateral."""
    fields = Case.new(1).build().document if document is None else document
    part = path.split("/v4/")[1].split("?", maxsplit=1)[0]
    chain = {"tcb": "tcb_info", "qe/identity": "qe_identity", "pckcrl": "pck_crl", "rootcacrl": ""}[part]
    quoted = httpx2.URL("https://x/", params={"c": fields.get(f"{chain}_issuer_chain", "")}).query.decode()[2:]
    names = {"tcb": "TCB-Info-Issuer-Chain", "qe/identity": "SGX-Enclave-Identity-Issuer-Chain"}
    header = f"{names.get(part, 'SGX-PCK-CRL-Issuer-Chain')}: {quoted.replace('+', '%20')}"
    info = f'{{"tcbInfo":{fields["tcb_info"]},"signature":"{fields["tcb_info_signature"]}"}}'
    identity = f'{{"enclaveIdentity":{fields["qe_identity"]},"signature":"{fields["qe_identity_signature"]}"}}'
    bodies = {
        "tcb": info.encode(),
        "qe/identity": identity.encode(),
        "pckcrl": bytes.fromhex(fields["pck_crl"]),
        "rootcacrl": fields["root_ca_crl"].encode(),
    }
    return header, bodies[part]


def http(*headers: str, body: bytes = b"", status: str = "200 OK", length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {size}", "Connection: close", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def good(path: str) -> bytes:
    header, body = answer(path)
    return http(header, body=body)
