# SPDX-License-Identifier: Apache-2.0
"""Whom can a guest call by name? Itself; and where it has GPUs the services of their vendor, each by its outlet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from .devices import Outlet
from .tree import Tree

CERTIFICATES: Final = "usr/lib/python3/dist-packages/certifi/cacert.pem"  # of a wheel of the lock


def add_names(tree: Tree, outlets: Sequence[Outlet]) -> None:
    """Write /etc/hosts; with outlets also where names and TLS roots are looked up: no name server is ever asked."""
    lines = dict.fromkeys(f"{outlet.address} {outlet.name}\n" for outlet in outlets)
    tree.file("etc/hosts", ("127.0.0.1 localhost\n" + "".join(lines)).encode())
    if outlets:
        tree.file("etc/nsswitch.conf", b"hosts: files\n")
        tree.link("etc/ssl/cert.pem", f"../../{CERTIFICATES}")
