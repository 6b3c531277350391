# SPDX-License-Identifier: Apache-2.0
"""Re-execute an audited run: ask the model itself whether it would have said that (docs/models.md, Re-execution).

The work is done by another process, `sericin model replay`, found through the command table: it may die of a hostile
model file, and needs llama.cpp, which clients do not have unless they install the `replay` extra.
"""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from attestation import cbor
from attestation.answer import Answer
from attestation.boot import BootMap, ModelRecord
from attestation.channel.response import MAX_ITEM
from attestation.dossier import Dossier
from attestation.errors import Malformed, Untrusted, error_for
from attestation.exchange import Delta, ExchangeBody, read_item
from attestation.findings import Finding

from .errors import UsageFault

NOT_RECOUNTED: Final = "not recounted"
_SCHEMA: Final = "sericin-replay/1"
_PROMPT: Final = "replay.prompt"
MODEL: Final = "replay.model"


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """What re-execution found."""

    mode: str  # "bit-exact", "teacher-forced" or "recounted"
    why: str
    tokens: int
    links: tuple[Finding, ...]

    def require(self) -> None:
        """Raise the error of the first thing that the model would not repeat."""
        for link in self.links:
            if not link.holds:
                raise error_for(link.code, link.rule, want=link.want, got=link.got)

    def to_json(self) -> dict[str, object]:
        """Give the documented JSON object."""
        links = [link.to_json() for link in self.links]
        return {"mode": self.mode, "why": self.why, "tokens": self.tokens, "links": links}

    def sentence(self) -> str:
        """Say in one line what was done."""
        return f"re-executed {self.tokens} tokens, {self.mode}: {self.why}"


def question_of(dossier: Dossier, boot: BootMap) -> bytes:
    """Give the document that `sericin model replay` reads. Raises Malformed or Untrusted for a dossier without one."""
    header, body = dossier.header(), ExchangeBody.decode(dossier.request)
    record = _record(boot, header.model)
    answer = Answer.of_payload(dossier.response)
    if answer.start is None or not answer.finishes:
        raise Malformed("MalformedDossier", "dossier.response", want="an answer of tokens", got="none")
    ids = _ids_by_choice(dossier.response)
    question = {
        "schema": _SCHEMA,
        "record": record.encode().hex(),
        "endpoint": body.endpoint,
        "body": base64.b64encode(body.openai).decode("ascii"),
        "most": boot.limits.max_completion_tokens,
        "prompt": list(answer.start.prompt_ids),
        "params": answer.start.params,
        "choices": [
            {"ids": ids.get(number, []), "text": answer.text(number), "finish": answer.finishes[number]}
            for number in sorted(answer.finishes)
        ],
    }
    return json.dumps(question).encode()


def _record(boot: BootMap, name: str) -> ModelRecord:
    for record in boot.models:
        if record.name == name:
            return record
    raise Untrusted("ReceiptMismatch", "receipt.model.name", want=name, got="no such model")


def _ids_by_choice(payload: bytes) -> dict[int, list[int]]:
    decoder = cbor.SequenceDecoder(limit=MAX_ITEM, what="response.data", code="MalformedFrame")
    ids: dict[int, list[int]] = {}
    for value in decoder.feed(payload):
        item = read_item(value)
        if isinstance(item, Delta):
            ids.setdefault(item.choice, []).extend(item.ids)
    return ids


def has_engine() -> bool:
    """Whether the `replay` extra is installed."""
    return find_spec("llama_cpp") is not None


def replay(dossier: Dossier, boot: BootMap, model: Path) -> Replay:
    """Re-execute the run of `dossier`, already audited, with the model file `model`.

    Raises UsageFault when it cannot be done here, Untrusted(ReplayMismatch) when the file is another model.
    """
    if not has_engine():
        raise UsageFault("re-execution needs llama.cpp: install sericin[replay]")
    salts = dossier.salts
    if not (salts.request and salts.response and salts.tokens):
        raise UsageFault("the dossier leaves out salts: nothing binds its request, text and tokens to the receipt")
    question = question_of(dossier, boot)
    command = [sys.executable, "-m", "client", "model", "replay", str(model)]
    # Standard error stays the person's: progress is shown there.
    done = subprocess.run(command, input=question, stdout=subprocess.PIPE, check=False)
    return read_answer(done.stdout, status=done.returncode)


def read_answer(data: bytes, *, status: int) -> Replay:
    """Read what the command said. Raises UsageFault, Malformed or Untrusted(ReplayMismatch)."""
    try:
        answer: dict[str, Any] = json.loads(data)
        if "checks" not in answer:
            _refused(str(answer["code"]), str(answer["error"]))
        links = tuple(_link(check) for check in answer["checks"])
        found = Replay(mode=str(answer["mode"]), why=str(answer["why"]), tokens=int(answer["tokens"]), links=links)
    except (ValueError, KeyError, TypeError):
        raise UsageFault(f"sericin model replay ended with {status} and no answer") from None
    if not links:
        raise UsageFault("sericin model replay checked nothing")
    return found


def _refused(code: str, message: str) -> None:
    if code == "model_digest":
        raise Untrusted("ReplayMismatch", MODEL, want="the record's weights", got="another file")
    raise UsageFault(f"cannot re-execute: {message}")


def _link(check: dict[str, Any]) -> Finding:
    rule = str(check["rule"])
    code = "TokenCountMismatch" if rule == _PROMPT else "ReplayMismatch"
    return Finding(rule=rule, holds=check["holds"] is True, code=code, want=str(check["want"]), got=str(check["got"]))
