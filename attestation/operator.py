# SPDX-License-Identifier: Apache-2.0
"""The operator document `sericin-operator/1`: addresses, prices, contact; free within bounds (docs/operator.md)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from . import document, strict_json
from .errors import Malformed, Untrusted
from .evidence import MAX_OPERATOR

SCHEMA: Final = "sericin-operator/1"
MAX_PRICE: Final = 10**15  # nanograms per million tokens: with 2**32 tokens of each kind a total still fits 64 bits
PER: Final = 10**6
MAX_PATH: Final = 1024
MAX_UNIX_PATH: Final = 100  # what sockaddr_un takes, and some room
_ADDRESS: Final = re.compile(r"(?:\[([0-9a-fA-F:.]{2,45})\]|([A-Za-z0-9.-]{1,253})):([0-9]{1,5})")
_TON: Final = re.compile(r"[A-Za-z0-9_+/=:-]{1,80}")
_CODE: Final = "MalformedConfig"


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """Nanograms per million tokens."""

    prompt: int
    cached: int
    completion: int

    def total(self, *, prompt: int, cached: int, completion: int) -> int:
        """Give ceil(sum of tokens x price per million / 10**6), in nanograms, rounded once.

        `prompt` counts all tokens of the prompt, `cached` those of them that a prefix cache held: these cost the cached
        price instead. Raises Untrusted(TokenCountMismatch) for more cached tokens than the prompt has.
        """
        if not 0 <= cached <= prompt or completion < 0:
            raise Untrusted("TokenCountMismatch", "tokens.cached", want=f"at most {prompt}", got=cached)
        millionths = (prompt - cached) * self.prompt + cached * self.cached + completion * self.completion
        return -(-millionths // PER)


@dataclass(frozen=True, slots=True, kw_only=True)
class Listen:
    """Where to listen: at least one of three. TCP addresses are (host, port); port 0 takes a free one."""

    http: tuple[str, int] | None = None
    unix: str | None = None
    ra_tls: tuple[str, int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorDocument:
    """A parsed operator document."""

    listen: Listen
    state: str  # directory of a simulated machine's CA
    ledger: str  # file of signed receipts and batch statements
    model_dir: str
    ton_address: str | None
    prices: Prices
    contact: str

    @classmethod
    def parse(cls, data: bytes) -> OperatorDocument:
        """Read an operator document of at most 16 KiB. Raises Malformed."""
        keys = ("schema", "listen", "state", "ledger", "model_dir", "ton_address", "prices", "contact")
        m = document.fields(strict_json.loads(data, limit=MAX_OPERATOR, what="operator"), keys, "operator")
        document.choice(m["schema"], "operator.schema", (SCHEMA,))
        address = document.optional_text(m["ton_address"], "operator.ton_address", limit=80)
        if address is not None and not _TON.fullmatch(address):
            raise Malformed(_CODE, "operator.ton_address", want="a TON address", got="other text")
        return cls(
            listen=_listen(m["listen"]),
            state=document.text(m["state"], "operator.state", limit=MAX_PATH),
            ledger=document.text(m["ledger"], "operator.ledger", limit=MAX_PATH),
            model_dir=document.text(m["model_dir"], "operator.model_dir", limit=MAX_PATH),
            ton_address=address,
            prices=_prices(m["prices"]),
            contact=document.text(m["contact"], "operator.contact", limit=256, least=0),
        )


def _listen(value: object) -> Listen:
    where = "operator.listen"
    if not isinstance(value, dict) or not value:
        raise Malformed(_CODE, where, want="at least one listener", got="none")
    m = document.fields(value, {"http", "unix", "ra_tls"} & set(value), where)
    return Listen(
        http=_address(m["http"], f"{where}.http") if "http" in m else None,
        unix=document.text(m["unix"], f"{where}.unix", limit=MAX_UNIX_PATH) if "unix" in m else None,
        ra_tls=_address(m["ra_tls"], f"{where}.ra_tls") if "ra_tls" in m else None,
    )


def _address(value: object, where: str) -> tuple[str, int]:
    found = _ADDRESS.fullmatch(document.text(value, where, limit=300))
    if found is None or int(found[3]) > 65535:
        raise Malformed(_CODE, where, want="host:port", got="other text")
    return found[1] or found[2], int(found[3])


def _prices(value: object) -> Prices:
    m = document.fields(value, ("prompt", "cached", "completion"), "operator.prices")
    return Prices(**{name: document.integer(m[name], f"operator.prices.{name}", low=0, high=MAX_PRICE) for name in m})
