# SPDX-License-Identifier: Apache-2.0
"""docs/openai.md is what happens: every row is run, and no field of the openai package is without one."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from openai.types import completion_create_params, embedding_create_params
from openai.types.chat import completion_create_params as chat_create_params

from enclave.engine.body import RequestRefused
from enclave.engine.requests import CHAT, COMPLETIONS, EMBEDDINGS, Request, read_request

PAGE = Path(__file__).parent.parent / "docs" / "openai.md"
ENDPOINTS = {"Chat completions": CHAT, "Completions": COMPLETIONS, "Embeddings": EMBEDDINGS}
LEAST: dict[str, dict[str, Any]] = {
    CHAT: {"model": "m", "messages": [{"role": "user", "content": "hello"}], "seed": 1},
    COMPLETIONS: {"model": "m", "prompt": "hello", "seed": 1},
    EMBEDDINGS: {"model": "m", "input": "hello"},
}


class Row(NamedTuple):
    endpoint: str
    field: str
    what: str
    taken: str
    refused: str


def rows() -> list[Row]:
    found = []
    for part in PAGE.read_text().split("\n## ")[1:]:
        title, _, text = part.partition("\n")
        for line in re.findall(r"^\| (`.*) \|$", text, re.MULTILINE) if title in ENDPOINTS else []:
            field, what, taken, refused = [cell.strip() for cell in re.split(r" \|(?= )", line)]
            found.append(Row(ENDPOINTS[title], field.strip("`"), what, taken.strip("`"), refused))
    return found


def read(endpoint: str, **fields: Any) -> Request:
    return read_request(endpoint, json.dumps(LEAST[endpoint] | fields).encode(), model="m")


ROWS = rows()
IDS = [f"{row.endpoint} {row.field}" for row in ROWS]


@pytest.mark.parametrize("row", ROWS, ids=IDS)
def test_a_row_is_taken_as_it_says(row: Row) -> None:
    kind = re.split(r"\W", row.what)[0]
    assert kind in {"used", "no", "only", "refused"}
    if kind == "refused":
        assert not row.taken
        return
    plain = read(row.endpoint)
    more = {"tools": [{"type": "function", "function": {"name": "f"}}]} if row.field == "tool_choice" else {}
    found = read(row.endpoint, **more, **{row.field: json.loads(row.taken)})
    same = replace(found, sampling=plain.sampling) == plain and found.sampling == plain.sampling
    unseen = row.field in {"model", "top_logprobs"} or "client's side" in row.what
    assert same == (kind in {"no", "only"} or unseen)


@pytest.mark.parametrize("row", ROWS, ids=IDS)
def test_a_row_is_refused_as_it_says(row: Row) -> None:
    match = re.fullmatch(r"`(.*)` (\w+) ([\w.]+)", row.refused)
    assert match, row.refused
    with pytest.raises(RequestRefused) as refused:
        read(row.endpoint, **{row.field: json.loads(match[1])})
    assert (refused.value.code, refused.value.field) == (match[2], match[3])


@pytest.mark.parametrize(
    ("endpoint", "parameters"),
    [
        (CHAT, chat_create_params.CompletionCreateParamsBase),
        (COMPLETIONS, completion_create_params.CompletionCreateParamsBase),
        (EMBEDDINGS, embedding_create_params.EmbeddingCreateParams),
    ],
)
def test_no_field_of_the_openai_package_is_missing(endpoint: str, parameters: Any) -> None:
    written = {row.field for row in ROWS if row.endpoint == endpoint}
    assert set(parameters.__annotations__) - written == set()
    assert len(written) == sum(row.endpoint == endpoint for row in ROWS), "a field has one row"


@pytest.mark.parametrize("endpoint", LEAST)
def test_a_field_of_nobody_is_refused_by_its_name(endpoint: str) -> None:
    with pytest.raises(RequestRefused) as refused:
        read(endpoint, frobnicate=1)
    assert (refused.value.code, refused.value.field) == ("unsupported_field", "frobnicate")
