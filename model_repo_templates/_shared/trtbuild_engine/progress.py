"""A request inside an engine process: what it may ask for, which tokens count, when it is over, how its end is told.

It decides what holds for every kind of engine. How tokens are computed, and which requests are computed together, is
``engine_worker.py``'s business. The engine models of several backends share this file.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


class RequestError(Exception):
    """What is wrong with one request, for the client who sent it."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What every request has to fit into, in tokens."""

    vocab_size: int
    max_input_len: int
    max_seq_len: int

    def check(self, options: dict[str, Any]) -> None:
        """Refuse what can never work.

        Raises:
            RequestError: The prompt is empty, too long or has unknown tokens, or too much output is asked for.
        """
        prompt, new = options["input_ids"], options["request_output_len"]
        if not prompt:
            raise RequestError("the prompt is empty: input_ids has no tokens")
        if len(prompt) > self.max_input_len:
            raise RequestError(
                f"the prompt has {len(prompt)} tokens, the engine takes at most {self.max_input_len} (max_input_len)"
            )
        if len(prompt) + new > self.max_seq_len:
            raise RequestError(
                f"prompt and output need {len(prompt)} + {new} = {len(prompt) + new} tokens, the engine takes at most "
                f"{self.max_seq_len} (max_seq_len)"
            )
        outside = next((token for token in prompt if not 0 <= token < self.vocab_size), None)
        if outside is not None:
            raise RequestError(f"input_ids has token {outside}, the vocabulary is 0..{self.vocab_size - 1}")


@dataclass(kw_only=True)
class Progress:
    """One request from submission to its last token.

    Attributes:
        options: What the model sent, see ``model.py``.
        tokens: Generated so far, including a possible stop sequence, never ``end_id``.
        first_scheduled_ns: Monotonic clock, as the other times; 0 until it happens.
    """

    key: int
    options: dict[str, Any]
    tokens: list[int] = field(default_factory=list)
    first_scheduled_ns: int = 0
    first_token_ns: int = 0
    last_token_ns: int = 0

    def take(self, token: int) -> tuple[bool, str | None]:
        """Take a generated token in; return whether it is part of the text, and why the text ends with it, if so."""
        if token == self.options.get("end_id"):
            return False, "stop"
        self.tokens.append(token)
        is_stop = any(self.tokens[-len(stop) :] == stop for stop in self.options.get("stop_words", ()))
        if is_stop and len(self.tokens) >= self.options.get("min_tokens", 0):
            return True, "stop"
        return True, "length" if len(self.tokens) >= self.options["request_output_len"] else None

    def note_tokens(self, now_ns: int) -> None:
        """Remember that tokens came at ``now_ns``."""
        self.first_token_ns = self.first_token_ns or now_ns
        self.last_token_ns = now_ns

    def last(self, tokens: list[int], log_probs: list[float], reason: str) -> dict[str, Any]:
        """Return the event that ends it, with the tokens that were not sent yet."""
        times = [self.first_scheduled_ns, self.first_token_ns, self.last_token_ns]
        event: dict[str, Any] = {"key": self.key, "tokens": tokens, "end": reason, "times": times}
        return {**event, "log_probs": log_probs} if log_probs else event
