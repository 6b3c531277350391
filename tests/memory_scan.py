# SPDX-License-Identifier: Apache-2.0
"""A program that looks for KV bytes in its own memory, before and after they must be gone.

Run as `python -m tests.memory_scan MODEL`; prints one JSON object. It stays dumpable, because it reads its own memory;
production does not (tests/test_engine_hygiene.py). The needle is never an object of Python's: it lives, bent, in a
mapping of ours, and is put straight only in a mapping that the scan leaves out.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import re
import sys
from pathlib import Path
from typing import Any

from llama_cpp import llama_cpp as lc

from enclave.engine.fair_queue import FairQueue
from enclave.engine.grammar import GrammarMaker
from enclave.engine.lane import Lane
from enclave.engine.native import NativeContext, NativeModel
from enclave.engine.plan import make_plan
from enclave.engine.prefixes import KEEP_SECONDS
from enclave.engine.prompt import PromptMaker
from enclave.engine.requests import read_request
from enclave.engine.sequence import Run
from enclave.engine.speed import Speed
from enclave.seams import EngineEvent

_SIZE = 24
_PORTION = 1 << 22
_AREA = re.compile(r"([0-9a-f]+)-([0-9a-f]+) r.*")


class Scanner:
    """Counts a needle in this process's memory, its own mappings left out."""

    def __init__(self) -> None:
        self._needle = mmap.mmap(-1, mmap.PAGESIZE)
        self._bent = mmap.mmap(-1, mmap.PAGESIZE)
        self._window = mmap.mmap(-1, _PORTION + _SIZE)

    def choose(self, context: NativeContext, slot: int) -> None:
        """Take 24 bytes from the middle of a sequence's K rows; leave no other copy of them."""
        size = lc.llama_state_seq_get_size(context.handle, slot)
        state = mmap.mmap(-1, size)
        memory = (ctypes.c_uint8 * size).from_buffer(state)
        assert lc.llama_state_seq_get_data(context.handle, memory, size, slot) == size
        for at in range(_SIZE):
            self._bent[at] = state[size // 3 + at] ^ 0xA5
        ctypes.memset(memory, 0, size)
        assert len(set(self._bent[:_SIZE])) > 12, "the needle must be unlikely by chance"
        del memory
        state.close()

    def count(self) -> int:
        """Say how often the needle is there."""
        for at in range(_SIZE):
            self._needle[at] = self._bent[at] ^ 0xA5
        own = sorted(_extent(area) for area in (self._needle, self._window))
        found = 0
        with Path("/proc/self/maps").open() as areas, Path("/proc/self/mem").open("rb", buffering=0) as memory:
            for line in areas.read().splitlines():
                match = _AREA.match(line)
                if match and not line.endswith(("[vvar]", "[vsyscall]", "[vvar_vclock]")):
                    start, end = int(match[1], 16), int(match[2], 16)
                    # The kernel may join our mappings to their neighbours: what lies between them is scanned.
                    for low, high in own:
                        if start <= low < end:
                            found += self._between(memory, start, low)
                            start = high
                    found += self._between(memory, start, end)
        self._needle[:_SIZE] = bytes(_SIZE)
        return found

    def _between(self, memory: Any, start: int, end: int) -> int:
        found = 0
        with memoryview(self._needle)[:_SIZE] as needle, memoryview(self._window) as view:
            for at in range(start, end, _PORTION):
                memory.seek(at)
                try:
                    size = memory.readinto(view[: min(_PORTION + _SIZE, end - at)])
                except OSError:
                    break  # a guard page
                found += _occurrences(self._window, needle, size)
            view[:] = bytes(len(view))
        return found


def _extent(area: mmap.mmap) -> tuple[int, int]:
    """Give where a mapping begins and ends."""
    start = ctypes.addressof(ctypes.c_char.from_buffer(area))
    return start, start + -(-len(area) // mmap.PAGESIZE) * mmap.PAGESIZE


def _occurrences(window: mmap.mmap, needle: memoryview, size: int) -> int:
    found, at = 0, window.find(needle, 0, size)
    while 0 <= at < _PORTION:
        found += 1
        at = window.find(needle, at + 1, size)
    return found


class Rig:
    """A lane that this program steps by hand, with a clock that it moves."""

    def __init__(self, path: str) -> None:
        self.now = 1000.0
        self.model = NativeModel(path)
        self.maker = PromptMaker(self.model, self.model.meta("tokenizer.chat_template"))
        self.context = NativeContext(self.model, context=256, slots=4, batch=131, ubatch=128, threads=1, flash=1)
        self.grammars = GrammarMaker()
        self.lane = Lane(
            self.model,
            self.context,
            slots=3,
            ubatch=128,
            chunk=64,
            queue=FairQueue(8),
            speed=Speed(),
            now=lambda: self.now,
        )

    def put(self, job_id: int, text: str, *, tenant: bytes = b"", tokens: int = 8, **more: object) -> None:
        body = {"model": "m", "messages": [{"role": "user", "content": text}], "max_tokens": tokens, "temperature": 0}
        body |= more
        request = read_request("/v1/chat/completions", json.dumps(body).encode(), model="m")
        plan = make_plan(request, self.maker, self.grammars, context=256, n_vocab=self.model.n_vocab, most=1000)
        run = Run(job_id=job_id, tenant=tenant, deadline=self.now + 1000, plan=plan)
        assert self.lane.queue.put(tenant, run.deadline, job_id, run)

    def steps(self, count: int) -> list[EngineEvent]:
        events: list[EngineEvent] = []
        for _ in range(count):
            self.lane.prepare(events)
            self.lane.step(events)
            self.lane.drain()
        return events

    def finish(self, job_id: int) -> list[EngineEvent]:
        events: list[EngineEvent] = []
        for _ in range(300):
            events += self.steps(1)
            if any(event.job_id == job_id and event.kind == "finished" for event in events):
                return events
        raise AssertionError("the run does not end")


def main(path: str) -> dict[str, int]:
    rig, scanner = Rig(path), Scanner()
    seen: dict[str, int] = {}
    # A freed slot is overwritten while another sequence goes on.
    rig.put(1, "The first secret is an elephant in the room.", tokens=200)
    rig.put(2, "Count to one hundred, please.", tokens=200)
    rig.steps(6)
    scanner.choose(rig.context, 0)
    seen["running"] = scanner.count()
    rig.lane.cancel(1, [])
    rig.steps(1)
    seen["freed beside another"] = scanner.count()
    # Everything is wiped when nothing runs.
    scanner.choose(rig.context, 1)
    seen["still running"] = scanner.count()
    rig.lane.cancel(2, [])
    rig.lane.drain()
    seen["drained"] = scanner.count()
    # A tenant's prefix stays for a while, and then goes.
    long = "A tenant's prompt that is long enough to be kept for the next question of that very tenant, and no other."
    rig.put(3, long, tenant=b"t" * 32)
    rig.finish(3)
    scanner.choose(rig.context, 0)
    seen["kept"] = scanner.count()
    rig.now += KEEP_SECONDS + 1
    rig.lane.prepare([])
    rig.lane.drain()
    seen["kept too long"] = scanner.count()
    # Choices share a prompt by copies, and every copy goes.
    rig.put(4, "Three choices of an answer to a question that is read once.", tokens=200, n=3)
    rig.steps(4)
    scanner.choose(rig.context, 1)  # the first one is a token ahead of the others
    seen["shared"] = scanner.count()
    rig.lane.cancel(4, [])
    rig.put(5, "Count to one hundred, please.", tokens=200)
    rig.steps(1)
    seen["shared no more"] = scanner.count()
    rig.context.free()
    rig.model.free()
    rig.grammars.close()
    return seen


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1])))
