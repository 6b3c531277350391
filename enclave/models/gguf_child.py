# SPDX-License-Identifier: Apache-2.0
"""Answers: what does a child process, which may die of the file, say about a GGUF header?

Run as `python -m enclave.models.gguf_child FD`; prints the facts as one JSON object.
"""

from __future__ import annotations

import dataclasses
import json
import mmap
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

from attestation.errors import AttestationError

from .gguf import GgufFacts, parse
from .refusal import ModelRefused

_CPU_SECONDS = 120
_TIMEOUT = 180
_MEMORY = 4 << 30


def read_facts(fd: int) -> GgufFacts:
    """Parse the header of the open file `fd` in a child. Raises ModelRefused(model_header)."""
    command = [sys.executable, "-m", f"{__package__}.gguf_child", str(fd)]
    try:
        done = subprocess.run(  # our own interpreter and module
            command, env=child_environment(), pass_fds=(fd,), capture_output=True, timeout=_TIMEOUT, check=False
        )
    except subprocess.TimeoutExpired:
        raise ModelRefused("model_header", "the header takes too long to read") from None
    try:
        answer = json.loads(done.stdout)
        if done.returncode != 0:
            raise ModelRefused("model_header", str(answer["refused"]))
        return _facts(answer)
    except (ValueError, KeyError, TypeError):
        raise ModelRefused("model_header", "the header's reader died") from None


def _facts(answer: dict[str, Any]) -> GgufFacts:
    answer["tokenizer"] = bytes.fromhex(answer["tokenizer"])
    answer["template"] = bytes.fromhex(answer["template"])
    answer["types"] = {int(kind): count for kind, count in answer["types"].items()}
    return GgufFacts(**answer)


def child_environment() -> dict[str, str]:
    """Give the environment of children: this package's place, and no variable of the parent's."""
    root = str(Path(__file__).resolve().parents[2])
    return {"PYTHONPATH": root, "PATH": os.environ.get("PATH", ""), "LC_ALL": "C.UTF-8"}


def main(fd: int) -> int:
    """Print the facts, or the refusal; give the exit status."""
    size = os.fstat(fd).st_size
    resource.setrlimit(resource.RLIMIT_CPU, (_CPU_SECONDS, _CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (size + _MEMORY, size + _MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if not size:
        sys.stdout.write(json.dumps({"refused": "the file is empty"}))
        return 3
    try:
        with mmap.mmap(fd, 0, prot=mmap.PROT_READ) as data:
            facts = parse(data)
    except AttestationError as error:
        sys.stdout.write(
            json.dumps({"refused": f"{error.code} at {error.where}: wanted {error.want}, got {error.got}"})
        )
        return 3
    answer = dataclasses.asdict(facts)
    answer.update(tokenizer=facts.tokenizer.hex(), template=facts.template.hex())
    sys.stdout.write(json.dumps(answer))
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
