"""Tokens and their log probabilities in OpenAI's two forms.

It decides how a token is written. Which tokens belong to a piece of text is decided in ``token_trace.py``.

Source: OpenAI's API reference, ``ChatCompletionTokenLogprob`` and ``logprobs`` of completions; vLLM writes what JSON
cannot (minus infinity) as -9999.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from trtbuild_front.token_trace import ShownToken

_LOWEST = -9999.0

Spell = Callable[[int], bytes]
"""Returns the bytes of a token."""


def _log_prob(token: ShownToken) -> float:
    value = token.log_prob
    return value if value is not None and value > _LOWEST else _LOWEST


def chat_log_probs(tokens: Sequence[ShownToken], spell: Spell, top: int) -> dict[str, Any]:
    """Return ``logprobs`` of an answer, or of a part of it, in a chat."""
    content = []
    for token in tokens:
        raw = spell(token.token_id)
        entry = {"token": raw.decode(errors="replace"), "logprob": _log_prob(token), "bytes": list(raw)}
        content.append({**entry, "top_logprobs": [entry] if top else []})
    return {"content": content, "refusal": None}


def completion_log_probs(tokens: Sequence[ShownToken], spell: Spell, top: int) -> dict[str, Any]:
    """Return ``logprobs`` of an answer, or of a part of it, to a completion."""
    texts = [spell(token.token_id).decode(errors="replace") for token in tokens]
    values = [_log_prob(token) for token in tokens]
    return {
        "tokens": texts,
        "token_logprobs": values,
        "top_logprobs": [{text: value} for text, value in zip(texts, values, strict=True)] if top else None,
        "text_offset": [token.offset for token in tokens],
    }
