"""The answers to one request: ``n`` per prompt, each a request of its own in the line, told to one client.

It decides what is sent when, and that one fault ends all. Pieces come from the serving thread; a client that goes, and
refusals, from the thread of the endpoint.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Protocol

from trtbuild_front.faults import ClientGoneError
from trtbuild_front.openai.faults import as_api_error
from trtbuild_front.openai.shapes import DONE

if TYPE_CHECKING:
    from trtbuild_http.exchange import Exchange

    from trtbuild_front.generation import Generation, Piece, Reply
    from trtbuild_front.generation_request import GenerationRequest
    from trtbuild_front.openai.reading import Wanted
    from trtbuild_front.openai.shapes import Shape


class Submits(Protocol):
    """Who serves requests; :class:`trtbuild_front.service.Service`."""

    def submit_request(self, request: GenerationRequest, reply: Reply) -> Generation | None:
        """Take a request; errors go to ``reply``."""

    def cancel(self, generation: Generation) -> None:
        """End a request that nobody waits for."""


class Answers:
    """All answers to one request."""

    def __init__(self, exchange: Exchange, wanted: Wanted, shape: Shape, service: Submits) -> None:
        self.exchange = exchange
        self._wanted, self._shape, self._service = wanted, shape, service
        self._lock = threading.Lock()
        self._generations: list[Generation] = []
        self._last: dict[int, Piece] = {}
        self.is_over = False

    def begin(self) -> None:
        """Submit the requests. Returns at once."""
        self.exchange.on_gone(self._end)
        for index, request in enumerate(self._wanted.requests):
            if self.is_over:
                return
            generation = self._service.submit_request(request, _Answer(self, index, self._shape))
            if generation is None:
                continue
            with self._lock:
                if not self.is_over:
                    self._generations.append(generation)
                    continue
            self._service.cancel(generation)

    def fail(self, error: Exception) -> None:
        """End all with an error."""
        self.exchange.fail(as_api_error(error))
        self._end()

    def end_one(self, index: int, piece: Piece) -> None:
        """One answer is complete; with the last one the whole is."""
        self._last[index] = piece
        if len(self._last) < len(self._wanted.requests):
            return
        exchange, pieces = self.exchange, [self._last[index] for index in range(len(self._last))]
        if not self._wanted.streams:
            exchange.respond(200, self._shape.whole(pieces, self._usage(pieces)))
        else:
            if self._wanted.includes_usage:
                exchange.send_event(self._shape.usage_event(self._usage(pieces)))
            exchange.send_event(DONE)
            exchange.end_events()
        self._generations.clear()  # they are over; there is nothing to cancel
        self._end()

    @property
    def streams(self) -> bool:
        """Whether answers come in events."""
        return self._wanted.streams

    def _usage(self, pieces: list[Piece]) -> dict[str, int]:
        """Return the counts of tokens; a prompt that is answered several times counts once."""
        prompt = sum(piece.prompt_tokens for piece in pieces[:: self._wanted.per_prompt])
        completion = sum(piece.completion_tokens for piece in pieces)
        return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}

    def _end(self) -> None:
        """Nothing more is sent; whatever still runs is not wanted. A second call changes nothing."""
        with self._lock:
            if self.is_over:
                return
            self.is_over = True
            generations, self._generations = self._generations, []
        for generation in generations:
            self._service.cancel(generation)


class _Answer:
    """The way back for one answer; a :class:`trtbuild_front.generation.Reply`."""

    __slots__ = ("_answers", "_has_begun", "_head", "_index", "_shape")

    def __init__(self, answers: Answers, index: int, shape: Shape) -> None:
        self._answers, self._index, self._shape = answers, index, shape
        self._head = shape.text_head(index)
        self._has_begun = False

    def send(self, piece: Piece) -> None:
        """Send one piece; the one with a finish reason is the last."""
        answers = self._answers
        if answers.is_over:
            raise ClientGoneError("the client has gone, or another of its answers failed")
        if piece.finish_reason == "cancelled":
            return
        if answers.streams:
            exchange = answers.exchange
            if not self._has_begun:
                self._has_begun = True
                exchange.start_events()
                if self._shape.is_chat:
                    exchange.send_event(self._shape.role_event(self._index))
            if piece.text or piece.tokens:
                exchange.send_event(self._shape.text_event(self._head, piece))
            if piece.finish_reason:
                exchange.send_event(self._shape.last_event(self._index, piece.finish_reason))
        if piece.finish_reason:
            answers.end_one(self._index, piece)

    def fail(self, error: Exception) -> None:
        """End all answers with an error."""
        self._answers.fail(error)

    def is_cancelled(self) -> bool:
        """Return whether the client has gone."""
        return self._answers.is_over or self._answers.exchange.is_gone
