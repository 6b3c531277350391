# SPDX-License-Identifier: Apache-2.0
"""One question as an OpenAI chat request, and which model it goes to."""

from __future__ import annotations

from .errors import UsageFault


def choose_model(names: list[str], wanted: str | None) -> str:
    """Give the wanted model, or the only one there is. Raises UsageFault."""
    if wanted is None and len(names) == 1:
        return names[0]
    if wanted not in names:
        raise UsageFault(f"the model is one of: {', '.join(names)}")
    return wanted


def chat_body(
    prompt: str, *, model: str, max_tokens: int, temperature: float | None, seed: int | None
) -> dict[str, object]:
    """Write the chat request of one question, streamed."""
    body: dict[str, object] = {
        "model": model,
        "stream": True,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": max_tokens,
    }
    if temperature is not None:
        body["temperature"] = temperature
    if seed is not None:
        body["seed"] = seed
    return body
