"""One request from the engine's tokens to the client's text.

It decides what is said when: text that cannot change any more, the end and its reason. It does not know connections,
queues or Triton.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from trtbuild_front.text.stopping import StopStrings
from trtbuild_front.token_trace import ShownToken, TokenTrace

if TYPE_CHECKING:
    from trtbuild_front.engine import Update
    from trtbuild_front.generation_request import GenerationRequest
    from trtbuild_front.metrics.accounting import Account
    from trtbuild_front.prompt import Prompt
    from trtbuild_front.text.detokenizer import Detokenizer
    from trtbuild_front.text.model import TextModel


@dataclass(frozen=True, kw_only=True)
class Piece:
    """One answer to the client.

    Attributes:
        text: New text.
        log_probs: Log probabilities of the new tokens, when asked for.
        finish_reason: Empty until the last piece: ``length``, ``stop`` or ``cancelled``.
        prompt_tokens: Tokens of the prompt.
        completion_tokens: Tokens generated so far.
        cum_log_prob: Sum of log probabilities so far, when asked for.
        times_ns: In the last piece, when asked for and measured: arrival here, first scheduled, first token, last
            token, in nanoseconds of the engine's clock.
        tokens: What the new text is made of, when asked for; special tokens that are left out of the text, too.
    """

    text: str
    log_probs: tuple[float, ...] = ()
    finish_reason: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cum_log_prob: float | None = None
    times_ns: tuple[int, ...] = ()
    tokens: tuple[ShownToken, ...] = ()


class Reply(Protocol):
    """The way back to one client. Sending blocks for as long as the server takes the answer."""

    def send(self, piece: Piece) -> None:
        """Send one piece; the one with a ``finish_reason`` is the last."""

    def fail(self, error: Exception) -> None:
        """Send an error and end."""

    def is_cancelled(self) -> bool:
        """Ask whether the client has gone or cancelled."""


class Writer:
    """Turns updates of the engine into pieces for the client."""

    def __init__(self, request: GenerationRequest, prompt: Prompt, text: TextModel) -> None:
        self._request, self._prompt = request, prompt
        self._detokenizer: Detokenizer = text.detokenizer(skips_special_tokens=request.skips_special_tokens)
        self._trace = TokenTrace() if request.wants_tokens else None
        self._shown = 0
        self._stops = StopStrings(request.stop_words)
        self._end_ids = frozenset(prompt.end_ids)
        # One sequence with what follows, as a decoding of the whole would have it: "Hello" + "▁world" keeps its space.
        self._text = self._detokenizer.feed(prompt.echo_ids)
        self._log_probs: list[float] = []
        self._cum_log_prob: float | None = None
        self._has_end_id = self._has_foreign_end = False
        self.completion_tokens = 0

    @property
    def is_stopped(self) -> bool:
        """Whether an end id or a stop string was reached; what follows is not part of the answer."""
        return self._has_end_id or self._stops.is_stopped

    @property
    def must_cancel(self) -> bool:
        """Whether the engine has to be stopped, because it does not know why it should."""
        return self._stops.is_stopped or self._has_foreign_end

    @property
    def is_complete(self) -> bool:
        """Whether the engine is about to end by itself, so that what is left can go out with the end."""
        return self._has_end_id or self.completion_tokens >= self._prompt.max_tokens

    def feed(self, updates: Sequence[Update]) -> None:
        """Take what the engine sent."""
        token_ids: list[int] = []
        for update in updates:
            token_ids.extend(update.token_ids)
            if self._trace is not None:
                self._trace.expect(len(update.token_ids), update.log_probs)
            if not self.is_stopped:
                self._log_probs.extend(update.log_probs)
            if update.cum_log_prob is not None:
                self._cum_log_prob = update.cum_log_prob
        if not token_ids or self.is_stopped:
            return
        free = max(0, self._request.min_tokens - self.completion_tokens)
        if free:  # stop strings do not count before min_tokens
            self._text += self._decode(token_ids[:free])
            token_ids = token_ids[free:]
        if token_ids and not self._has_end_id:
            self._text += self._stops.feed(self._decode(token_ids))

    def _decode(self, token_ids: list[int]) -> str:
        for at, number in enumerate(token_ids):
            if number in self._end_ids:
                self._has_end_id = True
                self._has_foreign_end = number not in self._prompt.engine_end_ids
                self.completion_tokens += at + 1
                return self._feed_detokenizer(token_ids[:at])
        self.completion_tokens += len(token_ids)
        return self._feed_detokenizer(token_ids)

    def _feed_detokenizer(self, token_ids: list[int]) -> str:
        if self._trace is None:
            return self._detokenizer.feed(token_ids)
        texts = []
        for number in token_ids:
            texts.append(self._detokenizer.feed((number,)))
            self._trace.add(number, len(texts[-1]))
        return "".join(texts)

    def take(self) -> Piece | None:
        """Return what can be shown now, or None."""
        if not self._text and not self._log_probs:
            return None
        piece = Piece(
            text=self._text,
            log_probs=tuple(self._log_probs),
            prompt_tokens=self._prompt.token_count,
            completion_tokens=self.completion_tokens,
            cum_log_prob=self._cum_log_prob,
            tokens=self._shown_tokens(),
        )
        self._text = ""
        self._log_probs.clear()
        return piece

    def last(self, *, times_ns: tuple[int, ...] = (), is_cancelled: bool = False) -> Piece:
        """Return the last piece, with everything that was held back."""
        if not self._stops.is_stopped:
            self._text += self._stops.feed(self._detokenizer.finish())
            self._text += self._stops.finish()
        tokens: tuple[ShownToken, ...] = ()
        if self._trace is not None:
            tokens = self._trace.take_rest(self._shown + len(self._text), is_cut=self._stops.is_stopped)
        is_full = self.completion_tokens >= self._prompt.max_tokens and not self.is_stopped
        return Piece(
            text=self._text,
            log_probs=tuple(self._log_probs),
            finish_reason="cancelled" if is_cancelled else "length" if is_full else "stop",
            prompt_tokens=self._prompt.token_count,
            completion_tokens=self.completion_tokens,
            cum_log_prob=self._cum_log_prob,
            times_ns=times_ns,
            tokens=tokens,
        )

    def _shown_tokens(self) -> tuple[ShownToken, ...]:
        self._shown += len(self._text)
        return self._trace.take(self._shown) if self._trace is not None else ()


@dataclass(slots=True, eq=False, kw_only=True)
class Generation:
    """A request on its way. All but the first four fields belong to the serving thread once it is lined up.

    Attributes:
        ticket: Its place in the line.
        request: What the client wants.
        reply: The way back.
        account: Its share of the metrics.
        prompt: Set when prepared.
        writer: Set when prepared.
        call: The call to the engine, while there is one.
        updates: What the engine sent and the client has not seen.
        times_ns: What the engine measured, see ``Update``.
        is_queued: Whether it is in line to be served.
        has_ended: Whether the engine is done with it.
        is_over: Whether it has left the engine and the line; only its last answer is to be sent.
        is_answered: Whether the client has its last answer.
        fault: Why it failed.
    """

    ticket: int
    request: GenerationRequest
    reply: Reply
    account: Account
    prompt: Prompt | None = None
    writer: Writer | None = None
    call: object | None = None
    updates: deque[Update] = field(default_factory=deque)
    times_ns: tuple[int, ...] = ()
    is_queued: bool = False
    has_ended: bool = False
    is_over: bool = False
    is_answered: bool = False
    fault: Exception | None = None

    def request_times_ns(self) -> tuple[int, ...]:
        """Return the times that the client asked for, if it did; to clients, arrival is arrival here.

        The engine's clock may be any, so ours only gives the difference.
        """
        if not self.times_ns or not self.request.return_perf_metrics:
            return ()
        arrival_ns, *others = self.times_ns
        return (arrival_ns - round((self.account.started_s - self.account.arrived_s) * 1e9), *others)
