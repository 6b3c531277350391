# SPDX-License-Identifier: Apache-2.0
"""Tenants are kept apart: in the prefix cache, in the slots, in what they are told, and in what memory keeps."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enclave.engine.llama import LlamaEngine
from enclave.engine.prefixes import BLOCK, prefix_tags
from tests.engine_rig import ALICE, BOB, Jobs, chat, shared_engine
from tests.small_model import small_model

LONG = "The lighthouse keeper wrote every evening into a book, and this is what stood there on a day in March. " * 2


@pytest.fixture(scope="module")
def engine() -> LlamaEngine:
    return shared_engine()


@pytest.fixture
def jobs(engine: LlamaEngine) -> Jobs:
    return Jobs(engine)


def cached(jobs: Jobs, job: int) -> int:
    return jobs.seen[job][0].cached_tokens


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 49151), max_size=200), st.lists(st.integers(0, 49151), max_size=200))
def test_tags_say_how_much_is_common_under_one_secret_and_nothing_across_two(a: list[int], b: list[int]) -> None:
    left, right = prefix_tags(ALICE, a), prefix_tags(ALICE, a[: len(b)] + b[len(a) :])
    same = sum(x == y for x, y in zip(left, right, strict=False))
    assert left[:same] == right[:same]
    assert len(left) == len(a) // BLOCK
    assert not set(left) & set(prefix_tags(BOB, a))


def test_a_tag_stands_for_everything_before_it() -> None:
    assert len(set(prefix_tags(ALICE, [5] * (3 * BLOCK)))) == 3
    ends = [prefix_tags(ALICE, [first] * BLOCK + [7] * BLOCK)[1] for first in (1, 2)]
    assert ends[0] != ends[1]


def test_a_tenant_finds_its_own_prefix_again_and_nobody_else_does(jobs: Jobs) -> None:
    first = jobs.run(chat(LONG, max_tokens=4), tenant=ALICE)
    assert cached(jobs, first) == 0
    other = jobs.run(chat(LONG, max_tokens=4), tenant=BOB)
    assert cached(jobs, other) == 0
    nobody = jobs.run(chat(LONG, max_tokens=4))
    assert cached(jobs, nobody) == 0
    again = jobs.run(chat(LONG, max_tokens=4), tenant=ALICE)
    assert cached(jobs, again) == jobs.seen[again][0].prompt_tokens // BLOCK * BLOCK > BLOCK
    assert jobs.ids(again) == jobs.ids(first) == jobs.ids(nobody)
    assert jobs.seen[again][-1].cached_tokens == cached(jobs, again)


def test_a_longer_conversation_reuses_what_was_answered(jobs: Jobs) -> None:
    first = jobs.run(chat(LONG, max_tokens=40), tenant=ALICE)
    messages = [
        {"role": "user", "content": LONG},
        {"role": "assistant", "content": jobs.text(first)},
        {"role": "user", "content": "And then?"},
    ]
    body: dict[str, object] = {"messages": messages, "temperature": 0, "max_tokens": 12}
    warm = jobs.run(body, tenant=ALICE)
    assert cached(jobs, warm) >= jobs.seen[first][0].prompt_tokens // BLOCK * BLOCK
    cold = jobs.run(body)
    assert cached(jobs, cold) == 0
    assert jobs.ids(warm) == jobs.ids(cold)


def test_the_same_greedy_answer_alone_and_among_fifteen_others(jobs: Jobs) -> None:
    alone = jobs.run(chat("Name three colours of the sky.", max_tokens=16))
    crowd = [jobs.accept(chat(f"Tell me a fact about the number {n}.", max_tokens=6 + n % 5)) for n in range(15)]
    again = jobs.accept(chat("Name three colours of the sky.", max_tokens=16))
    jobs.wait(again, *crowd)
    assert jobs.ids(again) == jobs.ids(alone)


def test_secrets_of_two_tenants_never_meet(jobs: Jobs) -> None:
    """A few dozen here; scripts/chaos-engine does a thousand."""
    words = {ALICE: "ALPHA-7731", BOB: "BRAVO-9962"}
    sent: dict[int, bytes] = {}
    for number in range(24):
        tenant = (ALICE, BOB)[number % 2]
        text = f"Repeat this code exactly: {words[tenant]}. Question {number}."
        job = jobs.accept(chat(text, max_tokens=6 + number % 4, seed=number), tenant=tenant)
        sent[job] = tenant
        if number % 5 == 3:
            time.sleep(0.01)
            jobs.engine.cancel(job)
    jobs.wait(*sent)
    said = {tenant: "".join(jobs.text(job) for job, owner in sent.items() if owner == tenant) for tenant in words}
    assert "ALPHA" in said[ALICE].upper(), "the control: a code can come out"
    assert "BRAVO" not in said[ALICE].upper()
    assert "ALPHA" not in said[BOB].upper()


def test_a_cancel_inside_a_long_prompt_frees_the_slot_at_once(jobs: Jobs) -> None:
    alone = jobs.run(chat("Hello there", max_tokens=6))
    job = jobs.accept(chat("word " * 440, max_tokens=4))
    time.sleep(0.05)
    began = time.monotonic()
    jobs.engine.cancel(job)
    jobs.wait(job)
    assert time.monotonic() - began < 0.5
    assert jobs.finish(job) in ([], ["cancelled"])
    after = jobs.run(chat("Hello there", max_tokens=6))
    assert jobs.ids(after) == jobs.ids(alone)


def test_no_kv_byte_is_left_behind() -> None:
    """The child reads its own memory; each needle is found while it may be there, and not afterwards."""
    command = [sys.executable, "-m", "tests.memory_scan", str(small_model())]
    root = Path(__file__).parent.parent
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "running": 1,
        "freed beside another": 0,
        "still running": 1,
        "drained": 0,
        "kept": 1,
        "kept too long": 0,
        "shared": 3,
        "shared no more": 0,
    }
