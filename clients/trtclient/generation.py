"""What is asked and what comes back, whatever the protocol: the values every client works with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

Messages = tuple[Mapping[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class Generation:
    """One request to a model.

    Attributes:
        text: The prompt as it is, or None when ``messages`` is given.
        messages: A conversation; the server's model applies its chat template.
        max_tokens: Most tokens to generate, or None for the server's default.
        parameters: Further inputs by the server's names, e.g. ``temperature``.
        stream: Whether to answer piece by piece.
    """

    text: str | None = None
    messages: Messages | None = None
    max_tokens: int | None = None
    parameters: Mapping[str, object] = field(default_factory=dict)
    stream: bool = True


class Piece(NamedTuple):
    """A piece of an answer.

    Attributes:
        at_s: When its bytes reached this process (the event loop's clock), before any task had to be scheduled.
        text: The new text; may be empty.
        finish_reason: Empty until the last piece, and where the server does not say.
        prompt_tokens: As counted by the server, where it says so.
        completion_tokens: As counted by the server, where it says so.
    """

    at_s: float
    text: str
    finish_reason: str = ""
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


OnPiece = Callable[[Piece], None]


class Api(Protocol):
    """A way to reach a model: one of ``trtclient.apis``."""

    async def generate(self, request: Generation, on_piece: OnPiece) -> None:
        """Send ``request`` and hand every piece to ``on_piece``; return after the last one.

        Cancelling the task cancels the generation on the server. ``on_piece`` is called from the event loop's reader
        and must be quick.

        Raises:
            RequestFailure: There is no answer, or only a part of it.
        """

    async def close(self) -> None:
        """Give the connections back."""
