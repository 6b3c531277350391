# SPDX-License-Identifier: Apache-2.0
"""Answers: which grammar is this schema, and does llama.cpp survive it? A child that may die of the question.

Run as `python -m enclave.engine.grammar_child`: reads u32 length || JSON schema from standard input, again and again,
and writes u32 length || grammar; an empty answer says no.
"""

from __future__ import annotations

import ctypes
import resource
import sys
from typing import Final

from llama_cpp import llama_cpp as lc
from llama_cpp.llama_grammar import json_schema_to_gbnf

from ..hygiene import forbid_dumps

_MEMORY: Final = 4 << 30  # of address space, most of it libraries
_MAX_QUESTION: Final = 1 << 17
_MAX_GRAMMAR: Final = 1 << 20


# The converter lets raw control characters into strings, where JSON has none.
_LOOSE_CHAR: Final = '\nchar ::= [^"\\\\] |'
_CHAR: Final = '\nchar ::= [^"\\\\\\x00-\\x1F\\x7F] |'


def grammar_of(schema: str) -> bytes:
    """Give the grammar, or nothing for a schema that has none."""
    try:
        grammar: bytes = ("\n" + json_schema_to_gbnf(schema)).replace(_LOOSE_CHAR, _CHAR).encode("utf-8")
    except Exception:  # noqa: BLE001 - a converter of hostile schemas raises what it likes; the answer is no
        return b""
    if len(grammar) > _MAX_GRAMMAR:
        return b""
    # Without a vocabulary: parsing and the check for left recursion need none.
    sampler = lc.llama_sampler_init_grammar(None, grammar, b"root")
    if not sampler:
        return b""
    lc.llama_sampler_free(sampler)
    return grammar


def main() -> int:
    """Answer until the questions end; give the exit status."""
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    forbid_dumps()
    quiet = lc.llama_log_callback(lambda _level, _text, _data: None)
    lc.llama_log_set(quiet, ctypes.c_void_p(0))
    source, target = sys.stdin.buffer, sys.stdout.buffer
    while len(head := source.read(4)) == 4:
        size = int.from_bytes(head, "big")
        if size > _MAX_QUESTION:
            return 1
        answer = grammar_of(source.read(size).decode("utf-8", "strict"))
        target.write(len(answer).to_bytes(4, "big") + answer)
        target.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
