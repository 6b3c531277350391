# SPDX-License-Identifier: Apache-2.0
"""Answers: what does this model compute here? A child that may die of it.

Run as `python -m enclave.engine.selftest_child QUESTION`, a JSON object with the weights' descriptor and the settings
of `selftest.measure`; prints what was measured as one JSON object.
"""

from __future__ import annotations

import json
import sys
from typing import Any, Final

from ..hygiene import forbid_dumps
from .measuring import continue_all, embed_one, instruction_set
from .native import NativeContext, NativeModel

_TEXT: Final = b"In the beginning there was a number, and after it came another one, because"
_OTHERS: Final = (
    b"Seven wise men went to sea in a",
    b"def add(a, b):\n    return a +",
    b"The capital of France is",
)
_COUNT: Final = 9  # rows: one for the prompt and eight decoded
_CONTEXT: Final = 256  # the smallest that llama.cpp gives anyway


def main(question: dict[str, Any]) -> int:
    """Print the measurement; give the exit status."""
    forbid_dumps()
    model = NativeModel(f"/proc/self/fd/{int(question['fd'])}", on_gpu=bool(question["on_gpu"]))
    prompts = [model.tokenize(text, special=False, bos=model.add_bos) for text in (_TEXT, *_OTHERS)]
    context = NativeContext(
        model,
        context=_CONTEXT,
        slots=len(prompts),
        batch=_CONTEXT,
        ubatch=_CONTEXT,
        threads=int(question["threads"]),
        flash=int(question["flash"]),
        type_k=str(question["type_k"]),
        type_v=str(question["type_v"]),
        embeddings=model.embeds,
    )
    if model.embeds:
        alone, among = (embed_one(context, prompts[0]) for _ in range(2))
    else:
        alone = continue_all(context, prompts[:1], _COUNT)[0]
        among = continue_all(context, prompts, _COUNT)[0]
    answer = {
        "isa": instruction_set(),
        "tokens": alone.tokens,
        "digest": alone.digest.hex(),
        "together": among == alone,
    }
    sys.stdout.write(json.dumps(answer))
    sys.stdout.flush()
    context.free()
    model.free()
    return 0


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
