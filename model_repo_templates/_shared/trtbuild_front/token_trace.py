"""Which tokens the text that a client sees is made of, for requests that ask.

It decides which token belongs to which part of the text: a token is reported once all of its text was shown, and never
when its text was cut off by a stop string. It does not know how tokens are spelled.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple


class ShownToken(NamedTuple):
    """A token of the text that was shown.

    Attributes:
        token_id: The token.
        log_prob: Its log probability; None where the engine did not say.
        offset: Characters of the text before its first one.
    """

    token_id: int
    log_prob: float | None
    offset: int


class TokenTrace:
    """Follows one request's tokens from the engine to the client."""

    def __init__(self) -> None:
        self._log_probs: deque[float | None] = deque()
        self._waiting: deque[tuple[ShownToken, int]] = deque()
        self._length = 0

    def expect(self, count: int, log_probs: Sequence[float]) -> None:
        """So many tokens arrived, with these log probabilities; of more than there are tokens, the last ones count."""
        known = list(log_probs[-count:]) if count else []
        self._log_probs.extend([*known, *[None] * (count - len(known))])

    def add(self, token_id: int, length: int) -> None:
        """The next token that was expected was decoded, and made ``length`` characters of text certain."""
        log_prob = self._log_probs.popleft() if self._log_probs else None
        start = self._length
        self._length += length
        self._waiting.append((ShownToken(token_id, log_prob, start), self._length))

    def take(self, shown: int) -> tuple[ShownToken, ...]:
        """Return the tokens whose text is complete when ``shown`` characters were shown, and were not returned yet."""
        found = []
        while self._waiting and self._waiting[0][0].offset < shown and self._waiting[0][1] <= shown:
            found.append(self._waiting.popleft()[0])
        return tuple(found)

    def take_rest(self, shown: int, *, is_cut: bool) -> tuple[ShownToken, ...]:
        """Return the rest; where the text was cut, only tokens that begin before the cut."""
        rest = [token for token, _ in self._waiting if not is_cut or token.offset < shown]
        self._waiting.clear()
        return tuple(rest)
