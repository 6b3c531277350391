# SPDX-License-Identifier: Apache-2.0
"""Process 1 of an image after its first program: no shell, no login, one service, and its end is the machine's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from typing import IO, Final

from .gpu_nodes import make_gpu_nodes
from .health import Health
from .kernel import ignore_console, power_off
from .network import bring_up
from .power_button import watch
from .refusal import BootRefused
from .steps import Prepared, mount_all, prepare

LAST_WORDS: Final = 2.0  # seconds between the last line of health and the end of the machine, so that it can be read
MAX_READY: Final = 64 * 1024
SERVE: Final = "from enclave.commands.serve import command; command()"


def main() -> None:
    """Start the enclave and stay until it ends; then the machine ends too."""
    health = Health()
    try:
        ignore_console()
        mount_all()
        health.start()
        make_gpu_nodes()
        prepared = prepare()
        bring_up()
        _serve(prepared, health)
    except BootRefused as refusal:
        _say(f"REFUSED {refusal.code}: {refusal}")
        health.set("refused", code=refusal.code, why=str(refusal))
    except OSError as e:
        _say(f"REFUSED machine: {e}")
        health.set("refused", code="machine", why=str(e))
    finally:
        health.say_once()
        time.sleep(LAST_WORDS)
        power_off()


def _serve(prepared: Prepared, health: Health) -> None:
    """Run `sericin serve` to its end. The power button ends it: it signs its last batch and forgets its keys."""
    words = [sys.executable, "-I", "-B", "-c", SERVE]
    words += ["--config", str(prepared.config), "--operator", str(prepared.operator)]
    health.set("loading")
    _say("starting the enclave")
    # The console is a terminal that nobody sits at: no progress on it, only the journal's lines.
    environment = {**os.environ, "TTY_COMPATIBLE": "0"}
    with subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=environment) as child:
        watch(child.terminate)
        if child.stdout is not None:
            _follow(child.stdout, health)
        code = child.wait()
    _reap()
    _say(f"the enclave ended with exit code {code}")
    health.set("stopped" if code == 0 else "failed", exit=code)


def _follow(output: IO[bytes], health: Health) -> None:
    """Read the enclave's one line, and tell the host that it serves."""
    line = output.readline(MAX_READY)
    try:
        ready = json.loads(line)
    except ValueError:
        return
    health.set("serving", ready=ready)
    _say(f"serving {json.dumps(ready)}")
    while output.read(4096):
        pass


def _reap() -> None:
    """Take the exit of whatever the enclave left behind."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return


def _say(text: str) -> None:
    print(f"sericin agent: {text}", file=sys.stderr, flush=True)  # noqa: T201 - the console is the agent's one voice


if __name__ == "__main__":
    main()
