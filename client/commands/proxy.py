# SPDX-License-Identifier: Apache-2.0
"""`sericin proxy TARGET`: a verified enclave as an OpenAI-compatible server on this machine."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import click
from aiohttp import web

from ..attested import connector
from ..clock import wall_clock
from ..errors import UsageFault
from ..memory import ReceiptMemory
from ..output import confidentiality_line, console, print_json, reports_errors
from ..proxy import HOSTS, Proxy
from ..settings import choose_policy, state_dir
from ..upstream import Upstream
from .collateral import pccs_option


@click.command(name="proxy")
@click.argument("target")
@click.option("--policy", "policy_path", type=click.Path(path_type=Path), help="Policy document (sericin-policy/1).")
@pccs_option
@click.option("--listen", default="127.0.0.1:10000", show_default=True, help="Loopback address and port.")
@click.option("--token", envvar="SERICIN_PROXY_TOKEN", help="Callers must send this bearer token.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document when it listens.")
@reports_errors
def command(
    target: str, policy_path: Path | None, pccs: str | None, listen: str, token: str | None, *, as_json: bool
) -> None:
    """Offer the verified enclave at TARGET to this machine's programs: base URL http://LISTEN/v1.

    Every request goes out sealed, on a connection that was verified under the policy; a model that is not confidential
    says so in its name and in a header. Ends with Ctrl-C.
    """
    chosen = choose_policy(policy_path)
    connect = connector(
        target, chosen.policy, now=wall_clock, allow_unconfidential=chosen.allow_unconfidential, pccs=pccs
    )
    host, port = _address(listen)

    first = connect()  # refuse at once what would be refused at the first request
    memory = ReceiptMemory(state_dir() / "receipts.sqlite")
    upstream = Upstream(connect, now=wall_clock, memory=memory)
    upstream.give_back(first)
    proxy = Proxy(upstream, token=token)

    def ready(url: str) -> None:
        confidential = first.verdict.confidential
        if as_json:
            said: dict[str, object] = {"url": url, "target": target, "confidential": confidential}
            print_json({"ok": True, "code": None, "exit": 0} | said)
            sys.stdout.flush()
            return
        out = console(stderr=True)
        out.print(f"{target} accepted under policy {chosen.policy.name}; listening on {url}")
        out.print(confidentiality_line(confidential=confidential))

    try:
        asyncio.run(_serve(proxy, host, port, ready))
    finally:
        proxy.close()
        upstream.close()
        memory.close()


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if host not in HOSTS or not port.isdigit() or int(port) > 65535:
        raise UsageFault(f"--listen takes a loopback address and a port, such as 127.0.0.1:10000, not {text}")
    return host.strip("[]"), int(port)


async def _serve(proxy: Proxy, host: str, port: int, ready: Callable[[str], None]) -> None:
    runner = proxy.runner()
    await runner.setup()
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    try:
        await web.TCPSite(runner, host, port).start()
        shown = f"[{host}]" if ":" in host else host
        ready(f"http://{shown}:{runner.addresses[0][1]}/v1")
        await stopping.wait()
    except OSError as e:
        raise UsageFault(f"cannot listen on {host}:{port}: {e.strerror}") from None
    finally:
        await runner.cleanup()
