"""What is written down about one request while it runs; all times in seconds from the start of the run."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field

from trtclient.generation import Piece


@dataclass(slots=True)
class Record:
    """One request.

    Attributes:
        index: Its number in the schedule.
        due_s: When it had to be sent. Every latency counts from here.
        sent_s: When it was handed to the connection; later than due where the client itself was late.
        end_s: When its answer or its failure was complete.
        arrivals: When each piece with text arrived.
        prompt_tokens: As the server counted.
        completion_tokens: As the server counted; else the number of pieces.
        is_counted: Whether ``completion_tokens`` is the server's own count.
        failure: Kind of the failure; empty for a whole answer.
        message: What the failure said.
    """

    index: int
    due_s: float
    sent_s: float = 0.0
    end_s: float = 0.0
    arrivals: array[float] = field(default_factory=lambda: array("d"))
    prompt_tokens: int = 0
    completion_tokens: int = 0
    is_counted: bool = False
    finish_reason: str = ""
    failure: str = ""
    message: str = ""

    def take(self, piece: Piece, started_s: float) -> None:
        """Note a piece."""
        if piece.text:
            self.arrivals.append(piece.at_s - started_s)
            if not self.is_counted:
                self.completion_tokens += 1
        if piece.finish_reason:
            self.finish_reason = piece.finish_reason
        if piece.prompt_tokens is not None:
            self.prompt_tokens = piece.prompt_tokens
        if piece.completion_tokens is not None:
            self.completion_tokens, self.is_counted = piece.completion_tokens, True

    @property
    def is_ok(self) -> bool:
        """Whether the whole answer came."""
        return not self.failure

    @property
    def lag_s(self) -> float:
        """How late the client itself was."""
        return self.sent_s - self.due_s

    @property
    def e2e_s(self) -> float:
        """From due to the end."""
        return self.end_s - self.due_s

    @property
    def ttft_s(self) -> float:
        """From due to the first text; to the end where there was no text at all."""
        return (self.arrivals[0] if self.arrivals else self.end_s) - self.due_s

    @property
    def tpot_s(self) -> float | None:
        """Mean time per token after the first; None where there was no second."""
        tokens = self.completion_tokens - 1
        if tokens < 1 or len(self.arrivals) < 2:
            return None
        return (self.arrivals[-1] - self.arrivals[0]) / tokens

    def gaps(self) -> list[float]:
        """Return the pauses between pieces."""
        times = self.arrivals
        return [times[i] - times[i - 1] for i in range(1, len(times))]
