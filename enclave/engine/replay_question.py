# SPDX-License-Identifier: Apache-2.0
"""Answers: what does this document ask to be re-executed? It comes from a dossier, which anybody may have written.

One JSON object (schema `sericin-replay/1`): record (hex of the model record's CBOR), endpoint, body (base64 of the
OpenAI body), most, prompt (ids), params, choices (ids, text, finish).
"""

from __future__ import annotations

import base64
import binascii
from typing import Final, NoReturn

from attestation import strict_json
from attestation.boot import ModelRecord
from attestation.errors import Malformed

from .replay import ClaimedChoice, ReplayQuestion

SCHEMA: Final = "sericin-replay/1"
MAX_QUESTION: Final = 32 << 20
_MAX_IDS: Final = 1 << 20
_MAX_CHOICES: Final = 16
_KEYS: Final = frozenset({"schema", "record", "endpoint", "body", "most", "prompt", "params", "choices"})


def read_question(data: bytes) -> ReplayQuestion:
    """Read the document. Raises Malformed."""
    value = strict_json.loads(data, limit=MAX_QUESTION, what="replay")
    if type(value) is not dict or value.keys() != _KEYS or value["schema"] != SCHEMA:
        _refuse("replay", SCHEMA)
    choices = value["choices"]
    if type(choices) is not list or not 1 <= len(choices) <= _MAX_CHOICES:
        _refuse("replay.choices", f"1 to {_MAX_CHOICES}")
    try:
        record = ModelRecord.decode(bytes.fromhex(_text(value["record"], "replay.record")))
        body = base64.b64decode(_text(value["body"], "replay.body"), validate=True)
    except (ValueError, binascii.Error):
        _refuse("replay.record or replay.body", "hex and base64")
    return ReplayQuestion(
        record=record,
        endpoint=_text(value["endpoint"], "replay.endpoint"),
        body=body,
        most=_ids([value["most"]], "replay.most")[0],
        prompt=_ids(value["prompt"], "replay.prompt"),
        params=_params(value["params"]),
        choices=tuple(_choice(choice) for choice in choices),
    )


def _choice(value: object) -> ClaimedChoice:
    if type(value) is not dict or value.keys() != {"ids", "text", "finish"}:
        _refuse("replay.choices", "ids, text and finish")
    return ClaimedChoice(
        ids=_ids(value["ids"], "replay.choices.ids"),
        text=_text(value["text"], "replay.choices.text"),
        finish=_text(value["finish"], "replay.choices.finish"),
    )


def _ids(value: object, where: str) -> tuple[int, ...]:
    if type(value) is not list or len(value) > _MAX_IDS:
        _refuse(where, f"at most {_MAX_IDS} numbers")
    ids = tuple(item for item in value if type(item) is int and 0 <= item < 1 << 32)
    if len(ids) != len(value):
        _refuse(where, "32-bit numbers")
    return ids


def _params(value: object) -> dict[str, int | str]:
    if type(value) is not dict or len(value) > 64:
        _refuse("replay.params", "at most 64 entries")
    params = {key: item for key, item in value.items() if type(item) in (int, str)}
    if len(params) != len(value):
        _refuse("replay.params", "numbers and texts")
    return params


def _text(value: object, where: str) -> str:
    if type(value) is not str:
        _refuse(where, "a text")
    return value


def _refuse(where: str, want: str) -> NoReturn:
    raise Malformed("JsonInvalid", where, want=want, got="something else")
