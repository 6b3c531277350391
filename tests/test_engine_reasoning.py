# SPDX-License-Identifier: Apache-2.0
"""How many tokens of an answer were reasoning: counted over a real vocabulary, whose tokens do not end with tags."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from enclave.engine.messages import Message
from enclave.engine.native import NativeModel
from enclave.engine.plan import Plan
from enclave.engine.prompt import PromptMaker
from enclave.engine.sampling import Sampling
from enclave.engine.stream import ChoiceStream
from enclave.seams import EngineEvent, FinishReason
from tests.small_model import small_model

PLAN = Plan(
    chat=True, prompt=(1,), choices=1, limit=500, stops=(), sampling=Sampling(), logprobs=None, reasons=True, params={}
)
WHY = "Two and two\nare four 🙂."


@pytest.fixture(scope="module")
def model() -> Iterator[NativeModel]:
    loaded = NativeModel(str(small_model()), vocabulary_only=True)
    yield loaded
    loaded.free()


def count(model: NativeModel, plan: Plan, text: str) -> int:
    """Give the reasoning tokens of an answer that is `text`, whose text must come out whole."""
    stream, events = ChoiceStream(1, 0, plan, model), list[EngineEvent]()
    for token in model.tokenize(text.encode(), special=False):
        stream.push(token)
        stream.take(events)
    stream.end(FinishReason.STOP)
    stream.take(events)
    assert b"".join(event.text for event in events).decode() == text
    return stream.reasoning


def size(model: NativeModel, text: str) -> int:
    return len(model.tokenize(text.encode(), special=False))


def test_the_tags_of_this_vocabulary_are_several_tokens(model: NativeModel) -> None:
    assert size(model, "<think>") > 1
    assert size(model, "</think>") > 1


def test_reasoning_begins_where_its_tag_is_whole_and_ends_with_the_other(model: NativeModel) -> None:
    before = size(model, "So: <think>") - 1
    until = size(model, f"So: <think>\n{WHY}\n</think>")
    assert count(model, PLAN, f"So: <think>\n{WHY}\n</think>\n\nFour.") == until - before


def test_reasoning_that_the_template_has_opened_counts_from_the_first_token(model: NativeModel) -> None:
    opened = replace(PLAN, thinking=True)
    assert count(model, opened, f"{WHY}\n</think>\n\nFour.") == size(model, f"{WHY}\n</think>")
    assert count(model, opened, WHY) == size(model, WHY)


def test_reasoning_that_never_ends_is_all_reasoning(model: NativeModel) -> None:
    text = f"<think>\n{WHY}"
    assert count(model, PLAN, text) == size(model, text) - size(model, "<think>") + 1


@pytest.mark.parametrize("text", ["Four.", "</think> Four.", "<thin king> <Think> <think", "think> four"])
def test_what_is_no_reasoning_counts_as_none(model: NativeModel, text: str) -> None:
    assert count(model, PLAN, text) == 0


def test_a_model_without_the_tag_in_its_template_has_no_reasoning(model: NativeModel) -> None:
    assert count(model, replace(PLAN, reasons=False), f"<think>\n{WHY}\n</think>\n\nFour.") == 0


@pytest.mark.parametrize(
    ("end", "opened"), [("<think>\n", True), ("<think>", True), ("<think>\n\n</think>\n\n", False), ("", False)]
)
def test_a_template_says_whether_its_prompt_has_opened_the_reasoning(
    model: NativeModel, end: str, opened: bool
) -> None:
    shape = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    maker = PromptMaker(model, f"{shape}<|im_start|>assistant\n{{# <think> #}}{end}")
    ids, thinking = maker.chat([Message(role="user", content="How much is <think>?")], (), room=200)
    assert maker.reasons
    assert thinking is opened
    assert len(ids) > 5
