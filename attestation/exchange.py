# SPDX-License-Identifier: Apache-2.0
"""What travels inside the seal: the request body, the items of an answer, and their commitments."""

from __future__ import annotations

import hmac
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from hashlib import sha256
from typing import Final, TypeAlias

from . import cbor
from .errors import Malformed
from .wire import label

ENDPOINTS: Final = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings")
MAX_BODY: Final = 8 * 1024 * 1024
MAX_VOUCHER: Final = 1024
TOKEN_ID_SIZE: Final = 4
_REQUEST: Final = "MalformedRequest"
_ITEM: Final = "MalformedFrame"

REFUSAL_CODES: Final = frozenset(
    """time_window model_unknown header_mismatch epoch_mismatch invalid_request unsupported_field context_too_long
    limit_exceeded busy already_run run_expired engine_failed deadline shutting_down""".split()
)
FINISH_CODES: Final = {"": 0, "stop": 1, "length": 2, "tool_calls": 3, "cancelled": 4}


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class ExchangeBody:
    """The sealed body of a request. Has no repr: it holds the prompt."""

    endpoint: str
    nonce: bytes  # 32
    run_id: bytes  # 32
    first_epoch: int
    policy_digest: bytes  # 32
    openai: bytes  # JSON
    tenant: bytes | None = None  # 32
    account: bytes | None = None  # 32
    offer_hash: bytes | None = None  # 32
    maximum_total: int | None = None  # nanograms
    voucher: bytes | None = None
    evidence_digest: bytes | None = None  # 32, of the evidence that the client verified

    def encode(self) -> bytes:
        """Give the deterministic CBOR that is committed to."""
        m: dict[int, object] = {
            1: self.endpoint,
            2: self.nonce,
            3: self.run_id,
            4: self.first_epoch,
            5: self.policy_digest,
            6: self.openai,
        }
        optional = (
            self.tenant, self.account, self.offer_hash, self.maximum_total, self.voucher, self.evidence_digest
        )  # fmt: skip
        m.update({key: value for key, value in enumerate(optional, start=7) if value is not None})
        return cbor.encode(m)

    @classmethod
    def decode(cls, data: bytes) -> ExchangeBody:
        """Read a body. Raises Malformed(MalformedRequest)."""
        m = cbor.decode_map(
            data, limit=MAX_BODY, what="body", code=_REQUEST, required=range(1, 7), optional=range(7, 13)
        )
        endpoint = cbor.as_text(m[1], "body.endpoint", code=_REQUEST, limit=64)
        if endpoint not in ENDPOINTS:
            raise Malformed(_REQUEST, "body.endpoint", want="a known endpoint", got="another")

        def digest(key: int, name: str) -> bytes | None:
            return cbor.as_bytes(m[key], f"body.{name}", code=_REQUEST, size=32) if key in m else None

        return cls(
            endpoint=endpoint,
            nonce=cbor.as_bytes(m[2], "body.nonce", code=_REQUEST, size=32),
            run_id=cbor.as_bytes(m[3], "body.run_id", code=_REQUEST, size=32),
            first_epoch=cbor.as_uint(m[4], "body.first_epoch", code=_REQUEST, limit=2**32 - 1),
            policy_digest=cbor.as_bytes(m[5], "body.policy_digest", code=_REQUEST, size=32),
            openai=cbor.as_bytes(m[6], "body.openai", code=_REQUEST),
            tenant=digest(7, "tenant"),
            account=digest(8, "account"),
            offer_hash=digest(9, "offer_hash"),
            maximum_total=cbor.as_uint(m[10], "body.maximum_total", code=_REQUEST) if 10 in m else None,
            voucher=cbor.as_bytes(m[11], "body.voucher", code=_REQUEST, limit=MAX_VOUCHER) if 11 in m else None,
            evidence_digest=digest(12, "evidence_digest"),
        )


class ItemKind(IntEnum):
    """Kinds of data items."""

    START = 0
    DELTA = 1
    CHOICE_END = 2
    USAGE = 3
    OBJECT = 4


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Start:
    """The run began: what it runs on and with which resolved parameters."""

    created: int
    prompt_ids: tuple[int, ...]
    params: dict[str, int | str]
    cached_tokens: int = 0

    def encode(self) -> bytes:
        """Give the data item."""
        params = dict(self.params)
        return cbor.encode(
            {1: int(ItemKind.START), 2: self.created, 3: token_bytes(self.prompt_ids), 4: params, 5: self.cached_tokens}
        )


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Delta:
    """More of one choice: text of whole characters, the ids behind it, and further OpenAI fields."""

    choice: int = 0
    text: str = ""
    ids: tuple[int, ...] = ()
    detail: bytes = b""

    def encode(self) -> bytes:
        """Give the data item."""
        m: dict[int, object] = {1: int(ItemKind.DELTA), 6: self.choice}
        if self.text:
            m[7] = self.text
        if self.ids:
            m[8] = token_bytes(self.ids)
        if self.detail:
            m[9] = self.detail
        return cbor.encode(m)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChoiceEnd:
    """One choice ended."""

    choice: int
    finish: str

    def encode(self) -> bytes:
        """Give the data item."""
        return cbor.encode({1: int(ItemKind.CHOICE_END), 6: self.choice, 10: self.finish})


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Token counts of the run."""

    prompt: int
    cached: int
    completion: int
    reasoning: int

    def encode(self) -> bytes:
        """Give the data item."""
        return cbor.encode({1: int(ItemKind.USAGE), 11: [self.prompt, self.cached, self.completion, self.reasoning]})


@dataclass(frozen=True, slots=True, repr=False)
class WholeObject:
    """A whole JSON object instead of deltas."""

    json: bytes

    def encode(self) -> bytes:
        """Give the data item."""
        return cbor.encode({1: int(ItemKind.OBJECT), 9: self.json})


Item: TypeAlias = Start | Delta | ChoiceEnd | Usage | WholeObject


def read_item(value: cbor.Value) -> Item:
    """Read one decoded data item. Raises Malformed(MalformedFrame)."""
    m = cbor.int_map(value, what="item", code=_ITEM, required=(1,), optional=range(2, 12))
    match m[1]:
        case ItemKind.START:
            need = cbor.int_map(value, what="item.start", code=_ITEM, required=range(1, 6))
            return Start(
                created=cbor.as_uint(need[2], "item.created", code=_ITEM, limit=2**40),
                prompt_ids=read_token_bytes(cbor.as_bytes(need[3], "item.prompt_ids", code=_ITEM)),
                params=_read_params(need[4]),
                cached_tokens=cbor.as_uint(need[5], "item.cached", code=_ITEM, limit=2**32 - 1),
            )
        case ItemKind.DELTA:
            need = cbor.int_map(value, what="item.delta", code=_ITEM, required=(1, 6), optional=(7, 8, 9))
            return Delta(
                choice=cbor.as_uint(need[6], "item.choice", code=_ITEM, limit=127),
                text=cbor.as_text(need.get(7, ""), "item.text", code=_ITEM, limit=2**20),
                ids=read_token_bytes(cbor.as_bytes(need.get(8, b""), "item.ids", code=_ITEM)),
                detail=cbor.as_bytes(need.get(9, b""), "item.detail", code=_ITEM),
            )
        case ItemKind.CHOICE_END:
            need = cbor.int_map(value, what="item.choice_end", code=_ITEM, required=(1, 6, 10))
            finish = cbor.as_text(need[10], "item.finish", code=_ITEM, limit=16)
            if finish not in FINISH_CODES or not finish:
                raise Malformed(_ITEM, "item.finish", want="a known finish reason", got="another")
            return ChoiceEnd(choice=cbor.as_uint(need[6], "item.choice", code=_ITEM, limit=127), finish=finish)
        case ItemKind.USAGE:
            need = cbor.int_map(value, what="item.usage", code=_ITEM, required=(1, 11))
            counts = cbor.as_list(need[11], "item.usage", code=_ITEM, limit=4, least=4)
            prompt, cached, completion, reasoning = (
                cbor.as_uint(c, "item.usage", code=_ITEM, limit=2**32 - 1) for c in counts
            )
            return Usage(prompt=prompt, cached=cached, completion=completion, reasoning=reasoning)
        case ItemKind.OBJECT:
            need = cbor.int_map(value, what="item.object", code=_ITEM, required=(1, 9))
            return WholeObject(cbor.as_bytes(need[9], "item.object", code=_ITEM))
    raise Malformed(_ITEM, "item.kind", want=f"at most {max(ItemKind)}", got="another")


def _read_params(value: cbor.Value) -> dict[str, int | str]:
    if not isinstance(value, dict) or len(value) > 64:
        raise Malformed(_ITEM, "item.params", want="a map of at most 64 entries", got=type(value).__name__)
    params: dict[str, int | str] = {}
    for key, item in value.items():
        if not isinstance(key, str) or not isinstance(item, int | str) or isinstance(item, bool):
            raise Malformed(_ITEM, "item.params", want="text keys to uint or text", got=type(item).__name__)
        params[key] = item
    return params


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedRefusal:
    """The error item: an authenticated no."""

    code: str
    retry_after: int | None = None  # seconds
    field: str | None = field(default=None)  # a request field's name, never its value

    def encode(self) -> bytes:
        """Give the error item."""
        m: dict[int, object] = {1: self.code}
        if self.retry_after is not None:
            m[2] = self.retry_after
        if self.field is not None:
            m[3] = self.field
        return cbor.encode(m)

    @classmethod
    def decode(cls, data: bytes) -> SealedRefusal:
        """Read an error item. Raises Malformed(MalformedFrame), also for a code that docs/protocol.md does not list."""
        m = cbor.decode_map(data, limit=512, what="error", code=_ITEM, required=(1,), optional=(2, 3))
        code = cbor.as_text(m[1], "error.code", code=_ITEM, limit=32)
        if code not in REFUSAL_CODES:
            raise Malformed(_ITEM, "error.code", want="a known code", got="another")
        return cls(
            code=code,
            retry_after=cbor.as_uint(m[2], "error.retry_after", code=_ITEM, limit=86400) if 2 in m else None,
            field=cbor.as_text(m[3], "error.field", code=_ITEM, limit=128) if 3 in m else None,
        )


def token_bytes(ids: Iterable[int]) -> bytes:
    """Give token ids as u32 little-endian, concatenated."""
    given = tuple(ids)
    return struct.pack(f"<{len(given)}I", *given)


def read_token_bytes(data: bytes) -> tuple[int, ...]:
    """Read token ids. Raises Malformed(MalformedFrame) for a length that is no multiple of 4."""
    if len(data) % TOKEN_ID_SIZE:
        raise Malformed(_ITEM, "item.ids", want="a multiple of 4 bytes", got=len(data))
    cut = range(0, len(data), TOKEN_ID_SIZE)
    return tuple(int.from_bytes(data[i : i + TOKEN_ID_SIZE], "little") for i in cut)


def commit(salt: bytes, data: bytes) -> bytes:
    """Give HMAC-SHA256(salt, data): a commitment that nobody without the salt can test a guess against."""
    return hmac.digest(salt, data, "sha256")


def params_digest(params: Mapping[str, int | str]) -> bytes:
    """Give SHA-256(L(params) || CBOR(resolved parameters)), 32 bytes."""
    return sha256(label("params") + cbor.encode(dict(params))).digest()
