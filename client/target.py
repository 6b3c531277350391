# SPDX-License-Identifier: Apache-2.0
"""Where an enclave is reached: https://host:port, http://host:port or unix:PATH."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from .errors import UsageFault


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A parsed TARGET."""

    scheme: str  # "https", "http" or "unix"
    host: str
    port: int
    path: str = ""  # of the unix socket

    @property
    def tls(self) -> bool:
        """Whether the connection is TLS."""
        return self.scheme == "https"

    @property
    def authority(self) -> str:
        """What the Host header says."""
        if self.scheme == "unix":
            return "localhost"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    def __str__(self) -> str:
        """Give the target as it was written."""
        return f"unix:{self.path}" if self.scheme == "unix" else f"{self.scheme}://{self.authority}"


def parse_target(text: str) -> Target:
    """Read a TARGET. Raises UsageFault."""
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        if not path:
            raise UsageFault("unix: needs a path")
        return Target(scheme="unix", host="", port=0, path=path)
    try:
        url = urlsplit(text)
        port = url.port
    except ValueError:
        raise UsageFault("TARGET is not a URL") from None
    if url.scheme not in ("https", "http") or not url.hostname:
        raise UsageFault("TARGET is https://host:port, http://host:port or unix:PATH")
    if url.path not in ("", "/") or url.query or url.fragment or url.username:
        raise UsageFault("TARGET has a host and a port, and nothing after it")
    return Target(scheme=url.scheme, host=url.hostname, port=port or (443 if url.scheme == "https" else 80))
