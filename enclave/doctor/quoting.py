# SPDX-License-Identifier: Apache-2.0
"""Can this host turn a TD's report into a quote? SGX devices, Intel's quote service, its certificate cache.

What is read of Intel's software: the service's process is `qgs`, its settings /etc/qgs.conf (a `port` for vsock;
without one it listens on a unix socket); its certificate source is `pccs_url` in /etc/sgx_default_qcnl.conf. Nothing
that a cache answers is believed here: the question is only whether it answers.
"""

from __future__ import annotations

import re
from typing import Final

import httpx2

from .check import Check, Outcome, Wanted, decides, fails, holds
from .host import Host, Unseen

DEVICES: Final = ("/dev/sgx_enclave", "/dev/sgx_provision")
SERVICE_SETTINGS: Final = "/etc/qgs.conf"
CACHE_SETTINGS: Final = "/etc/sgx_default_qcnl.conf"
DEFAULT_SOCKET: Final = "/var/run/tdx-qgs/qgs.socket"
MAX_ANSWER: Final = 64 * 1024
ANSWER_SECONDS: Final = 10.0
LOG_LINES: Final = 200
_CURES: Final = {
    "0xe011": "register the platform (the PCK ID retrieval tool, or multi-package registration after a change of CPUs)",
    "0xe019": "let the service reach its certificate cache: see the check quotes.cache",
    "0xb033": "look into the certificate cache's own log: it holds no certificates of this platform",
    "no certificate data": "register the platform with Intel, then fetch its certificates into the cache",
}


def _devices(host: Host, _: Wanted) -> Outcome:
    absent = [name for name in DEVICES if not host.exists(name)]
    return decides(f"absent: {', '.join(absent)}" if absent else "both are there", good=not absent)


def _service(host: Host, _: Wanted) -> Outcome:
    process = host.process("qgs")
    return decides(f"process {process}" if process else "no process qgs", good=process is not None)


def _port(host: Host) -> int | None:
    found = re.search(r"^\s*port\s*=\s*(\d{1,10})\s*$", host.text(SERVICE_SETTINGS) or "", re.MULTILINE)
    return int(found[1]) if found else None


def _door(host: Host, wanted: Wanted) -> Outcome:
    if wanted.quote_socket is not None:
        return _socket(host, wanted.quote_socket)
    port = _port(host)
    if port is None and host.exists(DEFAULT_SOCKET):
        return _socket(host, DEFAULT_SOCKET)
    if port != wanted.quote_port:
        configured = "no port" if port is None else f"port {port}"
        return fails(f"{SERVICE_SETTINGS}: {configured}, wanted {wanted.quote_port}")
    listening = host.output("ss", "--vsock", "--listening", "--numeric", "--no-header")
    there = re.search(rf":{port}\s", listening + "\n") is not None
    return decides(f"vsock port {port} {'listens' if there else 'does not listen'}", good=there)


def _socket(host: Host, name: str) -> Outcome:
    if not host.exists(name):
        return fails(f"no {name}")
    why = host.accepts(name)
    return decides(f"{name} accepts" if why is None else f"{name}: {why}", good=why is None)


def _cache(host: Host, _: Wanted) -> Outcome:
    text = host.text(CACHE_SETTINGS)
    if text is None:
        return fails(f"no {CACHE_SETTINGS}")
    found = re.search(r'^[^/\n]*"?pccs_url"?\s*[:=]\s*"?([^"\s,]+)', text, re.MULTILINE | re.IGNORECASE)
    if found is None:
        return fails(f"{CACHE_SETTINGS} names no pccs_url")
    url = found[1].rstrip("/")
    try:
        parts = httpx2.URL(url)
    except httpx2.InvalidURL:
        parts = httpx2.URL()
    if parts.scheme not in {"http", "https"} or not parts.host:
        return fails(f"{CACHE_SETTINGS}: pccs_url is no web address")
    # As the quote library does: a cache on this machine mostly has a certificate of its own making.
    careful = re.search(r'^[^/\n]*"?use_secure_cert"?\s*[:=]\s*"?false', text, re.MULTILINE | re.IGNORECASE) is None
    return _ask(f"{url}/rootcacrl", careful=careful and parts.scheme == "https")


def _ask(url: str, *, careful: bool) -> Outcome:
    size = 0
    try:
        with (
            httpx2.Client(timeout=ANSWER_SECONDS, follow_redirects=False, verify=careful, trust_env=False) as client,
            client.stream("GET", url) as answer,
        ):
            for part in answer.iter_bytes():
                size += len(part)
                if size > MAX_ANSWER:
                    break
            status = answer.status_code
    except (httpx2.HTTPError, httpx2.InvalidURL) as e:
        return fails(f"{url}: {type(e).__name__}")
    good = status == 200 and 0 < size <= MAX_ANSWER
    return decides(f"{url}: status {status}, {size} bytes", good=good)


def _registered(host: Host, _: Wanted) -> Outcome:
    said = host.output(
        "journalctl", "--unit=qgsd", "--boot", f"--lines={LOG_LINES}", "--output=cat", "--no-pager"
    ).splitlines()
    for line in reversed(said):
        for sign, cure in _CURES.items():
            if sign in line.lower():
                return fails(line, cure)
    if not said:
        raise Unseen("the service has logged nothing since this machine started", "start it, then look again")
    return holds(f"no certificate error in the service's last {len(said)} lines")


CHECKS: Final = (
    Check(
        name="quotes.sgx",
        want=" and ".join(DEVICES),
        mend="turn on SGX in the firmware setup: the quoting enclaves run under it",
        look=_devices,
    ),
    Check(
        name="quotes.service",
        want="the quote generation service runs",
        mend="install Intel's tdx-qgs and its default quote library, then `systemctl enable --now qgsd`",
        look=_service,
    ),
    Check(
        name="quotes.door",
        want="the service listens where QEMU will call it",
        mend=f"set `port = 4050` in {SERVICE_SETTINGS} (or none, and the shape's unix socket), restart qgsd",
        look=_door,
    ),
    Check(
        name="quotes.cache",
        want="the certificate cache answers",
        mend=f"start a PCCS, or correct pccs_url in {CACHE_SETTINGS}",
        look=_cache,
    ),
    Check(
        name="quotes.registered",
        want="no certificate error in the service's log",
        mend="run this as root where the journal is systemd's, or read the service's own log for these errors",
        look=_registered,
    ),
)
