"""What goes wrong on the client's side, and how a failed request is named.

A failed *request* is data (a load report counts it, a batch retries it): :class:`RequestFailure`. A command that cannot
do its work raises one of trtbuild's errors, so that exit codes and looks are those of ``trtbuild``.
"""

from __future__ import annotations

from typing import Literal

EXIT_UNMET = 10
"""Exit code of a command that ran to its end with an unwanted result: failed requests, or a goal that was missed."""

FailureKind = Literal["overloaded", "invalid", "not_found", "timeout", "connect", "disconnected", "server", "protocol"]

_OVERLOAD_WORDS = (
    "unavailable",
    "exceeds maximum queue size",  # Source: Triton's dynamic batcher with max_queue_size, core/src/backend_model.cc
    "request timeout expired",  # Source: Triton's queue policy with default_timeout_microseconds, same place
    "queue is full",
    "is not ready",  # a model that is still loading
    "too many requests",
)
_INVALID_WORDS = ("expected", "unexpected", "invalid", "unable to parse", "exceeds max", "too long")
_MISSING_WORDS = ("unknown model", "is not found", "no version is available")

_HINTS: dict[FailureKind, str] = {
    "connect": "is the server running, and is this its port? trtbuild health ready",
    "disconnected": "the server ended or was restarted; its log says why",
    "invalid": "correct the request and repeat it",
    "not_found": "check the model's name; curl URL/v2/models/stats lists what is served",
    "overloaded": "the server is busy; try again later",
    "timeout": "the server is slow or stuck; wait longer with --timeout",
    "protocol": "is this the right port and --api? Triton's own HTTP API is at the URL without /v1",
}


class RequestFailure(Exception):  # noqa: N818 - not an error of the program: a result that is counted
    """One request that did not get its answer.

    Attributes:
        kind: What reports count it under.
        message: What the server or the connection said.
        retry_after_s: How long the server asked to wait, if it did.
    """

    def __init__(self, kind: FailureKind, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.kind: FailureKind = kind
        self.message = message
        self.retry_after_s = retry_after_s

    @property
    def hint(self) -> str:
        """What to look at, for a person whose only request this was."""
        return _HINTS.get(self.kind, "the server's log says more")

    @property
    def is_retryable(self) -> bool:
        """Whether the same request may well succeed later."""
        return self.kind in {"overloaded", "connect", "disconnected", "timeout"}


def classify(message: str, status: int = 0) -> FailureKind:
    """Return the kind of a failure from the server's words and its HTTP status (0 when there is none).

    The words come first: Triton's generate endpoints answer 400 to every error of a model, overload among them.
    """
    text = message.lower()
    if status in {429, 503} or any(words in text for words in _OVERLOAD_WORDS):
        return "overloaded"
    if status == 404 or any(words in text for words in _MISSING_WORDS):
        return "not_found"
    if status in {408, 504}:
        return "timeout"
    if 400 <= status < 500 or (status < 500 and any(words in text for words in _INVALID_WORDS)):
        return "invalid"
    return "server"
