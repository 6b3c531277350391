# SPDX-License-Identifier: Apache-2.0
"""Answers: is this request body one plain JSON object of bounded size, and how does the engine say no?"""

from __future__ import annotations

import json
from typing import Final

from attestation import strict_json
from attestation.errors import Malformed

MAX_BYTES: Final = 4 << 20
MAX_VALUES: Final = 200_000


class RequestRefused(Exception):
    """A request that the engine does not take. Holds a code and a field's name, never a value."""

    def __init__(self, code: str, field: str = "") -> None:
        super().__init__(code, field)
        self.code = code
        self.field = field


def invalid(field: str) -> RequestRefused:
    """Give the refusal that says `field` holds something it may not."""
    return RequestRefused("invalid_request", field)


def loads(body: bytes) -> dict[str, object]:
    """Parse `body` as one JSON object. Raises RequestRefused, whatever the bytes are."""
    if len(body) > MAX_BYTES or body.count(b",") > MAX_VALUES:
        raise invalid("body")
    try:
        value = strict_json.loads(body, limit=MAX_BYTES, what="body")
        # A lone surrogate written as an escape, and a number beyond doubles, survive the parser but are no values.
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode("utf-8")
    except (Malformed, ValueError) as error:
        raise invalid("body") from error
    if type(value) is not dict:
        raise invalid("body")
    return value
